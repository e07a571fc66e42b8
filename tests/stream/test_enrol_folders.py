"""Folders of photos: batches, interruptions, errors, and look-alikes within one run."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facestream import EnrolmentRefused, GalleryEmpty, GalleryError
from facestream.configs.schema import EnrolConfig
from facestream.stream import enrol_photos
from facestream.stream.enrol import Enroller
from facestream.stream.enrol_photos import Loaded, Photo, ReadAhead, photos_of
from facestream.stream.enrol_records import PhotoResult
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change

from .blocks import face, make_pack, photo, save


@pytest.fixture
def pack() -> Any:
    return make_pack()


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    with Gallery.temporary() as opened:
        yield opened


def test_folders_are_people_and_so_are_single_files(tmp_path: Path) -> None:
    for name in ("Anna Smith/b.jpg", "Anna Smith/a.png", "Bob.jpg", "Bob#2.jpg", "P_2.jpg"):
        save(tmp_path / name, photo())
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "Thumbs.db").write_text("")
    found = [(str(p.relative_to(tmp_path)), name) for p, name in photos_of(tmp_path)]
    assert found == [
        ("Anna Smith/a.png", "Anna Smith"),
        ("Anna Smith/b.jpg", "Anna Smith"),
        ("Bob#2.jpg", "Bob"),
        ("Bob.jpg", "Bob"),
        ("P_2.jpg", "P_2"),
    ]
    one = tmp_path / "Bob#2.jpg"
    assert list(photos_of(one)) == [(one, "Bob")]
    assert {name for _, name in photos_of(tmp_path / "Anna Smith", "Anna")} == {"Anna"}


def test_a_folder_is_enrolled_photo_by_photo(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    save(tmp_path / "Anna" / "1.png", photo(face(1)))
    save(tmp_path / "Anna" / "2.png", photo(face(1, side=140)))
    save(tmp_path / "Bob.png", photo(face(2)))
    save(tmp_path / "Crowd.png", photo(face(3), face(4)))
    (tmp_path / "notes.txt").write_text("nobody")
    (tmp_path / "Anna" / "older").mkdir()

    seen: list[tuple[int, int, PhotoResult]] = []
    summary = Enroller(pack, gallery).enrol_folder(
        tmp_path, change=Change(notes="2026"), progress=lambda *step: seen.append(step)
    )
    assert [(r.source, r.identity, r.status) for r in summary.results] == [
        ("Anna/1.png", "Anna", "enrolled"),
        ("Anna/2.png", "Anna", "enrolled"),
        ("Anna/older", "Anna", "refused"),
        ("Bob.png", "Bob", "enrolled"),
        ("Crowd.png", "Crowd", "refused"),
        ("notes.txt", "notes", "refused"),
    ]
    assert [(r.source, r.reason.split(":")[0]) for r in summary.refusals] == [
        ("Anna/older", "unreadable photo"),
        ("Crowd.png", "2 faces"),
        ("notes.txt", "unreadable photo"),
    ]
    assert [step[:2] for step in seen] == [(i, 6) for i in range(1, 7)]
    assert tuple(step[2] for step in seen) == summary.results
    assert [(i.name, i.samples, i.notes) for i in gallery.identities()] == [
        ("Anna", 2, "2026"),
        ("Bob", 1, "2026"),
    ]


def test_a_second_run_finishes_an_interrupted_one(
    pack: Any, gallery: Gallery, tmp_path: Path
) -> None:
    for person in range(12):
        save(tmp_path / f"P{person:02}.png", photo(face(person)))

    def stop(done: int, total: int, result: PhotoResult) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Enroller(pack, gallery, batch=8).enrol_folder(tmp_path, progress=stop)
    assert gallery.version() == 1  # a batch is one change, and was stored before it was told
    enroller = Enroller(pack, gallery)
    pack.detector.seen.clear()
    summary = enroller.enrol_folder(tmp_path)
    assert (summary.count("known"), summary.count("enrolled")) == (8, 4)
    assert len(pack.detector.seen) == 4
    again = enroller.enrol_folder(tmp_path)
    again.require_somebody()
    assert again.count("known") == 12
    assert gallery.version() == 2


def test_batches_give_what_single_photos_give(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    for person in range(7):
        save(tmp_path / f"P{person}.png", photo(face(person, side=60 + 20 * person)))
    save(tmp_path / "P3#2.png", photo(face(3), face(9)))
    summary = Enroller(pack, gallery, batch=3).enrol_folder(tmp_path)
    with Gallery.temporary() as single:
        enroller = Enroller(pack, single)
        for one in summary.results:
            if one.status == "enrolled":
                assert enroller.enrol_photo(one.identity, tmp_path / one.source) == one
        first, second = (g.templates("blocks", "a" * 64) for g in (single, gallery))
        assert first.names == second.names
        np.testing.assert_allclose(first.vectors, second.vectors, atol=1e-6)


def test_a_face_that_networks_make_nothing_of_is_refused_alone(
    pack: Any, gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person in range(3):
        save(tmp_path / f"P{person}.png", photo(face(person)))
    embed = pack.embedder.embed

    def broken(crops: Any) -> Any:
        found = embed(crops)
        found.embeddings[1, 0] = np.nan
        return found

    monkeypatch.setattr(pack.embedder, "embed", broken)
    summary = Enroller(pack, gallery).enrol_folder(tmp_path)
    assert [one.status for one in summary.results] == ["enrolled", "refused", "enrolled"]
    assert summary.refusals[0].reason == "the networks make no numbers of this face"


def test_an_error_of_the_gallery_ends_the_run_and_what_was_told_stays(
    pack: Any, gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person in range(12):
        save(tmp_path / f"P{person:02}.png", photo(face(person)))
    told: list[PhotoResult] = []
    add = gallery.add_samples
    holder = gallery.holder

    def full(*new: Any, **key: Any) -> Any:
        if told:
            raise GalleryError("the disk of the gallery is full")
        return add(*new, **key)

    monkeypatch.setattr(gallery, "add_samples", full)
    enroller = Enroller(pack, gallery, batch=8)
    with pytest.raises(GalleryError, match="disk of the gallery is full"):
        enroller.enrol_folder(tmp_path, progress=lambda done, total, one: told.append(one))
    assert len(told) == 8 == len(gallery.identities())

    def lost(digest: str, **key: Any) -> str | None:
        if digest == hashlib.sha256((tmp_path / "P09.png").read_bytes()).hexdigest():
            raise GalleryError("the server went away")
        return holder(digest, **key)

    monkeypatch.setattr(gallery, "add_samples", add)
    monkeypatch.setattr(gallery, "holder", lost)
    with pytest.raises(GalleryError, match="the server went away"):  # in the thread that reads
        enroller.enrol_folder(tmp_path)
    monkeypatch.setattr(gallery, "holder", holder)
    assert enroller.enrol_folder(tmp_path).count("known") == 8


def test_large_photos_are_not_read_far_ahead(tmp_path: Path) -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    photos = [Photo(tmp_path / str(i), "A", str(i)) for i in range(50)]
    most = enrol_photos.AHEAD_BYTES // image.nbytes
    read: list[str] = []

    def load(one: Photo) -> Loaded:
        read.append(one.source)
        large = np.lib.stride_tricks.as_strided(
            image, (most // 3, *image.shape), (0, *image.strides)
        )
        return Loaded(one, image=large)

    with ReadAhead(photos, load) as loaded:
        for count, one in enumerate(loaded):
            assert one.photo is photos[count]
            time.sleep(0.001)
            assert len(read) <= count + 6
    with ReadAhead(photos, load) as loaded:
        assert next(iter(loaded)).photo is photos[0]  # whoever stops early waits for nobody


def test_two_folders_of_one_person_are_told_apart_by_policy(
    pack: Any, gallery: Gallery, tmp_path: Path
) -> None:
    pack.card.decision = SimpleNamespace(
        cosine_threshold=0.995, impostor_cosine_centre=0.9, impostor_cosine_spread=0.0005
    )
    save(tmp_path / "Anna" / "1.png", photo(face(1)))
    save(tmp_path / "Bob" / "1.png", photo(face(2)))
    save(tmp_path / "Maria" / "1.png", photo(face(1, side=120)))
    summary = Enroller(pack, gallery).enrol_folder(tmp_path)
    (refusal,) = summary.refusals
    assert refusal.source == "Maria/1.png"
    assert re.match(r"looks like Anna at (0.99|1.00): merge, add or refuse", refusal.reason)
    assert summary.causes == {"looks like somebody else": 1}
    for _ in range(2):  # the second run knows what the first one merged
        Enroller(pack, gallery, EnrolConfig(duplicates="merge")).enrol_folder(tmp_path)
        assert [(i.name, i.samples) for i in gallery.identities()] == [("Anna", 2), ("Bob", 1)]


def test_a_folder_without_anybody_is_an_error(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    enroller = Enroller(pack, gallery)
    with pytest.raises(EnrolmentRefused, match="no photo or folder at"):
        enroller.enrol_folder(tmp_path / "nowhere")
    with pytest.raises(GalleryEmpty, match=r"no photos in .*: expected NAME.jpg"):
        enroller.enrol_folder(tmp_path)
    save(tmp_path / "wall.png", photo())
    with pytest.raises(GalleryEmpty, match=r"the photo was refused \(wall.png: no face found\)"):
        enroller.enrol_folder(tmp_path).require_somebody()


def test_a_file_name_that_is_no_text_is_refused_in_words(
    pack: Any, gallery: Gallery, tmp_path: Path
) -> None:
    save(tmp_path / "x.png", photo(face(1))).rename(tmp_path / "caf\udce9.png")
    (result,) = Enroller(pack, gallery).enrol_folder(tmp_path).results
    assert (result.source, result.status) == ("caf?.png", "refused")
    assert "cannot be printed" in result.reason
