"""Enrolment: which photos are taken, which are refused and why, and whose they are.

Most tests use a small pack whose "faces" are blue blocks: it finds them by colour and describes
them by what is painted on them, so that each case can be drawn. Like real detectors, it does not
find a face that touches the edge of the picture. The last tests use real faces and a real pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facestream import EnrolmentRefused
from facestream.configs.schema import EnrolConfig
from facestream.models.align import warp
from facestream.models.inference import Image
from facestream.models.photo import find_faces
from facestream.stream.enrol import Enroller
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change

from .blocks import LANDMARKS, TEMPLATE, face, make_pack, photo, save


@pytest.fixture
def pack() -> Any:
    return make_pack()


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    with Gallery.temporary() as opened:
        yield opened


# One photo


def test_a_good_photo_is_enrolled(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    path = save(tmp_path / "anna.png", photo(face(1)))
    result = Enroller(pack, gallery).enrol_photo(" Anna ", path, change=Change(notes="day shift"))
    assert (result.source, result.identity, result.status) == ("anna.png", "Anna", "enrolled")
    assert result.face_height == 100
    assert result.quality is not None and result.quality > 1

    (sample,) = gallery.show("Anna").samples
    (stored,) = sample.embeddings
    assert (stored.pack, stored.embedder, stored.dimension) == ("blocks", "a" * 64, 48)
    assert stored.quality == pytest.approx(result.quality)
    assert gallery.show("Anna").identity.notes == "day shift"
    assert b"photo" not in sample.digest.encode() and len(sample.digest) == 64


def test_a_picture_in_memory_is_enrolled_and_matches_itself(pack: Any, gallery: Gallery) -> None:
    enroller = Enroller(pack, gallery)
    for person in range(5):
        enroller.enrol_photo(f"P{person}", photo(face(person)))
    templates = gallery.templates("blocks", pack.card.checksum(pack.card.embedder.file))
    probe = photo(face(3, side=150), size=(300, 300))
    found = find_faces(pack.detector, probe)
    vector = pack.embedder.embed(warp(probe, found.landmarks[0], TEMPLATE)[None]).embeddings[0]
    cosines = templates.vectors @ vector / np.linalg.norm(vector)
    assert templates.names[int(cosines.argmax())] == "P3"
    assert cosines.max() > 0.99


def test_the_same_photo_again_is_known_and_costs_no_detection(pack: Any, gallery: Gallery) -> None:
    enroller = Enroller(pack, gallery)
    assert enroller.enrol_photo("Anna", photo(face(1))).status == "enrolled"
    pack.detector.seen.clear()
    assert enroller.enrol_photo("Anna", photo(face(1))).status == "known"
    assert pack.detector.seen == []
    with pytest.raises(EnrolmentRefused, match="duplicate photo: already enrolled as Anna"):
        enroller.enrol_photo("Bob", photo(face(1)))
    assert gallery.version() == 1


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (photo(), "no face found"),
        (photo(face(1), face(2)), r"2 faces: one is needed \(crop the photo or pass --largest\)"),
        (photo(face(1, side=22)), "face 22 px tall, at least 48 needed"),
    ],
)
def test_a_photo_is_refused_with_the_reason_in_words(
    pack: Any, gallery: Gallery, image: Image, reason: str
) -> None:
    with pytest.raises(EnrolmentRefused, match=reason):
        Enroller(pack, gallery).enrol_photo("Anna", image)
    assert gallery.version() == 0


def test_people_in_the_background_do_not_count(pack: Any, gallery: Gallery) -> None:
    result = Enroller(pack, gallery).enrol_photo("Anna", photo(face(2, side=30), face(1, side=120)))
    assert result.face_height == 120


def test_the_largest_of_several_can_be_asked_for(pack: Any, gallery: Gallery) -> None:
    rules = EnrolConfig(largest=True)
    group = photo(face(2, side=90), face(1, side=110), face(3, side=80))
    assert Enroller(pack, gallery, rules).enrol_photo("Anna", group).face_height == 110


def test_eyes_too_close_together_for_the_pack_are_refused(pack: Any, gallery: Gallery) -> None:
    pack.card.embedder.minimal_eye_distance = 50.0
    with pytest.raises(EnrolmentRefused, match="eyes 40 px apart, at least 50 needed"):
        Enroller(pack, gallery).enrol_photo("Anna", photo(face(1)))


def test_too_low_a_quality_is_refused_in_the_packs_unit(pack: Any, gallery: Gallery) -> None:
    reason = r"quality \d\S*, at least 100 needed \(contrast 0..128\)"
    with pytest.raises(EnrolmentRefused, match=reason):
        Enroller(pack, gallery, EnrolConfig(least_quality=100)).enrol_photo("A", photo(face(1)))


def test_a_bad_name_is_refused_before_anything_else(pack: Any, gallery: Gallery) -> None:
    with pytest.raises(EnrolmentRefused, match="at least one character"):
        Enroller(pack, gallery).enrol_photo(" ", photo(face(1)))
    assert pack.detector.seen == []


@pytest.mark.parametrize("content", [b"", b"this is no picture", b"\xff\xd8\xff\xe0 torn"])
def test_a_file_that_is_no_picture_is_refused(
    pack: Any, gallery: Gallery, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "anna.jpg").write_bytes(content)
    with pytest.raises(EnrolmentRefused, match="unreadable photo: expected a whole JPEG"):
        Enroller(pack, gallery).enrol_photo("Anna", tmp_path / "anna.jpg")
    with pytest.raises(EnrolmentRefused, match="unreadable photo: No such file"):
        Enroller(pack, gallery).enrol_photo("Anna", tmp_path / "nobody.jpg")


# How a photo is looked at


def test_a_large_photo_is_shrunk_for_detection_and_measured_in_its_own_pixels(pack: Any) -> None:
    large = photo(face(1, side=900), size=(2400, 3600))
    found = find_faces(pack.detector, large)
    assert max(pack.detector.seen[0]) == 960
    np.testing.assert_allclose(found.boxes, [[20, 20, 920, 920]], atol=8)
    np.testing.assert_allclose(found.landmarks[0], 20 + 900 * LANDMARKS, atol=8)


def test_a_tiny_photo_is_enlarged_for_detection(pack: Any) -> None:
    tiny = photo(face(1, side=40), size=(80, 80))
    found = find_faces(pack.detector, tiny)
    assert pack.detector.seen == [(320, 320)]
    np.testing.assert_allclose(found.boxes, [[20, 20, 60, 60]], atol=1)


@pytest.mark.parametrize("side", [60, 200, 2000])
def test_a_face_that_fills_the_picture_is_found_inside_a_border(
    pack: Any, gallery: Gallery, side: int
) -> None:
    result = Enroller(pack, gallery).enrol_photo("Anna", face(1, side=side))
    assert result.face_height == pytest.approx(side, rel=0.02)
    assert all(max(seen) <= 961 for seen in pack.detector.seen)


def test_a_photo_is_turned_upright_as_its_exif_says(
    pack: Any, gallery: Gallery, tmp_path: Path
) -> None:
    upright = photo(face(1))
    ok, encoded = cv2.imencode(".jpg", cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE))
    assert ok
    # EXIF with one entry: orientation (0x0112) 6, "turn 90 degrees clockwise to show".
    entry = bytes.fromhex("0112 0003 00000001 0006 0000")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    jpeg = encoded.tobytes()
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])

    enroller = Enroller(pack, gallery)
    enroller.enrol_photo("turned", tmp_path / "turned.jpg")
    enroller.enrol_photo("upright", upright)
    vectors = gallery.templates("blocks").vectors
    assert vectors[0] @ vectors[1] > 0.995


# Real faces


@pytest.fixture(scope="module")
def london(assets: Path, omz_models: Any) -> Iterator[tuple[Any, Path, Gallery]]:
    """102 people enrolled from their neutral photos."""
    with Gallery.temporary() as gallery:
        folder = assets / "london"
        rules = EnrolConfig(duplicates="add")  # two or three of them look like others
        summary = Enroller(omz_models, gallery, rules).enrol_folder(folder / "gallery_neutral")
        assert summary.refusals == ()
        yield omz_models, folder, gallery


def nearest(pack: Any, gallery: Gallery, image: Image) -> tuple[str, float]:
    with Gallery.temporary() as probe:
        Enroller(pack, probe).enrol_photo("probe", image)
        (vector,) = probe.templates(pack.card.name).vectors
    templates = gallery.templates(pack.card.name, pack.card.checksum(pack.card.embedder.file))
    cosines = templates.vectors @ vector
    return templates.names[int(cosines.argmax())], float(cosines.max())


def test_a_smiling_person_is_nearest_to_their_neutral_photo(
    london: tuple[Any, Path, Gallery],
) -> None:
    pack, folder, gallery = london
    probes = sorted((folder / "probe_smiling").glob("*.jpg"))[::3]
    right = sum(
        nearest(pack, gallery, np.asarray(cv2.imread(str(p))))[0].split("_")[0]
        == p.stem.split("_")[0]
        for p in probes
    )
    assert right >= 0.95 * len(probes)


@pytest.mark.parametrize("side", [64, 112, 900])
def test_an_aligned_crop_of_a_real_face_can_be_enrolled(
    london: tuple[Any, Path, Gallery], side: int
) -> None:
    """A crop as tight as an embedder's own, small and large: the border makes it detectable."""
    pack, folder, gallery = london
    path = sorted((folder / "probe_smiling").glob("*.jpg"))[0]
    image = np.asarray(cv2.imread(str(path)), dtype=np.uint8)
    box = find_faces(pack.detector, image).boxes[0]
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    crop = cv2.resize(image[y0:y1, x0:x1], (side, side), interpolation=cv2.INTER_AREA)
    name, cosine = nearest(pack, gallery, np.asarray(crop, dtype=np.uint8))
    assert name.split("_")[0] == path.stem.split("_")[0]
    assert cosine > 0.5
