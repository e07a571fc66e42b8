"""SDD-FIQA's labels: distances as scipy's, draws that are fair, labels that follow true quality.

Ou et al., "SDD-FIQA", CVPR 2021.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr, wasserstein_distance

from facestream import ConfigError, RecordError
from facestream.models import sdd
from facestream.models.sdd import scale_labels, sdd_labels, wasserstein

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def make_people(
    count: int, images: int, *, dimension: int = 64, seed: int = 0
) -> tuple[Floats, Integers, Doubles]:
    """Embeddings of people whose images have a known quality: the less, the more noise."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count, 1, dimension))
    quality = random.random((count, images))
    noise = random.normal(size=(count, images, dimension))
    embeddings = centres + 3 * (1 - quality[..., None]) * noise
    shuffled = random.permutation(count * images)
    identities = np.repeat(np.arange(count), images)
    flat = embeddings.reshape(-1, dimension).astype(np.float32)
    return flat[shuffled], identities[shuffled], quality.ravel()[shuffled]


def test_distance_by_hand() -> None:
    assert wasserstein(np.array([0.9, 0.5]), np.array([0.1, 0.3])).item() == pytest.approx(0.5)
    crossed = wasserstein(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    assert crossed.item() == pytest.approx(0.5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(0, 1000))
def test_distances_are_scipys(samples: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, 3, samples)).round(1)  # with ties
    expected = [wasserstein_distance(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(wasserstein(first, second), expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20, unique=True))
def test_scaling_reaches_0_and_100_exactly(distances: list[float]) -> None:
    labels = scale_labels(distances)
    assert labels.min() == 0.0
    assert labels.max() == 100.0
    assert (np.argsort(labels, kind="stable") == np.argsort(distances, kind="stable")).all() or len(
        np.unique(labels)
    ) < len(distances)


def test_two_people_by_hand() -> None:
    # The third image of the first person is 45 degrees off; all impostor cosines are 0.
    embeddings = np.array([[2.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 3], [0, 0, 1]], np.float32)
    half = np.sqrt(0.5)
    # Genuine cosines 1 and half; 1 and half; half and half; 1 and 1 twice.
    distances = [(1 + half) / 2, (1 + half) / 2, half, 1.0, 1.0]
    for pairs in (2, 4):
        found = sdd_labels(embeddings, [0, 0, 0, 1, 1], pairs=pairs, repeats=3)
        assert found.rows.tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(found.labels, scale_labels(distances), atol=1e-4)
        np.testing.assert_allclose(found.labels, [50, 50, 0, 100, 100], atol=1e-4)


def test_labels_follow_the_quality_images_were_made_with() -> None:
    embeddings, identities, quality = make_people(60, 10)
    found = sdd_labels(embeddings, identities)
    assert found.rows.tolist() == list(range(600))
    assert found.singles == 0
    assert found.labels.min() == 0.0
    assert found.labels.max() == 100.0
    assert spearmanr(found.labels, quality).statistic > 0.85


def test_more_repeats_bring_labels_closer_to_the_quality() -> None:
    embeddings, identities, quality = make_people(40, 6, seed=1)
    once = sdd_labels(embeddings, identities, pairs=3, repeats=1).labels
    often = sdd_labels(embeddings, identities, pairs=3, repeats=12).labels
    assert spearmanr(often, quality).statistic > spearmanr(once, quality).statistic


def test_lengths_and_the_type_of_embeddings_do_not_matter() -> None:
    embeddings, identities, _ = make_people(10, 4)
    lengths = np.linspace(0.1, 40, len(embeddings), dtype=np.float32)[:, None]
    labels = sdd_labels(embeddings, identities).labels
    np.testing.assert_allclose(
        sdd_labels(embeddings * lengths, identities).labels, labels, atol=1e-3
    )
    half = sdd_labels(embeddings.astype(np.float16), identities).labels
    np.testing.assert_allclose(half, labels, atol=0.5)


def test_the_same_seed_gives_the_same_labels() -> None:
    embeddings, identities, _ = make_people(10, 4)
    first, again = (sdd_labels(embeddings, identities, seed=3) for _ in range(2))
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, sdd_labels(embeddings, identities, seed=4).labels)


