"""SDD-FIQA's quality labels: how far a face's genuine cosines lie from its impostor cosines.

Ou, Chen, Zhang, Huang, Li, Li, Li, Cao, Wang, "SDD-FIQA: Unsupervised Face Image Quality Assessment
with Similarity Distribution Distance", CVPR 2021. For each image: cosines to m images of its own
identity and to m images of others, the Wasserstein distance of both sets of m numbers, the mean of
K such draws, brought to 0..100 over all images. The distance has no sign: an image that is less
like its own identity than like others, as a wrong label makes it, also gets a high label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles
from .label_pairs import Embeddings, check_lengths
from .label_ranks import Integers
from .scores import check_labels

PAIRS = 24
"""m of the paper."""
REPEATS = 12
"""K of the paper."""
CHUNK = 64
"""Images whose cosines are taken at a time: 6 MB of 512-d float32 embeddings at m = 24."""


class SddLabels(NamedTuple):
    """Labels of M images.

    rows (M,) int64 ascending: which images have one. labels (M,) float64, from 0 to 100, both
    reached. singles: how many images have none, being the only ones of their identity; they serve
    as impostors all the same.
    """

    rows: Integers
    labels: Doubles
    singles: int


class _Blocks(NamedTuple):
    """Images in the order of identities: where each (N,) stands, where its identity begins and how
    many images it has."""

    order: Integers
    start: Integers
    size: Integers


def sdd_labels(
    embeddings: Embeddings,
    identities: npt.ArrayLike,
    *,
    pairs: int = PAIRS,
    repeats: int = REPEATS,
    seed: int = 0,
) -> SddLabels:
    """Quality labels of embeddings (N, D) floating, any length, may be memory-mapped.

    identities: (N,) integers. pairs: m. repeats: K. The same seed and order of images give the same
    labels.
    Genuine partners of an image are drawn without replacement, and evenly where the identity has
    fewer than m others: each of n comes m / n times, up to rounding. Impostors are drawn with
    replacement from all images of other identities. Memory: about 80 bytes per image and CHUNK
    times 2 m embeddings. Takes K * N * 2 m cosines.

    Raises RecordError on wrong shapes or an embedding of length zero; ConfigError for fewer than
    one pair or repeat, or when no label can be given: a single identity, no identity with two
    images, or distances that are all equal.
    """
    if pairs < 1 or repeats < 1:
        raise ConfigError(f"pairs and repeats must be 1 or more, got {pairs} and {repeats}")
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
        raise RecordError(
            f"embeddings must be (N, D) floating, got {embeddings.shape} {embeddings.dtype}"
        )
    blocks = _sort_identities(check_labels("identities", identities, len(embeddings)))
    places = np.flatnonzero((blocks.size > 1) & (blocks.size < len(embeddings)))
    if not len(places):
        raise ConfigError(
            "SDD-FIQA needs two identities, one of them with two images: "
            f"got {len(np.unique(blocks.start))} identities of {len(embeddings)} images"
        )
    norms = _measure_norms(embeddings)
    total = np.zeros(len(places))
    for repeat in range(repeats):
        total += _distances(embeddings, norms, blocks, places, pairs, (seed, repeat))
    rows = blocks.order[places]
    ascending = np.argsort(rows)
    labels = scale_labels(total[ascending] / repeats)
    return SddLabels(rows[ascending], labels, len(embeddings) - len(rows))


def wasserstein(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Doubles:
    """1-D Wasserstein distances (...,) of rows of as many samples (..., m) each, in their unit.

    Of equally many samples that is the mean distance of the sorted ones.
    """
    gaps = np.sort(first, axis=-1).astype(np.float64) - np.sort(second, axis=-1)
    return np.asarray(np.abs(gaps).mean(axis=-1))


def scale_labels(distances: npt.ArrayLike) -> Doubles:
    """Distances (M,) brought to 0..100 in float64, both ends reached.

    Raises ConfigError unless there are two different finite ones.
    """
    values = np.asarray(distances, np.float64)
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if not low < high or not np.isfinite(high - low):
        raise ConfigError(
            f"labels need different finite distances, got {low} to {high}: give more images"
        )
    return 100.0 * ((values - low) / (high - low))


def _sort_identities(identities: npt.NDArray[np.integer]) -> _Blocks:
    order = np.argsort(identities, kind="stable")
    _, starts, counts = np.unique(identities[order], return_index=True, return_counts=True)
    return _Blocks(order, np.repeat(starts, counts), np.repeat(counts, counts))


def _distances(
    embeddings: Embeddings,
    norms: Doubles,
    blocks: _Blocks,
    places: Integers,
    pairs: int,
    seed: tuple[int, int],
) -> Doubles:
    """One draw: the distance of the images at these places of the order."""
    random = np.random.default_rng(seed)
    # Shuffle each identity: then any fixed pattern of partners is a random choice.
    keys = random.random(len(blocks.order))
    order = blocks.order[np.lexsort((keys, blocks.start))]
    place_of = np.empty_like(order)
    place_of[order] = np.arange(len(order))
    found = np.empty(len(places))
    for begin in range(0, len(places), CHUNK):
        images = blocks.order[places[begin : begin + CHUNK]]
        place = place_of[images]
        start, size = blocks.start[place, None], blocks.size[place, None]
        partners = np.concatenate(
            [
                order[_draw_genuine(place[:, None], start, size, pairs, random)],
                order[_draw_impostors(start, size, pairs, len(order), random)],
            ],
            axis=1,
        )  # (chunk, 2 m)
        cosines = _cosines(embeddings, norms, images, partners)
        found[begin : begin + CHUNK] = wasserstein(cosines[:, :pairs], cosines[:, pairs:])
    return found


def _draw_genuine(
    place: Integers, start: Integers, size: Integers, pairs: int, random: np.random.Generator
) -> Integers:
    """Places (n, m) of other images of the same identity, evenly spread; arguments (n, 1)."""
    offset = random.random((len(place), 1))
    share = (offset + np.arange(pairs) / pairs) % 1.0
    ahead = 1 + np.minimum((share * (size - 1)).astype(np.int64), size - 2)
    return np.asarray(start + (place - start + ahead) % size)


def _draw_impostors(
    start: Integers, size: Integers, pairs: int, images: int, random: np.random.Generator
) -> Integers:
    """Places (n, m) of images outside of start .. start + size, uniform; arguments (n, 1)."""
    others = images - size
    drawn = random.random((len(start), pairs))
    place = np.minimum((drawn * others).astype(np.int64), others - 1)
    return np.asarray(place + size * (place >= start))


def _cosines(
    embeddings: Embeddings, norms: Doubles, images: Integers, partners: Integers
) -> Doubles:
    """Cosines (n, k) of images (n,) to partners (n, k)."""
    own = embeddings[images].astype(np.float32)  # (n, D)
    theirs = embeddings[partners].astype(np.float32, copy=False)  # (n, k, D)
    products = np.matmul(theirs, own[:, :, None])[:, :, 0]
    return np.asarray(products / (norms[images, None] * norms[partners]))


def _measure_norms(embeddings: Embeddings) -> Doubles:
    norms = np.empty(len(embeddings))
    for begin in range(0, len(embeddings), CHUNK):
        wide = embeddings[begin : begin + CHUNK].astype(np.float64)
        norms[begin : begin + CHUNK] = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    check_lengths(norms, np.arange(len(norms)))
    return norms
