"""Search finds exactly what exhaustive scoring finds."""

import math
import tracemalloc
from io import FileIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import facestream
from facestream import GalleryError, RecordError
from facestream.models.align import warp
from facestream.models.ida import Anchors, aligned_score
from facestream.models.search import SearchIndex, false_positive_probability
from facestream.models.search_kernels import by_product
from facestream.models.search_rows import StoredRows
from facestream.models.search_scan import ExactScan

C = 12


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(draw: np.random.Generator, count: int, spread: float) -> np.ndarray:
    """Unit vectors around a few centres, so that densities differ from place to place."""
    centres = draw.standard_normal((4, C))
    tight = spread * draw.uniform(0.2, 1.0, 4)
    which = draw.integers(0, 4, count)
    return unit(centres[which] + tight[which, None] * draw.standard_normal((count, C)))


def exhaustive(vectors, owners, densities, probe, density, tau, k):
    """Every score in float64, one identity after the other."""
    best: dict[int, tuple[float, float]] = {}
    for vector, owner, dense in zip(vectors, owners, densities, strict=True):
        cosine = float((vector.astype(np.float64) * probe.astype(np.float64)).sum())
        score = float(aligned_score(cosine, density, dense, tau=tau))
        if int(owner) not in best or score > best[int(owner)][0]:
            best[int(owner)] = (score, cosine)
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
    return [(owner, score, cosine) for owner, (score, cosine) in ranked[:k]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 120),
    identities=st.integers(1, 40),
    k=st.integers(1, 12),
    tau=st.sampled_from([0.3, 1.0, 8.0, 64.0]),
    spread=st.sampled_from([0.05, 0.5, 2.0]),
    precision=st.sampled_from(["float32", "bfloat16", "int8"]),
)
def test_search_is_exhaustive_search(seed, size, identities, k, tau, spread, precision):
    draw = np.random.default_rng(seed)
    anchors = Anchors(clustered(draw, 50, spread), "a", k=5, tau=tau)
    vectors = clustered(draw, size, spread)
    owners = draw.integers(0, identities, size) * 3  # indices need not be dense
    probes = np.concatenate([clustered(draw, 4, spread), vectors[:1]])
    # Densities as given, as from a store: the same numbers for both searches.
    densities = anchors.density(vectors)
    index = SearchIndex(vectors, owners, anchors=anchors, densities=densities, precision=precision)
    found = index.search(probes, k)
    for probe, density, hits in zip(probes, anchors.density(probes), found, strict=True):
        expected = exhaustive(vectors, owners, densities, probe, density, tau, k)
        assert [hit.identity for hit in hits] == [owner for owner, _, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([s for _, s, _ in expected], abs=1e-12)
        assert [hit.cosine for hit in hits] == pytest.approx([c for *_, c in expected], abs=1e-12)
    zeros = np.zeros(size)
    for probe, hits in zip(probes, index.search(probes, k, by="cosine"), strict=True):
        expected = exhaustive(vectors, owners, zeros, probe, 0.0, 1.0, k)
        assert [hit.identity for hit in hits] == [owner for owner, _, _ in expected]
        assert all(hit.score == hit.cosine for hit in hits)


def test_a_whole_gallery_in_many_blocks(monkeypatch):
    monkeypatch.setattr("facestream.models.search_scan._SCORES", 300)
    monkeypatch.setattr("facestream.models.search._SCORED", 300)
    monkeypatch.setattr("facestream.models.search._PROBES", 5)
    monkeypatch.setattr("facestream.models.ida._BLOCK", 300)
    draw = np.random.default_rng(1)
    anchors = Anchors(clustered(draw, 40, 0.5), "a")
    vectors, probes = clustered(draw, 200, 0.5), clustered(draw, 17, 0.5)
    in_blocks = SearchIndex(vectors, np.arange(200), anchors=anchors).search(probes, 3)
    monkeypatch.undo()
    at_once = SearchIndex(vectors, np.arange(200), anchors=anchors).search(probes, 3)
    for hits, same in zip(in_blocks, at_once, strict=True):
        assert [hit.identity for hit in hits] == [hit.identity for hit in same]


def test_a_large_gallery_is_neither_copied_nor_widened_as_a_whole(monkeypatch):
    monkeypatch.setattr("facestream.models.search_scan._SCORES", 1 << 14)
    monkeypatch.setattr("facestream.models.search_rows._ENCODED", 1 << 14)
    monkeypatch.setattr("facestream.models.search._SCORED", 1 << 14)
    draw = np.random.default_rng(2)
    vectors = unit(draw.standard_normal((19_000, 254)))
    # At tau 64 densities differ more than cosines do.
    densities = draw.uniform(-60, 60, len(vectors))
    anchors = Anchors(vectors[:1], "a", k=1, tau=64.0)
    tracemalloc.start()
    try:
        index = SearchIndex(vectors, np.arange(19_000), anchors=anchors, densities=densities)
        built = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        index.search(vectors[:1], 3)
        searched = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert built < 1.2 * vectors.nbytes  # the index's own rows, their densities and owners
    assert searched < 0.1 * vectors.nbytes


def same_as_exhaustive(index, vectors, densities, probes, own, tau, k):
    """Whether every probe finds the k best rows; each row is an identity of its own."""
    for probe, density, hits in zip(probes, own, index.search(probes, k), strict=True):
        cosines = (vectors.astype(np.float64) * probe).sum(axis=1)
        scores = aligned_score(cosines, density, densities, tau=tau)
        best = np.lexsort((np.arange(len(vectors)), -scores))[:k]
        assert [hit.identity for hit in hits] == best.tolist()
        np.testing.assert_allclose([hit.score for hit in hits], scores[best], rtol=0, atol=1e-12)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("tau", [1.0, 16.0])
def test_a_gallery_with_runs_of_like_density_and_few_candidates(precision, tau, monkeypatch):
    monkeypatch.setattr("facestream.models.search_scan._SCORES", 1 << 14)
    draw = np.random.default_rng(3)
    anchors = Anchors(clustered(draw, 200, 0.5), "a", tau=tau)
    vectors = clustered(draw, 9_001, 0.5)
    densities = anchors.density(vectors)
    index = SearchIndex(
        vectors, np.arange(9_001), anchors=anchors, densities=densities, precision=precision
    )
    probes = unit(vectors[:20] + 0.02 * draw.standard_normal((20, C)))
    probes *= np.float32(1.0009)  # as far from unit as is let through
    own = anchors.density(probes)
    same_as_exhaustive(index, vectors, densities, probes, own, tau, 5)
    order = np.argsort(densities, kind="stable")
    scan = ExactScan(vectors, order, densities[order], tau=tau, precision=precision)
    pairs = scan.find(probes, own, 5)
    assert 5 * 20 <= len(pairs.rows) < (20 if precision == "float32" else 100) * 20


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["omz", "open"])
def test_embeddings_of_real_networks(name, precision):
    """The pack's anchors, generated faces embedded by its network, as gallery and as probes."""
    cards = Path(facestream.__file__).parent / "models" / "cards"
    faces = unit(np.load(cards / f"{name}.anchors.npy").astype(np.float32))
    anchors, vectors = Anchors(faces[::3], "a"), faces[1::3]
    densities = anchors.density(vectors)
    probes = np.concatenate([faces[2::3][:60], unit(vectors[:60] + 0.2 * faces[2::3][:60])])
    index = SearchIndex(
        vectors, np.arange(len(vectors)), anchors=anchors, densities=densities, precision=precision
    )
    same_as_exhaustive(index, vectors, densities, probes, anchors.density(probes), 1.0, 7)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_photos_of_real_people(omz_models, assets, precision):
    def embed(folder: str) -> np.ndarray:
        paths = sorted((assets / "london" / folder).glob("*.jpg"))[:12]
        images = [cv2.imread(str(path)) for path in paths]
        found = omz_models.detector.detect(images)
        template = omz_models.embedder.template
        faces = [warp(i, f.landmarks[0], template) for i, f in zip(images, found, strict=True)]
        return unit(omz_models.embedder.embed(np.stack(faces)).embeddings)

    gallery, probes = embed("gallery_neutral"), embed("probe_smiling")
    anchors = Anchors(omz_models.anchors, "a")
    index = SearchIndex(gallery, np.arange(12), anchors=anchors, precision=precision)
    own, densities = anchors.density(probes), anchors.density(gallery)
    same_as_exhaustive(index, gallery, densities, probes, own, 1.0, 4)
    assert [hits[0].identity for hits in index.search(probes, 1)] == list(range(12))


