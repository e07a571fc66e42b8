"""QMagFace: the score by hand, and a fit that finds what pairs of known quality need.

Terhoerst et al., "QMagFace", WACV 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models.qmagface import PUBLISHED, QMagFace, fit_qmagface
from facestream.models.verification import count_errors, operating_point

Doubles = npt.NDArray[np.float64]


class Comparisons(NamedTuple):
    cosines: Doubles
    first: Doubles
    second: Doubles
    same: npt.NDArray[np.bool_]


def make_pairs(count: int, seed: int) -> Comparisons:
    """Genuine cosines grow with the lower quality, impostor cosines do not: MagFace's finding."""
    random = np.random.default_rng(seed)
    first, second = random.uniform(10, 30, (2, count))
    same = random.random(count) < 0.3
    usable = (np.minimum(first, second) - 10) / 20
    genuine = random.normal(0.25 + 0.5 * usable, 0.08)
    return Comparisons(np.where(same, genuine, random.normal(0.0, 0.1, count)), first, second, same)


def fnmr(scores: Doubles, same: npt.NDArray[np.bool_], fmr: float) -> float:
    return operating_point(count_errors(scores, same), fmr).fnmr


def test_score_by_hand() -> None:
    law = QMagFace(alpha=0.05, beta=0.1)
    # At 0.3: 0.1 * 0.3 - 0.05 = -0.02, times the lower quality 20. From 0.5 on: the cosine.
    scores = law.score([0.3, 0.5, 0.8], [20, 20, 20], [30, 25, 21])
    assert scores.tolist() == pytest.approx([0.3 - 0.4, 0.5, 0.8])


def test_published_numbers() -> None:
    found = PUBLISHED.score([0.2, 0.7], [25.0, 25.0], [30.0, 30.0])
    assert found.tolist() == pytest.approx([0.2 + (0.125926 * 0.2 - 0.077428) * 25, 0.7])


@settings(max_examples=25, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 50), st.floats(0, 50))
def test_score_rises_with_the_cosine_and_never_exceeds_it(
    one: float, other: float, first: float, second: float
) -> None:
    low, high = sorted((one, other))
    scores = PUBLISHED.score([low, high], [first, first], [second, second])
    assert scores[0] <= scores[1]
    assert (scores <= np.array([low, high])).all()
    swapped = PUBLISHED.score([low, high], [second, second], [first, first])
    assert np.array_equal(scores, swapped)


def test_the_fit_lowers_errors_on_pairs_it_has_not_seen() -> None:
    law = fit_qmagface(*make_pairs(20_000, 0), least_fmr=1e-3, most_fmr=1e-1)
    assert law.beta > 0
    assert law.alpha > 0
    fresh = make_pairs(40_000, 1)
    scores = law.score(*fresh[:3])
    for rate in (0.003, 0.01, 0.03):
        assert fnmr(scores, fresh.same, rate) < 0.9 * fnmr(fresh.cosines, fresh.same, rate)


def test_quality_that_says_nothing_changes_little() -> None:
    pairs = make_pairs(20_000, 0)
    random = np.random.default_rng(5)
    first, second = random.uniform(10, 30, (2, len(pairs.same)))
    cosines = np.where(pairs.same, random.normal(0.5, 0.1, len(first)), pairs.cosines)
    law = fit_qmagface(cosines, first, second, pairs.same, least_fmr=1e-3, most_fmr=1e-1)
    scores = law.score(cosines, first, second)
    assert fnmr(scores, pairs.same, 0.01) == pytest.approx(
        fnmr(cosines, pairs.same, 0.01), abs=0.01
    )


def test_faces_of_one_quality_leave_the_cosine_alone() -> None:
    pairs = make_pairs(3000, 4)
    same_for_all = np.full(3000, 20.0)
    law = fit_qmagface(
        pairs.cosines, same_for_all, same_for_all, pairs.same, least_fmr=1e-2, most_fmr=0.1
    )
    assert (law.alpha, law.beta) == (0.0, 0.0)
    scores = law.score(*pairs[:3])
    assert np.array_equal(scores, pairs.cosines)


def test_the_fit_does_not_depend_on_the_order_of_pairs() -> None:
    pairs = make_pairs(3000, 2)
    shuffled = np.random.default_rng(0).permutation(3000)
    one = fit_qmagface(*pairs, least_fmr=1e-2, most_fmr=1e-1)
    other = fit_qmagface(*(part[shuffled] for part in pairs), least_fmr=1e-2, most_fmr=1e-1)
    assert (one.alpha, one.beta) == pytest.approx((other.alpha, other.beta), abs=1e-12)


def test_refusals() -> None:
    cosines, first, second, same = make_pairs(100, 0)
    with pytest.raises(RecordError, match="one similarity and two qualities, got 100, 99 and 100"):
        PUBLISHED.score(cosines, first[1:], second)
    with pytest.raises(ConfigError, match="2 or more weights and rates"):
        fit_qmagface(cosines, first, second, same, weights=1)
    with pytest.raises(ConfigError, match="0 < least_fmr < most_fmr"):
        fit_qmagface(cosines, first, second, same, least_fmr=0.1, most_fmr=0.1)
    with pytest.raises(ConfigError, match="qualities must be above 0"):
        fit_qmagface(cosines, 0 * first, second, same)
    with pytest.raises(ConfigError, match="genuine and impostor pairs"):
        fit_qmagface(cosines, first, second, np.ones(100))
    with pytest.raises(ConfigError, match="a line needs two thresholds, got 1"):
        fit_qmagface(cosines, first, second, same)
