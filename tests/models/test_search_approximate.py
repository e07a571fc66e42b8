"""Approximate search: right scores, measured recall, and what is missing is said."""

import logging

import numpy as np
import pytest

from facestream import ConfigError
from facestream.models import search_approximate
from facestream.models.ida import Anchors
from facestream.models.search import SearchIndex
from facestream.models.search_approximate import (
    OWN,
    WANTED,
    ApproximateIndex,
    Recall,
    sample_probes,
)

C = 32


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def people(count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around 40 centres."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((40, C))
    return unit(centres[draw.integers(0, 40, count)] + 0.8 * draw.standard_normal((count, C)))


@pytest.fixture(scope="module")
def anchors() -> Anchors:
    return Anchors(people(300, seed=0)[200:], "a")


@pytest.fixture(scope="module")
def approximate(anchors: Anchors) -> ApproximateIndex:
    pytest.importorskip("faiss", reason="no FAISS: pip install 'facestream[faiss]'")
    return ApproximateIndex(people(4000), np.arange(4000) // 2, anchors=anchors)


def test_the_recall_it_tells_is_the_recall_it_has(approximate, anchors):
    exact = SearchIndex(people(4000), np.arange(4000) // 2, anchors=anchors)
    probes = sample_probes(people(4000), 200)
    truth, found = exact.search(probes, 10), approximate.search(probes, 10)
    first = np.mean([a[0].identity == b[0].identity for a, b in zip(truth, found, strict=True)])
    shares = [
        len({hit.identity for hit in a} & {hit.identity for hit in b}) / 10
        for a, b in zip(truth, found, strict=True)
    ]
    recall = approximate.recall
    assert recall.first == pytest.approx(first) and recall.best == pytest.approx(np.mean(shares))
    assert recall.first >= WANTED and recall.searches == 200
    assert 0 < recall.looked < recall.cells == 63  # the root of 4000
    assert approximate.method == f"approximate: {recall}"


def test_recall_is_against_exact_search_where_the_columns_do_not_follow_the_score():
    """At tau 40 densities lie so far apart that the series of log cosh is none."""
    pytest.importorskip("faiss", reason="no FAISS: pip install 'facestream[faiss]'")
    vectors, steep = people(2000), Anchors(people(300)[200:], "steep", tau=40.0)
    exact = SearchIndex(vectors, np.arange(2000), anchors=steep)
    index = ApproximateIndex(vectors, np.arange(2000), anchors=steep)
    probes = sample_probes(vectors, 200)
    own = steep.density(probes)
    truth, found = (one.search(probes, 1, densities=own) for one in (exact, index))
    same = np.mean([a[0].identity == b[0].identity for a, b in zip(truth, found, strict=True)])
    assert index.recall.first == pytest.approx(same) and index.recall.first < WANTED
    assert index.recall.looked == index.recall.cells


@pytest.mark.parametrize("by", ["ida", "cosine"])
def test_whoever_is_found_has_the_exact_score(approximate, anchors, by):
    exact = SearchIndex(people(4000), np.arange(4000) // 2, anchors=anchors)
    probes = sample_probes(people(4000), 30)
    own = anchors.density(probes)
    found = approximate.search(probes, 5, by=by, densities=own)
    for hits, all_hits in zip(found, exact.search(probes, 2000, by=by, densities=own), strict=True):
        everybody = {hit.identity: hit for hit in all_hits}
        assert len(hits) == 5 and list(hits) == sorted(hits, key=lambda hit: -hit.score)
        for hit in hits:
            assert hit.score <= everybody[hit.identity].score + 1e-12
        assert hits[0] == everybody[hits[0].identity]


def test_recall_is_of_as_many_as_are_asked_for_and_every_search_takes_as_many_rows(
    approximate, anchors, monkeypatch
):
    index = ApproximateIndex(people(4000), np.arange(4000) // 2, anchors=anchors, depth=25)
    assert index.recall.depth == 25 and "of the 25 best of 200 searches" in str(index.recall)
    exact = SearchIndex(people(4000), np.arange(4000) // 2, anchors=anchors)
    probes = sample_probes(people(4000), 200)
    own = anchors.density(probes)
    pairs = zip(
        exact.search(probes, 25, densities=own),
        index.search(probes, 25, densities=own),
        strict=True,
    )
    same = [len({hit.identity for hit in a} & {hit.identity for hit in b}) / 25 for a, b in pairs]
    assert index.recall.best == pytest.approx(np.mean(same))
    taken = []
    search = index._finder._file.search

    def note(keys, most, params):
        taken.append(most)
        return search(keys, most, params=params)

    monkeypatch.setattr(index._finder, "_file", _File(index._finder._file, note))
    for k in (1, 25, 30):
        index.search(probes[:1], k)
    # Two rows a person: the best 2 (k - 1) + 1 rows are of k people at least; 8 to spare.
    assert taken == [57, 57, 67]


def test_too_few_cells_miss_somebody_and_the_recall_says_so(approximate, anchors, monkeypatch):
    monkeypatch.setattr(search_approximate, "WANTED", 0.0)
    index = ApproximateIndex(people(4000), np.arange(4000) // 2, anchors=anchors)
    assert index.recall.looked == 1 and 0.1 < index.recall.best < approximate.recall.best


def test_somebody_is_found_even_where_the_nearest_cells_are_empty(approximate, monkeypatch):
    probes = people(4000)[:6]
    search = approximate._finder._file.search

    def empty_cells(keys, most, params):
        distances, rows = search(keys, most, params=params)
        return distances, np.full_like(rows, -1) if params.nprobe < 63 else rows

    monkeypatch.setattr(approximate._finder, "_file", _File(approximate._finder._file, empty_cells))
    assert [hits[0].cosine for hits in approximate.search(probes, 2)] == pytest.approx([1.0] * 6)


class _File:
    """An inverted file with another search."""

    def __init__(self, file, search):
        self.search, self.ntotal, self.reconstruct_batch = (
            search,
            file.ntotal,
            file.reconstruct_batch,
        )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_small_galleries_are_looked_at_whole(count, anchors, approximate, caplog):
    with caplog.at_level(logging.WARNING, search_approximate.__name__):
        index = ApproximateIndex(people(count), np.arange(count), anchors=anchors)
    assert index.recall == Recall(1.0, 1.0, 10, count, 1, 1)
    found = index.search(people(2), 5)
    assert found == SearchIndex(people(count), np.arange(count), anchors=anchors).search(
        people(2), 5
    )
    assert f"of {count} vectors finds 100.0 % of the best" in caplog.text


def test_sampled_probes_are_near_one_vector_each():
    vectors = people(500)
    probes = sample_probes(vectors, 50)
    cosines = probes @ vectors.T
    assert np.allclose(np.linalg.norm(probes, axis=1), 1, atol=1e-6)
    assert (np.abs(cosines - OWN) < 1e-5).any(axis=1).all()
    np.testing.assert_array_equal(probes, sample_probes(vectors, 50))


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(search_approximate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'facestream\[faiss\]'"):
        ApproximateIndex(people(5), np.arange(5))
