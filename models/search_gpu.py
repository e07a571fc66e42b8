"""A GPU that searches: whether there is one, at the cost of a look, and the way to it.

PyTorch takes a second to import, so it is imported only where the driver of a GPU is seen
(models/networks/search).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from .. import ConfigError
from .fusion import Doubles, Floats
from .ida import Integers

if TYPE_CHECKING:
    from .search_rows import StoredRows
    from .search_scan import Found

DEVICE = "cuda"
"""What PyTorch calls the GPU, of AMD too: the first one that this process may see."""

_DRIVERS = ("nvidia[0-9]*", "dxg", "kfd")  # of NVIDIA, in WSL 2, and of AMD


class Mirror(Protocol):
    """Gallery rows on a GPU."""

    def scan(self, probes: Floats, own: Doubles | None, bars: Doubles) -> tuple[Found, Doubles]:
        """As of `ExactScan`. Raises RuntimeError where memory is too small or the GPU is lost."""
        ...

    def without(self, gone: Integers) -> Self:
        """The same rows, of which some are not found."""
        ...


def missing_gpu() -> str:
    """Why no GPU searches here, in words; empty where one can."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not any(any(Path("/dev").glob(driver)) for driver in _DRIVERS):
        return "no GPU here"
    if importlib.util.find_spec("torch") is None:
        return "there is a GPU, but no PyTorch that could use it"
    from .networks.search import usable

    return "" if usable(DEVICE) else "there is a GPU, but PyTorch cannot use it"


def gpu_words() -> str:
    """The GPU that searches here, or why there is none."""
    missing = missing_gpu()
    if missing:
        return missing
    from .networks.search import device_words

    return device_words(DEVICE)


def require_gpu() -> None:
    """Raise ConfigError where no GPU can search."""
    missing = missing_gpu()
    if missing:
        raise ConfigError(
            f"match.device: cuda needs a GPU and a PyTorch for it, but {missing}: install the "
            "PyTorch that fits its driver, or set match.device: auto"
        )


def send_rows(rows: StoredRows, densities: Doubles, tau: float) -> Mirror:
    """A copy of the rows on the GPU; densities (G,) of the rows ascend.

    Raises RuntimeError where they do not fit there.
    """
    from .networks.search import DeviceScan

    return DeviceScan(rows, densities, tau=tau, device=DEVICE)


def scan_once(rows: Floats) -> Callable[[Floats], object]:
    """A search by the cosine of rows (n, C) that lie on the GPU, for probes (Q, C): to be timed.

    Raises RuntimeError where they do not fit there.
    """
    from .networks.search import DeviceScan
    from .search_rows import StoredRows
    from .search_scan import no_bars

    count = len(rows)
    stored = StoredRows(rows, np.arange(count), "float32")
    scan = DeviceScan(stored, np.zeros(count), tau=1.0, device=DEVICE)
    return lambda probes: scan.scan(probes, None, no_bars(len(probes), 1))
