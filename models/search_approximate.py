"""Approximate search by the IDA score: cells of like vectors, of which the nearest are looked at.

An inverted file of FAISS over the embedding and two more columns, s = r_g / tau and s^2: as
log cosh(D/2) is D^2/8 but for D^4/192, one inner product of them with (q, -1/2 - r_q/4, tau/8) is
the score of models/ida but for a constant of the probe. What the cells give is scored again in
float64, so every score is right; but somebody in a cell that is not looked at is not found. How
often that happens is measured on the gallery itself when the index is made, against exact search.
"""

from __future__ import annotations

import importlib.util
import logging
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError
from .fusion import Doubles, Floats
from .ida import DensityModel, Integers
from .search import SearchIndex
from .search_rows import blocks_of
from .search_scan import Candidates

WANTED = 0.98
"""How often the best must be found; cells are added for it."""
SAMPLE = 200
"""Searches that recall is measured with."""
DEPTH = 10
"""How many of the best are compared, at least."""
OWN = 0.6
"""Cosine of a sampled search with the vector it was made from."""

_SPARE = 8  # rows looked at beyond those needed: the columns order them but for D^4/192
_TRAINED = 40  # rows per cell that cells are learned from
_BLOCK = 1 << 20  # numbers handed to FAISS at once

log = logging.getLogger(__name__)


class Recall(NamedTuple):
    """What share of the best identity, and of the `depth` best, is found, by `searches` samples.

    looked: cells looked at for a probe, of `cells`.
    """

    first: float
    best: float
    depth: int
    searches: int
    looked: int
    cells: int

    def __str__(self) -> str:
        """In words."""
        return (
            f"finds {100 * self.first:.1f} % of the best and {100 * self.best:.1f} % of the "
            f"{self.depth} best of {self.searches} searches, looking at {self.looked} of "
            f"{self.cells} cells"
        )


class Cells:
    """Gallery rows (G, C) in an inverted file of FAISS; safe to share between threads.

    looked: how many of the cells are looked at for a probe. least: how many rows are taken from
    them for every search, as many as when recall was measured.
    """

    def __init__(self, vectors: Floats, order: Integers, densities: Doubles, *, tau: float) -> None:
        """Row i is vectors[order[i]], vectors (G, C) float32; densities (G,) of the rows."""
        faiss: Any = import_module("faiss")
        count, self._dimension = vectors.shape
        self._tau = tau
        # Densities about their mean: small numbers lose least in float32, and D does not change.
        # Over tau they are of the size of cosines, so that cells follow both.
        self._middle = float(densities.mean()) if count else 0.0
        offsets = (densities - self._middle) / tau
        columns = np.stack([offsets, offsets**2], axis=1).astype(np.float32)
        width = self._dimension + 2
        self.cells = self.looked = max(1, int(np.sqrt(count)))
        kind = f"IVF{self.cells},Flat"
        self._file = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
        if count:
            some = np.random.default_rng(0).permutation(count)[: _TRAINED * self.cells]
            self._file.cp.min_points_per_centroid = 1  # nothing to warn of: recall is measured
            self._file.train(np.hstack([vectors[order[some]], columns[some]]))
        for block in blocks_of(count, width, _BLOCK):
            self._file.add(np.hstack([vectors[order[block]], columns[block]]))
        self._file.make_direct_map()
        self.nbytes = count * (4 * width + 16)  # rows, their numbers, and where each of them is
        self.recall = Recall(1.0, 1.0, DEPTH, 0, self.cells, self.cells)
        self.least = 1

    def __str__(self) -> str:
        """In words."""
        return f"approximate: {self.recall}"

    def find(self, probes: Floats, own: Doubles | None, need: int) -> Candidates:
        """The best rows of the cells that are looked at, of unit probes (Q, C)."""
        keys = np.zeros((len(probes), self._dimension + 2), np.float32)
        keys[:, :-2] = probes
        if own is not None:
            keys[:, -2] = -(0.5 + (own - self._middle) / 4.0)
            keys[:, -1] = 0.125 * self._tau
        faiss: Any = import_module("faiss")
        most = min(max(need, self.least) + _SPARE, self._file.ntotal)

        def look(keys: Floats, cells: int) -> Integers:
            # The number of cells goes with the search: threads share the file.
            options = faiss.SearchParametersIVF(nprobe=cells)
            return np.asarray(self._file.search(keys, most, params=options)[1])

        rows = look(keys, self.looked)
        nobody = rows[:, 0] < 0  # the cells were empty: somebody is always the best
        if nobody.any():
            rows[nobody] = look(keys[nobody], self.cells)
        found = np.nonzero(rows >= 0)  # -1 where the cells hold fewer
        return Candidates(found[0], rows[found])

    def true_rows(self, rows: Integers) -> Floats:
        """The rows (n, C) float32 of these numbers (n,)."""
        return np.asarray(self._file.reconstruct_batch(rows)[:, :-2])


