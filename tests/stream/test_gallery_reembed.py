"""Embedding the gallery's photos anew: which are found, what is kept, and kill -9 on the way."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from facestream import EnrolmentRefused, GalleryEmpty
from facestream.models.pack import Pack
from facestream.stream import gallery_reembed
from facestream.stream.enrol import Enroller
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change
from facestream.stream.gallery_reembed import reembed

from .small_pack import EMBEDDER, small_pack

PEOPLE = 10

# Tells each photo that is done with; the test kills it on the way.
REEMBED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from small_pack import small_pack
from facestream.stream import gallery_reembed
from facestream.stream.gallery import Gallery
gallery_reembed.AT_ONCE = 3
with Gallery.open(sys.argv[1], create=False) as gallery:
    tell = lambda done, count: print(done, flush=True) or sys.stdin.readline()
    gallery_reembed.reembed(small_pack("new"), gallery, Path(sys.argv[2]), progress=tell)
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """P0.png ... P9.png, each of another colour."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(PEOPLE):
        picture = np.full((200, 200, 3), (200, 20 * number, 100), np.uint8)
        assert cv2.imwrite(str(folder / f"P{number}.png"), picture)
    return folder


@pytest.fixture
def gallery(place: str, photos: Path) -> Iterator[Gallery]:
    """Everybody, enrolled with a pack of two dimensions: version 10."""
    with Gallery.open(place, create=True) as opened:
        for number in range(PEOPLE):
            content = (photos / f"P{number}.png").read_bytes()
            opened.add_sample(
                f"P{number}",
                np.array([1, number], np.float32),
                norm=1.0,
                quality=1.0,
                pack="old",
                embedder="d" * 64,
                source=f"P{number}.png",
                digest=hashlib.sha256(content).hexdigest(),
            )
        yield opened


def colours(gallery: Gallery) -> dict[str, int]:
    """What was embedded of whom: the green of the photo in steps of 20."""
    found = gallery.templates("new", EMBEDDER)
    green = found.vectors[:, 1] / found.vectors[:, 0] * 200 / 20
    return dict(zip(found.names, green.round().astype(int).tolist(), strict=True))


def test_photos_are_known_by_their_bytes_wherever_they_lie(
    gallery: Gallery, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_reembed, "AT_ONCE", 4)
    moved = tmp_path / "archive" / "2026"
    moved.mkdir(parents=True)
    for number in range(8):
        shutil.copy(photos / f"P{number}.png", moved / f"IMG_{99 - number}.png")
    assert cv2.imwrite(str(moved / "stranger.png"), np.full((200, 200, 3), 250, np.uint8))
    gallery.edit("P3", Change(name="Zoë"))
    told: list[tuple[int, int]] = []
    done = reembed(
        small_pack("new"), gallery, tmp_path / "archive", progress=lambda *n: told.append(n)
    )
    assert (done.done, done.gone, done.refused) == (8, 0, ())
    assert [(w.identity, w.source) for w in done.without_photo] == [
        ("P8", "P8.png"),
        ("P9", "P9.png"),
    ]
    assert colours(gallery) == {("Zoë" if i == 3 else f"P{i}"): i for i in range(8)}
    assert gallery.version() == 10 + 1 + 2  # a rename, and two steps of four
    assert told == [(number, 10) for number in range(1, 9)]
    again = reembed(small_pack("new"), gallery, photos)
    assert (again.done, again.without_photo) == (2, ())
    assert reembed(small_pack("new"), gallery, photos).done == 0
    assert gallery.version() == 14
    assert len(gallery.identities()) == PEOPLE


def test_a_photo_in_which_the_pack_finds_nobody_is_told(
    gallery: Gallery, photos: Path, tmp_path: Path
) -> None:
    night = tmp_path / "night.png"
    assert cv2.imwrite(str(night), np.zeros((200, 200, 3), np.uint8))
    text = tmp_path / "photos" / "text.jpg"
    text.write_text("no photo")
    for path in (night, text):
        gallery.add_sample(
            "P0",
            np.array([1, 0], np.float32),
            norm=1.0,
            quality=1.0,
            pack="old",
            embedder="d" * 64,
            source=path.name,
            digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
    (refused,) = reembed(small_pack("new"), gallery, night).refused
    assert (refused.identity, refused.reason) == ("P0", "no face found")
    done = reembed(small_pack("new"), gallery, photos)
    assert done.done == PEOPLE and "unreadable photo" in done.refused[0].reason
    assert [one.source for one in done.without_photo] == ["night.png"]


def test_somebody_who_is_removed_meanwhile_stays_removed(gallery: Gallery, photos: Path) -> None:
    def remove(done: int, _: int) -> None:
        if done == 5:
            gallery.remove("P1")

    done = reembed(small_pack("new"), gallery, photos, progress=remove)
    assert (done.done, done.gone) == (9, 1)
    assert "P1" not in {person.name for person in gallery.identities()}


def test_what_is_not_there_is_told(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentRefused, match="no photo or folder at"):
        reembed(small_pack("new"), gallery, tmp_path / "nowhere")
    with Gallery.temporary() as empty, pytest.raises(GalleryEmpty, match="nobody is enrolled"):
        reembed(small_pack("new"), empty, tmp_path)


def test_a_run_that_is_killed_loses_nothing_and_can_be_taken_up(
    gallery: Gallery, place: str, photos: Path
) -> None:
    before = gallery.templates("old")
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", REEMBED, place, str(photos), here]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as program:  # type: ignore[call-overload]
        for line in program.stdout:
            if int(line) == 8:
                break
            program.stdin.write("\n")
            program.stdin.flush()
        program.send_signal(signal.SIGKILL)
        program.wait(60)
    assert set(colours(gallery).values()) == set(range(6))  # two steps of three
    assert gallery.version() == 12
    after = gallery.templates("old")
    assert after.names == before.names
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert reembed(small_pack("new"), gallery, photos).done == 4
    assert colours(gallery) == {f"P{number}": number for number in range(PEOPLE)}
    gallery.packs.switch("new")


def test_real_faces_are_embedded_as_at_enrolment(
    assets: Path, open_models: Pack, omz_models: Pack, tmp_path: Path
) -> None:
    people = tmp_path / "people"
    people.mkdir()
    for photo in sorted((assets / "london" / "gallery_neutral").iterdir())[:3]:
        shutil.copy(photo, people)
    with Gallery.temporary() as gallery, Gallery.temporary() as fresh:
        Enroller(open_models, gallery).enrol_folder(people).require_somebody()
        Enroller(omz_models, fresh).enrol_folder(people)
        done = reembed(omz_models, gallery, people)
        assert done.done == 3 and not done.refused and not done.without_photo
        gallery.packs.switch("omz")
        ours, theirs = (one.templates("omz") for one in (gallery, fresh))
        assert ours.names == theirs.names
        np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-5)
