"""Killed in the middle of a clip and started again, a run tells what an undisturbed one would have.

Runs that are killed are real processes. Journals are copies of one empty journal, so that all have
the same epoch and with it the same event ids.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import msgspec
import numpy as np
import pytest

from facestream import DiskFull
from facestream.configs.schema import CameraConfig, Config
from facestream.models.pack import Pack
from facestream.stream.events import (
    AnyEvent,
    CameraState,
    Event,
    SightingEnded,
    SightingStarted,
    System,
    TrackEvent,
)
from facestream.stream.journal import Journal
from facestream.stream.source import open_source
from facestream.tools.build import Parts
from facestream.tools.run import configure

PATIENCE = 120.0
SCENE = "synthetic:?seed=2&faces=2&seconds=0&size=320x240&fps=10"
APPEARANCES, SHOWN, HIDDEN = 6, 12, 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn faces that come and go: six sightings of each, 120 frames, 10 a second."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", APPEARANCES)


def write_clip(path: Path, appearances: int) -> Path:
    source = iter(open_source(CameraConfig("clip", SCENE)))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "16"}
        for _ in range(appearances):
            for number in range(SHOWN + HIDDEN):
                image = next(source).image
                image = image if number < SHOWN else np.full_like(image, 128)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the two faces is enrolled from a photo."""
    folder = tmp_path_factory.mktemp("photos")
    image = next(iter(open_source(CameraConfig("photo", SCENE)))).image
    assert cv2.imwrite(str(folder / "Drawn.png"), image)
    return folder


@pytest.fixture(scope="module")
def empty_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "empty.db"
    Journal.open(path).close()
    return path


@pytest.fixture
def journal(tmp_path: Path, empty_journal: Path) -> Path:
    return Path(shutil.copy(empty_journal, tmp_path / "journal.db"))


def settings(source: str, photos: Path, journal: Path, *more: str) -> list[str]:
    """Arguments of `facestream run`; marks are close together, and whoever is gone is soon lost."""
    chosen = ["topology.mark_frames=8", "track.lost_seconds=0.3", "enrol.largest=true", *more]
    return [
        *("--source", source, "--gallery", str(photos)),
        *("--endpoint", "", "--journal", str(journal)),
        *(word for one in chosen for word in ("--set", one)),
    ]


def configuration(source: str, photos: Path, journal: Path, *more: str) -> Config:
    """The same as a configuration, to run in this process."""
    arguments = settings(source, photos, journal, *more)
    chosen = [value for flag, value in pairwise(arguments) if flag == "--set"]
    return configure(
        None, [source], gallery=str(photos), endpoint="", journal=str(journal), settings=chosen
    )


def run(config: Config, pack: Pack) -> list[AnyEvent]:
    """Run in this process to the end; returns all that the journal holds then."""
    with Parts(config, pack) as parts:
        parts.pipeline().run()
        assert parts.journal.checkpoints() == {}
        return list(parts.journal.read())


Start = Callable[..., "Killable"]


class Killable:
    """`facestream run` as a process, and what its journal holds meanwhile."""

    def __init__(self, arguments: list[str], journal: Path, folder: Path) -> None:
        self.journal = journal
        self.process = subprocess.Popen(
            [sys.executable, "-m", "facestream.tools.cli", "run", "--json", *arguments],
            env={**os.environ, "FACESTREAM_DATA": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill_at(self, event: int, number: int = signal.SIGKILL) -> None:
        """Send a signal as soon as the journal holds so many events."""
        deadline = time.monotonic() + PATIENCE
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as db:
            while db.execute("SELECT COUNT(*) FROM events").fetchone()[0] < event:
                assert self.process.poll() is None, self.process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.002)
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == (130 if number == signal.SIGINT else -number), errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Killable] = []

    def begin(arguments: list[str], journal: Path) -> Killable:
        started.append(Killable(arguments, journal, tmp_path / "data"))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.communicate(timeout=10)


def read(journal: Path) -> list[AnyEvent]:
    with Journal.open(journal) as opened:
        return list(opened.read())


def told(events: list[AnyEvent]) -> list[dict[str, Any]]:
    """All but system events, by id, without what belongs to the moment of telling.

    Times of capture are checked against the clip's own clock and then taken out: the runs that are
    compared began at different times, but each of them at one.
    """
    one_run = [event for event in events if not isinstance(event, System)]
    ids = [event.id for event in one_run]
    assert len(set(ids)) == len(ids)
    began = [e.captured_at.timestamp() - e.pts for e in one_run if isinstance(e, TrackEvent)]
    assert max(began) - min(began) < 1e-4
    return [plain(event) for event in sorted(one_run, key=lambda event: event.id)]