@pytest.mark.parametrize(
    ("precision", "size", "most"), [("float32", 4, 0), ("bfloat16", 2, 2.2e-3), ("int8", 1, 1.2e-2)]
)
def test_stored_rows_are_off_by_what_they_say_and_take_the_room_they_say(precision, size, most):
    draw = np.random.default_rng(4)
    vectors, probes = unit(draw.standard_normal((500, 256))), unit(draw.standard_normal((7, 256)))
    rows = StoredRows(vectors, np.arange(500)[::-1], precision)
    (block,) = rows.blocks(500)
    cosines = rows.cosines(by_product, probes, block, rows.buffer([block]))
    off = np.abs(cosines - probes.astype(np.float64) @ vectors[::-1].T.astype(np.float64))
    bound = np.zeros(500) if rows.errors is None else rows.errors
    assert (off <= bound + 1e-6).all() and bound.max() <= most
    assert off.max() > bound.max() / 20  # the bound is not idle
    assert rows.nbytes <= vectors.nbytes * size / 4 + 12 * 500
    np.testing.assert_array_equal(rows.true_rows(np.array([3, 499])), vectors[[496, 0]])


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_full_disk_under_the_temporary_file_is_told(precision, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda prefix: FileIO("/dev/full", "r+"))
    with pytest.raises(GalleryError, match=r"0 MB .*No space left on device; .* TMPDIR"):
        StoredRows(np.eye(C, dtype=np.float32), np.arange(C), precision)


