"""Who computes the cosines of a search: the matrix product, rows one by one, FAISS, or a GPU.

A product of matrices reads the gallery once for all probes of a batch; for a single probe, where
memory is what limits, an inner product per row can be quicker. Which it is depends on processor,
threads and BLAS, so it is measured: once per process and dimension, on rows of the gallery itself.
All give the same cosines but for the rounding that models/search_scan allows for. A GPU keeps a
copy of the rows and finds the candidates itself (models/search_gpu): its times are of the whole
search, with the way there and back, those of the others of the cosines alone.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np

from .fusion import Floats
from .search_gpu import missing_gpu, scan_once

Kernel = Callable[[Floats, Floats], Floats]
"""Inner products (Q, n) float32 of probes (Q, C) and rows (n, C), both float32 and contiguous."""

Device = Literal["auto", "cpu", "cuda"]
"""auto: a GPU searches where it is there and the quickest; cpu: none does; cuda: one does."""

GPU = "torch"
"""The name of a GPU among kernels: PyTorch computes there."""
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

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU needs the rows."""
        return GPU in (self.few, self.many)

    def name(self, probes: int) -> str:
        """The kernel for so many probes."""
        return self.few if probes <= FEW else self.many

    def on_cpu(self) -> KernelChoice:
        """The quickest without a GPU."""
        if not self.seconds:
            return UNMEASURED
        return _quickest({n: s for n, s in self.seconds.items() if n != GPU}, self.rows)

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

_chosen: dict[tuple[int, Device], KernelChoice] = {}


def choose_kernels(rows: Floats, device: Device = "auto") -> KernelChoice:
    """The choice for rows (n, C) float32; measured on the first, once per process and dimension."""
    key = rows.shape[1], device
    if key not in _chosen:
        # Two threads may both measure: the first to end decides for all.
        choice = measure_kernels(rows[:_ROWS], device)
        if _chosen.setdefault(key, choice) is choice:
            log.info("gallery search, %d dimensions: %s", rows.shape[1], choice)
    return _chosen[key]


def measure_kernels(
    rows: Floats, device: Device = "auto", *, repeats: int = _REPEATS
) -> KernelChoice:
    """Time every kernel on rows (n >= MANY, C), in turns.

    The least of its times counts: whatever else the machine does can only add to them. With device
    "cuda" the GPU is chosen whatever came out.
    """
    timed: dict[str, Callable[[Floats], object]] = {
        name: partial(_on_rows, kernel, rows) for name, kernel in kernels().items()
    }
    if device != "cpu" and not missing_gpu():
        try:
            choice = _quickest(_time({**timed, GPU: scan_once(rows)}, rows, repeats), len(rows))
        except RuntimeError as error:
            log.warning("no GPU searches: %s", str(error).partition("\n")[0])
        else:
            return choice._replace(few=GPU, many=GPU) if device == "cuda" else choice
    return _quickest(_time(timed, rows, repeats), len(rows))


def _time(
    timed: Mapping[str, Callable[[Floats], object]], rows: Floats, repeats: int
) -> dict[str, dict[int, float]]:
    """Seconds by kernel and size of batch."""
    seconds: dict[str, dict[int, float]] = {name: {} for name in timed}
    for size in (FEW, MANY):
        probes = np.ascontiguousarray(rows[:size])
        times: dict[str, list[float]] = {name: [] for name in seconds}
        for turn in range(repeats + 1):
            for name, search in timed.items():
                started = time.perf_counter()
                search(probes)
                if turn:  # the first one warms up
                    times[name].append(time.perf_counter() - started)
        for name, values in times.items():
            seconds[name][size] = min(values)
    return seconds


def _on_rows(kernel: Kernel, rows: Floats, probes: Floats) -> Floats:
    return kernel(probes, rows)


def _quickest(seconds: Mapping[str, Mapping[int, float]], rows: int) -> KernelChoice:
    few, many = (min(seconds, key=lambda name: seconds[name][size]) for size in (FEW, MANY))
    return KernelChoice(few, many, seconds, rows)
