"""Clustering of faces: K-means, agglomerative and DBSCAN on unit embeddings, scored by subject."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.cluster.vq import kmeans2
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .. import ConfigError
from ..models.clustering import bcubed, normalised_mutual_information
from ..models.fusion import Floats
from ..models.scores import Labels
from .report_record import Number, Row, Table

MOST_FACES = 20_000
"""Faces that are clustered at most: agglomerative clustering holds all their distances (1.6 GB)."""
_BLOCK = 2048


class ClusterSettings(NamedTuple):
    """eps: cosine distance within which DBSCAN takes two faces for neighbours.

    neighbours: faces, itself included, that make a face a core of a cluster.
    """

    eps: float = 0.5
    neighbours: int = 2
    seed: int = 0


def choose_faces(subjects: Labels, most: int = MOST_FACES, seed: int = 0) -> Labels:
    """Rows of whole subjects drawn in the seed's order until `most` faces are reached: ascending.

    Raises ConfigError when not even one subject fits.
    """
    if len(subjects) <= most:
        return np.arange(len(subjects))
    names, counts = np.unique(subjects, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    taken = names[order[np.cumsum(counts[order]) <= most]]
    if not len(taken):
        raise ConfigError(f"a subject has more than {most} faces: raise --most-faces")
    return np.flatnonzero(np.isin(subjects, taken))


def cluster_table(faces: Floats, subjects: Labels, settings: ClusterSettings) -> Table:
    """BCubed and NMI of three methods: faces (N, C) unit, subjects (N,).

    K-means and agglomerative clustering are told the number of subjects; DBSCAN is not.
    """
    count = len(np.unique(subjects))
    found = {
        "K-means": cluster_kmeans(faces, count, settings.seed),
        "agglomerative": cluster_agglomerative(faces, count),
        "DBSCAN": cluster_dbscan(faces, settings.eps, settings.neighbours),
    }
    rows = []
    for name, clusters in found.items():
        score = bcubed(clusters, subjects)
        number = len(np.unique(clusters[clusters >= 0])) + int((clusters < 0).sum())
        values = [score.f, score.precision, score.recall]
        cells: list[Number | str] = [Number(value) for value in values]
        cells.append(Number(normalised_mutual_information(clusters, subjects)))
        cells.append(Number(number, "count", better="neither"))
        rows.append(Row(name, cells))
    note = (
        f"{len(faces):,} faces of {count:,} subjects. K-means (k-means++ start, seed "
        f"{settings.seed}) and agglomerative (average linkage of cosine distances) are given the "
        f"number of subjects; DBSCAN: cosine distance at most {settings.eps:g}, "
        f"{settings.neighbours} neighbours; each face it calls noise is a cluster of its own. NMI "
        "divides by the arithmetic mean of the entropies."
    )
    columns = ["BCubed F", "precision", "recall", "NMI", "clusters"]
    return Table("Clustering", "method", columns, rows, note)


def cluster_kmeans(faces: Floats, count: int, seed: int) -> Labels:
    """Cluster numbers (N,) of Lloyd's iterations from a k-means++ start."""
    draw = np.random.default_rng(seed)
    wide = faces.astype(np.float64)
    labels = kmeans2(wide, count, iter=100, minit="++", missing="warn", rng=draw)[1]
    return np.asarray(labels, np.int64)


def cluster_agglomerative(faces: Floats, count: int) -> Labels:
    """Cluster numbers (N,) of average linkage cut at `count` clusters."""
    if len(faces) == 1:
        return np.zeros(1, np.int64)
    tree = linkage(faces.astype(np.float64), "average", "cosine")
    return np.asarray(fcluster(tree, count, "maxclust"), np.int64)


def cluster_dbscan(faces: Floats, eps: float, neighbours: int) -> Labels:
    """Cluster numbers (N,), -1 for noise (Ester et al. 1996), from cosines in blocks.

    A border face near cores of several clusters goes to that of its nearest core.
    """
    near = [np.zeros((2, 0), np.int64)]
    for at in range(0, len(faces), _BLOCK):
        rows, columns = np.nonzero(faces[at : at + _BLOCK] @ faces.T >= 1 - eps)
        near.append(np.stack([rows + at, columns]))
    first, second = np.concatenate(near, axis=1)
    core = np.bincount(first, minlength=len(faces)) >= neighbours
    linked = core[first] & core[second]
    graph = coo_array(
        (np.ones(int(linked.sum()), np.bool_), (first[linked], second[linked])),
        shape=(len(faces), len(faces)),
    )
    component = connected_components(graph, directed=False)[1]
    clusters = np.full(len(faces), -1, np.int64)
    clusters[core] = np.unique(component[core], return_inverse=True)[1]
    border = ~core[first] & core[second]
    for row in np.unique(first[border]):
        cores = second[border & (first == row)]
        clusters[row] = clusters[cores[np.argmax(faces[cores] @ faces[row])]]
    return clusters
