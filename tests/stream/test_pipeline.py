"""The whole main job in one process, on drawn faces: what it decides, stores and survives."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest

from facestream import DiskFull, JournalError, SourceMissing, SourceUnreachable
from facestream.configs.schema import (
    CameraConfig,
    Config,
    DetectConfig,
    EmbedConfig,
    GalleryConfig,
    MatchConfig,
    PublishConfig,
)
from facestream.models.pack import Pack
from facestream.models.photo import describe_face, find_faces, tallest_face
from facestream.stream import camera
from facestream.stream.client import subscribe
from facestream.stream.events import (
    AnyEvent,
    CameraState,
    MatchEvent,
    MatchRevised,
    SightingEnded,
    SightingStarted,
    System,
    TrackEvent,
)
from facestream.stream.gallery import Gallery
from facestream.stream.journal import Journal
from facestream.stream.pipeline import Pipeline
from facestream.stream.records import Frame, Template, Tracked
from facestream.stream.source import Source, open_source
from facestream.stream.totals import describe
from facestream.stream.watcher import Label, SourceInfo
from facestream.stream.workers import HELD_FRAMES
from facestream.tools.build import Parts

from .conftest import RtspServer

SCENE = "size=320x240&fps=10"
ONE = f"synthetic:?seed=1&faces=1&seconds=3&{SCENE}"
TWO = f"synthetic:?seed=2&faces=2&seconds=3&{SCENE}"
PATIENCE = 40.0


@pytest.fixture(scope="module")
def portrait(open_models: Pack) -> np.ndarray:
    """The embedding of the face that is drawn in ONE, (C,) float32."""
    source = open_source(CameraConfig("photo", ONE))
    image = next(iter(source)).image
    face = tallest_face(find_faces(open_models.detector, image))
    assert face is not None
    return describe_face(open_models, image, face).embedding


def enrol(place: Path, name: str, embedding: np.ndarray, pack: Pack) -> None:
    with Gallery.open(place, create=True) as gallery:
        gallery.add_sample(
            name,
            embedding,
            norm=float(np.linalg.norm(embedding)),
            quality=0.5,
            pack=pack.card.name,
            embedder=pack.card.checksum(pack.card.embedder.file),
            source="drawn",
            digest=name,
        )


@pytest.fixture
def make(tmp_path: Path, open_models: Pack, portrait: np.ndarray) -> Iterator[Callable[..., Parts]]:
    """Open parts for cameras given by name; "Drawn" is enrolled from the face of ONE."""
    opened: list[Parts] = []

    def start(
        cameras: Mapping[str, str] | Sequence[CameraConfig],
        *,
        journal: str = "journal.db",
        endpoint: str = "",
        **sections: Any,
    ) -> Parts:
        if isinstance(cameras, Mapping):
            cameras = [CameraConfig(name, url) for name, url in cameras.items()]
        place = tmp_path / "gallery.db"
        if not place.exists():
            enrol(place, "Drawn", portrait, open_models)
        config = Config(
            cameras=tuple(cameras),
            gallery=GalleryConfig(url=str(place)),
            publish=PublishConfig(endpoint=endpoint, journal=str(tmp_path / journal)),
            **sections,
        )
        opened.append(Parts(config, open_models))
        return opened[-1]

    yield start
    for parts in opened:
        parts.__exit__(None, None, None)


class Looker:
    """Watcher that remembers events and can be waited on; `fail` makes it break."""

    def __init__(self, *, wants_frames: bool = False) -> None:
        self.wants_frames = wants_frames
        self.infos: list[SourceInfo] = []
        self.events: list[AnyEvent] = []
        self.frames: list[tuple[str, int]] = []
        self.closed = 0
        self.fail: Callable[[AnyEvent], None] = lambda event: None
        self.on_frame: Callable[[], None] = lambda: None
        self.news = threading.Condition()

    def source(self, info: SourceInfo) -> None:
        self.infos.append(info)

    def frame(self, frame: Frame, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        assert (frame.camera, frame.sequence) == tracked.frame[:2]
        self.frames.append((frame.camera, frame.sequence))
        self.on_frame()

    def event(self, event: AnyEvent, template: Template | None) -> None:
        with self.news:
            self.events.append(event)
            self.news.notify_all()
        self.fail(event)

    def close(self) -> None:
        self.closed += 1

    def wait_for(self, what: Callable[[AnyEvent], bool], after: int = 0) -> int:
        """Wait for an event that was told after the first `after`; returns how many are told."""

        def found() -> int:
            return next((n + 1 for n, e in enumerate(self.events) if n >= after and what(e)), 0)

        with self.news:
            assert self.news.wait_for(found, PATIENCE), self.events
            return found()


class Running:
    """A pipeline that runs in a thread; what it raised is raised by `join`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pipeline.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error


