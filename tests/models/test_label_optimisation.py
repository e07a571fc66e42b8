"""Quality labels rearranged by mated pairs: exact examples, invariances, and faces of known truth.

Babnik, Damer, Struc, "Optimization-Based Improvement of Face Image Quality Assessment Techniques",
IWBF 2023.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from facestream import ConfigError, RecordError
from facestream.models.label_optimisation import (
    LabelOptions,
    normalise_labels,
    optimise_labels,
    rearrange_labels,
    split_labels,
)
from facestream.models.label_pairs import (
    cluster_identities,
    draw_credited_pairs,
    draw_pairs,
    group_images,
)
from facestream.models.label_ranks import (
    DEFAULT_THETA,
    CreditedPairs,
    average_pair_ranks,
    common_theta,
    credit_pairs,
    move_ranks,
    rank_images,
)


class Faces(NamedTuple):
    embeddings: np.ndarray
    scores: np.ndarray
    identities: np.ndarray
    truth: np.ndarray
    clusters: np.ndarray


def make_faces(people: int, each: int, *, dimension: int = 32, seed: int = 0) -> Faces:
    """Faces of true quality u: near their person's centre when u is high; the scores are noisy.

    Clusters are random, up to 6 per person.
    """
    random = np.random.default_rng(seed)
    identities = np.repeat(np.arange(people), each)
    truth = random.random(people * each)
    centres = random.standard_normal((people, dimension))
    noise = random.standard_normal((people * each, dimension))
    embeddings = centres[identities] + 2 * (1 - truth)[:, None] * noise
    scores = truth + 0.35 * random.standard_normal(people * each)
    clusters = random.integers(0, 6, people * each)
    return Faces(
        embeddings.astype(np.float32), scores.astype(np.float32), identities, truth, clusters
    )


def optimise(faces: Faces, **options: object) -> np.ndarray:
    """Labels with the clusters that `faces` come with, which spares K-Means."""
    return optimise_labels(
        faces.embeddings,
        faces.scores,
        faces.identities,
        clusters=faces.clusters,
        options=LabelOptions(**options),
    ).labels


def draw_lists(faces: Faces, repeats: int) -> list[CreditedPairs]:
    images = group_images(faces.identities, faces.clusters)
    ranks = rank_images(faces.scores)
    return [
        draw_credited_pairs(images, faces.embeddings, ranks, 0, repeat) for repeat in range(repeats)
    ]


# --- Four images, worked out by hand

SCORES = np.array([0.1, 0.4, 0.6, 0.9])
FIRST = np.array([0, 0, 0, 1, 1, 2])
SECOND = np.array([1, 2, 3, 2, 3, 3])
SIMILARITY = np.array([0.2, 0.5, 0.1, 0.9, 0.3, 0.7], np.float32)


@pytest.fixture
def four_images() -> CreditedPairs:
    return credit_pairs(FIRST, SECOND, SIMILARITY, rank_images(SCORES))


def test_four_images_pairs_count_for_the_lower_quality_member(four_images: CreditedPairs) -> None:
    ranks = average_pair_ranks(four_images, 4)
    np.testing.assert_array_equal(ranks.pairs, [3, 2, 1, 0])
    np.testing.assert_array_equal(ranks.mean, [4 / 3, 3.5, 4, np.nan])
    # On the common scale, times N - 1.
    on_scale = move_ranks(np.arange(4), ranks, 1.0) * 3
    np.testing.assert_allclose(on_scale, [0.8, 2.1, 2.4, 3], rtol=0, atol=1e-15)


def test_four_images_half_way_keep_their_order(four_images: CreditedPairs) -> None:
    targets = move_ranks(np.arange(4), average_pair_ranks(four_images, 4), 0.5)
    np.testing.assert_allclose(targets * 3, [0.4, 1.55, 2.2, 3], rtol=0, atol=1e-15)
    found = rearrange_labels(SCORES, [four_images], theta=0.5)
    np.testing.assert_array_equal(found.labels, SCORES)
    np.testing.assert_array_equal(found.pairs, [3, 2, 1, 0])


def test_an_image_whose_pairs_are_more_alike_than_its_score_promises_rises() -> None:
    alike = np.array([0.99, 0.98, 0.97, 0.1, 0.2, 0.3], np.float32)
    pairs = credit_pairs(FIRST, SECOND, alike, rank_images(SCORES))
    found = rearrange_labels(SCORES, [pairs], theta=1.0)
    # Image 0 has the three most alike pairs, 1 the ranks 0 and 1, 2 the rank 2.
    np.testing.assert_array_equal(found.labels, [0.6, 0.1, 0.4, 0.9])


def test_an_image_alone_keeps_its_target_while_others_move() -> None:
    scores = np.append(SCORES, 0.5)  # image 4 is the only one of its identity
    pairs = credit_pairs(FIRST, SECOND, SIMILARITY, rank_images(scores))
    targets = move_ranks(rank_images(scores), average_pair_ranks(pairs, 5), 0.7)
    assert targets[4] == 2 / 4


# --- Against the published rule, written down literally


def published_labels(
    scores: list[float],
    repeats: list[list[tuple[int, int, float]]],
    theta: float,
) -> list[float]:
    """Raw pair ranks added to raw image ranks, in plain Python and one pair at a time."""
    by_score = sorted(range(len(scores)), key=lambda image: scores[image])
    rank = {image: place for place, image in enumerate(by_score)}
    totals = dict.fromkeys(by_score, 0.0)
    for pairs in repeats:
        credited: dict[int, list[int]] = {}
        for place, (a, b, _) in enumerate(sorted(pairs, key=lambda pair: pair[2])):
            credited.setdefault(a if rank[a] < rank[b] else b, []).append(place)
        for image in by_score:
            target = float(rank[image])
            if image in credited:
                mean = sum(credited[image]) / len(credited[image])
                target = rank[image] + theta * (mean - rank[image])
            totals[image] += target
    new_order = sorted(by_score, key=lambda image: totals[image] / len(repeats))
    labels = [0.0] * len(scores)
    for image, donor in zip(new_order, by_score, strict=True):
        labels[image] = scores[donor]
    return labels


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), theta=st.floats(0.0005, 0.5), repeats=st.integers(1, 10))
def test_authors_scale_equals_the_published_rule(seed: int, theta: float, repeats: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 15, 40) / 16  # many ties
    ranks = rank_images(scores)
    lists, credited = [], []
    for _ in range(repeats):
        first = random.integers(0, 40, 300)
        second = (first + random.integers(1, 40, 300)) % 40
        alike = (random.integers(-20, 20, 300) / 20).astype(np.float32)
        lists.append(list(zip(first.tolist(), second.tolist(), alike.tolist(), strict=True)))
        credited.append(credit_pairs(first, second, alike, ranks))
    found = rearrange_labels(scores, credited, theta=theta, scale="authors").labels
    assert found.tolist() == published_labels(scores.tolist(), lists, theta)


def test_published_theta_on_the_common_scale() -> None:
    assert common_theta(0.001, 19 * 10**9 + 1, 10**9 + 1) == pytest.approx(0.018664, abs=5e-7)
    assert LabelOptions().theta is None  # the default of its scale
    assert DEFAULT_THETA == {"common": 0.0187, "authors": 0.001}


@pytest.mark.parametrize("theta", [0.001, 0.01, 0.1])
def test_authors_and_common_scale_order_images_with_pairs_alike(theta: float) -> None:
    faces = make_faces(20, 30)
    (pairs,) = draw_lists(faces, 1)
    before, found = rank_images(faces.scores), average_pair_ranks(pairs, len(faces.scores))
    same = common_theta(theta, len(pairs.image), len(before))
    paired = found.pairs > 0
    authors = move_ranks(before, found, theta, "authors")[paired]
    common = move_ranks(before, found, same)[paired]
    np.testing.assert_array_equal(np.argsort(authors), np.argsort(common))


def test_over_several_repeats_both_scales_nearly_agree() -> None:
    # Not exactly: an image may lack pairs in some repeats.
    faces = make_faces(20, 30)
    lists = draw_lists(faces, 3)
    same = common_theta(0.001, len(lists[0].image), len(faces.scores))
    authors = rearrange_labels(faces.scores, lists, theta=0.001, scale="authors")
    common = rearrange_labels(faces.scores, lists, theta=same)
    paired = authors.pairs > 0
    assert spearmanr(authors.after[paired], common.after[paired]).statistic > 0.9999


def test_authors_scale_lets_images_without_pairs_sink_and_the_common_scale_does_not() -> None:
    faces = make_faces(60, 50)
    lists = draw_lists(faces, 3)
    shift = {}
    for scale, theta in (("common", 0.0895), ("authors", 0.005)):
        found = rearrange_labels(faces.scores, lists, theta=theta, scale=scale)
        alone = found.pairs == 0
        assert alone.sum() >= 60  # the best of each person at least
        shift[scale] = np.mean((found.after - found.before)[alone]) / len(alone)
    assert abs(shift["common"]) < 0.002
    assert shift["authors"] < -0.002


# --- Properties


@settings(max_examples=20, deadline=None)
@given(
    theta=st.floats(0, 1),
    repeats=st.integers(1, 3),
    scale=st.sampled_from(["common", "authors"]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_the_multiset_of_scores_is_kept_bit_for_bit(
    theta: float, repeats: int, scale: str, dtype: type
) -> None:
    faces = make_faces(4, 12)
    scores = faces.scores.astype(dtype)
    labels = optimise(faces._replace(scores=scores), theta=theta, repeats=repeats, scale=scale)
    assert labels.dtype == dtype
    assert np.sort(labels).tobytes() == np.sort(scores).tobytes()


def test_theta_zero_changes_nothing() -> None:
    faces = make_faces(10, 20)
    for scale in ("common", "authors"):
        np.testing.assert_array_equal(optimise(faces, theta=0.0, scale=scale), faces.scores)


def test_theta_one_orders_images_with_pairs_by_their_pairs_alone() -> None:
    faces = make_faces(10, 20)
    lists = draw_lists(faces, 1)
    found = rearrange_labels(faces.scores, lists, theta=1.0)
    ranks = average_pair_ranks(lists[0], len(faces.scores))
    paired = ranks.pairs > 0
    by_label = np.argsort(found.after[paired])
    assert (np.diff(ranks.mean[paired][by_label]) >= 0).all()


def test_only_the_order_of_scores_and_similarities_matters() -> None:
    faces = make_faces(10, 20)
    images = group_images(faces.identities, faces.clusters)
    first, second, cosines = draw_pairs(images, faces.embeddings, 0)
    ranks = rank_images(faces.scores)

    def new_ranks(scores: np.ndarray, alike: np.ndarray) -> np.ndarray:
        pairs = credit_pairs(first, second, alike.astype(np.float32), rank_images(scores))
        return rearrange_labels(scores, [pairs], theta=0.3).after

    expected = new_ranks(faces.scores, cosines)
    wide = faces.scores.astype(np.float64)
    np.testing.assert_array_equal(new_ranks(np.exp(3 * wide) - 7, cosines), expected)
    # Powers of two and their sums are exact: no two similarities become equal.
    np.testing.assert_array_equal(new_ranks(wide, cosines * 1024), expected)
    np.testing.assert_array_equal(new_ranks(ranks.astype(float), cosines), expected)


def test_the_length_of_embeddings_does_not_matter() -> None:
    faces = make_faces(10, 20)
    lengths = 2.0 ** np.random.default_rng(1).integers(-6, 7, len(faces.scores))
    scaled = (faces.embeddings * lengths[:, None]).astype(np.float32)
    np.testing.assert_array_equal(
        optimise(faces._replace(embeddings=scaled), theta=0.3), optimise(faces, theta=0.3)
    )
    np.testing.assert_array_equal(
        cluster_identities(scaled, faces.identities, clusters=5),
        cluster_identities(faces.embeddings, faces.identities, clusters=5),
    )


def test_the_order_in_which_images_are_listed_does_not_matter() -> None:
    faces = make_faces(6, 20)
    faces = faces._replace(scores=np.round(faces.scores, 1))  # ties
    ids = np.array([f"person{p}/{i:03}.jpg" for i, p in enumerate(faces.identities)])
    options = LabelOptions(theta=0.2, clusters=5, repeats=2)

    def labels(order: np.ndarray) -> np.ndarray:
        embeddings, scores, identities = (column[order] for column in faces[:3])
        found = optimise_labels(embeddings, scores, identities, ids=ids[order], options=options)
        return found.labels[np.argsort(order)]

    as_listed = labels(np.arange(120))
    assert (as_listed != faces.scores).any()
    np.testing.assert_array_equal(as_listed, labels(np.random.default_rng(3).permutation(120)))


def test_the_seed_decides() -> None:
    faces = make_faces(10, 20)
    once = optimise(faces, theta=0.3, repeats=1, seed=5)
    np.testing.assert_array_equal(once, optimise(faces, theta=0.3, repeats=1, seed=5))
    assert (once != optimise(faces, theta=0.3, repeats=1, seed=6)).any()


def test_a_memory_mapped_feature_store_gives_the_labels_of_its_array(tmp_path: Path) -> None:
    faces = make_faces(10, 20)
    half = faces.embeddings.astype(np.float16)
    np.save(tmp_path / "embeddings.npy", half)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        optimise(faces._replace(embeddings=mapped)), optimise(faces._replace(embeddings=half))
    )


def test_identities_smaller_than_the_number_of_clusters() -> None:
    random = np.random.default_rng(0)
    sizes = {0: 1, 1: 2, 2: 7, 3: 30}
    identities = np.repeat(list(sizes), list(sizes.values()))
    embeddings = random.standard_normal((40, 16)).astype(np.float32)
    scores = random.random(40)
    found = optimise_labels(
        embeddings, scores, identities, options=LabelOptions(theta=0.5, clusters=20)
    )
    clusters = cluster_identities(embeddings, identities, clusters=20)
    assert [len(np.unique(clusters[identities == i])) for i in sizes] == [1, 2, 7, 20]
    assert found.pairs[0] == 0 and found.pairs[1:3].sum() == 2 * 10


def test_copies_of_one_picture_make_no_pairs() -> None:
    embeddings = np.repeat(np.random.default_rng(0).standard_normal((2, 16)), [10, 10], axis=0)
    identities = np.repeat([0, 1], 10)
    scores = np.linspace(0, 1, 20)
    found = optimise_labels(embeddings, scores, identities, options=LabelOptions(theta=0.5))
    assert found.pairs.sum() == 0
    np.testing.assert_array_equal(found.labels, scores)


# --- Faces whose true quality is known


def test_labels_come_closer_to_the_truth_as_theta_grows() -> None:
    faces = make_faces(40, 60, dimension=64)
    clusters = cluster_identities(faces.embeddings, faces.identities, clusters=10)
    known = faces._replace(clusters=clusters)
    agreement = [float(spearmanr(faces.scores, faces.truth).statistic)]
    for theta in (0.0187, 0.1, 0.3):
        labels = optimise(known, theta=theta, repeats=2)
        agreement.append(float(spearmanr(labels, faces.truth).statistic))
    assert agreement == sorted(agreement)
    assert 0.001 < agreement[1] - agreement[0] < 0.01  # the published strength moves little
    assert agreement[3] - agreement[0] > 0.04


# --- Labels for training


def test_labels_span_exactly_zero_to_one() -> None:
    labels = normalise_labels(np.random.default_rng(0).normal(-3, 17, 1000))
    assert labels.dtype == np.float32
    assert labels.min() == 0 and labels.max() == 1


def test_every_twentieth_image_of_the_sorted_list_is_for_validation() -> None:
    labels = np.random.default_rng(0).random(101)
    split = split_labels(labels)
    np.testing.assert_array_equal(labels[split.validation], np.sort(labels)[::20])
    assert sorted([*split.training, *split.validation]) == list(range(101))


# --- Refusals


def test_refusals_say_what_was_expected() -> None:
    faces = make_faces(2, 6)
    embeddings, scores, identities = faces[:3]
    with pytest.raises(RecordError, match=r"embeddings must be \(12, D\) floating, got \(12,\)"):
        optimise_labels(embeddings[:, 0], scores, identities)
    with pytest.raises(RecordError, match="scores must be finite"):
        optimise_labels(embeddings, np.full(12, np.nan), identities, clusters=faces.clusters)
    with pytest.raises(RecordError, match="scores must be floating"):
        rearrange_labels(np.arange(4), [])
    with pytest.raises(RecordError, match=r"identities must be \(12,\) integers"):
        optimise_labels(embeddings, scores, identities.astype(str), clusters=faces.clusters)
    with pytest.raises(ConfigError, match="image ids must differ"):
        optimise_labels(embeddings, scores, identities, ids=["a"] * 12)
    with pytest.raises(ConfigError, match=r"theta must be in 0\.\.1, got 1\.5"):
        optimise(faces, theta=1.5)
    with pytest.raises(ConfigError, match="scale must be common or authors, got 'raw'"):
        LabelOptions(scale="raw")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scale must be common or authors, got 'raw'"):
        rearrange_labels(scores, [], scale="raw")  # type: ignore[arg-type]
    with pytest.raises(
        RecordError, match=r"scores must be \(12,\) like the embeddings, got \(11,\)"
    ):
        optimise_labels(embeddings, scores[:11], identities, clusters=faces.clusters)
    with pytest.raises(ConfigError, match="repeats must be 1 or more"):
        LabelOptions(repeats=0)
    with pytest.raises(ConfigError, match=r"seed must be 0 to 2\^32 - 1, got -1"):
        LabelOptions(seed=-1)
    with pytest.raises(ConfigError, match="one repeat at least"):
        rearrange_labels(scores, [])
    with pytest.raises(RecordError, match="labels must differ"):
        normalise_labels(np.ones(5))
    with pytest.raises(ConfigError, match="step must be 2 or more"):
        split_labels(scores, step=1)
