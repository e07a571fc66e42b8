"""Anchors that look alike: found as by comparing all pairs, and by hand in small cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from facestream import RecordError
from facestream.models import anchor_check
from facestream.models.anchor_check import DUPLICATE, alike_bar, leave_out_alike, nearest_rows


def unit(*angles: float) -> np.ndarray:
    """Vectors (N, 2) float32 at these angles, in degrees."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_first_of_those_alike_stays() -> None:
    # 10 degrees are a cosine of 0.985, 20 of 0.940: 20 looks like 10, which is gone, not like 0.
    kept, alike = leave_out_alike(unit(0, 10, 20, 90, 91), 0.95)
    assert kept.tolist() == [0, 2, 3]
    assert [(one.row, one.like) for one in alike] == [(1, 0), (4, 3)]
    assert alike[0].cosine == pytest.approx(np.cos(np.radians(10)), abs=1e-6)


def test_a_copy_is_left_out_at_the_highest_bar() -> None:
    kept, alike = leave_out_alike(unit(0, 50, 0), DUPLICATE)
    assert kept.tolist() == [0, 1] and [(one.row, one.like) for one in alike] == [(2, 0)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 40),
    bar=st.floats(-0.5, 0.99),
    rows=st.integers(1, 50),
)
def test_it_is_what_comparing_one_after_the_other_gives(
    seed: int, count: int, bar: float, rows: int
) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    near = np.abs(cosines - bar)[~np.eye(count, dtype=bool)]
    if (near < 1e-5).any():
        return  # rounding may go either way there
    expected: list[int] = []
    for row in range(count):
        if all(cosines[row, other] < bar for other in expected):
            expected.append(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchor_check, "_ROWS", rows)
        kept, alike = leave_out_alike(vectors, bar)
    assert kept.tolist() == expected
    assert sorted([*expected, *(one.row for one in alike)]) == list(range(count))
    for one in alike:
        assert one.like in expected and one.like < one.row
        assert one.cosine == pytest.approx(float(cosines[one.row, one.like]), abs=1e-5)


def test_the_nearest_is_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor_check, "_ROWS", 1)
    others = unit(*range(0, 360, 5))
    rows, cosines = nearest_rows(unit(12, 186), others)
    assert rows.tolist() == [2, 37]
    np.testing.assert_allclose(cosines, np.cos(np.radians([2, 1])), atol=1e-6)
    rows, cosines = nearest_rows(unit(12), others[:0])
    assert (rows.tolist(), cosines.tolist()) == ([0], [-1.0])


def test_the_bar_is_what_strangers_reach_less_than_once() -> None:
    bar = alike_bar(0.1, 0.05, 1000)
    assert 1000 * norm.sf(bar, 0.1, 0.05) == pytest.approx(1.0)
    assert alike_bar(0.1, 0.05, 100_000) > bar
    assert alike_bar(0.9, 0.1, 10**9) == alike_bar(0.0, 0.1, 0) == DUPLICATE
    with pytest.raises(RecordError, match="spread must be positive"):
        alike_bar(0.0, 0.0, 10)
