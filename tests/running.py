"""Runs of a configuration as users start them, and what their journals say. For several tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest
import yaml

from facestream import JournalError
from facestream.configs.load import from_mapping
from facestream.models.pack import Pack
from facestream.models.photo import find_faces
from facestream.models.pull import fetch_group_photo
from facestream.stream.events import AnyEvent, MatchEvent, SightingEnded, System
from facestream.stream.journal import Journal
from facestream.stream.journal_reader import JournalReader
from facestream.tools.render import enrolment_photos, render_clip
from facestream.tools.run import execute

PROGRAM = [sys.executable, "-m", "facestream.tools.cli"]
PATIENCE = 90.0


SECONDS, RATE = 8, 6
FRAMES = SECONDS * RATE
_made: dict[str, Any] = {}  # what several tests share: it takes its time


def scene_of(pack: Pack, factory: pytest.TempPathFactory) -> Path:
    """A folder with clip.mp4, people walking, and photos/ of some."""
    if "scene" not in _made:
        folder = factory.mktemp("scene")
        photo = cv2.imread(str(fetch_group_photo()))
        faces = find_faces(pack.detector, photo)
        enrolment_photos(photo, faces, folder / "photos")
        render_clip(photo, faces, folder / "clip.mp4", seconds=SECONDS, fps=RATE)
        _made["scene"] = folder
    scene: Path = _made["scene"]
    return scene


def undisturbed(pack: Pack, factory: pytest.TempPathFactory) -> list[AnyEvent]:
    """The events of that clip, all stages in one thread."""
    if "events" not in _made:
        scene = scene_of(pack, factory)
        content = {
            "cameras": [{"name": "hall", "url": str(scene / "clip.mp4")}],
            "gallery": {"folder": str(scene / "photos")},
            "publish": {"endpoint": "", "journal": str(scene / "undisturbed.db")},
        }
        totals = execute(from_mapping(content), pack=pack, quiet=True)
        assert totals.frames == FRAMES
        _made["events"] = stored(scene / "undisturbed.db")
    events: list[AnyEvent] = _made["events"]
    assert sum(isinstance(event, SightingEnded) for event in events) >= 5
    assert sum(isinstance(event, MatchEvent) for event in events) >= 2
    return events


def write(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content)))
    return path


class Run:
    """`facestream ARGUMENTS` in a process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env={**os.environ, "FACESTREAM_DATA": str(folder / "data"), "TMPDIR": str(folder)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr, once it has ended."""
        output, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output, errors

    def totals(self) -> dict[str, Any]:
        """What --json prints, of a run that ended well and had nothing to say on stderr."""
        code, output, errors = self.end()
        assert (code, errors) == (0, ""), errors
        totals: dict[str, Any] = json.loads(output)
        return totals

    def children(self) -> dict[str, int]:
        """Process ids of its nodes by name."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if int(fields[1]) == self.process.pid and b"facestream.tools.child" in words:
                found[words[-2].decode()] = int(pid)
        return found

    def kill(self, node: str) -> None:
        """kill -9 of one node, once it runs."""
        os.kill(wait_for(lambda: self.children().get(node), self), signal.SIGKILL)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Run]:
    """A run that is killed at the end, should it still go on."""
    run = Run(folder, *arguments)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate(timeout=PATIENCE)


def wait_for(look: Callable[[], Any], run: Run) -> Any:
    """What `look` returns, once that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        if run.process.poll() is not None:
            pytest.fail(f"the run has ended: {run.end()}")
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def is_over(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def stored(journal: Path) -> list[AnyEvent]:
    """All events of a journal that nobody uses any more."""
    with Journal.open(journal) as opened:
        return list(opened.read())


def count(journal: Path) -> int:
    """How many events a journal holds that a run is writing."""
    try:
        with JournalReader.open(journal) as reader:
            return reader.read(limit=1).newest
    except JournalError:
        return 0  # it has not been made yet


CLOCKS = ("decided_at", "published_at", "captured_at", "started_at")
NUMBERS = ("id", "epoch", "sequence", "previous")


def comparable(event: AnyEvent) -> dict[str, Any]:
    """What must not depend on how and when events came to be."""
    data = msgspec.to_builtins(event)
    for key in (*CLOCKS, *NUMBERS):
        data.pop(key, None)
    data["kind"] = event.kind
    if "evidence" in data:
        data["evidence"] = [{**e, "captured_at": None} for e in data["evidence"]]
    return data


def by_track(events: list[AnyEvent]) -> dict[tuple[str, Any], list[dict[str, Any]]]:
    """The events of each camera's tracks, and of the camera itself, in their order."""
    found: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for event in events:
        if not isinstance(event, System):
            key = (event.camera, getattr(event, "track", None))
            found.setdefault(key, []).append(comparable(event))
    return found


def assert_same(one: list[AnyEvent], other: list[AnyEvent]) -> None:
    """The same events, in the same order per track; scores and boxes equal to 1e-5."""
    assert_close(by_track(one), by_track(other), "")


def assert_close(one: object, other: object, where: str) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_close(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_close(a, b, f"{where}[{index}]")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-5), where
    else:
        assert one == other, where
