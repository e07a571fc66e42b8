"""Where anchors come from: real faces, synthetic faces, or the weights of a classification layer.

Liu et al., "Inter-class Discrepancy Alignment for Face Recognition", section 3.2 and table 4,
compare the three: "real-db" is one face per identity of the training set, "fake-db" are faces of
nobody from a generator, and the weights are the class centres that training has learned. They take
50,000 of each and find little difference: who the anchors show does not matter, only that they lie
as faces do.

Every function takes count (at most so many anchors, drawn at random; None for all), seed, and k and
tau of `Anchors`. The version names the source and is a hash of all that a density depends on.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .ida import Anchors, Integers

_DIGITS = 12


def anchors_from_faces(
    embeddings: npt.NDArray[np.floating],
    identities: npt.NDArray[np.integer],
    *,
    count: int | None = None,
    seed: int = 0,
    k: int = 10,
    tau: float = 1.0,
) -> Anchors:
    """Real faces, one per identity, drawn at random: embeddings (N, C) of any length.

    identities (N,): whose each is. The anchors keep them, so that faces of the same people can be
    measured with their own anchors left out: `Anchors.density(vectors, identities)`.
    Raises RecordError when shapes do not fit, an embedding has no direction or fewer than k
    identities are left; ConfigError for count < 1.
    """
    if embeddings.ndim != 2 or identities.shape != (len(embeddings),):
        raise RecordError(
            "embeddings must be (N, C) and identities (N,), "
            f"got {embeddings.shape} and {identities.shape}"
        )
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(embeddings))
    people, first = np.unique(identities[order], return_index=True)
    chosen = _choose(draw, len(people), count)
    return _anchors("real", embeddings[order[first[chosen]]], people[chosen], k, tau)


def anchors_from_synthetic(
    embeddings: npt.NDArray[np.floating],
    *,
    count: int | None = None,
    seed: int = 0,
    k: int = 10,
    tau: float = 1.0,
) -> Anchors:
    """Generated faces: embeddings (N, C) of any length, each of somebody who does not exist.

    They show nobody, so there is no privacy to protect and no identity to leave out.
    Raises as `anchors_from_faces` does.
    """
    if embeddings.ndim != 2:
        raise RecordError(f"embeddings must be (N, C), got {embeddings.shape}")
    chosen = _choose(np.random.default_rng(seed), len(embeddings), count)
    return _anchors("synthetic", embeddings[chosen], None, k, tau)


def anchors_from_classes(
    weights: npt.NDArray[np.floating],
    *,
    count: int | None = None,
    seed: int = 0,
    k: int = 10,
    tau: float = 1.0,
) -> Anchors:
    """The class vectors of a trained classification layer: weights (classes, C) of any length.

    The identity of an anchor is the number of its class, so that faces of the training set can be
    measured with their own class left out. Raises as `anchors_from_faces` does.
    """
    if weights.ndim != 2:
        raise RecordError(f"class weights must be (classes, C), got {weights.shape}")
    chosen = _choose(np.random.default_rng(seed), len(weights), count)
    return _anchors("classes", weights[chosen], chosen, k, tau)


def _choose(draw: np.random.Generator, available: int, count: int | None) -> Integers:
    """Ascending numbers of what is taken out of 0 .. available - 1."""
    if count is not None and count < 1:
        raise ConfigError(f"count of anchors must be at least 1, got {count}")
    if count is None or count >= available:
        return np.arange(available)
    return np.sort(draw.choice(available, count, replace=False))


def _anchors(
    source: str,
    rows: npt.NDArray[np.floating],
    identities: npt.NDArray[np.integer] | None,
    k: int,
    tau: float,
) -> Anchors:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise RecordError("embeddings must be finite and not zero, got one without a direction")
    vectors = (rows / lengths).astype(np.float32)
    people = None if identities is None else identities.astype(np.int64)
    digest = hashlib.sha256(f"{k} {tau!r} {vectors.shape}".encode())
    digest.update(vectors.tobytes())
    if people is not None:
        digest.update(people.tobytes())
    return Anchors(vectors, f"{source}-{digest.hexdigest()[:_DIGITS]}", k, tau, people)
