"""The live table and the events file, fed with a short run."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from rich.console import Console

from facestream.stream.events import (
    AnyEvent,
    CameraState,
    CandidateScore,
    SightingEnded,
    SightingStarted,
)
from facestream.stream.records import Face, Frame, Tracked, TrackedFace
from facestream.stream.watcher import Label, SourceInfo, Watcher
from facestream.tools.events_file import EventsFile
from facestream.tools.live import LiveTable, closing_lines
from facestream.tools.summary import Summary

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


def started(camera: str, track: int, pts: float) -> SightingStarted:
    at = START + timedelta(seconds=pts)
    return SightingStarted(
        id=f"s{camera}{track}", camera=camera, decided_at=at, track=track, frame=0, pts=pts,
        captured_at=at,
    )  # fmt: skip


def ended(
    camera: str,
    track: int,
    first: float,
    last: float,
    identity: str | None,
    score: float | None,
    reason: Literal["matched", "unknown", "too few frames", "no usable face"],
) -> SightingEnded:
    at = START + timedelta(seconds=last)
    candidates = () if score is None else (CandidateScore(identity or "Ada", score, score),)
    return SightingEnded(
        id=f"e{camera}{track}", camera=camera, decided_at=at, track=track, frame=9, pts=last,
        captured_at=at, identity=identity, score=score, cosine=score, threshold=0.43,
        target_fpir=None, false_positive_probability=None, candidates=candidates, frames=20,
        quality_min=None, quality_median=None, quality_max=None, evidence=(), pack="open",
        gallery_version=1, started_at=START + timedelta(seconds=first), duration=last - first,
        faces=25, reason=reason,
    )  # fmt: skip


STORY: list[AnyEvent] = [
    started("cam1", 1, 3.2),
    ended("cam1", 1, 3.2, 5.0, "Ada", 0.55, "matched"),
    started("cam1", 2, 6.0),
    started("cam2", 1, 6.5),
    ended("cam1", 2, 6.0, 9.8, "Ada", 0.61, "matched"),
    ended("cam2", 1, 6.5, 7.0, None, 0.2, "unknown"),
    started("cam2", 2, 8.0),
    ended("cam2", 2, 8.0, 8.2, None, None, "no usable face"),
]


def play(watcher: Watcher) -> None:
    """Two cameras, one recorded and one live, with the story above."""
    watcher.source(SourceInfo("cam1", "lobby.mp4", False, 64, 48, 25.0, 250, 10.0))
    watcher.source(SourceInfo("cam2", "rtsp://camera/2", True, 64, 48, None, None, None))
    image = np.zeros((48, 64, 3), np.uint8)
    face = Face(np.array([1, 1, 9, 9], np.float32), np.zeros((5, 2), np.float32), 0.9)
    for n, event in enumerate(STORY):
        watcher.event(event, None)
        frame = Frame("cam1", n, float(n), 1.7e9 + n, image)
        tracked = Tracked(frame.ref, (TrackedFace(2, n, face),))
        watcher.frame(frame, tracked, {2: Label("Ada", True, 0.5)})
    watcher.event(
        CameraState(
            id="c", camera="cam1", decided_at=START, state="ended", detail="every frame was read",
            frames=250, dropped={},
        ),
        None,
    )  # fmt: skip
    watcher.close()


def test_closing_lines_name_everybody_once() -> None:
    summary = Summary()
    for event in STORY:
        summary.add(event)
    assert closing_lines(summary.sightings) == [
        "Ada        seen 2x, 00:03.2-00:09.8, best score 0.610 (threshold 0.430), cam1",
        "unknown    seen 1x, 00:06.5-00:07.0, best score 0.200 (threshold 0.430), cam2",
        "undecided  seen 1x, 00:08.0-00:08.2, cam2",
    ]
    assert closing_lines([]) == ["Nobody was seen."]


def test_recordings_have_no_clock_in_common() -> None:
    summary = Summary()
    for camera in ("cam1", "cam2"):
        summary.add(ended(camera, 1, 3.2, 5.0, "Ada", 0.55, "matched"))
    (line,) = closing_lines(summary.sightings)
    assert line == "Ada  seen 2x, best score 0.550 (threshold 0.430), cam1, cam2"


def test_plain_lines_where_there_is_no_terminal() -> None:
    """A recording's times are its own; a live camera's are those of the wall clock here."""
    out = io.StringIO()
    play(LiveTable(Console(file=out, width=60), heading="events are at ipc://events"))
    text = out.getvalue()
    assert "\x1b" not in text
    assert text.splitlines() == [
        "events are at ipc://events",
        "cam1: lobby.mp4 64x48, recorded",
        "cam2: rtsp://camera/2 64x48, live",
        "cam1 track 1: Ada, 00:03.2-00:05.0, score 0.550 (threshold 0.430)",
        "cam1 track 2: Ada, 00:06.0-00:09.8, score 0.610 (threshold 0.430)",
        f"cam2 track 1: unknown, {wall(6.5)}-{wall(7.0)}, score 0.200 (threshold 0.430)",
        f"cam2 track 2: no usable face, {wall(8.0)}-{wall(8.2)}",
        "cam1: ended, 250 frames: every frame was read",
        "Ada        seen 2x, 00:03.2-00:09.8, best score 0.610 (threshold 0.430), cam1",
        f"unknown    seen 1x, {wall(6.5)}-{wall(7.0)}, best score 0.200 (threshold 0.430), cam2",
        f"undecided  seen 1x, {wall(8.0)}-{wall(8.2)}, cam2",
    ]


def wall(seconds: float) -> str:
    """The clock on the wall here, so many seconds after the story's start."""
    return (START + timedelta(seconds=seconds)).astimezone().strftime("%H:%M:%S")


