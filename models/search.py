"""Exact top-k search of a gallery by the IDA score, and what a score says about chance.

The score of probe q and gallery vector g is c~ = cos - (r_q + r_g)/(2 tau) + log cosh(D/2)/tau with
D = r_q - r_g (models/ida). models/search_scan finds the few rows that can be among the k best;
those are scored again in float64, so the answer is that of exhaustive search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from .. import RecordError
from .fusion import Doubles, Floats
from .ida import DensityModel, Integers, aligned_score, check_unit_rows
from .search_kernels import Device
from .search_rows import Precision, blocks_of
from .search_scan import Candidates, ExactScan

_SCORED = 1 << 22  # numbers of gallery rows that are scored in float64 at once: 32 MiB
_PROBES = 128  # probes that go through the gallery together


class Hit(NamedTuple):
    """One identity found: its index, its best vector's score, and that vector's cosine."""

    identity: int
    score: float
    cosine: float


class Finder(Protocol):
    """Keeps gallery rows, and finds those that can be among the best of a probe."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the rows take."""
        ...

    def find(self, probes: Floats, own: Doubles | None, need: int) -> Candidates:
        """Candidates for the `need` best rows of unit probes (Q, C) with densities (Q,).

        Without densities the score is the cosine.
        """
        ...

    def true_rows(self, rows: Integers) -> Floats:
        """The rows (n, C) float32 of these numbers (n,)."""
        ...


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
        precision: Precision = "float32",
        device: Device = "auto",
    ) -> None:
        """vectors (G, C) float32 unit, G >= 0; owners (G,) identity index >= 0 of each.

        anchors: `Anchors` or a `LearnedDensity`, for the densities of probes, and of the gallery
        where `densities` (G,), stored at enrolment with the same ones, is not given. Without them
        every score is the cosine. precision: of the vectors in memory (models/search_rows); the
        answers are the same. device: whether a GPU may search (models/search_kernels).
        Raises RecordError when shapes do not fit or a vector is not of length 1.
        """
        densities = check_gallery(vectors, owners, anchors, densities)
        self.dimension = vectors.shape[1]
        self.anchors = anchors
        self.precision: Precision = precision
        self.device: Device = device
        order = np.argsort(densities, kind="stable")
        self._keep(owners.astype(np.int64)[order], densities[order])
        self._finder = self._make_finder(vectors, order)

    def _keep(self, owners: Integers, densities: Doubles) -> None:
        """Whose each row is, (G,), and its density; owners below 0 are of rows that are gone."""
        self._owners, self._densities = owners, densities
        # Vectors of each identity, most first: any n + 1 rows, where n is the sum of the k - 1
        # largest, are of at least k identities.
        counts = np.unique(owners[owners >= 0], return_counts=True)[1]
        self._counts: Integers = np.sort(counts)[::-1]

    @property
    def _tau(self) -> float:
        return self.anchors.tau if self.anchors else 1.0

    def _make_finder(self, vectors: Floats, order: Integers) -> Finder:
        """Keeps vectors[order], whose densities ascend."""
        return ExactScan(
            vectors,
            order,
            self._densities,
            tau=self._tau,
            precision=self.precision,
            device=self.device,
        )

    @property
    def identities(self) -> int:
        """How many identities have at least one vector."""
        return len(self._counts)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the gallery takes: rows, densities and owners."""
        others = (self._densities, self._owners, self._counts)
        return self._finder.nbytes + sum(array.nbytes for array in others)

    @property
    def method(self) -> str:
        """How it is searched, in words."""
        return str(self._finder)

    def search(
        self,
        probes: Floats,
        k: int,
        *,
        by: Literal["ida", "cosine"] = "ida",
        densities: Doubles | None = None,
    ) -> list[tuple[Hit, ...]]:
        """The k best identities of each unit probe (Q, C) float32, best first; fewer if G is small.

        Ties go to the smaller identity index. By "cosine" the score is the plain cosine.
        densities (Q,): of the probes, where the caller has them already.
        Raises RecordError when probes do not fit.
        """
        if probes.ndim != 2 or probes.shape[1] != self.dimension or k < 1:
            raise RecordError(
                f"probes must be (Q, {self.dimension}) and k >= 1, got {probes.shape} and k = {k}"
            )
        if densities is not None and densities.shape != (len(probes),):
            raise RecordError(f"densities must be ({len(probes)},), got {densities.shape}")
        check_unit_rows("probes", probes)
        if not self.identities or not len(probes):
            return [()] * len(probes)
        k = min(k, self.identities)
        anchors = None if by == "cosine" else self.anchors
        hits: list[tuple[Hit, ...]] = []
        for start in range(0, len(probes), _PROBES):
            part = slice(start, start + _PROBES)
            own = None
            if anchors is not None:
                own = anchors.density(probes[part]) if densities is None else densities[part]
            hits += self._search_block(np.ascontiguousarray(probes[part]), own, k)
        return hits

    def _search_block(self, probes: Floats, own: Doubles | None, k: int) -> list[tuple[Hit, ...]]:
        """The k <= identities best of probes (Q, C) with densities (Q,), None for plain cosines."""
        pairs = self._finder.find(probes, own, self._rows_for(k))
        cosines = self._cosines(probes, pairs)
        scores = cosines
        if own is not None:
            scores = aligned_score(
                cosines, own[pairs.probes], self._densities[pairs.rows], tau=self._tau
            )
        owners = self._owners[pairs.rows]
        ranking = np.lexsort((owners, -scores, pairs.probes))
        ends = np.searchsorted(pairs.probes[ranking], np.arange(1, len(probes) + 1))
        hits = []
        for of_probe in np.split(ranking, ends[:-1]):
            first = np.unique(owners[of_probe], return_index=True)[1]
            best = of_probe[np.sort(first)[:k]]
            columns = (owners[best].tolist(), scores[best].tolist(), cosines[best].tolist())
            hits.append(tuple(map(Hit, *columns)))
        return hits

    def _rows_for(self, k: int) -> int:
        """How many of the best rows are sure to be of at least k <= identities."""
        return int(self._counts[: k - 1].sum()) + 1

    def _cosines(self, probes: Floats, pairs: Candidates) -> Doubles:
        """Cosines (n,) float64 of the true rows."""
        # Row sums, not a matrix product: equal rows must give equal bits for ties to hold.
        # In blocks: where many rows are alike, all of them may be candidates.
        cosines, wide = np.empty(len(pairs.rows)), probes.astype(np.float64)
        for block in blocks_of(len(cosines), self.dimension, _SCORED):
            vectors = self._finder.true_rows(pairs.rows[block])
            cosines[block] = (vectors * wide[pairs.probes[block]]).sum(axis=1)
        return cosines


def check_gallery(
    vectors: Floats,
    owners: npt.NDArray[np.integer],
    anchors: DensityModel | None,
    densities: npt.NDArray[np.floating] | None,
) -> Doubles:
    """The densities (G,) of a gallery as `SearchIndex` takes it; 0 without anchors.

    Raises RecordError when shapes do not fit or a vector is not of length 1.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise RecordError(
            f"gallery vectors must be (G, C) float32, got {vectors.shape} {vectors.dtype}"
        )
    count = len(vectors)
    if owners.shape != (count,) or (count and owners.min() < 0):
        raise RecordError(f"owners must be ({count},) and >= 0, got {owners.shape}")
    check_unit_rows("gallery vectors", vectors)
    if anchors is None:
        return np.zeros(count)
    if densities is None:
        return anchors.template_density(vectors)
    if densities.shape != (count,) or not np.isfinite(densities).all():
        raise RecordError(f"densities must be ({count},) and finite, got {densities.shape}")
    return densities.astype(np.float64)


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
