"""`facestream run` as a process: what it prints and writes, and how Ctrl-C ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from facestream import ConfigError
from facestream.stream.events import AnyEvent, SightingEnded, SightingStarted, System
from facestream.stream.journal import Journal
from facestream.tools.run import configure, name_cameras

SCENE = "size=320x240&fps=10&faces=2&seed=2"
SHORT = f"synthetic:?seconds=2&{SCENE}"
ENDLESS = f"synthetic:?seconds=0&{SCENE}"
COMMAND = [sys.executable, "-m", "facestream.tools.cli", "run"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `facestream run` with a data folder of its own; what is left at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, "--endpoint", "", *arguments],
            env={**os.environ, "FACESTREAM_DATA": str(tmp_path / "data")},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def wait_for_faces(process: subprocess.Popen[str], output: Path) -> None:
    """Wait until somebody is in view, as events.jsonl tells."""
    deadline = time.monotonic() + 40
    file = output / "events.jsonl"
    while not (file.exists() and "sighting.started" in file.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stored(journal: Path) -> list[AnyEvent]:
    """The events of a journal; that it opens shows that the run let go of it."""
    with Journal.open(journal) as opened:
        return list(opened.read())


def assert_complete(events: list[AnyEvent]) -> None:
    started = {e.track for e in events if isinstance(e, SightingStarted)}
    ended = [e.track for e in events if isinstance(e, SightingEnded)]
    assert started and sorted(ended) == sorted(started)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cleanly(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out"
    process = start("--source", ENDLESS, "--output", str(output), "--video", "--page")
    wait_for_faces(process, output)
    process.send_signal(number)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    events = stored(tmp_path / "data" / "journal.db")
    assert_complete(events)
    assert isinstance(events[-1], System) and events[-1].detail == "interrupted"
    text = (output / "events.jsonl").read_text()
    assert text.endswith("\n")
    assert [json.loads(line)["id"] for line in text.splitlines()] == [e.id for e in events]
    with av.open(str(output / "annotated-cam1.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) >= 3
    assert "</html>" in (output / "report.html").read_text()


def test_a_second_interrupt_does_not_wait(start: Start, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start("--source", ENDLESS, "--output", str(output), "--json")
    wait_for_faces(process, output)
    process.send_signal(signal.SIGINT)
    time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in errors
    lines = (output / "events.jsonl").read_text().splitlines()
    events = stored(tmp_path / "data" / "journal.db")
    assert [json.loads(line)["id"] for line in lines] == [e.id for e in events[: len(lines)]]


def test_json_is_one_object_with_totals(start: Start, tmp_path: Path) -> None:
    process = start("--source", SHORT, "--json", "--journal", "here.db")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    totals = json.loads(output)
    assert totals["frames"] == 20 and totals["faces"] >= 30 and not totals["interrupted"]
    assert totals["events"] == len(stored(tmp_path / "here.db"))
    assert totals["dropped"] == {"cam1": {}} and totals["failed"] == {}


def test_the_same_source_twice_is_two_cameras(start: Start, tmp_path: Path) -> None:
    process = start("--source", SHORT, "--source", SHORT, "--json")
    assert process.wait(60) == 0
    events = stored(tmp_path / "data" / "journal.db")
    seen = {
        camera: [(e.kind, e.track, e.frame) for e in events if e.camera == camera and has_track(e)]
        for camera in ("cam1", "cam2")
    }
    assert seen["cam1"] == seen["cam2"] != []


def has_track(event: AnyEvent) -> bool:
    return hasattr(event, "track")


def test_a_camera_that_fails_is_told_while_the_others_go_on(start: Start, tmp_path: Path) -> None:
    process = start(
        *("--source", SHORT, "--source", "rtsp://me:secret-word@127.0.0.1:9/cam", "--json"),
        *("--set", "cameras[1].retry_attempts=1"),
    )
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    (line,) = errors.splitlines()
    assert line.startswith("camera cam2 failed: ") and "given up" in line
    assert list(json.loads(output)["failed"]) == ["cam2"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert "secret-word" not in output + errors and b"secret-word" not in written


# --- options on top of a file ---


def test_sources_are_numbered() -> None:
    assert [camera.name for camera in name_cameras(["a.mp4", "b.mp4"])] == ["cam1", "cam2"]


def test_options_go_on_top_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("cameras: [{name: door, url: a.mp4}]\nmatch: {top_k: 7}\ngallery: {url: g.db}")
    photos = tmp_path / "photos"
    photos.mkdir()
    config = configure(
        file,
        [],
        gallery=str(photos),
        pack="omz",
        output=tmp_path / "out",
        video=True,
        live=True,
        endpoint="",
        journal="j.db",
        settings=["match.threshold=0.4", "cameras[0].stride=2"],
    )
    (camera,) = config.cameras
    assert (camera.name, camera.mode, camera.stride) == ("door", "live", 2)
    assert (config.match.top_k, config.match.threshold, config.models.pack) == (7, 0.4, "omz")
    assert (config.gallery.folder, config.gallery.url) == (str(photos), "")
    assert (config.publish.endpoint, config.publish.journal) == ("", "j.db")
    assert (config.output.folder, config.output.video) == (str(tmp_path / "out"), True)


def test_a_gallery_that_is_no_folder_is_a_file_or_an_address() -> None:
    config = configure(None, ["a.mp4"], gallery="people.db")
    assert (config.gallery.folder, config.gallery.url) == ("", "people.db")


def test_files_for_people_go_somewhere_also_without_a_folder() -> None:
    assert configure(None, ["a.mp4"], page=True).output.folder == "output"
    assert configure(None, ["a.mp4"]).output.folder == ""


def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to run: give a configuration file or --source"):
        configure(None, [])


def test_a_run_that_was_killed_goes_on_in_the_same_events_file(
    start: Start, tmp_path: Path
) -> None:
    output, journal = tmp_path / "out", tmp_path / "journal.db"
    source = f"synthetic:?seconds=12&{SCENE}"
    command = ["--source", source, "--output", str(output), "--journal", str(journal), "--json"]
    first = start(*command)
    wait_for_faces(first, output)
    first.kill()
    first.communicate(timeout=40)
    file = output / "events.jsonl"
    before = file.read_bytes()
    assert before.endswith(b"\n")
    second = start(*command)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert file.read_bytes().startswith(before)
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert len(ids) == len(set(ids))
    assert {event.id for event in stored(journal) if event.kind != "system"} <= set(ids)
    third = start(*command)
    third.communicate(timeout=120)
    assert not file.read_bytes().startswith(before)
