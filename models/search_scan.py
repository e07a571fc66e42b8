"""Which gallery rows can be among the best by the IDA score: one matrix product, and proof.

The score of a probe against a row is its cosine plus a term that falls as the row's density grows
(models/ida). With rows in the order of their densities, the rows of a short run have nearly the
same term. So the largest cosine of each run, found while the products are still in the cache, plus
the term of the run's first row is above every score in it, and plus the term of the run's last row
it is below the best of them; both but for known errors, of float32 and of vectors stored at a lower
precision (Cauchy-Schwarz: at most the length of the difference). The n-th largest from below is a
bar, and no row that is below it from above is among the n best. A plain search by the cosine is the
same with a term of 0: IDA costs one term per run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .fusion import Doubles, Floats
from .ida import Integers, aligned_score
from .search_kernels import MEASURED_FROM, UNMEASURED, choose_kernels
from .search_rows import Precision, StoredRows

_SCORES = 1 << 22  # cosines held at once: 16 MiB of float32
_RUN = 128  # rows of a run
_ROUNDING = 2.0**-23  # float32, with a factor 2 to spare


class Candidates(NamedTuple):
    """Pairs that may be among the best: numbers of probes (n,) and of gallery rows (n,)."""

    probes: Integers
    rows: Integers


class _Found(NamedTuple):
    """Pairs, and above what their scores cannot be (n,)."""

    probes: Integers
    rows: Integers
    above: Doubles


class ExactScan:
    """Gallery rows in the order of their densities, scanned as a whole for every batch of probes.

    kernels: who computes the cosines, and why.
    """

    def __init__(
        self,
        vectors: Floats,
        order: Integers,
        densities: Doubles,
        *,
        tau: float,
        precision: Precision,
    ) -> None:
        """Row i is vectors[order[i]], vectors (G, C) float32; densities (G,) of the rows ascend."""
        self.rows = StoredRows(vectors, order, precision)
        small = len(vectors) < MEASURED_FROM
        self.kernels = UNMEASURED if small else choose_kernels(vectors)
        self._densities = densities
        self._tau = tau

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the rows take."""
        return self.rows.nbytes

    def true_rows(self, rows: Integers) -> Floats:
        """The rows (n, C) float32 of these numbers (n,)."""
        return self.rows.true_rows(rows)

    def __str__(self) -> str:
        """In words."""
        return f"exact, {self.rows.precision}: {self.kernels}"

    def find(self, probes: Floats, own: Doubles | None, need: int) -> Candidates:
        """Every pair that can be among the `need` best of its probe, ties included, and a few more.

        own (Q,): densities of the unit probes (Q, C); None for plain cosines. need >= 1.
        """
        kernel = self.kernels.kernel(len(probes))
        blocks = self.rows.blocks(max(_SCORES // len(probes), 4 * _RUN))
        buffer = self.rows.buffer(blocks)
        run = _RUN
        while run > 1 and blocks[0].stop < 4 * need * run:
            run //= 2
        lengths = np.linalg.norm(probes, axis=1).astype(np.float64)
        rounding = _ROUNDING * (self.rows.dimension + 4) * lengths
        # The `need` best scores of each probe so far, from below; the least of them first.
        bars = np.full((len(probes), need), -np.inf)
        found: list[_Found] = []
        for block in blocks:
            cosines = self.rows.cosines(kernel, probes, block, buffer)
            count = block.stop - block.start
            starts = np.arange(0, count, run)
            peaks = np.maximum.reduceat(cosines, starts, axis=1).astype(np.float64)
            terms = np.zeros((len(probes), len(starts) + 1))
            if own is not None:
                edges = self._densities[np.append(block.start + starts, block.stop - 1)]
                terms = aligned_score(0.0, own[:, None], edges, tau=self._tau)
            errors = rounding[:, None]
            if self.rows.errors is not None:
                worst = np.maximum.reduceat(self.rows.errors[block], starts)
                errors = errors + lengths[:, None] * worst
            lower = np.concatenate([bars, peaks + terms[:, 1:] - errors], axis=1)
            bars = np.partition(lower, -need, axis=1)[:, -need:]
            margins = terms[:, :-1] + errors  # (Q, runs): from a cosine to above the score
            hits = np.nonzero(peaks + margins >= bars[:, :1])
            reached = bars[hits[0], 0]
            found.append(_open_runs(cosines, hits, margins[hits], reached, run, block.start))
        every = _Found(*map(np.concatenate, zip(*found, strict=True)))
        left = every.above >= bars[every.probes, 0]
        return Candidates(every.probes[left], every.rows[left])


def _open_runs(
    cosines: Floats,
    hits: tuple[Integers, ...],
    margins: Doubles,
    bars: Doubles,
    run: int,
    start: int,
) -> _Found:
    """The rows of some runs (probe and run each, n) that reach the bars (n,)."""
    which, runs = hits
    columns = runs[:, None] * run + np.arange(run)
    inside = columns < cosines.shape[1]
    values = cosines[which[:, None], np.minimum(columns, cosines.shape[1] - 1)]
    above = values.astype(np.float64) + margins[:, None]
    at = np.nonzero(inside & (above >= bars[:, None]))
    return _Found(which[at[0]], start + columns[at], above[at])