def test_no_temporary_file_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    index = SearchIndex(np.eye(C, dtype=np.float32), np.arange(C), precision="int8")
    assert list(tmp_path.iterdir()) == []
    assert index.search(np.eye(C, dtype=np.float32)[3:4], 1)[0][0].identity == 3


def test_bfloat16_rounds_to_the_nearest_even():
    near = [1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, 0.0]
    rows = StoredRows(np.array([near], np.float32), np.zeros(1, np.int64), "bfloat16")
    eye = np.eye(5, dtype=np.float32)
    stored = rows.cosines(by_product, eye, slice(0, 1), rows.buffer([slice(0, 1)]))[:, 0]
    np.testing.assert_array_equal(stored, [1, 1, 1 + 2**-6, -1 - 2**-7, 0])


def test_a_miniature_by_hand():
    # Cosines .8 and .6; the first lies where anchors crowd: .8 - .5 < .6 - .1.
    vectors = np.array([[0.8, 0.6], [0.6, -0.8]], np.float32)
    anchors = Anchors(np.array([[0.0, 1.0]], np.float32), "a", k=1)
    index = SearchIndex(vectors, np.array([7, 4]), anchors=anchors, densities=np.array([0.6, -0.8]))
    probe = np.array([[1.0, 0.0]], np.float32)  # its density is 0
    (hits,) = index.search(probe, 5)
    assert [hit.identity for hit in hits] == [4, 7]
    assert hits[0].score == pytest.approx(0.6 + 0.4 + math.log(math.cosh(0.4)), abs=1e-7)
    assert hits[1].score == pytest.approx(0.8 - 0.3 + math.log(math.cosh(0.3)), abs=1e-7)
    (by_cosine,) = index.search(probe, 1, by="cosine")
    assert by_cosine == ((7, pytest.approx(0.8), pytest.approx(0.8)),)


