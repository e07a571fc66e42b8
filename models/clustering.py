"""How well clusters match subjects: BCubed precision, recall and F; normalised mutual information.

Both are exact and need no matrix of N x N pairs, only the counts of (cluster, subject).
A negative cluster number means "in no cluster" (DBSCAN's noise): such an item is a cluster of its
own. Taking all noise as one cluster, as plain NMI on DBSCAN's labels does, rewards or punishes
noise by accident.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError
from .fusion import Doubles
from .scores import Labels, check_labels


class BCubed(NamedTuple):
    """Means over items, 0..1; `f` is the harmonic mean of the two means."""

    precision: float
    recall: float
    f: float


def bcubed(clusters: npt.ArrayLike, subjects: npt.ArrayLike) -> BCubed:
    """BCubed (Amigo et al. 2009): clusters (N,), subjects (N,) integers; names do not matter.

    Precision of an item: share of its cluster that shows its subject, itself included. Recall:
    share of its subject that lies in its cluster. Both are averaged over items, and F is taken
    of the averages, as in the face clustering literature (not the average of items' F).
    Raises ConfigError for no items, RecordError for shapes that do not fit.
    """
    joint, cluster_of, subject_of = _count_cells(clusters, subjects)
    cluster_sizes = np.bincount(cluster_of, joint)
    subject_sizes = np.bincount(subject_of, joint)
    total = joint.sum()
    precision = float((joint**2 / cluster_sizes[cluster_of]).sum() / total)
    recall = float((joint**2 / subject_sizes[subject_of]).sum() / total)
    return BCubed(precision, recall, 2 * precision * recall / (precision + recall))


def normalised_mutual_information(
    clusters: npt.ArrayLike,
    subjects: npt.ArrayLike,
    mean: Literal["arithmetic", "geometric"] = "arithmetic",
) -> float:
    """NMI = I(clusters; subjects) / mean of the two entropies: 0..1.

    clusters (N,), subjects (N,) integers. "arithmetic" is scikit-learn's default since 0.22,
    "geometric" the one before, which older papers used. 1 when both put all items together, 0
    when one alone does. Raises as `bcubed` does.
    """
    joint, cluster_of, subject_of = _count_cells(clusters, subjects)
    p = joint / joint.sum()
    by_cluster = np.asarray(np.bincount(cluster_of, p), np.float64)
    by_subject = np.asarray(np.bincount(subject_of, p), np.float64)
    entropies = _entropy(by_cluster), _entropy(by_subject)
    if len(by_cluster) == len(by_subject) == 1:
        return 1.0
    if len(by_cluster) == 1 or len(by_subject) == 1:
        return 0.0
    shared = float((p * np.log(p / (by_cluster[cluster_of] * by_subject[subject_of]))).sum())
    if mean == "arithmetic":
        scale = sum(entropies) / 2
    elif mean == "geometric":
        scale = float(np.sqrt(entropies[0] * entropies[1]))
    else:
        raise ConfigError(f"mean must be arithmetic or geometric, got {mean}")
    return min(1.0, max(0.0, shared / scale))


def _entropy(p: Doubles) -> float:
    return float(-(p * np.log(p)).sum())


def _count_cells(
    clusters: npt.ArrayLike, subjects: npt.ArrayLike
) -> tuple[Doubles, Labels, Labels]:
    """Items (K,) float64 in each (cluster, subject) that occurs, and its two numbers from 0."""
    count = len(np.asarray(subjects))
    found = check_labels("clusters", clusters, count).astype(np.int64)
    truth = check_labels("subjects", subjects, count)
    if not count:
        raise ConfigError("clustering metrics need items, got none: check the list of faces")
    alone = found < 0
    found[alone] = found.max() + 1 + np.arange(alone.sum())
    cluster_of = np.unique(found, return_inverse=True)[1]
    names, subject_of = np.unique(truth, return_inverse=True)
    cells, joint = np.unique(cluster_of * len(names) + subject_of, return_counts=True)
    return joint.astype(np.float64), cells // len(names), cells % len(names)
