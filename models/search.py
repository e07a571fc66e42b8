"""Exact top-k search of a gallery by the IDA score, and what a score says about chance.

The score of probe q and gallery vector g is c~ = cos - (r_q + r_g)/(2 tau) + log cosh(D/2)/tau with
D = r_q - r_g (models/ida). Since D^2/8 - D^4/192 <= log cosh(D/2) <= D^2/8, and D^2 is a polynomial
in r_g, one inner product over the embedding and two more columns (r_g, r_g^2) gives every score
from above, wrong by at most max D^4 / (192 tau) plus float32 rounding. Whatever can still be among
the k best is scored again in float64, so the answer is that of exhaustive search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from .. import RecordError
from .fusion import Doubles, Floats
from .ida import DensityModel, aligned_score, check_unit_rows, row_lengths

Integers = npt.NDArray[np.int64]

_BLOCK = 1 << 24  # scores, or numbers of gallery rows, held at once: 64 MiB of float32
_ROUNDING = 2.0**-23  # float32, with a factor 2 to spare


class Hit(NamedTuple):
    """One identity found: its index, its best vector's score, and that vector's cosine."""

    identity: int
    score: float
    cosine: float


class SearchIndex:
    """The gallery of one version, ready to be searched; immutable, safe to share between threads.

    An identity may have several vectors; its score is the best of them.
    """

    def __init__(
        self,
        vectors: Floats,
        owners: npt.NDArray[np.integer],
        *,
        anchors: DensityModel | None = None,
        densities: npt.NDArray[np.floating] | None = None,
    ) -> None:
        """vectors (G, C) float32 unit, G >= 0; owners (G,) identity index >= 0 of each.

        anchors: `Anchors` or a `LearnedDensity`, for the densities of probes, and of the gallery
        where `densities` (G,), stored at enrolment with the same ones, is not given. Without them
        every score is the cosine.
        Raises RecordError when shapes do not fit or a vector is not of length 1.
        """
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise RecordError(
                f"gallery vectors must be (G, C) float32, got {vectors.shape} {vectors.dtype}"
            )
        count, dimension = vectors.shape
        if owners.shape != (count,) or (count and owners.min() < 0):
            raise RecordError(f"owners must be ({count},) and >= 0, got {owners.shape}")
        check_unit_rows("gallery vectors", vectors)
        if anchors is None:
            densities = np.zeros(count)
        elif densities is None:
            densities = anchors.density(vectors)
        elif densities.shape != (count,) or not np.isfinite(densities).all():
            raise RecordError(f"densities must be ({count},) and finite, got {densities.shape}")
        order = np.argsort(owners, kind="stable")
        self._owners: Integers = owners.astype(np.int64)[order]
        self.dimension = dimension
        self.anchors = anchors
        self._tau = anchors.tau if anchors else 1.0
        self._densities: Doubles = densities.astype(np.float64)[order]
        self._starts = np.unique(self._owners, return_index=True)[1]  # first row of each identity
        # Densities about their mean: small numbers lose least in float32, and D does not change.
        self._middle = float(self._densities.mean()) if count else 0.0
        offsets = self._densities - self._middle
        self._rows: Floats = np.empty((count, dimension + 2), np.float32)
        for block in self._blocks(count):  # so that no second copy of a large gallery is made
            self._rows[block, :dimension] = vectors[order[block]]
        self._rows[:, dimension] = offsets
        self._rows[:, dimension + 1] = offsets**2
        self._longest = float(row_lengths(self._rows).max(initial=0.0))

    def _blocks(self, count: int) -> list[slice]:
        """0 .. count - 1 in blocks of rows that hold at most _BLOCK numbers."""
        size = max(1, _BLOCK // (self.dimension + 2))
        return [slice(start, start + size) for start in range(0, count, size)]

    @property
    def identities(self) -> int:
        """How many identities have at least one vector."""
        return len(self._starts)

    def search(
        self, probes: Floats, k: int, *, by: Literal["ida", "cosine"] = "ida"
    ) -> list[tuple[Hit, ...]]:
        """The k best identities of each unit probe (Q, C) float32, best first; fewer if G is small.

        Ties go to the smaller identity index. By "cosine" the score is the plain cosine.
        Raises RecordError when probes do not fit.
        """
        if probes.ndim != 2 or probes.shape[1] != self.dimension or k < 1:
            raise RecordError(
                f"probes must be (Q, {self.dimension}) and k >= 1, got {probes.shape} and k = {k}"
            )
        check_unit_rows("probes", probes)
        if not self.identities or not len(probes):
            return [()] * len(probes)
        plain = by == "cosine" or self.anchors is None
        hits: list[tuple[Hit, ...]] = []
        size = max(1, _BLOCK // len(self._rows))
        for start in range(0, len(probes), size):
            block = probes[start : start + size]
            densities = None if plain or self.anchors is None else self.anchors.density(block)
            hits += self._search_block(block, densities, k)
        return hits

    def _search_block(
        self, probes: Floats, densities: Doubles | None, k: int
    ) -> list[tuple[Hit, ...]]:
        keys, slack = self._keys(probes, densities)
        upper = keys @ self._rows.T  # (Q, G), each score from above but for rounding
        best = upper
        if self.identities < len(self._rows):
            best = np.maximum.reduceat(upper, self._starts, axis=1)  # (Q, identities)
        k = min(k, self.identities)
        bars = np.partition(best, -k, axis=1)[:, -k] - slack
        return [
            self._rescore(
                probes[row],
                None if densities is None else float(densities[row]),
                np.flatnonzero(upper[row] >= bars[row]),
                k,
            )
            for row in range(len(probes))
        ]

    def _keys(self, probes: Floats, densities: Doubles | None) -> tuple[Floats, Doubles]:
        """The probes' side of the inner product (Q, C + 2), and how far below the bar to look (Q,).

        By cosine the two more columns are 0. Terms that depend on the probe alone are left out.
        """
        keys = np.zeros((len(probes), self.dimension + 2), np.float32)
        keys[:, : self.dimension] = probes
        slack = np.zeros(len(probes))
        if densities is not None:
            offsets = densities - self._middle
            keys[:, self.dimension] = -(0.5 + offsets / 4.0) / self._tau
            keys[:, self.dimension + 1] = 0.125 / self._tau
            far = np.maximum(
                np.abs(densities - self._densities.min()), np.abs(densities - self._densities.max())
            )
            slack += far**4 / (192.0 * self._tau)
        lengths = np.linalg.norm(keys, axis=1).astype(np.float64)
        return keys, slack + 2.0 * self._rows.shape[1] * _ROUNDING * lengths * self._longest

    def _rescore(
        self, probe: Floats, density: float | None, rows: Integers, k: int
    ) -> tuple[Hit, ...]:
        """The k best identities of the gallery rows that may hold them."""
        # Row sums, not a matrix product: equal rows must give equal bits for ties to hold.
        # In blocks: for large tau the bound is loose, and that may be the whole gallery.
        cosines, wide = np.empty(len(rows)), probe.astype(np.float64)
        for block in self._blocks(len(rows)):
            vectors = self._rows[rows[block], : self.dimension]
            cosines[block] = (vectors * wide).sum(axis=1)
        scores = cosines
        if density is not None:
            scores = aligned_score(cosines, density, self._densities[rows], tau=self._tau)
        # Rows are in the order of identities, so that a stable sort settles ties.
        ranking = np.argsort(-scores, kind="stable")
        first = np.unique(self._owners[rows[ranking]], return_index=True)[1]
        return tuple(
            Hit(int(self._owners[rows[at]]), float(scores[at]), float(cosines[at]))
            for at in ranking[np.sort(first)[:k]]
        )


def false_positive_probability(
    scores: Sequence[float] | Doubles | float, gallery: int, mean: float, std: float
) -> Doubles:
    """How likely a stranger's best score among `gallery` identities is at least this: 0..1.

    1 - Phi(z)^G with z = (score - mean) / std, the normal whose upper tail is that of the impostor
    scores measured for the model pack, G independent tries. An estimate that reads well before
    thresholds are fitted to a gallery, not a fitted rate: other people, other tails. Raises
    RecordError unless std > 0 and gallery >= 0.
    """
    if not std > 0.0 or gallery < 0:
        raise RecordError(f"std must be positive and gallery >= 0, got {std} and {gallery}")
    z = (np.asarray(scores, np.float64) - mean) / std
    return np.asarray(-np.expm1(gallery * log_ndtr(z)))