TIMES = {"decided_at", "published_at", "captured_at", "started_at", "sequence", "previous", "epoch"}


def plain(event: AnyEvent) -> dict[str, Any]:
    """An event without wall clocks and numbering, which differ from run to run."""
    data = msgspec.to_builtins(event)
    data["kind"] = event.kind
    for key in (*TIMES, "id"):
        data.pop(key, None)
    for frame in data.get("evidence", ()):
        frame.pop("captured_at")
    return data


def assert_same(one: object, other: object) -> None:
    """Equal, numbers to 1e-6."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-6)
    else:
        assert one == other


def told(parts: Parts, camera: str | None = None) -> list[dict[str, Any]]:
    """What the journal says of tracks (of one camera)."""
    events = [e for e in parts.journal.read() if isinstance(e, TrackEvent)]
    return [plain(e) for e in events if camera in (None, e.camera)]


def assert_complete(events: Sequence[AnyEvent]) -> int:
    """Every sighting that started has ended, once; returns how many there were."""
    started = [(e.camera, e.track) for e in events if isinstance(e, SightingStarted)]
    ended = [(e.camera, e.track) for e in events if isinstance(e, SightingEnded)]
    assert sorted(started) == sorted(ended) and len(set(ended)) == len(ended)
    return len(ended)


# --- what is decided ---


def test_a_drawn_face_is_known_again(make: Callable[..., Parts]) -> None:
    parts = make({"front.door-1": ONE})
    looker = Looker()
    totals = parts.pipeline([looker]).run()
    events = list(parts.journal.read())
    assert looker.events == events and looker.closed == 1
    assert [e.kind for e in events if isinstance(e, TrackEvent)] == [
        "sighting.started",
        "match",
        "sighting.ended",
    ]
    (match,) = (e for e in events if isinstance(e, MatchEvent))
    assert (match.identity, match.camera, match.pack) == ("Drawn", "front.door-1", "open")
    assert match.gallery_version == parts.gallery.version()
    states = [e.state for e in events if isinstance(e, CameraState)]
    assert states == ["connecting", "running", "ended"]
    system = [(e.state, e.camera) for e in events if isinstance(e, System)]
    assert system == [("started", "-"), ("stopped", "-")]
    assert events[0].kind == events[-1].kind == "system"
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert (totals.frames, totals.events) == (30, len(events))
    assert totals.embedded <= totals.faces and not totals.interrupted
    assert len(totals.latencies) == 3 and describe(totals)["failed"] == {}
    assert looker.infos[0].frames == 30 and len(looker.frames) == 30


@pytest.mark.parametrize("stride", [1, 3])
def test_batch_sizes_change_nothing(make: Callable[..., Parts], stride: int) -> None:
    outcomes = []
    for size in (1, 4, 16):
        parts = make(
            [CameraConfig("door", TWO, stride=stride)],
            journal=f"{size}.db",
            detect=DetectConfig(batch=size),
            embed=EmbedConfig(batch=size, wait_ms=1e6 if size == 16 else 0.0),
        )
        parts.pipeline().run()
        outcomes.append(told(parts))
    assert len(outcomes[0]) >= 4
    assert_same(outcomes[0], outcomes[1])
    assert_same(outcomes[0], outcomes[2])


def test_cameras_beside_each_other_are_told_as_alone(make: Callable[..., Parts]) -> None:
    together = make({"a": ONE, "b": TWO}, journal="both.db")
    together.pipeline().run()
    for name, url in (("a", ONE), ("b", TWO)):
        alone = make({name: url}, journal=f"{name}.db")
        alone.pipeline().run()
        assert_same(told(together, name), told(alone, name))
        assert told(alone, name)


def test_numbering_goes_on_in_the_next_run(make: Callable[..., Parts]) -> None:
    parts = make({"door": ONE})
    parts.pipeline().run()
    parts.pipeline().run()
    events = list(parts.journal.read())
    assert [e.track for e in events if isinstance(e, SightingStarted)] == [1, 2]
    assert len({e.id for e in events}) == len(events)
    assert len({e.epoch for e in events}) == 1


# --- journal and wire ---


def test_a_subscriber_never_hears_what_the_journal_does_not_hold(
    make: Callable[..., Parts],
) -> None:
    parts = make({"door": ONE}, endpoint="tcp://127.0.0.1:*")
    heard: list[AnyEvent] = []
    held: list[bool] = []
    connected = threading.Event()

    def listen() -> None:
        journal = sqlite3.connect(parts.journal.path)
        with subscribe(parts.publisher.endpoint, timeout=PATIENCE) as events:
            for event in events:
                connected.set()
                found = journal.execute("SELECT 1 FROM events WHERE id = ?", (event.id,))
                held.append(found.fetchone() is not None)
                heard.append(event)
                if isinstance(event, System) and event.state == "stopped":
                    break
        journal.close()

    thread = threading.Thread(target=listen)
    thread.start()
    number = 0
    while not connected.wait(0.02):  # a subscriber hears what comes after its connection stands
        number += 1
        assert number * 0.02 < PATIENCE
        parts.publisher.publish(
            System(
                id=f"hello-{number}",
                camera="-",
                decided_at=datetime.now(UTC),
                state="started",
                detail="is anybody there?",
            )
        )
    parts.pipeline().run()
    thread.join(PATIENCE)
    assert held and all(held)
    stored = {e.id: e for e in parts.journal.read()}
    assert all(stored[e.id] == e for e in heard)
    assert {"sighting.started", "match", "sighting.ended"} <= {e.kind for e in heard}


def test_a_full_disk_in_the_middle_is_the_one_error(make: Callable[..., Parts]) -> None:
    parts = make({"door": TWO})
    looker, other = Looker(), Looker()

    def fill(event: AnyEvent) -> None:
        if isinstance(event, SightingStarted):
            (pages,) = parts.journal._db.execute("PRAGMA page_count").fetchone()
            parts.journal._db.execute(f"PRAGMA max_page_count = {pages}")

    looker.fail = fill
    with pytest.raises(DiskFull, match="nothing stored is lost"):
        parts.pipeline([looker, other]).run()
    assert looker.closed == other.closed == 1
    stored = list(parts.journal.read())
    assert stored == looker.events == other.events
    parts.journal._db.execute("PRAGMA max_page_count = 100000")
    parts.pipeline().run()
    assert [e.sequence for e in parts.journal.read()][: len(stored)] == [e.sequence for e in stored]


def test_a_broken_journal_is_not_hidden_by_a_watcher_that_breaks_too(
    make: Callable[..., Parts], caplog: pytest.LogCaptureFixture
) -> None:
    parts = make({"door": ONE})

    class Stubborn(Looker):
        def close(self) -> None:
            super().close()
            raise OSError("the page cannot be written either")

    stubborn, other = Stubborn(), Looker()
    stubborn.fail = lambda event: parts.journal.close() if event.kind == "match" else None
    with pytest.raises((JournalError, sqlite3.ProgrammingError)):
        parts.pipeline([stubborn, other]).run()
    assert stubborn.closed == other.closed == 1
    assert "the page cannot be written either" in caplog.text


# --- what breaks, and what goes on ---


def test_a_watcher_that_breaks_ends_the_run_with_everything_stored(
    make: Callable[..., Parts],
) -> None:
    parts = make({"door": TWO})
    broken, other = Looker(), Looker()

    def fail(event: AnyEvent) -> None:
        if isinstance(event, TrackEvent):
            raise OSError(28, "No space left on device")

    broken.fail = fail
    with pytest.raises(OSError, match="No space left"):
        parts.pipeline([broken, other]).run()
    assert broken.closed == other.closed == 1
    events = list(parts.journal.read())
    assert assert_complete(events) >= 1
    assert isinstance(events[-1], System) and events[-1].detail == "OSError"
    assert isinstance(broken.events[-1], SightingStarted)
    assert other.events[-1] == events[-1]


class Crashing:
    """A source with a bug: it breaks after some frames with an error of no kind we know."""

    def __init__(self, source: Source) -> None:
        self.info, self.paced, self.dropped = source.info, source.paced, source.dropped
        self._source = source

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            if frame.sequence == 12:
                raise ZeroDivisionError("a bug in a decoder")
            yield frame

    def close(self) -> None:
        self._source.close()


def test_a_bug_in_a_reader_is_raised_after_its_frames_were_decided(
    make: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera, "open_source", lambda *a, **k: Crashing(open_source(*a, **k)))
    parts = make({"door": ONE})
    pipeline = parts.pipeline()
    with pytest.raises(ZeroDivisionError, match="a bug in a decoder"):
        pipeline.run()
    assert pipeline.totals.frames == 12
    assert assert_complete(list(parts.journal.read())) == 1


def test_one_lost_camera_does_not_stop_the_others(make: Callable[..., Parts]) -> None:
    lost = CameraConfig(
        "lost",
        "rtsp://me:secret-word@127.0.0.1:9/cam",
        retry_attempts=1,
        retry_first_seconds=0.01,
        retry_most_seconds=0.02,
    )
    parts = make([lost, CameraConfig("door", ONE)])
    totals = parts.pipeline().run()
    events = list(parts.journal.read())
    states = {e.camera: e.state for e in events if isinstance(e, CameraState)}
    assert states == {"lost": "failed", "door": "ended"}
    assert "match" in {e.kind for e in events}
    assert list(totals.failed) == ["lost"] and "given up" in totals.failed["lost"]
    assert "secret-word" not in repr(totals) + repr(events)


def test_all_cameras_lost_is_an_error(make: Callable[..., Parts]) -> None:
    lost = CameraConfig("lost", "rtsp://127.0.0.1:9/cam", retry_attempts=1)
    parts = make([lost, replace(lost, name="too")])
    with pytest.raises(SourceUnreachable, match="given up"):
        parts.pipeline().run()
    last = list(parts.journal.read())[-1]
    assert isinstance(last, System) and last.detail == "SourceUnreachable"


def test_a_missing_file_ends_the_run_before_anything_is_read(
    make: Callable[..., Parts], tmp_path: Path
) -> None:
    parts = make({"a": ONE, "b": str(tmp_path / "nothing.mp4")})
    with pytest.raises(SourceMissing, match=r"nothing\.mp4"):
        parts.pipeline().run()
    assert [e.kind for e in parts.journal.read()] == ["system", "system"]


def test_stopping_ends_every_sighting(make: Callable[..., Parts]) -> None:
    parts = make({"door": ONE.replace("seconds=3", "seconds=0")})
    looker = Looker()
    with Running(parts.pipeline([looker])) as running:
        looker.wait_for(lambda e: isinstance(e, MatchEvent))
    assert running.pipeline.totals.interrupted
    events = list(parts.journal.read())
    assert assert_complete(events) == 1
    assert isinstance(events[-1], System) and events[-1].detail == "interrupted"


def test_frames_are_not_held_without_end(make: Callable[..., Parts]) -> None:
    url = "synthetic:?faces=0&seconds=10&fps=10&size=64x64"
    parts = make({"door": url}, embed=EmbedConfig(wait_ms=1e6), detect=DetectConfig(batch=4))
    looker = Looker(wants_frames=True)
    pipeline = parts.pipeline([looker])
    held: list[int] = []
    looker.on_frame = lambda: held.append(len(pipeline.frames))
    pipeline.run()
    assert looker.frames == [("door", n) for n in range(100)]
    assert max(held) < HELD_FRAMES + 4 and not pipeline.frames


# --- a gallery that changes ---

ENROL = """
import sys, numpy as np
from pathlib import Path
from facestream.models.store import load_card
from facestream.stream.gallery import Gallery
place, vector = sys.argv[1:]
embedding = np.load(vector)
card = load_card("open")
with Gallery.open(place, create=False) as gallery:
    gallery.add_sample("Newcomer", embedding, norm=1.0, quality=0.5, pack="open",
                       embedder=card.checksum(card.embedder.file), source="x", digest="x")
