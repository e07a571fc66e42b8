"""Ranks of images and of mated pairs: the arithmetic of quality-label optimisation.

"Optimization-Based Improvement of Face Image Quality Assessment Techniques" (Babnik, Damer, Struc,
IWBF 2023), section III-C. Every function is pure and works on whole arrays; a repeat over 60
million pairs takes 16 bytes per pair.

Ties are broken in one way throughout: images by (value, image id), pairs by (similarity, place in
the list), and equal targets keep the order the images had before.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles, Floats
from .scores import check_labels, check_scores

Integers = npt.NDArray[np.int64]
Scale = Literal["common", "authors"]
Score = TypeVar("Score", bound=np.floating[Any])

DEFAULT_THETA: dict[Scale, float] = {"common": 0.0187, "authors": 0.001}
"""The paper's 0.001, and what it amounts to on the common scale (`common_theta`)."""
CHUNK = 1 << 20
"""Pairs that are looked up at a time."""
MOST_PAIRS = 1 << 32
"""A pair's place in the list takes 32 bits of its sorting key."""
DISPLACEMENT_EDGES = (-1, -0.1, -0.03, -0.01, -0.003, -0.001, 0.001, 0.003, 0.01, 0.03, 0.1, 1)


class CreditedPairs(NamedTuple):
    """L mated pairs, each reduced to what the optimisation reads.

    image (L,) int32: number of the pair's lower-quality member, in 0..N-1. similarity (L,) float32:
    cosine of the two embeddings (Eq. 1), or anything that grows with it.
    """

    image: npt.NDArray[np.int32]
    similarity: Floats


class PairRanks(NamedTuple):
    """For each of N images, over the pairs credited to it.

    mean (N,) float64: mean rank of the pairs, in 0..L-1, NaN where there is none (Eq. 2, ids_I).
    pairs (N,) int64: how many there are.
    """

    mean: Doubles
    pairs: Integers


def rank_ids(ids: npt.ArrayLike | None, count: int) -> Integers:
    """Place of every image when sorted by id: (count,), a permutation of 0..count-1.

    ids: (count,) distinct strings or integers; None takes the order of the images themselves.
    Raises RecordError on another shape, ConfigError when an id is repeated.
    """
    if ids is None:
        return np.arange(count)
    array = np.asarray(ids)
    if array.shape != (count,):
        raise RecordError(f"ids must be ({count},), got {array.shape}: pass one id per image")
    order = np.argsort(array, kind="stable")
    repeated = np.flatnonzero(array[order[1:]] == array[order[:-1]])
    if len(repeated):
        raise ConfigError(
            f"image ids must differ, got {array[order[repeated[0]]]!r} twice: list every image once"
        )
    return _invert(order)


def rank_images(scores: npt.ArrayLike, ids: npt.ArrayLike | None = None) -> Integers:
    """Rank of every image by quality (N,) int64: 0 is the lowest, ties broken by image id.

    scores: (N,) finite quality scores, higher is better. ids: as `rank_ids` takes them.
    Raises RecordError on a wrong shape or a score that is not finite.
    """
    values = check_scores("scores", scores)
    return _invert(np.lexsort((rank_ids(ids, len(values)), values)))


def credit_pairs(
    first: npt.ArrayLike, second: npt.ArrayLike, similarity: npt.ArrayLike, ranks: Integers
) -> CreditedPairs:
    """Credit each pair to its lower-quality member: q(I_i, I_j) = min(q_i, q_j) (section III-C).

    first, second: (L,) numbers of images in 0..N-1. similarity: (L,) float32. ranks: (N,) from
    `rank_images`. Raises RecordError on other shapes, numbers that are no integers or out of range,
    or an image that is paired with itself.
    """
    a, b, s = np.asarray(first), np.asarray(second), np.asarray(similarity)
    if s.ndim != 1 or not a.shape == b.shape == s.shape:
        raise RecordError(
            f"pairs must be three arrays (L,), got {a.shape}, {b.shape} and {s.shape}: pass the "
            "two images and the similarity of every pair"
        )
    a, b = check_labels("first", a, len(s)), check_labels("second", b, len(s))
    members = np.concatenate((a, b))
    if len(members) and not (members.min() >= 0 and members.max() < len(ranks)):
        raise RecordError(
            f"pairs must name images in 0..{len(ranks) - 1}, got {members.min()}..{members.max()}"
        )
    if (a == b).any():
        raise RecordError(f"a pair needs two images, got image {a[a == b][0]} with itself")
    return CreditedPairs(np.where(ranks[a] < ranks[b], a, b).astype(np.int32), s)


