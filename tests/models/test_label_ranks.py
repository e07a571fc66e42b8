"""Ranks of pairs and images: stable, exact, and in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models.label_ranks import (
    CHUNK,
    DISPLACEMENT_EDGES,
    CreditedPairs,
    average_pair_ranks,
    common_theta,
    count_displacements,
    credit_pairs,
    rank_images,
    reorder,
)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.floats(-1, 1, width=32), st.sampled_from([0.0, -0.0, 0.5, -0.5])), min_size=1
    )
)
def test_pair_ranks_are_those_of_a_stable_sort(values: list[float]) -> None:
    similarity = np.array(values, np.float32)
    each = CreditedPairs(np.arange(len(values), dtype=np.int32), similarity)
    expected = np.argsort(np.argsort(similarity, kind="stable"))
    np.testing.assert_array_equal(average_pair_ranks(each, len(values)).mean, expected)


def test_equal_scores_are_ordered_by_image_id() -> None:
    ranks = rank_images([0.5, 0.2, 0.5, 0.5], ["c", "d", "a", "b"])
    np.testing.assert_array_equal(ranks, [3, 0, 1, 2])


def test_equal_targets_keep_the_order_of_the_scores() -> None:
    np.testing.assert_array_equal(reorder(np.array([2, 0, 1]), np.zeros(3)), [2, 0, 1])


def test_ranking_takes_bounded_memory() -> None:
    count = 3 * CHUNK
    random = np.random.default_rng(0)
    pairs = CreditedPairs(
        random.integers(0, 1000, count, dtype=np.int32), random.random(count, np.float32)
    )
    tracemalloc.start()
    try:
        ranks = average_pair_ranks(pairs, 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ranks.pairs.sum() == count
    assert np.nansum(ranks.mean * ranks.pairs) == pytest.approx(count * (count - 1) / 2)
    assert peak < 8 * count + 40 * CHUNK  # one key per pair, and what a chunk needs


def test_displacements_are_counted_by_share_of_all_images() -> None:
    before, after = np.arange(1001), np.arange(1001)
    after[[0, 5]] = after[[5, 0]]  # +0.005 and -0.005
    after[[100, 900]] = after[[900, 100]]  # +0.8 and -0.8
    counts = dict(zip(DISPLACEMENT_EDGES, count_displacements(before, after), strict=False))
    assert counts[-0.001] == 997
    assert counts[0.003] == counts[-0.01] == counts[0.1] == counts[-1] == 1
    assert sum(counts.values()) == 1001


def test_refusals() -> None:
    ranks, alike = np.arange(2), np.ones(2, np.float32)
    with pytest.raises(RecordError, match="got image 1 with itself"):
        credit_pairs([0, 1], [1, 1], alike, ranks)
    with pytest.raises(RecordError, match=r"pairs must name images in 0\.\.1, got -1\.\.1"):
        credit_pairs([0, -1], [1, 1], alike, ranks)
    with pytest.raises(RecordError, match=r"pairs must be three arrays \(L,\), got \(1,\)"):
        credit_pairs([0], [1], alike, ranks)
    with pytest.raises(RecordError, match=r"pairs must be three arrays \(L,\), got \(\), \(\)"):
        credit_pairs(0, 1, 0.5, ranks)
    with pytest.raises(RecordError, match=r"second must be \(2,\) integers, .* float64"):
        credit_pairs([0, 1], [1.0, 0.0], alike, ranks)
    assert len(credit_pairs([], [], alike[:0], ranks).image) == 0
    for outside in (-1, 2):
        with pytest.raises(RecordError, match=rf"images in 0\.\.1, got {outside}\.\.{outside}"):
            average_pair_ranks(CreditedPairs(np.full(1, outside, np.int32), alike[:1]), 2)
    with pytest.raises(ConfigError, match="2 pairs and 2 images on, got 19 and 1"):
        common_theta(0.001, 19, 1)
    with pytest.raises(RecordError, match=r"similarity must be \(2,\) float32"):
        average_pair_ranks(CreditedPairs(np.zeros(2, np.int32), np.zeros(2)), 2)
    with pytest.raises(RecordError, match="similarity must be finite"):
        average_pair_ranks(CreditedPairs(np.zeros(2, np.int32), alike * np.nan), 2)
