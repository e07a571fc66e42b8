"""`facestream bench transport`: what our transports cost above bare pyzmq that does the same.

Every row is a pair of ours and bare that alternate in the same run: both carry the same content as
often, between two processes of their own (two threads where the row says so), on this machine.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import typer

from .bench_peers import Pair, Peers

WARM_UP = 32
"""Items of a first round that does not count: it meets cold caches and untouched memory."""


class Row(NamedTuple):
    """One comparison. per_item: microseconds for each are shown, else items per second."""

    name: str
    against: str
    ours: Pair
    bare: Pair
    items: int
    per_item: bool = False

    def figure(self, seconds: float) -> float:
        """What is shown of a round that took so long."""
        return 1e6 * seconds / self.items if self.per_item else self.items / seconds


def bench_transport(
    repeats: int = typer.Option(9, min=1, help="Repetitions; medians and ranges are shown."),
    events: int = typer.Option(8000, min=1, help="Events of a repetition."),
    frames: int = typer.Option(100, min=1, help="Frames of a repetition."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Measure events and frames between processes, each beside bare pyzmq doing the same.

    Example: facestream bench transport --repeats 7
    """
    rows = [*event_rows(events), *frame_rows(frames)]
    report = summarise(rows, [measure(row, repeats) for row in rows])
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        show(report)


def event_rows(events: int) -> list[Row]:
    """What events cost; a tenth as many where every one waits for a disk or for an answer."""
    from ..stream.journal import Journal
    from . import bench_events as b

    stored, unstored = (partial(b.publishing, journal) for journal in (Journal, b.Unstored))
    few = max(1, events // 10)

    def row(name: str, against: str, ours: Any, bare: Any, hears: Any, trips: bool = False) -> Row:
        pace = b.TRIPS if trips else b.STREAM
        pairs = b.pair(ours, b.subscribing, pace), b.pair(bare, hears, pace)
        return Row(name, against, *pairs, few if trips or ours is stored else events, trips)

    return [
        row(
            "events/s, nothing stored",
            "PUB/SUB, msgspec at both ends",
            unstored,
            b.publishing_bare,
            b.subscribing_bare,
        ),
        row(
            "events/s, nothing stored",
            "PUB/SUB of finished bytes",
            unstored,
            b.publishing_bytes,
            b.subscribing_bytes,
        ),
        row(
            f"events/s, journal, {b.STREAM.batch} a transaction",
            "SQLite, PUB/SUB, msgspec",
            stored,
            b.publishing_stored,
            b.subscribing_bare,
        ),
        row(
            "µs there and back, nothing stored",
            "PUB/SUB, msgspec at both ends",
            unstored,
            b.publishing_bare,
            b.subscribing_bare,
            trips=True,
        ),
        row(
            "µs there and back, journal",
            "SQLite, PUB/SUB, msgspec",
            stored,
            b.publishing_stored,
            b.subscribing_bare,
            trips=True,
        ),
    ]


def frame_rows(frames: int) -> list[Row]:
    """What frames of 1920x1080 cost from a node to the next, by each transport.

    By reference it takes twenty times as many for a round that is long enough to be timed.
    """
    from . import bench_frames as b

    many = {"inproc": 20 * frames}
    return [
        Row(f"frames/s, {name}", against, b.ours(way), b.bare(way), many.get(way, frames))
        for way, (name, against) in b.WAYS.items()
    ]


def measure(row: Row, repeats: int) -> list[tuple[float, float]]:
    """Seconds of ours and of bare, repetition by repetition, each first in every second one."""
    found = []
    with ExitStack() as running:
        sides = [running.enter_context(Peers(pair)) for pair in (row.ours, row.bare)]
        for side in sides:
            side.once(max(WARM_UP, row.items // 10))
        for repetition in range(repeats):
            order = (0, 1) if repetition % 2 == 0 else (1, 0)
            seconds = {which: sides[which].once(row.items) for which in order}
            found.append((seconds[0], seconds[1]))
    return found


def summarise(rows: Sequence[Row], found: Sequence[list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians and ranges as plain data. overhead: share of time above bare; 0.1 is 10 % more."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": median(values), "min": min(values), "max": max(values)}

    return {
        "machine": f"{platform.processor() or platform.machine()}, {platform.platform()}",
        "repeats": len(found[0]),
        "rows": [
            {
                "name": row.name,
                "against": row.against,
                "items": row.items,
                "ours": spread([row.figure(ours) for ours, _ in pairs]),
                "bare": spread([row.figure(bare) for _, bare in pairs]),
                "overhead": spread([ours / bare - 1 for ours, bare in pairs]),
            }
            for row, pairs in zip(rows, found, strict=True)
        ],
    }


def show(report: dict[str, Any]) -> None:
    """Print a report as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        "Events of 1.4 KB over tcp and frames of 1920x1080, on this machine, against bare pyzmq "
        f"beside it; {report['repeats']} repetitions, median (least to most)"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "ours", "bare", "overhead, %"):
        table.add_column(column, justify="right" if column else "left")
    for row in report["rows"]:
        low, middle, high = (100 * row["overhead"][key] for key in ("min", "median", "max"))
        table.add_row(
            f"{row['name']}\n[dim]  bare: {row['against']}",
            f"{row['ours']['median']:,.0f}",
            f"{row['bare']['median']:,.0f}",
            f"{middle:.0f} ({low:.0f} to {high:.0f})",
        )
    console.print(table)