class ApproximateIndex(SearchIndex):
    """A gallery searched in part: every score is right, but somebody may be missed."""

    _finder: Cells

    def __init__(
        self,
        vectors: Floats,
        owners: npt.NDArray[np.integer],
        *,
        anchors: DensityModel | None = None,
        densities: npt.NDArray[np.floating] | None = None,
        depth: int = DEPTH,
    ) -> None:
        """As of `SearchIndex`; recall is measured and logged. Raises ConfigError without FAISS.

        depth: how many of the best are to be found, and compared when recall is measured.
        """
        require_faiss()
        if anchors is not None and densities is None:
            densities = anchors.template_density(vectors)
        super().__init__(vectors, owners, anchors=anchors, densities=densities)
        if len(vectors):
            exact = SearchIndex(
                vectors, owners, anchors=anchors, densities=densities, precision="int8"
            )
            self._finder.least = self._rows_for(min(depth, self.identities))
            self._finder.recall = self._measure(exact, vectors, depth)
        # A warning, so that it is seen without asking: people may be missed.
        log.warning("approximate search of %d vectors %s", len(vectors), self.recall)

    def _make_finder(self, vectors: Floats, order: Integers) -> Cells:
        return Cells(vectors, order, self._densities, tau=self._tau)

    @property
    def recall(self) -> Recall:
        """What was measured when the index was made."""
        return self._finder.recall

    def _measure(self, exact: SearchIndex, vectors: Floats, depth: int) -> Recall:
        """Look at more cells until the recall is WANTED, or all of them are looked at."""
        probes = sample_probes(vectors, min(SAMPLE, len(vectors)))
        own = None if self.anchors is None else self.anchors.density(probes)

        def best(index: SearchIndex) -> list[list[int]]:
            found = index.search(probes, depth, densities=own)
            return [[hit.identity for hit in hits] for hits in found]

        truth, looked, cells = best(exact), 1, self._finder.cells
        while True:
            self._finder.looked = min(looked, cells)
            pairs = list(zip(truth, best(self), strict=True))
            first = float(np.mean([a[:1] == b[:1] for a, b in pairs]))
            share = float(np.mean([len({*a} & {*b}) / len(a) for a, b in pairs]))
            if first >= WANTED or looked >= cells:
                return Recall(first, share, depth, len(probes), self._finder.looked, cells)
            looked += 1 + looked // 2


def require_faiss() -> None:
    """Raise ConfigError when it is not installed."""
    if importlib.util.find_spec("faiss") is None:
        raise ConfigError(
            "match.search: approximate needs FAISS, which is not installed: "
            "pip install 'facestream[faiss]', or set match.search: exact"
        )


def sample_probes(vectors: Floats, count: int) -> Floats:
    """Unit probes (count, C) like the gallery's own vectors (G, C), each at cosine OWN to one.

    What is added to a vector is the difference of two others, less its part along the vector: it
    goes where the gallery's vectors differ, not in any direction.
    """
    draw = np.random.default_rng(0)
    own = vectors[draw.permutation(len(vectors))[:count]].astype(np.float64)
    one, other = vectors[draw.integers(0, len(vectors), (2, count))].astype(np.float64)
    aside = one - other + 1e-3 * draw.standard_normal(own.shape)  # never nothing
    aside -= (aside * own).sum(axis=1, keepdims=True) * own
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    probes = OWN * own + np.sqrt(1.0 - OWN**2) * aside
    return np.asarray(probes / np.linalg.norm(probes, axis=1, keepdims=True), np.float32)
