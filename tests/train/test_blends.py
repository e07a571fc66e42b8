"""Faces made of two: pixels by hand, further identities, and the same ones in every run."""

from __future__ import annotations

import numpy as np

from facestream.train.blends import add_blends, blend, draw_mask

from .tiny_faces import make_people


def test_a_blend_is_the_first_where_the_mask_is_one() -> None:
    first = np.full((2, 2, 3), 200, np.uint8)
    second = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[1.0, 0.0], [0.25, 0.5]], np.float32)
    mixed = blend(first, second, mask)
    assert mixed.dtype == np.uint8
    assert mixed[..., 0].tolist() == [[200, 100], [125, 150]]


def test_masks_are_smooth_and_reach_both_faces() -> None:
    mask = draw_mask(np.random.default_rng(3))
    assert mask.shape == (112, 112) and mask.min() >= 0 and mask.max() <= 1
    assert mask.min() < 0.1 and mask.max() > 0.9
    assert np.abs(np.diff(mask, axis=0)).max() < 0.2


def test_blends_are_further_identities_of_one_picture() -> None:
    faces = make_people(5, 2)
    more = add_blends(faces, 7)
    assert more.count == 17 and more.classes == 12 and more.labels[10:].tolist() == [*range(5, 12)]
    assert np.array_equal(more.read(3), faces.read(3))
    assert more.pictures.name(3) == faces.pictures.name(3)
    for row in range(10, 17):
        first, _, second = more.pictures.name(row).partition(" and ")
        assert first.split("/")[0] != second.split("/")[0]  # of different people
        assert not any(np.array_equal(more.read(row), faces.read(n)) for n in range(10))
        assert more.pictures.content(row) == more.read(row).tobytes()
    assert more.fingerprint != faces.fingerprint


def test_the_same_blends_come_again_and_others_of_another_seed() -> None:
    faces = make_people(4, 2)
    once, again, other = add_blends(faces, 3), add_blends(faces, 3), add_blends(faces, 3, seed=1)
    assert all(np.array_equal(once.read(row), again.read(row)) for row in range(8, 11))
    assert once.fingerprint == again.fingerprint != other.fingerprint
    # Those of a shorter list are the first of a longer one: a teacher is asked about fewer.
    assert np.array_equal(add_blends(faces, 9).read(10), once.read(10))


def test_no_blends_leave_the_faces_as_they_are() -> None:
    faces = make_people(3, 1)
    assert add_blends(faces, 0) is faces
