"""Checks that all metrics share, and resampling over identities."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models.scores import (
    allowed_errors,
    check_labels,
    check_rate,
    check_scores,
    identity_weights,
    pair_weights,
    percentile_interval,
    split_pairs,
)


def test_scores_must_be_one_finite_number_per_item():
    with pytest.raises(RecordError, match=r"must be \(N,\), got \(1, 2\)"):
        check_scores("scores", [[0.1, 0.2]])
    with pytest.raises(RecordError, match="got nan at 1"):
        check_scores("scores", [0.1, float("nan")])


def test_labels_must_be_integers():
    with pytest.raises(RecordError, match="integers"):
        check_labels("subjects", [0.5, 1.0], 2)
    assert len(check_labels("subjects", [], 0)) == 0


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ConfigError, match=r"1 % is written 0\.01"):
        check_rate("fmr", rate)


@pytest.mark.parametrize("same", [[1, 1], [0, 0]])
def test_error_rates_need_both_kinds_of_pairs(same):
    with pytest.raises(ConfigError, match="check the labels of the pair list"):
        split_pairs([0.1, 0.2], same)


def test_labels_of_pairs_are_zero_and_one():
    with pytest.raises(RecordError, match="0 and 1"):
        split_pairs([0.1, 0.2], [1, -1])


@settings(max_examples=200, deadline=None)
@given(total=st.integers(1, 10**7), per_mille=st.integers(0, 1000))
def test_allowed_errors_are_not_lost_to_rounding(total, per_mille):
    assert allowed_errors(total, per_mille / 1000) == int(Fraction(per_mille, 1000) * total)


def test_allowed_errors_where_a_product_rounds_down():
    assert int(100 * 0.29) == 28
    assert allowed_errors(100, 0.29) == 29


def test_each_resample_draws_as_many_identities_as_there_are():
    weights = identity_weights(7, 50, seed=3)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == identity_weights(7, 50, seed=3)).all()
    assert (weights != identity_weights(7, 50, seed=4)).any()


def test_a_bootstrap_needs_two_identities():
    with pytest.raises(ConfigError, match="without an interval"):
        identity_weights(1, 10)


def test_pairs_weigh_by_their_identities():
    weights = np.array([2, 3, 0], np.uint16)
    pairs = pair_weights(weights, np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]))
    assert pairs.tolist() == [2.0, 6.0, 3.0, 0.0]


def test_an_interval_is_central():
    assert percentile_interval(np.arange(101), 0.9) == pytest.approx((5.0, 95.0))
    with pytest.raises(ConfigError, match="resample"):
        percentile_interval([])
