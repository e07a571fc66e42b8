"""What `facestream enroll` shows: progress, what became of each photo, and sums by reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..stream.enrol_records import EnrolmentSummary, PhotoResult

LISTED = 40
"""Photos of a run that are all listed; of more, only those with something to say."""

MARKS = {"enrolled": "green", "known": "dim", "refused": "yellow"}


class RunFacts(NamedTuple):
    """gallery: its place for people; whole: False for a run that broke off; seconds it took."""

    gallery: str
    version: int
    whole: bool
    seconds: float


@contextmanager
def enrolment_progress() -> Iterator[Progress]:
    """A bar on stderr with rate and time left, where that is a terminal; its one task is running.

    Its field `rate` is text: how fast it goes, and the time left.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("enrolling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as bar:
        bar.add_task("", total=None, rate="")
        yield bar


def print_json(summary: EnrolmentSummary, facts: RunFacts) -> None:
    """One JSON object on stdout."""
    counts = {status: summary.count(status) for status in ("enrolled", "known", "refused")}
    report = facts._asdict() | counts | {"causes": summary.causes, "photos": summary.results}
    typer.echo(msgspec.json.encode(report))


def print_summary(summary: EnrolmentSummary, facts: RunFacts) -> None:
    """A table of the photos, and what they come to."""
    console = Console(highlight=False)
    results = summary.results
    if len(results) > LISTED:
        results = tuple(one for one in results if one.status == "refused" or one.remark)
    if results:
        console.print(_table(results))
    lines = [
        f"{summary.count('enrolled')} enrolled, {summary.count('known')} known already, "
        f"{summary.count('refused')} refused in {facts.seconds:.1f} s; "
        f"the gallery is {facts.gallery}"
    ]
    if summary.causes:
        reasons = ", ".join(f"{cause} {count}" for cause, count in summary.causes.items())
        lines.append(f"refused because: {reasons}")
    if not facts.whole:
        lines.append("broken off: these are in the gallery; the same command goes on from here")
    for line in lines:
        console.print(Text(line))


def _table(results: tuple[PhotoResult, ...]) -> Table:
    table = Table("photo", "identity", "result", "face px", "quality", box=None, pad_edge=False)
    for one in results:
        words = f"refused: {one.reason}" if one.reason else one.status
        words += f"; {one.remark}" if one.remark else ""
        table.add_row(
            Text(one.source),
            Text(one.identity),
            Text(words, style="yellow" if one.remark else MARKS[one.status]),
            "" if one.face_height is None else f"{one.face_height:.0f}",
            "" if one.quality is None else f"{one.quality:.4g}",
        )
    return table
