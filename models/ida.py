"""IDA, inter-class discrepancy alignment (Liu et al.): scores aligned by how densely faces lie.

With s_i the k largest cosines between an embedding and anchor embeddings (its support set),

    F(f)      = 1 / sum_i exp(tau s_i)                            local inter-class discrepancy
    DAO(1, 2) = exp(tau cos) (F(f1) + F(f2))                      equation 4
    r(f)      = log mean_i exp(tau s_i),  so F = exp(-r) / k
    log DAO   = tau cos - (r1 + r2)/2 + log 2 cosh((r1 - r2)/2) - log k

Everything is kept as r, which cannot overflow. Decisions use the log of DAO in cosine units,
c~ = (log DAO + log(k/2)) / tau, which ranks exactly as DAO does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from .. import RecordError
from .fusion import Doubles, Floats

_BLOCK = 1 << 24  # cosines held at once: 64 MiB


@dataclass(frozen=True, eq=False)
class Anchors:
    """The support set's source, and the numbers a density depends on.

    vectors: (A, C) float32, unit rows, none of them of a person who may be probed or enrolled.
    version: stored beside every density that was computed with them; densities of different
    versions must not meet in one score. Raises RecordError when a value does not fit.
    """

    vectors: Floats
    version: str
    k: int = 10
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Check rows, k and tau."""
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            raise RecordError(
                f"anchors must be (A, C) float32, got {self.vectors.shape} {self.vectors.dtype}"
            )
        if not 1 <= self.k <= len(self.vectors):
            raise RecordError(
                f"k must be between 1 and the number of anchors ({len(self.vectors)}), got {self.k}"
            )
        if not 0.0 < self.tau < np.inf:
            raise RecordError(f"tau must be a positive number, got {self.tau}")
        check_unit_rows("anchors", self.vectors)

    def density(self, vectors: Floats) -> Doubles:
        """r (N,) float64 of unit vectors (N, C): the soft mean of the k nearest anchors' cosines.

        r / tau lies in [-1, 1], between the mean (tau -> 0) and the largest (tau -> inf) of the k.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.vectors.shape[1]:
            raise RecordError(
                f"vectors must be (N, {self.vectors.shape[1]}) as the anchors are, "
                f"got {vectors.shape}"
            )
        check_unit_rows("vectors", vectors)
        densities = np.empty(len(vectors))
        rows = max(1, _BLOCK // len(self.vectors))
        for start in range(0, len(vectors), rows):
            cosines = vectors[start : start + rows] @ self.vectors.T  # (rows, A)
            near = np.partition(cosines, -self.k, axis=1)[:, -self.k :].astype(np.float64)
            densities[start : start + rows] = soft_mean(near, self.tau)
        return densities


def check_unit_rows(name: str, vectors: npt.NDArray[np.floating]) -> None:
    """Raise RecordError unless every row (N, C) is finite and has length 1 within 1e-3."""
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1.0) < 1e-3).all():
        worst = lengths[np.argmax(np.where(np.isfinite(lengths), np.abs(lengths - 1.0), np.inf))]
        raise RecordError(f"{name} must be unit vectors, got one of length {worst:.4f}")


def soft_mean(similarities: Doubles, tau: float) -> Doubles:
    """r = log mean exp(tau s) over the last axis of neighbour cosines (..., k)."""
    near = tau * np.asarray(similarities, np.float64)
    return np.asarray(logsumexp(near, axis=-1) - np.log(near.shape[-1]))


def discrepancy(density: npt.ArrayLike, k: int) -> Doubles:
    """F = exp(-r) / k, in [exp(-tau)/k, exp(tau)/k]."""
    return np.asarray(np.exp(-np.asarray(density, np.float64)) / k)


def log_cosh(x: npt.ArrayLike) -> Doubles:
    """log cosh x without overflow."""
    size = np.abs(np.asarray(x, np.float64))
    return np.asarray(size + np.log1p(np.exp(-2.0 * size)) - np.log(2.0))


def log_dao(
    cosine: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, *, k: int, tau: float
) -> Doubles:
    """The logarithm of equation 4 from cosines and the two densities r; arrays broadcast.

    In [-2 tau + log(2/k), 2 tau + log(2/k)].
    """
    return np.asarray(tau * aligned_score(cosine, first, second, tau=tau) + np.log(2.0 / k))


def dao(
    cosine: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, *, k: int, tau: float
) -> Doubles:
    """Equation 4: exp(tau cos) (F1 + F2); symmetric, increasing in the cosine."""
    return np.asarray(np.exp(log_dao(cosine, first, second, k=k, tau=tau)))


def aligned_score(
    cosine: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, *, tau: float
) -> Doubles:
    """c~ = cos - (r1 + r2)/(2 tau) + log cosh((r1 - r2)/2)/tau; arrays broadcast.

    In cosine units, but shifted: it is the cosine less about the mean cosine of the two support
    sets, so impostors sit below 0 and the range is [-2, 2]. With both densities 0 it is the cosine.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    cosine = np.asarray(cosine, np.float64)
    return np.asarray(
        cosine - (first + second) / (2.0 * tau) + log_cosh((first - second) / 2.0) / tau
    )
