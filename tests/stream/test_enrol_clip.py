"""Enrolling a clip: one person from all of their tracks, and why a clip is refused.

The pack is that of test_enrol: its faces are blue blocks. The last tests watch real people.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from facestream import ConfigError, EnrolmentRefused, SourceCorrupt
from facestream.configs.schema import EnrolConfig
from facestream.models.inference import Image
from facestream.models.pack import Pack
from facestream.stream.enrol import Enroller
from facestream.stream.gallery import Gallery

from .blocks import face, make_pack


@pytest.fixture
def pack() -> Any:
    decision = SimpleNamespace(
        cosine_threshold=0.995, impostor_cosine_centre=0.98, impostor_cosine_spread=0.002
    )
    return make_pack(decision=decision)


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    with Gallery.temporary() as opened:
        yield opened


def film(path: Path, frames: Sequence[Image]) -> str:
    """A video of 10 frames a second, without loss."""
    codec = cv2.VideoWriter.fourcc(*"FFV1")
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), codec, 10, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return str(path)


def wall(*blocks: tuple[int, int, Image]) -> Image:
    """A frame with blocks at these places (x, y)."""
    picture = np.full((240, 400, 3), 120, np.uint8)
    for x, y, block in blocks:
        picture[y : y + len(block), x : x + block.shape[1]] = block
    return picture


def walk(seed: int, frames: int, *, side: int = 80, y: int = 30) -> list[Image]:
    return [wall((20 + 4 * i, y, face(seed, side))) for i in range(frames)]


def test_a_clip_of_one_person_is_one_sample(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    url = film(tmp_path / "anna.mkv", walk(1, 12))
    result = Enroller(pack, gallery).enrol_clip("Anna", url)
    assert (result.identity, result.status, result.source) == ("Anna", "enrolled", "anna.mkv")
    assert result.face_height == pytest.approx(80, abs=2)
    (sample,) = gallery.show("Anna").samples
    # The track is believed with its third face.
    assert sample.source == "anna.mkv (0:00.2-0:01.1, 10 faces)"
    assert sample.digest == hashlib.sha256(Path(url).read_bytes()).hexdigest()
    photo = wall((20, 20, face(1, 80)))
    vector = gallery.templates("blocks").vectors[0]
    with Gallery.temporary() as still:
        Enroller(pack, still).enrol_photo("Anna", photo)
        assert vector @ still.templates("blocks").vectors[0] > 0.99


def test_a_known_clip_is_not_watched_again(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    url = film(tmp_path / "anna.mkv", walk(1, 8))
    Enroller(pack, gallery).enrol_clip("Anna", url)
    pack.detector.seen.clear()
    assert Enroller(pack, gallery).enrol_clip("Anna", url).status == "known"
    assert pack.detector.seen == []
    with pytest.raises(EnrolmentRefused, match="already enrolled as Anna"):
        Enroller(pack, gallery).enrol_clip("Bob", url)


def test_tracks_of_one_person_are_fused(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    away = [wall()] * 20
    url = film(tmp_path / "anna.mkv", [*walk(1, 8), *away, *walk(1, 8, y=100)])
    Enroller(pack, gallery).enrol_clip("Anna", url)
    assert gallery.show("Anna").samples[0].source == "anna.mkv (0:00.2-0:03.5, 12 faces)"


@pytest.mark.parametrize("together", [True, False])
def test_two_people_in_a_clip_are_refused_unless_the_largest_is_asked_for(
    pack: Any, gallery: Gallery, tmp_path: Path, together: bool
) -> None:
    if together:
        frames = [wall((20, 20, face(1, 90)), (250, 60 + i, face(1, 70))) for i in range(10)]
        reason = r"another is seen 0:00.2 to 0:00.9, at the same time"
    else:
        frames = [*walk(1, 10, side=90), *[wall()] * 20, *walk(2, 8)]
        reason = r"another is seen 0:03.2 to 0:03.7, alike by 0\.\d\d"
    url = film(tmp_path / "both.mkv", frames)
    with pytest.raises(EnrolmentRefused, match=f"more than one person in the clip .{reason}"):
        Enroller(pack, gallery).enrol_clip("Anna", url)
    result = Enroller(pack, gallery, EnrolConfig(largest=True)).enrol_clip("Anna", url)
    assert result.face_height == pytest.approx(90, abs=2)


def test_people_in_the_background_do_not_count(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    frames = [wall((20, 20 + i, face(1, 120)), (250, 60, face(2, 30))) for i in range(10)]
    result = Enroller(pack, gallery).enrol_clip("Anna", film(tmp_path / "a.mkv", frames))
    assert result.face_height == pytest.approx(120, abs=2)


@pytest.mark.parametrize(
    ("frames", "rules", "reason"),
    [
        ([wall()] * 6, EnrolConfig(), "no face found in the clip"),
        (walk(1, 8, side=24), EnrolConfig(), "face 24 px tall, at least 48 needed"),
        (walk(1, 4), EnrolConfig(), "2 of 2 faces in the clip .* at least 3 needed"),
        (walk(1, 8), EnrolConfig(least_quality=100.0), r"quality \S+, at least 100 needed"),
    ],
)
def test_a_clip_is_refused_with_the_reason_in_words(
    pack: Any, gallery: Gallery, tmp_path: Path, frames: list[Image], rules: Any, reason: str
) -> None:
    with pytest.raises(EnrolmentRefused, match=reason):
        Enroller(pack, gallery, rules).enrol_clip("Anna", film(tmp_path / "clip.mkv", frames))
    assert gallery.version() == 0


def test_only_the_first_seconds_are_watched(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    url = film(tmp_path / "clip.mkv", [*walk(1, 10), *[wall()] * 20, *walk(2, 8)])
    Enroller(pack, gallery).enrol_clip("Anna", url, seconds=0.75)
    assert gallery.show("Anna").samples[0].source == "clip.mkv (0:00.2-0:00.7, 6 faces)"
    with pytest.raises(ConfigError, match="a live source has no end"):
        Enroller(pack, gallery).enrol_clip("Anna", "rtsp://user:secret@10.0.0.1/main")


def test_clips_lie_among_photos_in_a_folder(pack: Any, gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "Anna").mkdir()
    film(tmp_path / "Anna" / "walk.mkv", walk(1, 8))
    cv2.imwrite(str(tmp_path / "Anna" / "photo.png"), wall((20, 20, face(1, 80))))
    cv2.imwrite(str(tmp_path / "Bob.png"), wall((20, 20, face(2, 80))))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    summary = Enroller(pack, gallery).enrol_folder(tmp_path)
    assert [(one.source, one.status) for one in summary.results] == [
        ("Anna/photo.png", "enrolled"),
        ("Anna/walk.mkv", "enrolled"),
        ("Bob.png", "enrolled"),
        ("broken.mp4", "refused"),
    ]
    assert summary.refusals[0].reason.startswith("unreadable video: ")
    with pytest.raises(SourceCorrupt):
        Enroller(pack, gallery).enrol_clip("broken", str(tmp_path / "broken.mp4"))
    assert {i.name: i.samples for i in gallery.identities()} == {"Anna": 2, "Bob": 1}


# Real people


def test_a_real_clip_is_enrolled_and_one_of_two_people_is_refused(
    assets: Path, omz_models: Pack, gallery: Gallery
) -> None:
    """The same woman is in both clips; in the joint one a man sits beside her."""
    clips = assets / "video"
    enroller = Enroller(omz_models, gallery, EnrolConfig(largest=True))
    result = enroller.enrol_clip("Ada", str(clips / "head-pose-face-detection-female.gif"))
    assert result.status == "enrolled" and result.face_height is not None
    assert 80 < result.face_height < 110
    joint = str(clips / "head-pose-face-detection-female-and-male.gif")
    with pytest.raises(EnrolmentRefused, match=r"more than one person .* at the same time"):
        Enroller(omz_models, gallery).enrol_clip("Both", joint, seconds=1.5)
