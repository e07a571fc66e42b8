"""What a network costs: parameters, multiply-adds, seconds and memory."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ... import BackendUnavailable

Work = Callable[[], object]
Key = TypeVar("Key")


def count_parameters(module: nn.Module) -> int:
    """Numbers in parameters, also in those that are not trained; running statistics are none."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_multiply_adds(work: Work) -> int:
    """Multiply-adds of one call: of convolutions and matrix products, attention included.

    One multiply-add is two FLOPs. Biases, normalisations, activations and additions are not
    counted, as is usual. The call runs once, so a network should be in eval mode.
    """
    counter = FlopCounterMode(display=False)
    # The counter does not know attention that is fused for the CPU: let it see the products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        work()
    flops: int = counter.get_total_flops()
    return flops // 2


def find_device(name: str) -> torch.device:
    """cpu or cuda. Raises BackendUnavailable for a device that is not here."""
    if name not in ("cpu", "cuda"):
        raise BackendUnavailable(f"device must be cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("torch finds no CUDA device here: take device cpu")
    return torch.device(name)


def device_words(device: torch.device) -> str:
    """What the device is, for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread for operations on the CPU; the number from before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_alternately(
    works: Mapping[Key, Work], repeats: int, device: torch.device, *, least: float = 0.1
) -> dict[Key, list[float]]:
    """Seconds of one call of each work, `repeats` times, all works in every repeat.

    Works of one repeat see the same state of the machine, so their ratios are comparable where
    their times are not; every second repeat goes backwards. least: calls are repeated until they
    took so many seconds, and their mean counts. See `seconds_per_call` for the clock.
    """
    found: dict[Key, list[float]] = {name: [] for name in works}
    with torch.no_grad():
        for work in works.values():
            work()  # the first call allocates and chooses algorithms
    for repeat in range(repeats):
        for name in list(works)[:: 1 if repeat % 2 == 0 else -1]:
            found[name].append(seconds_per_call(works[name], device, least=least))
    return found


@torch.no_grad()
def seconds_per_call(work: Work, device: torch.device, *, least: float = 0.0) -> float:
    """Mean seconds of as many calls as take `least` seconds together, at least one.

    On the CPU these are CPU seconds of this process, which other programs do not stretch: use
    `single_thread`, or waiting threads count for work. On a GPU it is the wall clock, until the
    device is done.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    _wait(device)
    begin, calls = clock(), 0
    while True:
        work()
        calls += 1
        _wait(device)
        if (passed := clock() - begin) >= least:
            return passed / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Work, device: torch.device) -> int | None:
    """The most memory that a call took beyond what was taken before it, in bytes.

    On a GPU what torch allocated, on Linux with glibc the process's resident memory, else None.
    """
    with torch.no_grad():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            work()
            return torch.cuda.max_memory_allocated(device) - before
        try:
            # What was freed earlier goes back to the system, or the call would take it from there.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # peak := now
        except (AttributeError, OSError):  # another C library, another system
            work()
            return None
        before = _resident("VmRSS")
        work()
        return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def noise(*shape: int, device: torch.device) -> Tensor:
    """Normal float32 numbers, the same for the same shape."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=draw).to(device)