def test_a_run_that_read_nothing_says_nothing_of_who_was_there() -> None:
    out = io.StringIO()
    table = LiveTable(Console(file=out, width=60))
    state = {"detail": "Connection refused", "frames": 0, "dropped": {}}
    table.event(
        CameraState(id="c", camera="cam1", decided_at=START, state="reconnecting", **state), None
    )
    table.close()
    assert out.getvalue() == "cam1: reconnecting, 0 frames: Connection refused\n"


def terminal(width: int, height: int = 20) -> tuple[io.StringIO, Console]:
    """A terminal of this many characters, and what was written to it."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    return out, console


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_table_on_terminals_of_any_width(width: int) -> None:
    out, console = terminal(width)
    table = LiveTable(console)
    table.source(SourceInfo("cam1", "lobby.mp4", False, 64, 48, 25.0, 250, 10.0))
    table.event(STORY[0], None)
    table.event(STORY[1], None)
    table.close()  # draws once more before it takes the table away
    text = out.getvalue()
    assert "Ada" in text
    assert "0 %" in text
    assert ("threshold faces" in text) == (width >= 76)
    assert ("fused seen" in text) == (width >= 100)


def test_a_camera_in_trouble_shows_without_a_frame_or_a_further_event() -> None:
    """Nothing calls the table while cameras are silent: a timer draws it."""
    out, console = terminal(80)
    table = LiveTable(console)
    table.source(SourceInfo("door", "rtsp://camera/1", True, 64, 48, 25.0, None, None))
    lost = {"detail": "rtsp://camera/1: Connection refused", "frames": 7, "dropped": {}}
    table.event(
        CameraState(id="c", camera="door", decided_at=START, state="reconnecting", **lost), None
    )
    deadline = time.monotonic() + 10
    while "reconnecting 00:00   Connection refused" not in out.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    table.close()


def test_cameras_in_trouble_come_first_where_not_all_have_room() -> None:
    out, console = terminal(80, height=12)
    table = LiveTable(console)
    for n in range(9):
        table.source(SourceInfo(f"cam{n}", f"rtsp://camera/{n}", True, 64, 48, 25.0, None, None))
    state = {"detail": "silent", "frames": 7, "dropped": {}}
    table.event(
        CameraState(id="c", camera="cam8", decided_at=START, state="stalled", **state), None
    )
    out.seek(0)
    out.truncate()
    table.close()
    shown = out.getvalue()
    assert shown.index("cam8") < shown.index("cam0")
    assert "cam5" not in shown
    assert "and 5 more" in shown


def test_names_are_no_markup() -> None:
    """Rich would read [red] as a style and fail on [/]."""
    for terminal in (True, False):
        out = io.StringIO()
        table = LiveTable(Console(file=out, width=100, force_terminal=terminal, color_system=None))
        table.event(ended("cam1", 1, 0.0, 1.0, "[red]Bo[/]", 0.5, "matched"), None)
        table.close()
        assert "[red]Bo[/]" in out.getvalue()


def test_events_file_has_one_whole_event_a_line(tmp_path: Path) -> None:
    """Also before `close`: lines are written as they come."""
    file = EventsFile(tmp_path / "new")
    file.event(STORY[0], None)
    first = file.path.read_bytes()
    assert first.endswith(b"\n")
    assert first.count(b"\n") == 1
    play(file)
    file.close()
    lines = file.path.read_bytes().splitlines()
    assert len(lines) == 1 + len(STORY) + 1
    decoder = msgspec.json.Decoder(AnyEvent)
    events = [decoder.decode(line) for line in lines]
    assert events[1:-1] == STORY
