"""Mated pairs for quality-label optimisation: K-Means per identity, one partner per other cluster.

Section III-C of "Optimization-Based Improvement of Face Image Quality Assessment Techniques"
(Babnik, Damer, Struc, IWBF 2023). Pairs from different clusters differ more than pairs of frames
that are nearly the same; so many near-duplicates do not fill the list.

Embeddings are read one identity at a time: a memory-mapped float16 array of a feature store is
never copied whole. Everything is computed in the order (identity, cluster, image id), so the
result does not depend on the order in which images are listed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Floats
from .label_ranks import CreditedPairs, Integers, rank_ids
from .scores import check_labels

CLUSTERS = 20
"""C of the paper."""
LARGEST_MATRIX = 2048
"""Identities up to this size get the matrix of all cosines; it is faster than single ones."""
CHUNK = 4096
"""Pairs whose cosines are computed at a time for larger identities."""

Embeddings = npt.NDArray[np.floating[Any]]
Clusters = npt.NDArray[np.int32]


class MatedImages(NamedTuple):
    """Images sorted by identity, cluster and id.

    rows (N,) int64: their numbers. cluster_starts (M+1,): where each of M clusters begins in rows,
    and N. identity_starts (K+1,): where each of K identities begins in cluster_starts, and M.
    """

    rows: Integers
    cluster_starts: Integers
    identity_starts: Integers

    @property
    def pairs(self) -> int:
        """L: every image is drawn once with each other cluster of its identity."""
        images = np.diff(self.cluster_starts[self.identity_starts])
        return int((images * (np.diff(self.identity_starts) - 1)).sum())


class Pairs(NamedTuple):
    """Drawn pairs (L,): the numbers int64 of both images, and the cosine of their embeddings."""

    first: Integers
    second: Integers
    similarity: Floats


def cluster_identities(
    embeddings: Embeddings,
    identities: npt.ArrayLike,
    *,
    ids: npt.ArrayLike | None = None,
    clusters: int = CLUSTERS,
    seed: int = 0,
) -> Clusters:
    """K-Means of each identity's unit embeddings: the cluster (N,) int32 of every image.

    embeddings: (N, D) floating, not normalised, may be memory-mapped. identities: (N,) integers.
    ids: (N,) distinct, the order K-Means sees images in. An identity has at most as many clusters
    as distinct images, numbered from 0; one with a single image has cluster 0.
    k-means++ starts from `seed` in every identity, as in the published code (the paper's text
    says random images). Needs scikit-learn (the extra "train").
    Raises RecordError on wrong shapes or an embedding of length zero, ConfigError for fewer than
    two clusters or when scikit-learn is missing.
    """
    check_clusters(clusters)
    try:
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "clustering needs scikit-learn: pip install 'facestream[train]', or pass clusters"
        ) from error
    _check_embeddings(embeddings, len(np.asarray(identities)))
    single = np.zeros(len(embeddings), np.int32)
    images = group_images(identities, single, ids)
    found = single
    # Threads would add up distances in any order, so that clusters could differ from run to run;
    # an identity's few hundred images are faster on one anyway.
    with threadpool_limits(1), warnings.catch_warnings():
        # Images that are equal but for rounding may leave a cluster empty, which does no harm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for start, stop in zip(images.cluster_starts[:-1], images.cluster_starts[1:], strict=True):
            rows = images.rows[start:stop]
            unit = _unit_rows(embeddings, rows)
            count = min(clusters, len({row.tobytes() for row in unit}))
            if count > 1:
                means = KMeans(count, n_init=1, random_state=seed)
                found[rows] = means.fit(unit).labels_
    return found


def check_clusters(clusters: int) -> None:
    """Raise ConfigError for fewer than two clusters."""
    if clusters < 2:
        raise ConfigError(f"clusters must be 2 or more, got {clusters}: pairs join two clusters")


def group_images(
    identities: npt.ArrayLike, clusters: npt.ArrayLike, ids: npt.ArrayLike | None = None
) -> MatedImages:
    """Sort images by identity, cluster and id.

    identities, clusters: (N,) integers; the numbers of clusters need not be consecutive, and
    two identities may use the same ones. ids: (N,) distinct, or None for the images' own order.
    Raises RecordError on other shapes, ConfigError when an id is repeated.
    """
    count = len(np.asarray(identities))
    people = check_labels("identities", identities, count)
    groups = check_labels("clusters", clusters, count)
    rows = np.lexsort((rank_ids(ids, count), groups, people)).astype(np.int64)
    people, groups = people[rows], groups[rows]
    new_person = np.append(True, people[1:] != people[:-1])[:count]
    new_group = np.append(True, groups[1:] != groups[:-1])[:count] | new_person
    cluster_starts = np.append(np.flatnonzero(new_group), count)
    identity_starts = np.append(np.flatnonzero(new_person[cluster_starts[:-1]]), new_group.sum())
    return MatedImages(rows, cluster_starts, identity_starts)


def draw_pairs(images: MatedImages, embeddings: Embeddings, seed: int, repeat: int = 0) -> Pairs:
    """For every image one image, drawn uniformly, of each other cluster of its identity.

    embeddings: (N, D) floating, may be memory-mapped. Takes 20 bytes per pair; see
    `draw_credited_pairs` for large lists. Raises RecordError as `cluster_identities` does.
    """
    _check_embeddings(embeddings, len(images.rows))
    drawn = list(_draw_by_identity(images, embeddings, seed, repeat))
    nobody = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Pairs(*(np.concatenate(parts) for parts in zip(nobody, *drawn, strict=True)))


def draw_credited_pairs(
    images: MatedImages, embeddings: Embeddings, ranks: Integers, seed: int, repeat: int = 0
) -> CreditedPairs:
    """The pairs of `draw_pairs`, each credited to its lower-quality member: 8 bytes per pair.

    ranks: (N,) from `label_ranks.rank_images`. Raises RecordError as `draw_pairs` does.
    """
    _check_embeddings(embeddings, len(images.rows))
    image = np.empty(images.pairs, np.int32)
    similarity = np.empty(images.pairs, np.float32)
    start = 0
    for first, second, cosines in _draw_by_identity(images, embeddings, seed, repeat):
        span = slice(start, start + len(first))
        image[span] = np.where(ranks[first] < ranks[second], first, second)
        similarity[span] = cosines
        start = span.stop
    return CreditedPairs(image, similarity)


def _draw_by_identity(
    images: MatedImages, embeddings: Embeddings, seed: int, repeat: int
) -> Iterator[Pairs]:
    """The pairs of one identity after the other; identities with one cluster have none."""
    random = np.random.default_rng((seed, repeat))
    for begin, end in zip(images.identity_starts[:-1], images.identity_starts[1:], strict=True):
        if end - begin < 2:
            continue
        starts = images.cluster_starts[begin : end + 1]
        rows = images.rows[starts[0] : starts[-1]]
        first, second = _draw_partners(starts - starts[0], random)
        cosines = _cosines(_unit_rows(embeddings, rows), first, second)
        yield Pairs(rows[first], rows[second], cosines)


def _draw_partners(starts: Integers, random: np.random.Generator) -> tuple[Integers, Integers]:
    """Pairs among n images that lie cluster by cluster; `starts` (C+1,): where clusters begin."""
    sizes = np.diff(starts)
    own = np.repeat(np.arange(len(sizes)), sizes)
    drawn = (random.random((len(own), len(sizes))) * sizes).astype(np.int64)  # (n, C)
    other = own[:, None] != np.arange(len(sizes))
    return np.nonzero(other)[0], (starts[:-1] + drawn)[other]


def _cosines(unit: Floats, first: Integers, second: Integers) -> Floats:
    if len(unit) <= LARGEST_MATRIX:
        return np.asarray((unit @ unit.T)[first, second])
    found = np.empty(len(first), np.float32)
    for start in range(0, len(first), CHUNK):
        span = slice(start, start + CHUNK)
        found[span] = np.einsum("ld,ld->l", unit[first[span]], unit[second[span]])
    return found


def _unit_rows(embeddings: Embeddings, rows: Integers) -> Floats:
    """Embeddings of these rows in float32, scaled to length 1."""
    picked = embeddings[rows].astype(np.float32)
    norms = np.linalg.norm(picked, axis=1)
    check_lengths(norms, rows)
    return np.asarray(picked / norms[:, None])


def check_lengths(norms: npt.NDArray[np.floating], rows: Integers) -> None:
    """Raise RecordError that names the first of these rows whose norm (n,) is 0 or not finite."""
    good = np.isfinite(norms) & (norms > 0)
    if not good.all():
        raise RecordError(
            f"embedding {rows[~good][0]} has length {norms[~good][0]}: leave out faces that were "
            "not embedded"
        )


def _check_embeddings(embeddings: Embeddings, count: int) -> None:
    shape = embeddings.shape
    if len(shape) != 2 or shape[0] != count or not np.issubdtype(embeddings.dtype, np.floating):
        raise RecordError(
            f"embeddings must be ({count}, D) floating, got {shape} {embeddings.dtype}: pass one "
            "row per image"
        )
