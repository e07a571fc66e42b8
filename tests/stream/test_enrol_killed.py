"""kill -9 in the middle of a folder: whoever was told is there, whole, and the next run goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import cv2

from facestream.stream.gallery import Gallery

from . import blocks

PHOTOS, BATCH = 96, 8

ENROL = f"""
import importlib.util, sys
from facestream.stream.enrol import Enroller
from facestream.stream.gallery import Gallery
spec = importlib.util.spec_from_file_location("blocks", sys.argv[1])
blocks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blocks)
with Gallery.open(sys.argv[2], create=True) as gallery:
    enroller = Enroller(blocks.make_pack(), gallery, batch={BATCH})
    enroller.enrol_folder(sys.argv[3], progress=lambda done, total, one: print(done, flush=True))
"""


def enrol_until(place: str, photos: Path, kill_at: int | None) -> int:
    """Enrol in a program that is killed once it told `kill_at`. Returns the last that it told."""
    command = [sys.executable, "-c", ENROL, blocks.__file__, place, str(photos)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        told = 0
        for line in program.stdout:
            if line.endswith("\n"):
                told = int(line)
            if told == kill_at:
                program.send_signal(signal.SIGKILL)
        program.wait(60)
        assert program.returncode == (0 if kill_at is None else -signal.SIGKILL)
    return told


def test_a_folder_whose_enrolment_is_killed_is_taken_up_by_doing_it_again(
    place: str, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(PHOTOS):
        picture = cv2.copyMakeBorder(
            blocks.face(number), 90, 90, 90, 90, cv2.BORDER_CONSTANT, value=(120, 120, 120)
        )
        assert cv2.imwrite(str(photos / f"P{number // 2:03}#{number}.png"), picture)
    told = enrol_until(place, photos, PHOTOS // 3)
    assert told >= PHOTOS // 3
    with Gallery.open(place, create=False) as gallery:
        people = gallery.identities()
        stored = sum(person.samples for person in people)
        assert stored >= told and stored % BATCH == 0 and stored < PHOTOS
        assert {(person.samples, person.packs) for person in people} == {(2, ("blocks",))}
        assert len(gallery.templates("blocks").names) == len(people)
        assert gallery.version() == stored // BATCH  # a batch is one change, all of it or nothing
    assert enrol_until(place, photos, None) == PHOTOS
    with Gallery.open(place, create=False) as gallery:
        assert [person.samples for person in gallery.identities()] == [2] * (PHOTOS // 2)
        assert gallery.version() == PHOTOS // BATCH