def average_pair_ranks(pairs: CreditedPairs, count: int) -> PairRanks:
    """Sort all pairs by similarity; for each of `count` images average its pairs' ranks (Eq. 2).

    Raises RecordError when similarities are not (L,) finite float32 or an image is out of range,
    ConfigError for more than 2^32 pairs.
    """
    image, similarity = pairs
    if similarity.dtype != np.float32 or similarity.shape != image.shape:
        raise RecordError(
            f"similarity must be {image.shape} float32, got {similarity.shape} {similarity.dtype}"
        )
    if len(image) > MOST_PAIRS:
        raise ConfigError(f"at most 2^32 pairs per repeat, got {len(image):,}: use fewer clusters")
    if len(image) and not 0 <= image.min() <= image.max() < count:
        raise RecordError(
            f"pairs must name images in 0..{count - 1}, got {image.min()}..{image.max()}"
        )
    keys = _sorting_keys(similarity)
    keys.sort()
    sums, counts = np.zeros(count), np.zeros(count, np.int64)
    for start in range(0, len(keys), CHUNK):
        places = (keys[start : start + CHUNK] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        images = image[places]
        # Sums of ranks stay below 2^53, so that float64 holds them exactly.
        ranks = np.arange(start, start + len(images), dtype=np.float64)
        sums += np.bincount(images, ranks, count)
        counts += np.bincount(images, minlength=count)
    mean = np.full(count, np.nan)
    np.divide(sums, counts, out=mean, where=counts > 0)
    return PairRanks(mean, counts)


def _sorting_keys(similarity: Floats) -> npt.NDArray[np.uint64]:
    """One integer per pair that sorts by (similarity, place in the list).

    Sorting these in place takes a third of the time of a stable argsort and half its memory.
    """
    keys = np.empty(len(similarity), np.uint64)
    for start in range(0, len(keys), CHUNK):
        part = similarity[start : start + CHUNK]
        if not np.isfinite(part).all():
            raise RecordError("similarity must be finite: leave out faces that were not embedded")
        # Adding zero makes -0 equal to 0. IEEE floats compare like integers once the sign bit of
        # positive numbers and all bits of negative ones are flipped.
        bits = (part + np.float32(0)).view(np.uint32)
        bits ^= np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
        places = np.arange(start, start + len(part), dtype=np.uint64)
        keys[start : start + CHUNK] = bits.astype(np.uint64) << np.uint64(32) | places
    return keys


def move_ranks(
    ranks: Integers, pair_ranks: PairRanks, theta: float, scale: Scale = "common"
) -> Doubles:
    """Eq. 3: the rank (N,) float64 each image should have, moved by theta towards its pairs.

    ranks: (N,) from `rank_images`. "common" divides image ranks by N-1 and pair ranks by L-1, so
    that both lie in 0..1, and returns (1-theta) u + theta v. "authors" returns u + theta (v-u) of
    the undivided ranks, as the published code does: there v is about 19 times as long as u.
    An image without a credited pair keeps u. Raises ConfigError for another scale, or unless theta
    is in 0..1.
    """
    check_strength(theta, scale)
    paired = pair_ranks.pairs > 0
    u, v = ranks.astype(np.float64), pair_ranks.mean
    if scale == "authors":
        return np.where(paired, u + theta * (v - u), u)
    u /= max(len(u) - 1, 1)
    v = v / max(int(pair_ranks.pairs.sum()) - 1, 1)
    return np.where(paired, (1 - theta) * u + theta * v, u)


def check_strength(theta: float | None, scale: Scale) -> float:
    """theta, or the published setting where it is None: 0.0187 on the common scale, else 0.001.

    Raises ConfigError for another scale, or unless theta is in 0..1.
    """
    if scale not in DEFAULT_THETA:
        raise ConfigError(f"scale must be common or authors, got {scale!r}")
    chosen = DEFAULT_THETA[scale] if theta is None else theta
    if not 0 <= chosen <= 1:
        raise ConfigError(f"theta must be in 0..1, got {chosen}: 0 leaves the labels as they are")
    return chosen


def common_theta(theta: float, pairs: int, images: int) -> float:
    """The theta on the common scale that orders images with pairs as `theta` on the authors'.

    theta' = r theta / (1 - theta + r theta) with r = (L-1)/(N-1), from Eq. 3 divided by its sum of
    weights. With r = 19, the published 0.001 is 0.018664. Exact for one repeat.

    Raises ConfigError unless there are at least two pairs and two images.
    """
    if pairs < 2 or images < 2:
        raise ConfigError(f"scales differ from 2 pairs and 2 images on, got {pairs} and {images}")
    r = (pairs - 1) / (images - 1)
    return r * theta / (1 - theta + r * theta)


def reorder(ranks: Integers, targets: Doubles) -> Integers:
    """Rank (N,) of every image by target; equal targets keep the order of `ranks`."""
    by_quality = _invert(ranks)
    return _invert(by_quality[np.argsort(targets[by_quality], kind="stable")])


def redistribute(
    scores: npt.NDArray[Score], before: Integers, after: Integers
) -> npt.NDArray[Score]:
    """Hand the scores (N,) out in the new order: the multiset of scores stays, bit for bit.

    before, after: (N,) the images' ranks by score and by target ("Final steps", section III-C).
    """
    return scores[_invert(before)][after]


def count_displacements(
    before: Integers, after: Integers, edges: npt.ArrayLike = DISPLACEMENT_EDGES
) -> Integers:
    """How many images moved how far: counts (E-1,) between ascending `edges` (E,).

    A displacement is (after - before)/(N-1), in -1..1, above 0 when the label rose. A bin holds
    its lower edge; the last one holds both.
    """
    moved = (after - before) / max(len(before) - 1, 1)
    return np.histogram(moved, np.asarray(edges, np.float64))[0].astype(np.int64)


def _invert(order: npt.NDArray[np.integer]) -> Integers:
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.arange(len(order))
    return inverse
