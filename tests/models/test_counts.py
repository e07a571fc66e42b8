"""Exact intervals of rare events, against the distributions themselves."""

from __future__ import annotations

import pytest
from scipy.stats import binom, poisson

from facestream.models.counts import count_interval, share_interval


@pytest.mark.parametrize(("hits", "total"), [(1, 8), (3, 112), (50, 60)])
def test_a_share_at_either_end_has_what_was_seen_in_its_tail(hits: int, total: int) -> None:
    low, high = share_interval(hits, total)
    assert binom.sf(hits - 1, total, low) == pytest.approx(0.025)
    assert binom.cdf(hits, total, high) == pytest.approx(0.025)


@pytest.mark.parametrize("count", [1, 7])
def test_a_count_at_either_end_has_what_was_seen_in_its_tail(count: int) -> None:
    low, high = count_interval(count)
    assert poisson.sf(count - 1, low) == pytest.approx(0.025)
    assert poisson.cdf(count, high) == pytest.approx(0.025)


def test_none_and_all_reach_the_end_and_no_further() -> None:
    assert share_interval(0, 56).low == 0 and share_interval(56, 56).high == 1
    # None of 56: 1 - 0.025 ** (1 / 56), the rule of three's exact form.
    assert share_interval(0, 56).high == pytest.approx(1 - 0.025 ** (1 / 56))
    assert count_interval(0).low == 0