def plain(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(event)
    data["kind"] = event.kind
    for moment in ("decided_at", "published_at", "captured_at", "started_at"):
        data.pop(moment, None)
    for number in ("sequence", "previous"):
        del data[number]
    for frame in data.get("evidence", ()):
        del frame["captured_at"]
    return data


def count_of(events: list[AnyEvent], kind: type[Event]) -> int:
    return sum(isinstance(event, kind) for event in events)


def assert_whole(events: list[AnyEvent]) -> None:
    """Every sighting that began has ended, once."""
    began = [(e.camera, e.track) for e in events if isinstance(e, SightingStarted)]
    ended = [(e.camera, e.track) for e in events if isinstance(e, SightingEnded)]
    assert sorted(began) == sorted(ended) and len(set(ended)) == len(ended)


@pytest.fixture(scope="module")
def undisturbed(
    clip: Path,
    photos: Path,
    empty_journal: Path,
    open_models: Pack,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    journal = shutil.copy(empty_journal, tmp_path_factory.mktemp("whole") / "journal.db")
    events = run(configuration(str(clip), photos, journal), open_models)
    assert count_of(events, SightingStarted) == 2 * APPEARANCES
    assert "Drawn" in {getattr(event, "identity", None) for event in events}
    assert_whole(events)
    return told(events)


@pytest.mark.parametrize("event", [3, 9, 20])
def test_killed_and_started_again_tells_the_same(
    start: Start,
    clip: Path,
    photos: Path,
    journal: Path,
    open_models: Pack,
    undisturbed: list[dict[str, Any]],
    event: int,
) -> None:
    start(settings(str(clip), photos, journal), journal).kill_at(event)
    before = read(journal)
    assert count_of(before, SightingEnded) < 2 * APPEARANCES  # it was killed in the middle
    events = run(configuration(str(clip), photos, journal), open_models)
    assert events[: len(before)] == before
    assert told(events) == undisturbed


def test_killed_twice_tells_the_same(
    start: Start,
    clip: Path,
    photos: Path,
    journal: Path,
    open_models: Pack,
    undisturbed: list[dict[str, Any]],
) -> None:
    arguments = settings(str(clip), photos, journal)
    start(arguments, journal).kill_at(8)
    before = len(read(journal))
    start(arguments, journal).kill_at(before + 8)
    events = run(configuration(str(clip), photos, journal), open_models)
    assert told(events) == undisturbed
    assert [e.state for e in events if isinstance(e, System)].count("started") == 3


@pytest.mark.parametrize("batch", [1, 5])
def test_a_run_may_go_on_with_other_batch_sizes(
    start: Start,
    clip: Path,
    photos: Path,
    journal: Path,
    open_models: Pack,
    undisturbed: list[dict[str, Any]],
    batch: int,
) -> None:
    start(settings(str(clip), photos, journal), journal).kill_at(12)
    sizes = (f"embed.batch={batch}", f"detect.batch={batch}")
    events = told(run(configuration(str(clip), photos, journal, *sizes), open_models))
    assert [e["id"] for e in events] == [e["id"] for e in undisturbed]
    for got, want in zip(events, undisturbed, strict=True):
        assert got.get("identity") == want.get("identity")
        assert got.get("score") == pytest.approx(want.get("score"), abs=1e-5)


def test_a_full_disk_is_made_good(
    clip: Path,
    photos: Path,
    journal: Path,
    open_models: Pack,
    undisturbed: list[dict[str, Any]],
) -> None:
    config = configuration(str(clip), photos, journal)

    class Filler:
        """Watcher that leaves no room in the journal once a sighting has ended."""

        wants_frames = False

        def __init__(self, parts: Parts) -> None:
            self.parts = parts

        def source(self, info: object) -> None: ...

        def frame(self, *_: object) -> None: ...

        def event(self, event: AnyEvent, template: object) -> None:
            if isinstance(event, SightingEnded):
                (pages,) = self.parts.journal._db.execute("PRAGMA page_count").fetchone()
                self.parts.journal._db.execute(f"PRAGMA max_page_count = {pages}")

        def close(self) -> None: ...

    with Parts(config, open_models) as parts, pytest.raises(DiskFull):
        parts.pipeline([Filler(parts)]).run()
    assert 0 < count_of(read(journal), SightingEnded) < 2 * APPEARANCES
    assert told(run(config, open_models)) == undisturbed


def test_after_ctrl_c_the_clip_begins_anew(
    start: Start, clip: Path, photos: Path, journal: Path, open_models: Pack
) -> None:
    start(settings(str(clip), photos, journal), journal).kill_at(10, signal.SIGINT)
    before = read(journal)
    assert_whole(before)
    first = max(e.track for e in before if isinstance(e, SightingStarted))
    events = run(configuration(str(clip), photos, journal), open_models)[len(before) :]
    assert_whole(events)
    tracks = [e.track for e in events if isinstance(e, SightingStarted)]
    assert tracks == list(range(first + 1, first + 1 + 2 * APPEARANCES))
    states = [e.state for e in events if isinstance(e, CameraState)]
    assert states == ["connecting", "running", "ended"]


@pytest.mark.parametrize("change", ["clip", "settings"])
def test_what_another_clip_or_other_settings_left_open_is_closed(
    start: Start,
    tmp_path: Path,
    clip: Path,
    photos: Path,
    journal: Path,
    open_models: Pack,
    change: str,
) -> None:
    start(settings(str(clip), photos, journal), journal).kill_at(6)
    before = read(journal)
    left = {e.track for e in before if isinstance(e, SightingStarted)}
    left -= {e.track for e in before if isinstance(e, SightingEnded)}
    config = configuration(str(clip), photos, journal)
    if change == "clip":
        other = write_clip(tmp_path / "other.mp4", 1)
        config = replace(config, cameras=(CameraConfig("cam1", str(other)),))
    else:
        config = replace(config, match=replace(config.match, threshold=0.99))
    events = run(config, open_models)
    assert_whole(events)
    closed = [e for e in events[len(before) :] if isinstance(e, SightingEnded)]
    assert {e.track for e in closed[: len(left)]} == left
    states = [(e.state, e.frames) for e in events[len(before) :] if isinstance(e, CameraState)]
    frames = (SHOWN + HIDDEN) * (1 if change == "clip" else APPEARANCES)
    assert states == [("connecting", 0), ("running", 0), ("ended", frames)]


def test_who_was_before_a_live_camera_when_it_was_killed_is_closed_at_the_next_start(
    start: Start, photos: Path, journal: Path, open_models: Pack, tmp_path: Path
) -> None:
    live = f"{SCENE}&live=1"
    running = start(settings(live, photos, journal, "match.unknown_frames=3"), journal)
    running.kill_at(6)  # system, connecting, running, two sightings and the first decision
    before = read(journal)
    assert count_of(before, SightingEnded) == 0
    short = live.replace("seconds=0", "seconds=1")
    events = run(configuration(short, photos, journal, "match.unknown_frames=3"), open_models)
    assert_whole(events)
    after = events[len(before) :]
    assert [e.kind for e in after][:3] == ["system", "sighting.ended", "sighting.ended"]
    decided = [e for e in before if e.kind in ("match", "unknown")]
    ended = {e.track: e for e in after if isinstance(e, SightingEnded)}
    assert decided
    for event in decided:
        assert isinstance(event, TrackEvent)
        last = ended[event.track]
        assert last.pack == "open" and last.frames >= 3 and last.evidence
    tracks = [e.track for e in events if isinstance(e, SightingStarted)]
    assert len(set(tracks)) == len(tracks)


def test_pictures_resume_too(
    start: Start,
    tmp_path: Path,
    clip: Path,
    photos: Path,
    journal: Path,
    empty_journal: Path,
    open_models: Pack,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for frame in open_source(CameraConfig("clip", str(clip))):
        assert cv2.imwrite(str(folder / f"{frame.sequence}.bmp"), frame.image)
    (folder / "7.bmp").write_bytes(b"no picture")
    more = ("cameras[0].fps=10", "cameras[0].stride=2", "track.confirm_faces=2")
    whole = Path(shutil.copy(empty_journal, tmp_path / "whole.db"))
    undisturbed = run(configuration(str(folder), photos, whole, *more), open_models)
    start(settings(str(folder), photos, journal, *more), journal).kill_at(10)
    assert count_of(read(journal), SightingEnded) < 2 * APPEARANCES
    events = run(configuration(str(folder), photos, journal, *more), open_models)
    assert told(events) == told(undisturbed)
    (ended,) = (e for e in events if isinstance(e, CameraState) and e.state == "ended")
    assert (ended.frames, ended.dropped) == (60, {"unreadable": 1})
