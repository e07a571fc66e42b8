"""kill -9 while hundreds of people are being enrolled: nobody committed is lost or half-made."""

from __future__ import annotations

import signal
import subprocess
import sys

from facestream.stream.gallery import Gallery

MORE = 90

# One person per step, of two changes in one transaction: notes and a photo. What was enrolled
# before is skipped, as `facestream enroll` does.
ENROL = """
import itertools, sys, numpy as np
from facestream.stream.gallery import Gallery
with Gallery.open(sys.argv[1], create=False) as gallery:
    # Who is to be killed goes on until then: it never ends by itself before.
    for i in range(int(sys.argv[2])) if sys.argv[2] else itertools.count():
        if gallery.holder(f"{i:064x}", pack="open", embedder="e") is None:
            vector = np.full(128, i + 1, np.float32)
            gallery.add_sample(f"P{i}", vector, norm=1.0, quality=1.0, pack="open", embedder="e",
                               source="p.jpg", digest=f"{i:064x}", notes="bulk")
        print(i, flush=True)
"""


def enrol_until(place: str, kill_at: int | None = None, people: int | None = None) -> int:
    """Enrol in a program that is killed once it told `kill_at`. Returns the last that it told."""
    command = [sys.executable, "-c", ENROL, place, "" if people is None else str(people)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        told = -1
        for line in program.stdout:
            if line.endswith("\n"):
                told = int(line)
            if told == kill_at:
                program.send_signal(signal.SIGKILL)
        program.wait(60)
        assert program.returncode == (0 if kill_at is None else -signal.SIGKILL)
    return told


def check_whole(place: str, told: int) -> None:
    """All who were told are there, and everybody who is there is whole."""
    with Gallery.open(place, create=False) as gallery:
        while True:  # a server may still be ending the last transaction of a killed program
            version = gallery.version()
            people, trail = gallery.identities(), gallery.history()
            templates = gallery.templates("open", "e")
            if gallery.version() == version:
                break
        assert len(people) in (told + 1, told + 2)  # the last one may not have been told
        assert {person.name for person in people} == {f"P{i}" for i in range(len(people))}
        whole = {(person.samples, person.packs, person.notes) for person in people}
        assert whole == {(1, ("open",), "bulk")}
        assert templates.names == tuple(f"P{i}" for i in range(len(people)))
        assert version == len(trail) == 2 * len(people)
        assert [entry.action for entry in trail] == ["annotate", "enrol"] * len(people)


def test_a_bulk_enrolment_that_is_killed_loses_nobody_and_can_be_taken_up(place: str) -> None:
    Gallery.open(place, create=True).close()
    for moment in (60, 150):
        told = enrol_until(place, kill_at=moment)
        assert told >= moment
        check_whole(place, told)
    people = told + MORE
    assert enrol_until(place, people=people) == people - 1
    check_whole(place, people - 1)
