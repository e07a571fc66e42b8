"""Watchers are told every frame and event once, whatever a resumed run makes again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from facestream.stream.audience import Audience
from facestream.stream.events import AnyEvent, CameraState
from facestream.stream.records import Frame, FrameRef, Observed, Template, Tracked
from facestream.stream.watcher import Label, SourceInfo

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Notes:
    """Watcher that remembers what it was told."""

    wants_frames = False

    def __init__(self) -> None:
        self.told: list[str | int] = []

    def source(self, info: SourceInfo) -> None:
        self.told.append("source")

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        self.told.append(f"frame {frame.sequence}")

    def event(self, event: AnyEvent, template: Template | None) -> None:
        self.told.append(event.sequence)

    def close(self) -> None:
        self.told.append("close")


def event(sequence: int, camera: str) -> CameraState:
    return CameraState(
        id=str(sequence),
        camera=camera,
        decided_at=NOW,
        sequence=sequence,
        state="running",
        detail="",
        frames=0,
        dropped={},
    )


def observed(sequence: int, camera: str = "door") -> Observed:
    ref = FrameRef(camera, sequence, 0.0, 0.0, 64, 64)
    return Observed(Tracked(ref, (), detected=2, rejected={"below_gate": 1}), ())


def test_events_are_told_once_by_camera() -> None:
    notes = Notes()
    audience = Audience(["door", "gate"], [notes])
    # Those of an earlier process come again after the first of this one, and are news here.
    given = [(9, "-"), (3, "door"), (5, "door"), (4, "gate"), (3, "door"), (5, "door")]
    for told in (event(sequence, camera) for sequence, camera in [*given, (10, "door")]):
        audience.event(told, None)
    audience.close()
    assert notes.told == [9, 3, 5, 4, 10, "close"]
    assert audience.totals.events == 5


def test_frames_count_once_in_a_run() -> None:
    audience = Audience(["door", "gate"], [])
    given = [("door", 0), ("door", 2), ("gate", 0), ("door", 0), ("door", 2), ("door", 4)]
    assert [audience.count(observed(sequence, camera)) for camera, sequence in given] == [
        *[True] * 3,
        *[False] * 2,
        True,
    ]
    assert (audience.totals.frames, audience.totals.faces) == (4, 8)
    assert audience.totals.rejected == {"below_gate": 4}
    audience.begin("door")
    assert audience.count(observed(0)) and not audience.count(observed(0, "gate"))


def test_who_is_dismissed_hears_nothing_more_but_is_closed() -> None:
    notes = Notes()
    audience = Audience(["door"], [notes])
    audience.event(event(1, "door"), None)
    audience.dismiss()
    audience.event(event(3, "door"), None)
    audience.close()
    assert notes.told == [1, "close"] and not audience.listens
    assert audience.totals.events == 2
