"""Who computes the cosines of a search: the matrix product, rows one by one, or FAISS.

A product of matrices reads the gallery once for all probes of a batch; for a single probe, where
memory is what limits, an inner product per row can be quicker. Which it is depends on processor,
threads and BLAS, so it is measured: once per process and dimension, on rows of the gallery itself.
All give the same cosines but for the rounding that models/search_scan allows for.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .fusion import Floats

Kernel = Callable[[Floats, Floats], Floats]
"""Inner products (Q, n) float32 of probes (Q, C) and rows (n, C), both float32 and contiguous."""

FEW, MANY = 1, 8
"""Batches that are measured: one probe, and several."""
MEASURED_FROM = 20_000
"""Smaller galleries are searched by the matrix product, unmeasured: they are quick anyway."""

_ROWS = 1 << 15  # rows to measure on
_REPEATS = 7

log = logging.getLogger(__name__)


def by_product(probes: Floats, rows: Floats) -> Floats:
    """One matrix product of the BLAS that numpy has."""
    return np.asarray(probes @ rows.T)


def by_rows(probes: Floats, rows: Floats) -> Floats:
    """One inner product per probe and row."""
    return np.stack([np.vecdot(rows, probe) for probe in probes])


def by_faiss(probes: Floats, rows: Floats) -> Floats:
    """The loop of FAISS over the rows, probe by probe."""
    faiss: Any = import_module("faiss")
    products = np.empty((len(probes), len(rows)), np.float32)
    for probe, out in zip(probes, products, strict=True):
        pointers = map(faiss.swig_ptr, (out, probe, rows))
        faiss.fvec_inner_products_ny(*pointers, rows.shape[1], len(rows))
    return products


def kernels() -> dict[str, Kernel]:
    """Every kernel that is installed, by name."""
    found: dict[str, Kernel] = {"product": by_product, "rows": by_rows}
    if importlib.util.find_spec("faiss") is not None:
        found["faiss"] = by_faiss
    return found


class KernelChoice(NamedTuple):
    """The quickest kernel for one probe and for several; seconds: by kernel and size of batch.

    rows: how many were measured on; 0 where nothing was measured.
    """

    few: str
    many: str
    seconds: Mapping[str, Mapping[int, float]]
    rows: int

    def kernel(self, probes: int) -> Kernel:
        """The kernel for so many probes."""
        return kernels()[self.few if probes <= FEW else self.many]

    def __str__(self) -> str:
        """In words, with what was measured."""
        if not self.rows:
            return f"{self.many} (not measured)"
        words = []
        for size, best in ((FEW, self.few), (MANY, self.many)):
            times = ", ".join(f"{name} {1e3 * s[size]:.2f}" for name, s in self.seconds.items())
            words.append(f"{size} probe{'s' * (size > 1)} by {best} (ms: {times})")
        return f"{'; '.join(words)}; on {self.rows:,} rows"


UNMEASURED = KernelChoice("product", "product", {}, 0)

_chosen: dict[int, KernelChoice] = {}


def choose_kernels(rows: Floats) -> KernelChoice:
    """The choice for rows (n, C) float32; measured on the first, once per process and dimension."""
    dimension = rows.shape[1]
    if dimension not in _chosen:
        # Two threads may both measure: the first to end decides for all.
        choice = measure_kernels(rows[:_ROWS])
        if _chosen.setdefault(dimension, choice) is choice:
            log.info("gallery search, %d dimensions: %s", dimension, choice)
    return _chosen[dimension]


def measure_kernels(rows: Floats, *, repeats: int = _REPEATS) -> KernelChoice:
    """Time every kernel on rows (n >= MANY, C), in turns.

    The least of its times counts: whatever else the machine does can only add to them.
    """
    seconds: dict[str, dict[int, float]] = {name: {} for name in kernels()}
    for size in (FEW, MANY):
        probes = np.ascontiguousarray(rows[:size])
        times: dict[str, list[float]] = {name: [] for name in seconds}
        for turn in range(repeats + 1):
            for name, kernel in kernels().items():
                started = time.perf_counter()
                kernel(probes, rows)
                if turn:  # the first one warms up
                    times[name].append(time.perf_counter() - started)
        for name, values in times.items():
            seconds[name][size] = min(values)
    few, many = (min(seconds, key=lambda name: seconds[name][size]) for size in (FEW, MANY))
    return KernelChoice(few, many, seconds, len(rows))
