"""Clusters of an identity's images, and the mated pairs drawn between them."""

from __future__ import annotations

import numpy as np
import pytest

from facestream import ConfigError, RecordError
from facestream.models.label_pairs import (
    LARGEST_MATRIX,
    MatedImages,
    cluster_identities,
    draw_credited_pairs,
    draw_pairs,
    group_images,
)
from facestream.models.label_ranks import credit_pairs, rank_images

PEOPLE, EACH, CLUSTERS = 5, 40, 6
IDENTITIES = np.repeat(np.arange(PEOPLE), EACH)


@pytest.fixture
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((PEOPLE * EACH, 32)).astype(np.float32)


@pytest.fixture
def clusters() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CLUSTERS, PEOPLE * EACH)


@pytest.fixture
def images(clusters: np.ndarray) -> MatedImages:
    return group_images(IDENTITIES, clusters)


def test_every_image_meets_one_image_of_each_other_cluster_of_its_identity(
    images: MatedImages, embeddings: np.ndarray, clusters: np.ndarray
) -> None:
    first, second, cosines = draw_pairs(images, embeddings, 0)
    assert len(first) == images.pairs == PEOPLE * EACH * (CLUSTERS - 1)
    np.testing.assert_array_equal(IDENTITIES[first], IDENTITIES[second])
    for image in range(len(IDENTITIES)):
        mine = IDENTITIES[image] == IDENTITIES
        expected = set(clusters[mine].tolist()) - {clusters[image]}
        assert sorted(clusters[second[first == image]].tolist()) == sorted(expected)
    wide = embeddings.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines, (wide[first] * wide[second]).sum(axis=1), atol=1e-6)


def test_partners_are_drawn_uniformly_and_anew_in_every_repeat() -> None:
    clusters = np.array([0, 1, 1, 1, 1])
    images = group_images(np.zeros(5, int), clusters)
    embeddings = np.eye(5, dtype=np.float32)
    drawn = [int(draw_pairs(images, embeddings, 0, repeat).second[0]) for repeat in range(400)]
    counts = np.bincount(drawn, minlength=5)
    assert counts[0] == 0 and (np.abs(counts[1:] - 100) < 40).all()


def test_credited_pairs_are_the_drawn_pairs_with_their_lower_member(
    images: MatedImages, embeddings: np.ndarray
) -> None:
    ranks = rank_images(np.random.default_rng(2).random(PEOPLE * EACH))
    pairs = draw_pairs(images, embeddings, 3, 1)
    credited = draw_credited_pairs(images, embeddings, ranks, 3, 1)
    np.testing.assert_array_equal(credited.image, credit_pairs(*pairs, ranks).image)
    np.testing.assert_array_equal(credited.similarity, pairs.similarity)


def test_an_identity_too_large_for_a_matrix_gets_the_same_cosines() -> None:
    count = LARGEST_MATRIX + 1
    embeddings = np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)
    images = group_images(np.zeros(count, int), np.arange(count) % 3)
    first, second, cosines = draw_pairs(images, embeddings, 0)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines, (unit[first] * unit[second]).sum(axis=1), atol=1e-6)


def test_k_means_finds_separate_groups() -> None:
    random = np.random.default_rng(0)
    groups = np.tile(np.repeat(np.arange(4), 10), 2)
    centres = random.standard_normal((2, 4, 16))
    identities = np.repeat([7, 3], 40)
    embeddings = centres[np.repeat([0, 1], 40), groups] + 0.01 * random.standard_normal((80, 16))
    found = cluster_identities(embeddings, identities, clusters=4)
    for identity in (3, 7):
        mine = identities == identity
        assert len(set(zip(groups[mine], found[mine].tolist(), strict=True))) == 4


def test_refusals(embeddings: np.ndarray, clusters: np.ndarray) -> None:
    with pytest.raises(RecordError, match="embedding 3 has length 0"):
        cluster_identities(embeddings * (np.arange(200) != 3)[:, None], IDENTITIES)
    with pytest.raises(ConfigError, match="clusters must be 2 or more"):
        cluster_identities(embeddings, IDENTITIES, clusters=1)
    with pytest.raises(RecordError, match=r"identities must be \(200,\) integers"):
        group_images(IDENTITIES.astype(str), clusters)
    with pytest.raises(RecordError, match=r"embeddings must be \(200, D\) floating, got \(9, 32\)"):
        draw_pairs(group_images(IDENTITIES, clusters), embeddings[:9], 0)
