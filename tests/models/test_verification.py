"""Verification metrics against hand-computed miniatures and brute-force definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models.scores import percentile_interval
from facestream.models.verification import (
    area_under_roc,
    consecutive_folds,
    count_errors,
    det_points,
    equal_error_rate,
    fold_accuracy,
    operating_point,
    resample_roc,
    resample_share,
    roc_points,
)

# Descending: g g i g i(tie g) i   ->  3 impostors, 4 genuine
SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.1]
SAME = [1, 1, 0, 1, 1, 0, 0]

few_levels = st.integers(0, 6).map(lambda level: level / 8)
pairs_with_ties = st.lists(st.tuples(few_levels, st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(same for _, same in pairs) < len(pairs)
)


def columns(pairs):
    return np.array([score for score, _ in pairs]), np.array([same for _, same in pairs])


def brute_points(scores, same):
    """(threshold, FAR, TAR) at every distinct score and above all of them."""
    genuine, impostor = scores[same], scores[~same]
    thresholds = [math.inf, *np.unique(scores)[::-1]]
    return [(t, (impostor >= t).mean(), (genuine >= t).mean()) for t in thresholds]


def test_the_roc_of_a_miniature():
    far, tar = roc_points(count_errors(SCORES, SAME))
    assert (3 * far).tolist() == pytest.approx([0, 0, 0, 0, 0, 1, 1, 1, 2, 3])
    assert tar.tolist() == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1]


@pytest.mark.parametrize(
    ("target", "tar", "far", "threshold"),
    [
        (0.0, 0.5, 0.0, 0.8),
        (0.33, 0.5, 0.0, 0.8),
        (1 / 3, 0.75, 1 / 3, 0.6),
        (1.0, 1.0, 2 / 3, 0.5),
    ],
)
def test_at_most_never_exceeds_the_target(target, tar, far, threshold):
    point = operating_point(count_errors(SCORES, SAME), target)
    assert (point.tar, point.far, point.threshold) == pytest.approx((tar, far, threshold))
    assert point.fnmr == pytest.approx(1 - tar)


@pytest.mark.parametrize(
    ("target", "tar", "far"), [(0.0, 0.5, 0.0), (0.3, 0.75, 1 / 3), (0.55, 1.0, 2 / 3)]
)
def test_nearest_may_exceed_the_target(target, tar, far):
    point = operating_point(count_errors(SCORES, SAME), target, "nearest")
    assert (point.tar, point.far) == pytest.approx((tar, far))


def test_nearest_prefers_the_larger_tar_of_equally_near_corners():
    # Corners at FAR 0 (TAR .5) and FAR .5 (TAR 1); .25 is as near to both.
    point = operating_point(count_errors([4, 3, 2, 1], [1, 0, 1, 0]), 0.25, "nearest")
    assert (point.far, point.tar) == (0.5, 1.0)


def test_nothing_is_accepted_when_an_impostor_is_best():
    point = operating_point(count_errors([0.9, 0.5], [0, 1]), 0.0)
    assert point == (0.0, math.inf, 0.0, 0.0)


@settings(max_examples=150, deadline=None)
@given(pairs_with_ties, st.integers(0, 20).map(lambda n: n / 20))
def test_at_most_is_its_definition(pairs, target):
    scores, same = columns(pairs)
    point = operating_point(count_errors(scores, same), target)
    assert point.tar == max(tar for _, far, tar in brute_points(scores, same) if far <= target)
    assert point.far == (scores[~same] >= point.threshold).mean() <= target
    assert point.tar == (scores[same] >= point.threshold).mean()


@settings(max_examples=150, deadline=None)
@given(pairs_with_ties, st.integers(0, 20).map(lambda n: n / 20))
def test_the_threshold_of_nearest_gives_what_it_says(pairs, target):
    scores, same = columns(pairs)
    point = operating_point(count_errors(scores, same), target, "nearest")
    assert point.far == (scores[~same] >= point.threshold).mean()
    assert point.tar == (scores[same] >= point.threshold).mean()


def published_nearest(scores, same, target):
    """TAR@FAR as public IJB scripts take it: kept points of the ROC, flipped, nearest FPR."""
    order = np.argsort(-scores)
    fps, tps = np.cumsum(~same[order]), np.cumsum(same[order])
    turns = np.logical_or(np.diff(fps, 2) != 0, np.diff(tps, 2) != 0)
    kept = np.concatenate([[True], turns, [True]])
    fpr = np.concatenate([[0], fps[kept] / fps[-1]])[::-1]
    tpr = np.concatenate([[0], tps[kept] / tps[-1]])[::-1]
    return tpr[min(zip(abs(fpr - target), range(len(fpr)), strict=True))[1]]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 1000))
def test_nearest_is_what_public_scripts_print(labels, per_mille):
    same = np.array([True, *labels, False])  # best first, without ties
    scores = -np.arange(len(same), dtype=float)
    mine = operating_point(count_errors(scores, same), per_mille / 1000, "nearest").tar
    assert mine == pytest.approx(published_nearest(scores, same, per_mille / 1000))


@settings(max_examples=100, deadline=None)
@given(pairs_with_ties)
def test_the_area_is_the_chance_that_genuine_wins(pairs):
    scores, same = columns(pairs)
    difference = scores[same][:, None] - scores[~same][None, :]
    expected = (difference > 0).mean() + 0.5 * (difference == 0).mean()
    assert area_under_roc(count_errors(scores, same)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "same", "eer"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], 0.5),
        ([0.5, 0.5, 0.5], [1, 0, 0], 0.5),  # all the same: the diagonal
        (SCORES, SAME, 1 / 3),
    ],
)
def test_equal_error_rate_of_miniatures(scores, same, eer):
    assert equal_error_rate(count_errors(scores, same)) == pytest.approx(eer)


@settings(max_examples=100, deadline=None)
@given(pairs_with_ties)
def test_the_equal_error_rate_lies_between_the_errors_around_it(pairs):
    scores, same = columns(pairs)
    eer = equal_error_rate(count_errors(scores, same))
    points = [(far, 1 - tar) for _, far, tar in brute_points(scores, same)]
    assert max(min(pair) for pair in points) - 1e-12 <= eer <= min(map(max, points)) + 1e-12


@settings(max_examples=60, deadline=None)
@given(pairs_with_ties, st.randoms(use_true_random=False))
def test_only_the_order_of_scores_counts(pairs, random):
    before = count_errors(*columns(pairs))
    shuffled = random.sample(pairs, len(pairs))
    scores, same = columns(shuffled)
    after = count_errors(np.exp(3 * scores) - 7, same)
    for was, now in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(was, now)


@settings(max_examples=60, deadline=None)
@given(pairs_with_ties)
def test_a_det_curve_is_monotone_from_corner_to_corner(pairs):
    fmr, fnmr = det_points(count_errors(*columns(pairs)))
    assert (fmr[0], fnmr[0], fmr[-1], fnmr[-1]) == (0, 1, 1, 0)
    assert (np.diff(fmr) >= 0).all() and (np.diff(fnmr) <= 0).all()


def test_no_impostors_no_rates():
    with pytest.raises(ConfigError, match="0 impostor"):
        count_errors([0.5, 0.6], [1, 1])
    with pytest.raises(ConfigError):
        count_errors([], [])
    with pytest.raises(RecordError, match="finite"):
        count_errors([0.5, float("nan")], [1, 0])
    with pytest.raises(ConfigError, match="at_most or nearest"):
        operating_point(count_errors(SCORES, SAME), 0.1, "interpolate")


def test_folds_are_runs_of_consecutive_pairs():
    assert consecutive_folds(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert (np.bincount(consecutive_folds(6000)) == 600).all()
    with pytest.raises(ConfigError, match="10 pairs at least"):
        consecutive_folds(9)


def test_accuracy_of_two_folds_by_hand():
    scores = [0.9, 0.4, 0.6, 0.1, 0.8, 0.7, 0.5, 0.3]
    same = [1, 1, 0, 0, 1, 1, 0, 0]
    result = fold_accuracy(scores, same, 2)
    # Fold 0 is judged at the .7 that parts fold 1: .4 is missed. Fold 1 at .9, the highest of the
    # thresholds (.9 and .4) with one error on fold 0: .8 and .7 are missed.
    assert result.thresholds.tolist() == [0.7, 0.9]
    assert result.accuracies.tolist() == [0.75, 0.5]
    assert result.correct.tolist() == [True, False, True, True, False, False, True, True]
    assert (result.mean, result.std) == (0.625, 0.125)
    assert result.standard_error == pytest.approx(0.125)


@settings(max_examples=60, deadline=None)
@given(pairs_with_ties.filter(lambda pairs: len(pairs) >= 6), st.integers(2, 4))
def test_fold_thresholds_are_the_best_of_all_candidates(pairs, folds):
    scores, same = columns(pairs)
    result = fold_accuracy(scores, same, folds)
    fold_of = consecutive_folds(len(scores), folds)
    for fold in range(folds):
        rest = fold_of != fold
        candidates = [math.inf, *np.unique(scores[rest])[::-1]]
        shares = [((scores[rest] >= t) == same[rest]).mean() for t in candidates]
        assert result.thresholds[fold] == candidates[int(np.argmax(shares))]
    moved = fold_accuracy(scores**3 * 5 + 2, same, fold_of)
    np.testing.assert_array_equal(moved.correct, result.correct)


def test_exact_thresholds_are_close_to_a_fine_grid():
    draw = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], 300), 10)
    scores = np.where(same, 0.5, 0.05) + 0.15 * draw.standard_normal(6000)
    exact = fold_accuracy(scores, same).mean
    grid = np.arange(-1, 1, 0.005)
    fold_of = consecutive_folds(6000)
    on_grid = []
    for fold in range(10):
        rest = fold_of != fold
        best = max(grid, key=lambda t, rest=rest: ((scores[rest] >= t) == same[rest]).mean())
        on_grid.append(((scores[~rest] >= best) == same[~rest]).mean())
    assert exact == pytest.approx(np.mean(on_grid), abs=2e-3)


def test_resampling_agrees_with_repeating_the_pairs():
    draw = np.random.default_rng(5)
    first, second = draw.integers(0, 6, 60), draw.integers(0, 6, 60)
    same, scores = first == second, draw.integers(0, 8, 60) / 8
    rocs = list(resample_roc(scores, same, first, second, resamples=20, seed=1))
    drawn = np.random.default_rng(1)
    for roc in rocs:
        copies = np.bincount(drawn.integers(0, 6, 6), minlength=6)
        times = np.where(same, copies[first], copies[first] * copies[second])
        repeated = count_errors(np.repeat(scores, times), np.repeat(same, times))
        assert (roc.genuine, roc.impostor) == (repeated.genuine, repeated.impostor)
        for far in (0.05, 0.2, 0.5):
            assert operating_point(roc, far).tar == operating_point(repeated, far).tar
        assert area_under_roc(roc) == pytest.approx(area_under_roc(repeated))


def test_intervals_over_identities_are_wider_than_over_pairs():
    # 20 people, some hard: all 30 genuine pairs of a person succeed or fail together.
    hard = np.arange(20) < 5
    person = np.repeat(np.arange(20), 30)
    hits = ~hard[person]
    by_person = percentile_interval(resample_share(hits, person, person))
    pair = np.arange(600)
    by_pair = percentile_interval(resample_share(hits, pair, pair))
    assert by_person.low < by_pair.low < 0.75 < by_pair.high < by_person.high


def test_the_interval_of_a_share_is_around_it_where_kinds_of_pairs_differ():
    # Genuine pairs fail, all pairs of different people succeed; of 20 people those weigh 5 % less
    # in a resample than they are, unless that is made up for.
    first, second = (side.ravel() for side in np.indices((20, 20)))
    shares = resample_share(first != second, first, second)
    assert shares.mean() == pytest.approx(0.95, abs=2e-4)


def test_resamples_without_one_kind_of_pair_are_left_out():
    # Only person 0 has a genuine pair, so many resamples have none.
    rocs = list(resample_roc([0.9, 0.1], [1, 0], [0, 0], [0, 1], resamples=100))
    assert 0 < len(rocs) < 100
