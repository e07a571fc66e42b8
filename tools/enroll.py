"""`facestream enroll`: photos into the gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from .. import EnrolmentRefused
from ..configs.paths import gallery_path
from ..configs.schema import EnrolConfig

if TYPE_CHECKING:
    from ..stream.enrol_records import EnrolmentSummary, PhotoResult

MARKS = {"enrolled": "green", "known": "dim", "refused": "yellow"}


def enroll(
    path: Annotated[
        Path,
        typer.Argument(
            help="A photo, or a folder: NAME.jpg (more of NAME: NAME#2.jpg), or NAME/*.jpg."
        ),
    ],
    name: str | None = typer.Option(
        None, help="Whose photos these are; default: the name of the photo or its folder."
    ),
    gallery: str = typer.Option(
        "", help="Gallery, a file or SQLAlchemy URL; default: gallery.db in the data folder."
    ),
    pack: str = typer.Option("open", help="Model pack, or the path of a card."),
    largest: bool = typer.Option(False, "--largest", help="Of several faces take the largest."),
    smallest_face: float = typer.Option(
        EnrolConfig.smallest_face, help="Refuse faces lower than this many pixels in the photo."
    ),
    least_quality: float | None = typer.Option(
        None, help="Refuse faces of a lower quality, in the pack's unit; default: none is refused."
    ),
    duplicates: Annotated[
        Literal["refuse", "merge", "add"],
        typer.Option(help="What becomes of a new person who looks like somebody in the gallery."),
    ] = "refuse",
    duplicate_score: float | None = typer.Option(
        None, help="Cosine from which on a face looks like somebody; default: the pack's."
    ),
    note: str | None = typer.Option(None, help="Free text kept with everybody enrolled here."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Enrol people from photos: exactly one face each. The photos themselves are not stored.

    A photo that is enrolled already is skipped: an interrupted run can simply be repeated.

    Exit code 5 when every photo was refused.

    Example: facestream enroll photos/ --gallery people.db
    """
    # Networks and the database are slow to import, and `--help` needs neither.
    from ..models.pack import open_pack
    from ..stream.enrol import Enroller
    from ..stream.gallery import Gallery
    from ..stream.gallery_records import Change
    from .build import measure_people

    if not path.exists():
        raise EnrolmentRefused(f"no photo or folder at {path}")
    # The pack first: without it no empty gallery is made.
    models = open_pack(pack)
    rules = EnrolConfig(smallest_face, least_quality, largest, duplicates, duplicate_score)
    change = None if note is None else Change(notes=note)
    with Gallery.open(gallery or gallery_path(), create=True) as store:
        enroller = Enroller(models, store, rules)
        with Progress(console=Console(stderr=True), transient=True, disable=json) as bar:
            task = bar.add_task("enrolling", total=None)
            summary = enroller.enrol_folder(
                path, name=name, change=change, progress=_Show(bar, task)
            )
        measure_people(store, models)
        place, version = store.place, store.version()
    if json:
        typer.echo(msgspec.json.encode(_report(summary, place, version)))
    else:
        _print(summary, place)
    summary.require_somebody()


class _Show:
    """Moves the progress bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, done: int, total: int, result: PhotoResult) -> None:
        self._bar.update(self._task, completed=done, total=total, description=result.identity)


def _report(summary: EnrolmentSummary, place: str, version: int) -> dict[str, object]:
    return {
        "gallery": place,
        "version": version,
        "enrolled": summary.count("enrolled"),
        "known": summary.count("known"),
        "refused": summary.count("refused"),
        "photos": summary.results,
    }


def _print(summary: EnrolmentSummary, place: str) -> None:
    console = Console(highlight=False)
    table = Table("photo", "identity", "result", "face px", "quality", box=None, pad_edge=False)
    for result in summary.results:
        words = f"refused: {result.reason}" if result.reason else result.status
        table.add_row(
            Text(result.source),
            Text(result.identity),
            Text(words, style=MARKS[result.status]),
            "" if result.face_height is None else f"{result.face_height:.0f}",
            "" if result.quality is None else f"{result.quality:.4g}",
        )
    console.print(table)
    console.print(
        Text(
            f"photos: {summary.count('enrolled')} enrolled, {summary.count('known')} known "
            f"already, {summary.count('refused')} refused; the gallery is {place}"
        )
    )
