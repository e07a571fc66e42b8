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

import copy
import logging
from typing import NamedTuple, Self

import numpy as np

from .fusion import Doubles, Floats
from .ida import Integers, aligned_score
from .search_gpu import Mirror, send_rows
from .search_kernels import (
    GPU,
    MEASURED_FROM,
    UNMEASURED,
    Device,
    KernelChoice,
    choose_kernels,
    kernels,
)
from .search_rows import Precision, StoredRows

RUN = 128
"""Rows of a run; fewer where many are sought."""
ROUNDING = 2.0**-23
"""Of float32, with a factor 2 to spare: times the numbers of a row, and the probe's length."""

_SCORES = 1 << 22  # cosines held at once: 16 MiB of float32

log = logging.getLogger(__name__)


class Candidates(NamedTuple):
    """Pairs that may be among the best: numbers of probes (n,) and of gallery rows (n,)."""

    probes: Integers
    rows: Integers


class Found(NamedTuple):
    """Pairs, and above what their scores cannot be (n,)."""

    probes: Integers
    rows: Integers
    above: Doubles

    def reaching(self, bars: Doubles) -> Candidates:
        """Those that reach the least bar of their probe (Q, need)."""
        left = self.above >= bars[self.probes, 0]
        return Candidates(self.probes[left], self.rows[left])


def join_found(found: list[Found]) -> Found:
    """All pairs of several searches of the same probes, one at least."""
    return Found(*map(np.concatenate, zip(*found, strict=True)))


def no_bars(probes: int, need: int) -> Doubles:
    """Bars (Q, need) that every score reaches."""
    return np.full((probes, need), -np.inf)


def run_length(rows: int, need: int) -> int:
    """Rows of a run where so many are scanned together: 4 runs for each row that is sought."""
    run = RUN
    while run > 1 and rows < 4 * need * run:
        run //= 2
    return run


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
        device: Device = "auto",
    ) -> None:
        """Row i is vectors[order[i]], vectors (M, C) float32; densities (G,) of the rows ascend.

        device: whether a GPU may have a copy of the rows (models/search_kernels).
        """
        self.rows = StoredRows(vectors, order, precision)
        self.kernels: KernelChoice = UNMEASURED
        self._densities = densities
        self._tau = tau
        self._gone: Integers = np.empty(0, np.int64)
        self._mirror: Mirror | None = None
        if len(order) < MEASURED_FROM:
            return
        self.kernels = choose_kernels(vectors, device)
        if self.kernels.on_gpu:
            try:
                self._mirror = send_rows(self.rows, densities, tau)
            except RuntimeError as error:
                self._leave_gpu(error)

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

    def without(self, gone: Integers) -> Self:
        """The same rows in the same memory, of which these numbers (n,), ascending, are not found.

        Their numbers stay as they are.
        """
        other = copy.copy(self)
        other._gone = gone
        if self._mirror is not None:
            try:
                other._mirror = self._mirror.without(gone)
            except RuntimeError as error:
                other._leave_gpu(error)
        return other

    def find(self, probes: Floats, own: Doubles | None, need: int) -> Candidates:
        """Every pair that can be among the `need` best of its probe, ties included, and a few more.

        own (Q,): densities of the unit probes (Q, C); None for plain cosines. need >= 1.
        """
        found, bars = self.scan(probes, own, no_bars(len(probes), need))
        return found.reaching(bars)

    def scan(self, probes: Floats, own: Doubles | None, bars: Doubles) -> tuple[Found, Doubles]:
        """The pairs that can reach the bars, and the bars as these rows raise them.

        bars (Q, need): the `need` best scores of each probe so far, from below; the least first.
        """
        if self._mirror is not None and self.kernels.name(len(probes)) == GPU:
            try:
                return self._mirror.scan(probes, own, bars)
            except RuntimeError as error:
                self._leave_gpu(error)
        kernel, need = kernels()[self.kernels.name(len(probes))], bars.shape[1]
        blocks = self.rows.blocks(max(_SCORES // len(probes), 4 * RUN))
        buffer = self.rows.buffer(blocks)
        run = run_length(blocks[0].stop, need)
        lengths = np.linalg.norm(probes, axis=1).astype(np.float64)
        rounding = ROUNDING * (self.rows.dimension + 4) * lengths
        found: list[Found] = []
        for block in blocks:
            cosines = self.rows.cosines(kernel, probes, block, buffer)
            count = block.stop - block.start
            first, last = np.searchsorted(self._gone, (block.start, block.stop))
            cosines[:, self._gone[first:last] - block.start] = -np.inf
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
        return join_found(found), bars

    def _leave_gpu(self, error: RuntimeError) -> None:
        """Go on without: it has no memory left, or is lost."""
        why = str(error).partition("\n")[0]
        log.warning("%d rows are searched on the CPU from now on: %s", len(self.rows), why)
        self._mirror, self.kernels = None, self.kernels.on_cpu()


def _open_runs(
    cosines: Floats,
    hits: tuple[Integers, ...],
    margins: Doubles,
    bars: Doubles,
    run: int,
    start: int,
) -> Found:
    """The rows of some runs (probe and run each, n) that reach the bars (n,) and are not gone."""
    which, runs = hits
    columns = runs[:, None] * run + np.arange(run)
    inside = columns < cosines.shape[1]
    values = cosines[which[:, None], np.minimum(columns, cosines.shape[1] - 1)]
    above = values.astype(np.float64) + margins[:, None]
    at = np.nonzero(inside & (above >= bars[:, None]) & (values > -np.inf))
    return Found(which[at[0]], start + columns[at], above[at])
