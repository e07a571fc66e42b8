"""Progress of long runs on stderr, with the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(what: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar while the block runs; yields what advances it. total None: no end is known.

    done: what an earlier run did already; the time left is judged by this run alone. Nothing is
    shown where stderr is no terminal.
    """
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    ends = [TextColumn("left"), TimeRemainingColumn()] if total else [TimeElapsedColumn()]
    with Progress(*columns, *ends, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total, completed=done)
        yield lambda count: bars.advance(task, count)