def test_ties_go_to_the_smaller_identity():
    vectors = np.repeat(unit(np.random.default_rng(0).standard_normal((1, C))), 9, axis=0)
    owners = np.array([8, 3, 5, 3, 1, 7, 0, 2, 6])
    index = SearchIndex(vectors, owners)
    (hits,) = index.search(vectors[:1], 5)
    assert [hit.identity for hit in hits] == [0, 1, 2, 3, 5]
    assert len({hit.score for hit in hits}) == 1


def test_an_identity_scores_as_its_best_photo():
    eye = np.eye(3, dtype=np.float32)
    index = SearchIndex(eye, np.array([0, 1, 0]))
    assert index.identities == 2
    (hits,) = index.search(eye[2:], 3)
    assert [(hit.identity, hit.cosine) for hit in hits] == [(0, 1.0), (1, 0.0)]


def test_an_empty_gallery_gives_nobody():
    anchors = Anchors(np.eye(C, dtype=np.float32), "a", k=3)
    index = SearchIndex(np.zeros((0, C), np.float32), np.zeros(0, np.int64), anchors=anchors)
    assert index.identities == 0
    assert index.search(np.eye(C, dtype=np.float32)[:2], 3) == [(), ()]
    full = SearchIndex(np.eye(C, dtype=np.float32), np.arange(C), anchors=anchors)
    assert full.search(np.zeros((0, C), np.float32), 3) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3), np.arange(3)), "float32"),
        ((np.eye(3, dtype=np.float32), np.arange(2)), r"owners must be \(3,\)"),
        ((np.eye(3, dtype=np.float32), np.array([0, -1, 1])), ">= 0"),
        ((np.eye(3, dtype=np.float32) * 2, np.arange(3)), "must be unit vectors"),
    ],
)
def test_wrong_galleries_are_refused(arguments, message):
    with pytest.raises(RecordError, match=message):
        SearchIndex(*arguments)


def test_wrong_probes_are_refused():
    index = SearchIndex(np.eye(3, dtype=np.float32), np.arange(3))
    with pytest.raises(RecordError, match=r"\(Q, 3\)"):
        index.search(np.eye(4, dtype=np.float32), 1)
    with pytest.raises(RecordError, match="k = 0"):
        index.search(np.eye(3, dtype=np.float32), 0)
    anchors = Anchors(np.eye(3, dtype=np.float32), "a", k=1)
    with pytest.raises(RecordError, match="densities"):
        SearchIndex(
            np.eye(3, dtype=np.float32), np.arange(3), anchors=anchors, densities=np.zeros(2)
        )


def test_false_positive_probability_against_the_plain_formula():
    scores, gallery = np.array([0.0, 0.1, 0.25, 0.4]), 1000
    plain = 1 - (1 - norm.sf(scores, 0.05, 0.08)) ** gallery
    got = false_positive_probability(scores, gallery, 0.05, 0.08)
    np.testing.assert_allclose(got, plain, rtol=1e-7, atol=1e-15)
    assert (np.diff(got) <= 0).all()


def test_false_positive_probability_far_out_in_the_tail():
    # 1 - (1 - p)^G loses everything once p < 1e-16; the answer is G p there.
    got = false_positive_probability(12.0, 50, 0.0, 1.0)
    assert got == pytest.approx(50 * norm.sf(12.0), rel=1e-9)
    assert false_positive_probability(-40.0, 1, 0.0, 1.0) == 1.0
    assert false_positive_probability(0.3, 0, 0.0, 1.0) == 0.0
    assert false_positive_probability(0.0, 1, 0.0, 1.0) == pytest.approx(0.5)
    with pytest.raises(RecordError, match="std must be positive"):
        false_positive_probability(0.3, 10, 0.0, 0.0)
