"""The scan of models/search_scan by PyTorch, over gallery rows that stay on a GPU.

The same bounds and the same proof: the largest cosine of each run of rows, terms of densities at
its two ends in float64, errors of rounding and of the stored precision. What goes to the device for
a search are its probes, what comes back are the few pairs that can be among the best; their scores
are computed elsewhere, in float64 from the true rows.
"""

from __future__ import annotations

import copy
import math
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..fusion import Doubles, Floats
from ..ida import Integers
from ..search_rows import StoredRows
from ..search_scan import ROUNDING, RUN, Found, join_found, run_length

_HELD = 1 << 25  # cosines, and numbers of widened rows, on the device at once: 128 MiB each
_SENT = 1 << 24  # numbers sent at once
_TF32 = 2.0**-9  # two factors, of each of which the last 13 bits are ignored


def usable(device: str) -> bool:
    """Whether PyTorch can compute on a device: "cuda" or "cpu"."""
    return device == "cpu" or torch.cuda.is_available()


def device_words(device: str) -> str:
    """What computes, in words."""
    name = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    return f"PyTorch {torch.__version__} on {name}"


class DeviceScan:
    """A copy of `StoredRows` on one device, at their precision; safe to share between threads."""

    def __init__(self, rows: StoredRows, densities: Doubles, *, tau: float, device: str) -> None:
        """densities (G,) of the rows ascend; G >= 1.

        Raises RuntimeError where the rows do not fit on the device.
        """
        self._device = torch.device(device)
        self._tau = tau
        self._count, self._dimension = len(rows), rows.dimension
        # Whole runs, so that the rows of each lie in a column: what is added is never found.
        self._padded = -(-self._count // RUN) * RUN
        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
        self._rows = self._room(rows.dimension, kind[rows.precision])
        step = max(1, _SENT // rows.dimension)
        for start in range(0, self._count, step):
            part = rows.stored[start : start + step]
            if rows.precision == "bfloat16":
                sent = torch.from_numpy(part.view(np.int16)).view(torch.bfloat16)
            else:
                sent = torch.from_numpy(part)
            self._rows[start : start + len(part)].copy_(sent)
        self._densities = self._column(densities, torch.float64, float(densities[-1]))
        self._scales = None if rows.scales is None else self._column(rows.scales, torch.float32)
        self._errors = None if rows.errors is None else self._column(rows.errors, torch.float64)
        self._gone: Integers = np.empty(0, np.int64)
        self._gone_there = self._send(self._gone)

    def without(self, gone: Integers) -> Self:
        """The same rows, of which these numbers (n,), ascending, are not found."""
        other = copy.copy(self)
        other._gone, other._gone_there = gone, self._send(gone)
        return other

    def scan(self, probes: Floats, own: Doubles | None, bars: Doubles) -> tuple[Found, Doubles]:
        """As of `ExactScan`. Raises RuntimeError where the device has no room, or is lost."""
        with torch.inference_mode():
            return self._scan(probes, own, bars)

    def _scan(self, probes: Floats, own: Doubles | None, bars: Doubles) -> tuple[Found, Doubles]:
        keys, best = self._send(probes), self._send(bars)
        of_probes = None if own is None else self._send(own)
        lengths = np.linalg.norm(probes, axis=1).astype(np.float64)
        relative = ROUNDING * (self._dimension + 4) + (_TF32 if self._is_coarse() else 0.0)
        slopes = self._send(lengths)[:, None]
        most = _HELD // len(probes)
        if self._rows.dtype != torch.float32:
            most = min(most, _HELD // self._dimension)
        chunk = max(RUN, most // RUN * RUN)
        run = run_length(min(chunk, self._padded), bars.shape[1])
        found: list[Found] = []
        for start in range(0, self._padded, chunk):
            stop = min(start + chunk, self._padded)
            runs = self._cosines(keys, start, stop).view(len(probes), -1, run)
            peaks = runs.amax(dim=2).double()  # (Q, runs)
            errors = relative * slopes
            if self._errors is not None:
                errors = errors + slopes * self._errors[start:stop].view(-1, run).amax(dim=1)
            ends = self._densities[start:stop].view(-1, run)
            lower = peaks + self._terms(of_probes, ends[:, -1]) - errors
            best = torch.cat([best, lower], dim=1).topk(bars.shape[1], dim=1).values
            margins = (self._terms(of_probes, ends[:, 0]) + errors).expand_as(peaks)
            which, at = (peaks + margins >= best[:, -1:]).nonzero().unbind(dim=1)
            cosines = runs[which, at]  # (n, run)
            above = cosines.double() + margins[which, at, None]
            open_ = (above >= best[which, -1:]) & (cosines > -math.inf)
            pair, column = open_.nonzero().unbind(dim=1)
            rows = start + at[pair] * run + column
            sent_back = (which[pair], rows, above[pair, column])
            found.append(Found(*(one.cpu().numpy() for one in sent_back)))
        return join_found(found), best.flip(1).cpu().numpy()

    def _cosines(self, keys: Tensor, start: int, stop: int) -> Tensor:
        """Inner products (Q, n) float32 with some rows; -inf of those that are not to be found."""
        cosines = keys @ self._rows[start:stop].to(torch.float32).T
        if self._scales is not None:
            cosines *= self._scales[start:stop]
        first, last = np.searchsorted(self._gone, (start, stop))
        cosines[:, self._gone_there[first:last] - start] = -math.inf
        cosines[:, max(0, self._count - start) :] = -math.inf
        return cosines

    def _terms(self, own: Tensor | None, densities: Tensor) -> Tensor:
        """What is added to a cosine (Q, runs), as `aligned_score` of models/ida has it."""
        if own is None:
            return torch.zeros((1, len(densities)), dtype=torch.float64, device=self._device)
        first = own[:, None]
        half = (first - densities).abs() / 2.0
        log_cosh = half + functional.softplus(-2.0 * half, threshold=1e4) - math.log(2.0)
        return (log_cosh - (first + densities) / 2.0) / self._tau

    def _is_coarse(self) -> bool:
        """Whether this process lets products of float32 be made of fewer bits."""
        is_exact = torch.backends.cuda.matmul.fp32_precision in ("none", "ieee")
        return self._device.type == "cuda" and not is_exact

    def _room(self, width: int, kind: torch.dtype) -> Tensor:
        room = torch.empty((self._padded, width), dtype=kind, device=self._device)
        room[self._count :] = 0
        return room

    def _column(self, values: Doubles | Floats, kind: torch.dtype, rest: float = 0.0) -> Tensor:
        """Numbers (G,), and the rest after them."""
        column = torch.full((self._padded,), rest, dtype=kind, device=self._device)
        column[: self._count] = self._send(values)
        return column

    def _send(self, values: Doubles | Floats | Integers) -> Tensor:
        return torch.tensor(values, device=self._device)