"""


def test_a_gallery_that_changes_changes_decisions_without_restart(
    make: Callable[..., Parts], tmp_path: Path, portrait: np.ndarray, open_models: Pack
) -> None:
    place, vector = tmp_path / "gallery.db", tmp_path / "vector.npy"
    np.save(vector, portrait)
    Gallery.open(place, create=True).close()
    live = f"synthetic:?seed=1&faces=1&seconds=0&live=1&{SCENE}"
    parts = make({"door": live}, match=MatchConfig(unknown_frames=3))
    looker = Looker()
    with Running(parts.pipeline([looker])):
        at = looker.wait_for(lambda e: e.kind == "unknown")
        subprocess.run([sys.executable, "-c", ENROL, str(place), str(vector)], check=True)
        at = looker.wait_for(lambda e: isinstance(e, System), after=at)
        at = looker.wait_for(lambda e: isinstance(e, MatchRevised), after=at)
        named = looker.events[at - 1]
        with Gallery.open(place, create=False) as gallery:
            gallery.remove("Newcomer")
        at = looker.wait_for(lambda e: isinstance(e, MatchRevised), after=at)
        withdrawn = looker.events[at - 1]
    assert isinstance(named, MatchRevised) and isinstance(withdrawn, MatchRevised)
    assert (named.identity, withdrawn.identity) == ("Newcomer", None)
    assert (withdrawn.previous_identity, withdrawn.candidates) == ("Newcomer", ())
    changes = [e for e in looker.events if isinstance(e, System) and e.state == "gallery.changed"]
    assert [e.detail.partition(": ")[2] for e in changes] == [
        "1 people can be recognised",
        "0 people can be recognised",
    ]
    assert named.gallery_version < withdrawn.gallery_version


# --- a real camera ---


def drawn_clip(path: Path, frames: int = 40) -> Path:
    """The scene of ONE as H.264, 10 frames a second."""
    source = open_source(CameraConfig("clip", ONE.replace("seconds=3", "seconds=0")))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "16", "bf": "0", "g": "5"}
        for frame, _ in zip(source, range(frames), strict=False):
            picture = av.VideoFrame.from_ndarray(frame.image, format="bgr24")
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path


def test_a_camera_that_dies_and_comes_back(
    make: Callable[..., Parts], rtsp: Callable[..., RtspServer], tmp_path: Path
) -> None:
    server = rtsp("--mount", f"/cam={drawn_clip(tmp_path / 'drawn.mp4')}")
    camera = CameraConfig(
        "gate", server.url(), stall_seconds=1.0, retry_first_seconds=0.1, retry_most_seconds=0.5
    )
    parts = make([camera])
    looker = Looker()
    with Running(parts.pipeline([looker])):
        at = looker.wait_for(lambda e: isinstance(e, MatchEvent))
        server.stop()
        at = looker.wait_for(lambda e: getattr(e, "state", "") == "reconnecting", after=at)
        server.start()
        at = looker.wait_for(lambda e: getattr(e, "state", "") == "running", after=at)
        at = looker.wait_for(lambda e: isinstance(e, MatchEvent), after=at)
    events = list(parts.journal.read())
    assert assert_complete(events) >= 2
    names = [e.identity for e in events if isinstance(e, MatchEvent)]
    assert set(names) == {"Drawn"} and len(names) >= 2
    order = [getattr(e, "state", e.kind) for e in events]
    assert order.index("sighting.ended") < order.index("reconnecting")
    tracks = [e.track for e in events if isinstance(e, SightingStarted)]
    assert tracks == sorted(set(tracks))
    assert time.time() - events[-1].decided_at.timestamp() < PATIENCE


def test_the_journal_of_a_run_can_be_read_by_another_connection(
    make: Callable[..., Parts],
) -> None:
    parts = make({"door": ONE})
    with pytest.raises(JournalError, match="another facestream"):
        Journal.open(parts.journal.path)
    parts.pipeline().run()
    reader = sqlite3.connect(parts.journal.path)
    (count,) = reader.execute("SELECT COUNT(*) FROM events").fetchone()
    reader.close()
    assert count == parts.journal.newest
