"""Where the time goes: calls, items and seconds per stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StageTime:
    """What one stage did: calls, items that went through it, seconds of wall clock."""

    calls: int = 0
    items: int = 0
    seconds: float = 0.0


class Meter:
    """Adds up stage times. Not shared between threads."""

    def __init__(self) -> None:
        """Nothing measured yet."""
        self.stages: dict[str, StageTime] = {}

    @contextmanager
    def measure(self, stage: str, items: int = 1) -> Iterator[None]:
        """Time the body as one call of `stage` on `items` items."""
        started = time.perf_counter()
        try:
            yield
        finally:
            entry = self.stages.setdefault(stage, StageTime())
            entry.calls += 1
            entry.items += items
            entry.seconds += time.perf_counter() - started
