"""IDA, inter-class discrepancy alignment (Liu et al.): scores aligned by how densely faces lie.

With s_i the k largest cosines between an embedding and anchor embeddings (its support set),

    F(f)      = 1 / sum_i exp(tau s_i)                            local inter-class discrepancy
    DAO(1, 2) = exp(tau cos) (F(f1) + F(f2))                      equation 4
    r(f)      = log mean_i exp(tau s_i),  so F = exp(-r) / k
    log DAO   = tau cos - (r1 + r2)/2 + log 2 cosh((r1 - r2)/2) - log k

Section 3.1 of the paper has a constant in F for the classes beyond the k nearest; equation 4 and we
leave it out: with tau = 1 it would swamp the neighbours.

Everything is kept as r, which cannot overflow. Decisions use the log of DAO in cosine units,
c~ = (log DAO + log(k/2)) / tau, which ranks exactly as DAO does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from .. import RecordError
from .fusion import Doubles, Floats

Integers = npt.NDArray[np.int64]

_BLOCK = 1 << 24  # cosines held at once: 64 MiB


class DensityModel(Protocol):
    """What tells how crowded the place of an embedding is: anchors, or a network they taught.

    version: densities of different versions must not meet in one score.
    """

    @property
    def version(self) -> str:
        """Changes with every number that a density depends on."""
        ...

    @property
    def k(self) -> int:
        """How many neighbours make a support set."""
        ...

    @property
    def tau(self) -> float:
        """The factor of the cosines in equation 4."""
        ...

    @property
    def own(self) -> float:
        """Cosine from which a neighbour is the enrolled person, who is none; inf: nobody is."""
        ...

    def density(self, vectors: Floats) -> Doubles:
        """r (N,) float64 of unit vectors (N, C) float32."""
        ...

    def template_density(self, templates: Floats) -> Doubles:
        """r (N,) float64 of people who are enrolled, by unit templates (N, C) float32."""
        ...


@dataclass(frozen=True, eq=False)
class Anchors:
    """The support set's source, and the numbers a density depends on.

    vectors: (A, C) float32, unit rows, none of them of a person who may be probed or enrolled,
    unless identities are given. models/support makes them from faces and from class weights.
    version: stored beside every density that was computed with them; densities of different
    versions must not meet in one score.
    identities: (A,) int64, whose face each anchor is, so that `density` can leave out the person's
    own. own: the cosine from which an anchor shows the person of a template, whoever it is of;
    `template_density` leaves it out. Raises RecordError when a value does not fit.
    """

    vectors: Floats
    version: str
    k: int = 10
    tau: float = 1.0
    identities: Integers | None = None
    own: float = math.inf

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
        if self.identities is not None and self.identities.shape != (len(self.vectors),):
            raise RecordError(
                f"identities must be ({len(self.vectors)},), one per anchor, "
                f"got {self.identities.shape}"
            )

    def density(self, vectors: Floats, identities: Integers | None = None) -> Doubles:
        """r (N,) float64 of unit vectors (N, C): the soft mean of the k nearest anchors' cosines.

        r / tau lies in [-1, 1], between the mean (tau -> 0) and the largest (tau -> inf) of the k.
        identities (N,): who each vector shows. Anchors of the same person are no inter-class
        neighbours (paper, equation 3: j != y_i) and are left out.
        Raises RecordError when shapes do not fit, or fewer than k anchors are of other people.
        """
        self._check(vectors)
        if identities is not None and identities.shape != (len(vectors),):
            raise RecordError(
                f"identities must be ({len(vectors)},), one per vector, got {identities.shape}"
            )
        densities = np.empty(len(vectors))
        for block, cosines in self._cosines(vectors):
            if identities is not None:
                self._leave_out(cosines, identities[block])
            densities[block] = soft_mean(self._nearest(cosines), self.tau)
        return densities

    def template_density(self, templates: Floats) -> Doubles:
        """r (N,) float64 of unit templates (N, C): anchors that show the person are left out.

        A support set holds inter-class neighbours alone (paper, equation 3: j != y_i). Anchors
        without known identities are the person's own from the cosine `own` on; they are skipped,
        the nearest first, as long as k others stay. Raises RecordError when shapes do not fit.
        """
        self._check(templates)
        densities = np.empty(len(templates))
        spare = len(self.vectors) - self.k
        for block, cosines in self._cosines(templates):
            near = self._nearest(cosines)
            for row in np.flatnonzero(near.max(axis=1, initial=-np.inf) >= self.own):
                skipped = min(int((cosines[row] >= self.own).sum()), spare)
                end = len(self.vectors) - skipped
                near[row] = np.sort(cosines[row])[end - self.k : end]
            densities[block] = soft_mean(near, self.tau)
        return densities

    def _check(self, vectors: Floats) -> None:
        """Raise RecordError unless these are unit vectors (N, C) of the anchors' dimension."""
        if vectors.ndim != 2 or vectors.shape[1] != self.vectors.shape[1]:
            raise RecordError(
                f"vectors must be (N, {self.vectors.shape[1]}) as the anchors are, "
                f"got {vectors.shape}"
            )
        check_unit_rows("vectors", vectors)

    def _cosines(self, vectors: Floats) -> Iterator[tuple[slice, Floats]]:
        """Yield the rows (N,) of vectors in blocks, with their cosines (rows, A) to the anchors."""
        rows = max(1, _BLOCK // len(self.vectors))
        for start in range(0, len(vectors), rows):
            block = slice(start, start + rows)
            yield block, vectors[block] @ self.vectors.T

    def _nearest(self, cosines: Floats) -> Doubles:
        """The k largest of each row (rows, A), in any order: (rows, k)."""
        return np.partition(cosines, -self.k, axis=1)[:, -self.k :].astype(np.float64)

    def _leave_out(self, cosines: Floats, identities: Integers) -> None:
        """Put the anchors of the same person (rows, A) farther away than any other."""
        if self.identities is None:
            raise RecordError(
                "these anchors have no identities, so nobody's own can be left out: give them"
            )
        same = identities[:, None] == self.identities
        left = len(self.vectors) - int(same.sum(axis=1).max(initial=0))
        if left < self.k:
            raise RecordError(
                f"a support set needs {self.k} anchors of other people, got {left}: "
                "add anchors or lower k"
            )
        cosines[same] = -np.inf


def check_unit_rows(name: str, vectors: npt.NDArray[np.floating]) -> None:
    """Raise RecordError unless every row (N, C) is finite and has length 1 within 1e-3."""
    lengths = row_lengths(vectors)
    if not (np.abs(lengths - 1.0) < 1e-3).all():
        worst = lengths[np.argmax(np.where(np.isfinite(lengths), np.abs(lengths - 1.0), np.inf))]
        raise RecordError(f"{name} must be unit vectors, got one of length {worst:.4f}")


def row_lengths(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Euclidean lengths (N,) of rows (N, C), without the copy of all rows that numpy's norm makes.

    A length whose square is beyond the range of the dtype is inf.
    """
    return np.asarray(np.sqrt(np.einsum("nc,nc->n", vectors, vectors)))


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


def linear_dao(
    cosine: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, *, tau: float
) -> Doubles:
    """Equation 4 as it is printed, from the two discrepancies F: exp(tau cos) (F1 + F2).

    Arrays broadcast. One exponential and one addition per pair, no logarithm: the quick form for a
    whole matrix of cosines. Beyond tau = 350 it overflows; `aligned_score` never does.
    """
    bias = np.asarray(first, np.float64) + np.asarray(second, np.float64)
    return np.asarray(np.exp(tau * np.asarray(cosine, np.float64)) * bias)


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
