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
from .search_kernels import Kernel, by_product
from .search_rows import StoredRows

_SCORES = 1 << 20  # cosines held at once: 4 MiB of float32
_RUN = 64  # rows of a run
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


def find_candidates(
    rows: StoredRows,
    densities: Doubles | None,
    probes: Floats,
    own: Doubles | None,
    need: int,
    *,
    tau: float,
    kernel: Kernel = by_product,
) -> Candidates:
    """Every pair that can be among the `need` best of its probe, ties included, and a few more.

    densities (G,) of the rows, ascending, and own (Q,) of the unit probes (Q, C); None for plain
    cosines. need >= 1.
    """
    blocks = rows.blocks(max(_SCORES // len(probes), 4 * _RUN))
    buffer = rows.buffer(blocks)
    run = _RUN
    while run > 1 and blocks[0].stop < 4 * need * run:
        run //= 2
    rounding = _ROUNDING * (rows.dimension + 4) * np.linalg.norm(probes, axis=1).astype(np.float64)
    bars = np.full((len(probes), need), -np.inf)  # the best so far, from below; the least first
    found: list[_Found] = []
    for block in blocks:
        cosines = rows.cosines(kernel, probes, block, buffer)
        count = block.stop - block.start
        starts = np.arange(0, count, run)
        peaks = np.maximum.reduceat(cosines, starts, axis=1).astype(np.float64)
        terms = np.zeros((len(probes), len(starts) + 1))
        if densities is not None and own is not None:
            edges = densities[np.append(block.start + starts, block.stop - 1)]
            terms = aligned_score(0.0, own[:, None], edges, tau=tau)
        errors = rounding[:, None]
        if rows.errors is not None:
            errors = errors + np.maximum.reduceat(rows.errors[block], starts)
        lower = np.concatenate([bars, peaks + terms[:, 1:] - errors], axis=1)
        bars = np.partition(lower, -need, axis=1)[:, -need:]
        margins = terms[:, :-1] + errors  # (Q, runs): from a cosine to above the score
        hits = np.nonzero(peaks + margins >= bars[:, :1])
        found.append(_open_runs(cosines, hits, margins[hits], bars[hits[0], 0], run, block.start))
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
