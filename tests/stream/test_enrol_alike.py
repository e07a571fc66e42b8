"""Whom a face is most like, while the gallery grows: always what comparing with everybody gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facestream import RecordError
from facestream.stream.enrol_alike import LookAlikes, unit_rows
from facestream.stream.gallery_records import fuse

NAMES = ("A", "B", "C", "D")


@given(
    seed=st.integers(0, 2**16),
    there=st.integers(0, 4),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=12),
    batch=st.integers(1, 5),
)
def test_the_nearest_is_that_of_all_templates_so_far(
    seed: int, there: int, names: list[str], batch: int
) -> None:
    random = np.random.default_rng(seed)
    old = unit_rows(random.normal(size=(there, 6)).astype(np.float32))
    faces = random.normal(size=(len(names), 6)).astype(np.float32)
    quality = random.uniform(0.1, 1.0, len(names))
    people = LookAlikes(NAMES[:there], old, 6)
    gained: dict[str, list[int]] = {}
    for start in range(0, len(names), batch):
        compared = people.compare(unit_rows(faces[start : start + batch]))
        for place, name in enumerate(names[start : start + batch]):
            own, other = compared.nearest(place, name)
            probe = unit_rows(faces[start + place : start + place + 1])[0]
            scores = {row: float(old[i] @ probe) for i, row in enumerate(NAMES[:there])}
            for one, rows in gained.items():
                template = fuse(faces[rows], quality[rows], np.zeros(1, np.intp))[0]
                scores[one] = max(scores.get(one, -2.0), float(template @ probe))
            expected = scores.pop(name, None)
            assert (own is None) == (expected is None) == (name not in people)
            assert own is None or own == pytest.approx(expected, abs=1e-5)
            assert (other is None) == (not scores)
            if other is not None:
                assert other.score == pytest.approx(max(scores.values()), abs=1e-5)
                assert scores[other.name] == pytest.approx(other.score, abs=1e-5)
            compared.add(place, name, float(quality[start + place]))
            gained.setdefault(name, []).append(start + place)
    assert people.people == len({*NAMES[:there], *names})


def test_many_more_than_there_was_room_for() -> None:
    people = LookAlikes((), np.zeros((0, 300), np.float32), 300)
    compared = people.compare(np.eye(300, dtype=np.float32))
    for number in range(300):
        compared.add(number, f"P{number}", 1.0)
    own, other = compared.nearest(7, "P7")
    assert own == 1.0 and other is not None and other.score == 0.0
    own, other = compared.nearest(7, "somebody new")
    assert own is None and other == ("P7", 1.0)


def test_faces_that_cancel_out_and_wrong_shapes() -> None:
    people = LookAlikes((), np.zeros((0, 2), np.float32), 2)
    compared = people.compare(np.array([[1, 0], [-1, 0]], np.float32))
    compared.add(0, "A", 1.0)
    compared.add(1, "A", 1.0)
    assert np.linalg.norm(people.rows[0]) == 1.0
    with pytest.raises(RecordError, match=r"expected 1 templates of 3 numbers, got \(1, 2\)"):
        LookAlikes(("A",), np.ones((1, 2), np.float32), 3)
