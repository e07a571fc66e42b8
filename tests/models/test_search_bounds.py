"""Four exact ways to search by the IDA score, and one answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import RecordError
from facestream.models.ida import Anchors, aligned_score, discrepancy, linear_dao
from facestream.models.search import SearchIndex
from facestream.models.search_bounds import Bucket, make_buckets, search_buckets

C = 12


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(draw: np.random.Generator, count: int) -> np.ndarray:
    """Unit vectors around a few centres, so that densities differ from place to place."""
    centres = draw.standard_normal((4, C))
    tight = draw.uniform(0.1, 1.0, 4)
    which = draw.integers(0, 4, count)
    return unit(centres[which] + tight[which, None] * draw.standard_normal((count, C)))


def scan(vectors: np.ndarray):
    """An index maker: exhaustive search by the cosine in float64, as an index elsewhere would."""

    def index(rows):
        def nearest(probe, m):
            assert 1 <= m <= len(rows)
            cosines = (vectors[rows].astype(np.float64) * probe).sum(axis=1)
            order = np.argsort(-cosines, kind="stable")[:m]
            return rows[order], cosines[order]

        return nearest

    return index


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 300),
    k=st.integers(1, 15),
    tau=st.sampled_from([0.3, 1.0, 8.0]),
    count=st.sampled_from([1, 2, 8, 32]),
)
def test_every_way_is_exhaustive_search(seed, size, k, tau, count):
    draw = np.random.default_rng(seed)
    anchors = Anchors(clustered(draw, 60), "a", k=5, tau=tau)
    vectors, probes = clustered(draw, size), clustered(draw, 3)
    gallery, own = anchors.density(vectors), anchors.density(probes)
    index = SearchIndex(vectors, np.arange(size), anchors=anchors, densities=gallery)
    buckets = make_buckets(gallery, count, scan(vectors))
    assert sum(bucket.size for bucket in buckets) == size
    for probe, density, hits in zip(probes, own, index.search(probes, k), strict=True):
        cosines = (vectors.astype(np.float64) * probe).sum(axis=1)
        scores = aligned_score(cosines, density, gallery, tau=tau)
        expected = np.lexsort((np.arange(size), -scores))[:k]
        # a) equation 4 of a whole row of cosines, which ranks as its logarithm does
        dense = linear_dao(cosines, discrepancy(density, 5), discrepancy(gallery, 5), tau=tau)
        np.testing.assert_array_equal(np.argsort(-dense, kind="stable")[:k], expected)
        # b) one index and its bound, c) one per bucket of like density
        found = search_buckets(buckets, probe, density, gallery, k, tau=tau)
        np.testing.assert_array_equal(found.rows, expected)
        np.testing.assert_allclose(found.scores, scores[expected], rtol=0, atol=1e-12)
        assert len(expected) <= found.looked_at <= size
        # d) two more columns that bound the score from above, then the exact score
        assert [hit.identity for hit in hits] == expected.tolist()


def test_buckets_look_at_fewer_rows_than_one_index():
    draw = np.random.default_rng(0)
    anchors = Anchors(clustered(draw, 200), "a")
    vectors = clustered(draw, 4000)
    densities = anchors.density(vectors)
    probes = unit(vectors[:10] + 0.05 * draw.standard_normal((10, C)))

    def looked_at(count):
        buckets = make_buckets(densities, count, scan(vectors))
        return [
            search_buckets(buckets, probe, density, densities, 5, tau=1.0).looked_at
            for probe, density in zip(probes, anchors.density(probes), strict=True)
        ]

    one, many = looked_at(1), looked_at(16)
    assert np.median(many) < np.median(one) < 4000
    assert max(many) < 400


def test_equal_rows_come_by_number():
    vectors = np.repeat(np.eye(C, dtype=np.float32)[:2], 20, axis=0)[::-1]
    densities = np.tile([0.1, 0.3], 20)
    for count in (1, 4):
        buckets = make_buckets(densities, count, scan(vectors))
        found = search_buckets(buckets, vectors[0], 0.2, densities, 6, tau=1.0)
        assert found.rows.tolist() == [0, 2, 4, 6, 8, 10]


def test_an_empty_gallery_gives_nothing_and_bad_numbers_are_refused():
    nothing = make_buckets(np.zeros(0), 4, scan(np.zeros((0, C), np.float32)))
    assert nothing == []
    found = search_buckets(nothing, np.eye(C, dtype=np.float32)[0], 0.0, np.zeros(0), 3, tau=1.0)
    assert found.rows.shape == found.scores.shape == (0,) and found.looked_at == 0
    with pytest.raises(RecordError, match="buckets must be at least 1"):
        make_buckets(np.zeros(3), 0, scan(np.eye(3)))
    with pytest.raises(RecordError, match="k must be at least 1"):
        search_buckets([Bucket(scan(np.eye(3)), 3, 0.0)], np.eye(3)[0], 0.0, np.zeros(3), 0, tau=1)