def test_memory_mapped_embeddings_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, identities, _ = make_people(30, 5)
    np.save(tmp_path / "embeddings.npy", embeddings)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    whole = sdd_labels(embeddings, identities)
    assert np.array_equal(sdd_labels(mapped, identities).labels, whole.labels)
    monkeypatch.setattr(sdd, "CHUNK", 7)
    pieces = sdd_labels(mapped, identities)  # other impostors are drawn
    assert spearmanr(pieces.labels, whole.labels).statistic > 0.9


def test_identities_with_one_image_are_left_out_and_counted() -> None:
    embeddings, identities, _ = make_people(20, 4)
    identities[:3] = [100, 101, 102]
    found = sdd_labels(embeddings, identities)
    alone = np.isin(identities, np.flatnonzero(np.bincount(identities) == 1))
    assert found.singles == alone.sum() >= 3
    assert found.rows.tolist() == np.flatnonzero(~alone).tolist()
    assert np.isfinite(found.labels).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(1, 30), st.integers(0, 1000))
def test_genuine_draws_are_even_and_never_the_image_itself(
    size: int, pairs: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    start = np.array([[11]])
    for place in (11, 11 + size - 1):
        drawn = sdd._draw_genuine(np.array([[place]]), start, np.array([[size]]), pairs, random)[0]
        assert ((drawn >= 11) & (drawn < 11 + size) & (drawn != place)).all()
        counts = np.unique(drawn, return_counts=True)[1]
        if pairs <= size - 1:
            assert counts.max() == 1  # without replacement
        else:
            assert len(counts) == size - 1
            assert counts.max() - counts.min() <= 1


def test_impostor_draws_are_uniform_over_all_other_identities() -> None:
    random = np.random.default_rng(0)
    start, size = np.array([[2]]), np.array([[3]])
    drawn = sdd._draw_impostors(start, size, 60_000, 8, random)[0]
    counts = np.bincount(drawn, minlength=8)
    assert counts[2:5].tolist() == [0, 0, 0]
    np.testing.assert_allclose(counts[[0, 1, 5, 6, 7]] / 60_000, 0.2, atol=0.01)


def test_genuine_draws_of_large_identities_are_uniform() -> None:
    # Partner 7 of 40 images is drawn by each of the others equally often over many repeats.
    embeddings, _, _ = make_people(1, 40)
    seen = np.zeros(40)
    for repeat in range(300):
        random = np.random.default_rng((0, repeat))
        order = np.lexsort((random.random(40), np.zeros(40)))
        place = np.flatnonzero(order == 7)[:, None]
        zero, size = np.array([[0]]), np.array([[40]])
        seen[order[sdd._draw_genuine(place, zero, size, 24, random)[0]]] += 1
    assert seen[7] == 0
    np.testing.assert_allclose(np.delete(seen, 7) / 300, 24 / 39, atol=0.12)
    assert len(embeddings) == 40


def test_refusals() -> None:
    embeddings, identities, _ = make_people(4, 3)
    with pytest.raises(ConfigError, match="1 or more, got 0 and 12"):
        sdd_labels(embeddings, identities, pairs=0)
    with pytest.raises(RecordError, match=r"\(N, D\) floating"):
        sdd_labels(embeddings[0], identities)
    with pytest.raises(RecordError, match="identities must be"):
        sdd_labels(embeddings, identities[:-1])
    with pytest.raises(ConfigError, match="two identities"):
        sdd_labels(embeddings, np.zeros(12, np.int64))
    with pytest.raises(ConfigError, match="two identities"):
        sdd_labels(embeddings, np.arange(12))
    broken = embeddings.copy()
    broken[5] = 0
    with pytest.raises(RecordError, match="embedding 5 has length 0"):
        sdd_labels(broken, identities)
    with pytest.raises(ConfigError, match="different finite distances"):
        scale_labels([0.3, 0.3])
    with pytest.raises(ConfigError, match="different finite distances"):
        scale_labels([])
    with pytest.raises(ConfigError, match="different finite distances"):
        scale_labels([0.0, np.nan])
