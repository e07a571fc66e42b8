"""Validation: what its numbers are, by embedders whose answers are known."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facestream import ConfigError, TrainingError
from facestream.train.face_lists import LabelledFaces, pairs_in_bin
from facestream.train.face_pictures import CropPictures
from facestream.train.face_validation import (
    STRENGTHS,
    FaceValidation,
    choose_rows,
    embed_images,
    order_of,
)

from .records import encode
from .tiny_faces import make_people


def by_colour(images: Tensor) -> Tensor:
    """A coarse grid of colours: tells the people of `make_people` apart."""
    return torch.nn.functional.adaptive_avg_pool2d(images.float() - 127, 4).flatten(1)


def by_chance(images: Tensor) -> Tensor:
    """Noise that differs from picture to picture, the same for the same pixels."""
    rows = [np.random.default_rng(int(image.long().sum())).standard_normal(16) for image in images]
    return torch.from_numpy(np.stack(rows))


def by_detail(images: Tensor) -> Tensor:
    """Any direction, with the detail of the picture as its length."""
    rough = images.float().diff(dim=2).abs().mean(dim=(1, 2, 3))
    return torch.ones(len(images), 4) * rough[:, None]


def test_people_are_told_apart_by_what_tells_them_apart() -> None:
    validation = FaceValidation(make_people(8, 4), fmr=0.05)
    good, bad = validation.measure(by_colour), validation.measure(by_chance)
    assert good["tar"] > 0.9 and good["tar_degraded"] > 0.8
    assert bad["tar"] < 0.2 and bad["tar_degraded"] < 0.2
    assert validation.measure(by_colour) == good
    # Nothing is compared with the picture it was made of: who knows pictures only finds nobody.
    singles = FaceValidation(make_people(8, 1))
    assert not singles.has_pairs and set(singles.measure(by_colour)) == {"order", "magnitude"}
    with pytest.raises(ConfigError, match="people: nobody among the 8 validation faces"):
        singles.require_pairs()
    validation.require_pairs()


def test_order_is_1_where_magnitude_falls_with_every_camera() -> None:
    textured = make_people(4, 2)
    validation = FaceValidation(textured)
    assert len(validation.views) == 1 + len(STRENGTHS)
    assert validation.measure(by_detail)["order"] > 0.7


def test_order_by_hand() -> None:
    falling = np.array([[5.0, 1], [4, 2], [3, 3], [2, 4]])
    assert order_of(falling[:, :1]) == pytest.approx(1)
    assert order_of(falling[:, 1:]) == pytest.approx(-1)
    assert order_of(falling) == pytest.approx(0)
    assert order_of(np.ones((4, 3))) == 0
    # Ranks 1, 3, 2 against 3, 2, 1 of the places: 1 - 6 (4 + 1 + 1) / (3 * 8) = -0.5.
    assert order_of(np.array([[1.0], [3], [2]])) == pytest.approx(-0.5)


def test_rows_are_shared_by_people_evenly() -> None:
    faces = make_people(6, 3)
    assert choose_rows(faces, 100).tolist() == list(range(18))
    assert choose_rows(faces, 12).tolist() == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16]
    assert choose_rows(faces, 4).tolist() == [0, 1, 15, 16]
    assert choose_rows(faces, 14).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13, 15, 16]


def blank(counts: list[int]) -> LabelledFaces:
    """People with so many pictures each, all of one grey."""
    labels = np.repeat(np.arange(len(counts)), counts)
    grey = np.broadcast_to(np.uint8(127), (len(labels), 112, 112, 3))
    pictures = CropPictures(["grey"] * len(labels), grey)
    return LabelledFaces("blank", pictures, labels, [f"n{n}" for n in range(len(counts))])


def test_more_people_than_half_of_the_rows_still_have_pairs() -> None:
    faces = blank([3] * 857)
    labels = faces.labels[choose_rows(faces, 1000)]
    assert np.bincount(labels)[np.unique(labels)].tolist() == [2] * 500
    assert labels[0] == 0 and labels[-1] == 856 and np.diff(labels).max() <= 2
    few = FaceValidation(faces, most=8)
    few.require_pairs()
    assert len(few.labels) == 8


def test_who_has_two_pictures_comes_first_and_others_fill_up() -> None:
    # Person 2 has rows 2 and 3, person 5 rows 6, 7 and 8.
    faces = blank([1, 1, 2, 1, 1, 3, 1, 1])
    assert choose_rows(faces, 4).tolist() == [2, 3, 6, 7]
    assert choose_rows(faces, 6).tolist() == [0, 2, 3, 6, 7, 8]
    assert choose_rows(faces, 100).tolist() == list(range(11))
    assert choose_rows(blank([1] * 9), 5).tolist() == [0, 2, 4, 6, 8]


def test_a_bin_set_gives_its_accuracy(tmp_path: Path) -> None:
    faces = make_people(10, 4)
    images = [encode(faces.read(row)) for row in range(40)]
    pictures = []
    for person in range(10):  # a pair of one person, and one with the next person
        pictures += [images[4 * person], images[4 * person + 1]]
        pictures += [images[4 * person + 2], images[(4 * person + 6) % 40]]
    same = [True, False] * 10
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((pictures, same)))
    validation = FaceValidation(faces, [pairs_in_bin(tmp_path / "lfw.bin")])
    assert validation.measure(by_colour)["accuracy_lfw"] > 0.9


def test_numbers_that_are_not_finite_and_too_few_people_are_refused() -> None:
    image = np.zeros((112, 112, 3), np.uint8)
    with pytest.raises(TrainingError, match=r"2 of 2 embeddings .* not finite: lower run\.rate"):
        embed_images([image, image], lambda x: torch.full((len(x), 3), torch.nan))
    with pytest.raises(ConfigError, match="two identities, got 1"):
        FaceValidation(make_people(1, 4))
