"""Error-versus-discard curves by both definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models.discard import (
    DISCARD_SHARES,
    area_under_discard,
    best_discard_area,
    discard_fixed,
    discard_reestimate,
    pair_quality,
)

few_levels = st.integers(0, 5).map(lambda level: level / 8)
rated_pairs = st.lists(
    st.tuples(few_levels, st.booleans(), few_levels), min_size=4, max_size=40
).filter(lambda pairs: 0 < sum(same for _, same, _ in pairs) < len(pairs))


def columns(pairs):
    return tuple(np.array(column) for column in zip(*pairs, strict=True))


def brute_fnmr(scores, same, fmr):
    """FNMR at the lowest threshold with FMR <= fmr."""
    genuine, impostor = scores[same], scores[~same]
    if not len(genuine) or not len(impostor):
        return float("nan")
    thresholds = [*np.unique(genuine), np.inf]
    return min((genuine < t).mean() for t in thresholds if (impostor >= t).mean() <= fmr)


def test_pair_quality_is_the_worse_face():
    assert pair_quality([1, 5, 3], [2, 4, 3]).tolist() == [1, 4, 3]
    with pytest.raises(RecordError, match="two qualities"):
        pair_quality([1], [1, 2])


# Worst first: genuine .2 (missed), impostor .6, genuine .9, impostor .1, genuine .5, genuine .8
SCORES = np.array([0.2, 0.6, 0.9, 0.1, 0.5, 0.8])
SAME = np.array([1, 0, 1, 0, 1, 1], bool)
QUALITY = np.array([1.0, 2, 3, 4, 5, 6])


def test_reestimate_by_hand():
    curve = discard_reestimate(SCORES, SAME, QUALITY, 0.0, shares=[0, 0.2, 0.4, 0.6, 0.9])
    # At 0 the impostor .6 rejects .2 and .5; without pair 0 only .5; without both none.
    assert curve.discarded.tolist() == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 5 / 6])
    assert curve.fnmr[:4].tolist() == pytest.approx([2 / 4, 1 / 3, 0, 0])
    assert np.isnan(curve.fnmr[4])  # no impostor is left: nothing to set a threshold with
    assert curve.genuine.tolist() == [4, 3, 3, 2, 1]
    assert curve.impostor.tolist() == [2, 2, 1, 1, 0]
    assert curve.thresholds[:4].tolist() == [0.8, 0.8, 0.5, 0.5]


def test_fixed_by_hand():
    curve = discard_fixed(SCORES, SAME, QUALITY, 0.0)
    # The threshold stays at .8: .2 and .5 are misses; genuine qualities are 1, 3, 5, 6.
    assert curve.shares.tolist() == [0, 0.25, 0.5, 0.75]
    assert curve.fnmr.tolist() == pytest.approx([2 / 4, 1 / 3, 1 / 2, 0])
    assert set(curve.thresholds) == {0.8} and set(curve.impostor) == {2}
    assert area_under_discard(curve) == pytest.approx(0.25 * (1 / 2 + 1 / 3 + 1 / 2))
    assert area_under_discard(curve, 0.3) == pytest.approx(0.25 / 2 + 0.05 / 3)
    assert area_under_discard(curve, 0.2) == pytest.approx(0.1)
    assert area_under_discard(curve, 0.0) == 0.0


@settings(max_examples=100, deadline=None)
@given(rated_pairs, st.sampled_from([0.0, 0.1, 0.5]))
def test_reestimate_is_its_definition(pairs, fmr):
    scores, same, quality = columns(pairs)
    curve = discard_reestimate(scores, same, quality, fmr, ties="order")
    worst_first = np.argsort(quality, kind="stable")
    for place in range(20):
        kept = worst_first[(place * len(pairs)) // 20 :]
        expected = brute_fnmr(scores[kept], same[kept], fmr)
        assert curve.fnmr[place] == pytest.approx(expected, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(rated_pairs, st.sampled_from([0.0, 0.1, 0.5]))
def test_fixed_is_its_definition(pairs, fmr):
    scores, same, quality = columns(pairs)
    curve = discard_fixed(scores, same, quality, fmr)
    genuine, worth = scores[same], quality[same]
    for place, level in enumerate(np.unique(worth)):
        kept = worth >= level
        assert curve.shares[place] == pytest.approx((~kept).mean())
        assert curve.fnmr[place] == (genuine[kept] < curve.thresholds[0]).mean()
    assert curve.fnmr[0] == pytest.approx(brute_fnmr(scores, same, fmr))
    # The area is that of the staircase: the mean height over a fine grid, up to its steps.
    x = (np.arange(2000) + 0.5) / 2000
    heights = curve.fnmr[np.searchsorted(curve.shares, x, "right") - 1]
    assert area_under_discard(curve) == pytest.approx(heights.mean(), abs=5e-3)


@settings(max_examples=60, deadline=None)
@given(rated_pairs, st.randoms(use_true_random=False))
def test_neither_curve_depends_on_order_or_on_units(pairs, random):
    for draw in (discard_reestimate, discard_fixed):
        before = draw(*columns(pairs), 0.1)
        scores, same, quality = columns(random.sample(pairs, len(pairs)))
        after = draw(scores * 3 - 1, same, np.exp(quality), 0.1)
        for name in ("shares", "discarded", "fnmr", "genuine", "impostor"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_equal_quality_gives_a_flat_curve():
    same_quality = np.zeros(6)
    for curve in (
        discard_reestimate(SCORES, SAME, same_quality, 0.0),
        discard_fixed(SCORES, SAME, same_quality, 0.0),
    ):
        assert set(curve.fnmr) == {0.5} and set(curve.discarded) == {0.0}
        assert area_under_discard(curve, 0.3) == pytest.approx(0.15)
    # In file order, with genuine pairs first, the same qualities seem to say something.
    order = np.argsort(~SAME, kind="stable")
    by_order = discard_reestimate(
        SCORES[order], SAME[order], same_quality, 0.0, shares=[0, 0.5], ties="order"
    )
    assert by_order.genuine.tolist() == [4, 1]


def test_the_worst_tied_group_goes_as_a_whole():
    scores = np.array([0.1, 0.2, 0.9, 0.8, 0.5])
    same = np.array([1, 1, 1, 1, 0], bool)
    curve = discard_fixed(scores, same, np.array([0, 0, 1, 1, 0]), 0.0)
    assert (curve.shares.tolist(), curve.fnmr.tolist()) == ([0, 0.5], [0.5, 0])
    assert area_under_discard(curve) == 0.25
    together = discard_reestimate(scores, same, [0, 0, 1, 2, 3], 0.0, shares=[0, 0.2, 0.4])
    assert together.discarded.tolist() == [0, 0, 0.4]


def test_areas_of_the_papers_are_trapezoids():
    curve = discard_reestimate(SCORES, SAME, QUALITY, 0.0, shares=[0, 0.2, 0.4])
    assert area_under_discard(curve) == pytest.approx(0.2 * (5 / 12 + 1 / 6))
    half = 0.1 * (1 / 2 + 5 / 12) / 2  # the line meets .1 at 5/12
    assert area_under_discard(curve, 0.1) == pytest.approx(half)
    with pytest.raises(ConfigError, match=r"0 to 0\.4"):
        area_under_discard(curve, 0.5)


def test_a_curve_that_ends_early_has_a_partial_area_only():
    curve = discard_reestimate(SCORES, SAME, QUALITY, 0.0)
    assert len(curve.shares) == len(DISCARD_SHARES) == 20
    with pytest.raises(ConfigError, match=r"limit below 0\.7"):
        area_under_discard(curve)
    assert area_under_discard(curve, 0.3) > 0
    assert area_under_discard(curve, 0.65) > 0


def test_shares_are_not_lost_to_rounding():
    # 0.29 * 100 = 28.999999999999996
    draw = np.random.default_rng(0)
    same = draw.random(100) < 0.5
    curve = discard_reestimate(
        draw.random(100), same, draw.random(100), 0.1, shares=[0, 0.29, 0.57], ties="order"
    )
    assert curve.discarded.tolist() == [0, 0.29, 0.57]


def test_a_perfect_quality_and_a_useless_one():
    draw = np.random.default_rng(1)
    same = np.repeat([True, False], 1000)
    scores = draw.standard_normal(2000) + 3 * same
    perfect = discard_fixed(scores, same, scores, 1e-2)
    useless = discard_fixed(scores, same, draw.random(2000), 1e-2)
    worst = discard_fixed(scores, same, -scores, 1e-2)
    at = [area_under_discard(curve, 0.3) for curve in (perfect, useless, worst)]
    assert best_discard_area(perfect.fnmr[0], 0.3) <= at[0] < at[1] < at[2]


def test_the_best_possible_area():
    assert best_discard_area(0.2, 0.3) == pytest.approx(0.02)  # a triangle
    assert best_discard_area(0.5, 0.2) == pytest.approx(0.5 * 0.2 - 0.02)
    assert best_discard_area(0.0, 0.3) == 0.0


def test_what_has_no_curve():
    for draw in (discard_reestimate, discard_fixed):
        with pytest.raises(ConfigError, match="0 impostor"):
            draw([0.1, 0.2], [1, 1], [1, 2], 0.1)
        with pytest.raises(RecordError, match="one per pair"):
            draw([0.1, 0.2], [1, 0], [1], 0.1)
        with pytest.raises(RecordError, match="qualities must be finite"):
            draw([0.1, 0.2], [1, 0], [1, float("nan")], 0.1)
    for shares in ([], [0.1, 0.2], [0, 1.0], [0, 0.2, 0.1]):
        with pytest.raises(ConfigError, match="ascend from 0"):
            discard_reestimate(SCORES, SAME, QUALITY, 0.1, shares=shares)
    with pytest.raises(ConfigError, match="together or order"):
        discard_reestimate(SCORES, SAME, QUALITY, 0.1, ties="random")
