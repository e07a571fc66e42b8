"""BCubed and NMI against miniatures and brute force over all pairs of items."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models.clustering import bcubed, normalised_mutual_information

labellings = st.lists(st.tuples(st.integers(-2, 4), st.integers(0, 4)), min_size=1, max_size=25)


def brute_bcubed(clusters, subjects):
    count = range(len(clusters))

    def together(i, j):
        return i == j or (clusters[i] == clusters[j] and clusters[i] >= 0)

    precision = recall = 0.0
    for i in count:
        cluster = [j for j in count if together(i, j)]
        subject = [j for j in count if subjects[i] == subjects[j]]
        shared = len(set(cluster) & set(subject))
        precision += shared / len(cluster) / len(clusters)
        recall += shared / len(subject) / len(clusters)
    return precision, recall, 2 * precision * recall / (precision + recall)


def test_a_miniature_by_hand():
    # Cluster 0 holds a a b, cluster 1 holds b.
    result = bcubed([0, 0, 0, 1], [7, 7, 8, 8])
    assert result.precision == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1) / 4)
    assert result.recall == pytest.approx((1 + 1 + 1 / 2 + 1 / 2) / 4)
    assert result.f == pytest.approx(2 * (2 / 3) * 0.75 / (2 / 3 + 0.75))
    shared = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    h_clusters = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    nmi = normalised_mutual_information([0, 0, 0, 1], [7, 7, 8, 8])
    assert nmi == pytest.approx(shared / ((h_clusters + math.log(2)) / 2))
    geometric = normalised_mutual_information([0, 0, 0, 1], [7, 7, 8, 8], "geometric")
    assert geometric == pytest.approx(shared / math.sqrt(h_clusters * math.log(2)))


@settings(max_examples=100, deadline=None)
@given(labellings)
def test_bcubed_is_its_definition(items):
    clusters, subjects = zip(*items, strict=True)
    assert tuple(bcubed(clusters, subjects)) == pytest.approx(brute_bcubed(clusters, subjects))


@settings(max_examples=60, deadline=None)
@given(labellings, st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(items, random):
    renamed = [(9 - c if c >= 0 else c, 3 * s + 1) for c, s in random.sample(items, len(items))]
    for metric in (bcubed, normalised_mutual_information):
        before = metric(*zip(*items, strict=True))
        assert metric(*zip(*renamed, strict=True)) == pytest.approx(before)


@settings(max_examples=60, deadline=None)
@given(labellings)
def test_bounds_and_symmetry(items):
    clusters, subjects = (np.array(column) for column in zip(*items, strict=True))
    clusters = np.where(clusters < 0, 100 + np.arange(len(clusters)), clusters)
    forth, back = bcubed(clusters, subjects), bcubed(subjects, clusters)
    assert 0 < forth.precision <= 1 and 0 < forth.recall <= 1
    assert (forth.precision, forth.recall) == pytest.approx((back.recall, back.precision))
    nmi = normalised_mutual_information(clusters, subjects)
    assert 0 <= nmi <= 1
    assert nmi == pytest.approx(normalised_mutual_information(subjects, clusters))
    assert normalised_mutual_information(subjects, subjects) == pytest.approx(1)


def test_everything_together_and_everything_apart():
    subjects = [0, 0, 1, 1]
    assert bcubed([5, 5, 5, 5], subjects) == pytest.approx((0.5, 1.0, 2 / 3))
    assert bcubed([1, 2, 3, 4], subjects) == pytest.approx((1.0, 0.5, 2 / 3))
    assert normalised_mutual_information([5, 5, 5, 5], subjects) == 0.0
    assert normalised_mutual_information([1, 1], [2, 2]) == 1.0
    assert normalised_mutual_information([0, 1, 0, 1], subjects) == pytest.approx(0.0, abs=1e-12)


def test_noise_is_not_a_cluster():
    noise, apart = [-1, -1, -1, 0], [1, 2, 3, 0]
    assert bcubed(noise, [0, 0, 1, 1]) == bcubed(apart, [0, 0, 1, 1])
    assert bcubed([-1, -5], [0, 1]) == (1.0, 1.0, 1.0)


def test_what_cannot_be_judged():
    with pytest.raises(ConfigError, match="got none"):
        bcubed([], [])
    with pytest.raises(RecordError, match="clusters"):
        bcubed([1, 2], [1])
    with pytest.raises(ConfigError, match="arithmetic or geometric"):
        normalised_mutual_information([0, 1], [0, 1], "harmonic")
