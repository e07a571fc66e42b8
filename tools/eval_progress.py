"""Progress of long runs on stderr, with the time that is left: a bar, or lines for a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY = 60.0
"""Seconds between two lines where stderr is no terminal."""


@contextmanager
def progress_bar(what: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar while the block runs; yields what advances it. total None: no end is known.

    done: what an earlier run did already; the time left is judged by this run alone. Where stderr
    is no terminal, as under nohup, there is a line a minute, and none for what takes less.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, what, total, done)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    ends = [TextColumn("left"), TimeRemainingColumn()] if total else [TimeElapsedColumn()]
    with Progress(*columns, *ends, console=console) as bars:
        task = bars.add_task(what, total=total, completed=done)
        yield lambda count: bars.advance(task, count)


class _Lines:
    """Tells a log file how far a run is: "train magface: 300 of 1,000, 0:12:40 left"."""

    def __init__(self, console: Console, what: str, total: int | None, done: int) -> None:
        self._console, self._what, self._total = console, what, total
        self._first = self._done = done
        self._begun = self._told = time.monotonic()

    def __call__(self, count: int) -> None:
        """Advance by `count`."""
        self._done += count
        now = time.monotonic()
        if now - self._told < LINE_EVERY:
            return
        self._told = now
        self._console.print(
            f"{self._what}: {self._far(now - self._begun)}", soft_wrap=True, highlight=False
        )

    def _far(self, seconds: float) -> str:
        if self._total is None:
            return f"{self._done:,} after {_clock(seconds)}"
        made = self._done - self._first
        left = seconds * (self._total - self._done) / made if made else None
        told = "" if left is None else f", {_clock(left)} left"
        return f"{self._done:,} of {self._total:,}{told}"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
