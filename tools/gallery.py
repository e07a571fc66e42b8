"""`facestream gallery`: who is enrolled."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..configs.paths import gallery_path

if TYPE_CHECKING:
    from ..stream.gallery import Gallery

app = typer.Typer(help="List, show and remove the people of a gallery.", no_args_is_help=True)

PLACE = typer.Option(
    "", "--gallery", help="A file or SQLAlchemy URL; default: gallery.db in the data folder."
)
JSON = typer.Option(False, "--json", help="Print one JSON object.")
NAME = typer.Argument(help="The name, as `facestream gallery list` shows it.")


@app.command("list", epilog="Example: facestream gallery list --json")
def list_people(place: str = PLACE, json: bool = JSON) -> None:
    """List everybody who is enrolled."""
    with _open(place) as gallery:
        version, people = gallery.version(), gallery.identities()
        where = gallery.place
    if json:
        _echo({"gallery": where, "version": version, "identities": people})
        return
    table = _table("name", "photos", "packs", "enrolled", "notes")
    for person in people:
        table.add_row(
            Text(person.name),
            str(person.samples),
            Text(", ".join(person.packs)),
            _time(person.created_at),
            Text(person.notes),
        )
    if people:
        _print(table)
    _print(Text(f"identities: {len(people)}, version {version}, in {where}"))


@app.command(epilog="Example: facestream gallery show 'Anna Smith'")
def show(name: str = NAME, place: str = PLACE, json: bool = JSON) -> None:
    """Show a person's photos (by name; pictures are not stored) and what was done when by whom."""
    with _open(place) as gallery:
        details = gallery.show(name)
    if json:
        _echo(details)
        return
    person = details.identity
    _print(Text(person.name, style="bold"))
    if person.notes:
        _print(Text(person.notes))
    photos = _table("photo", "added", "pack", "quality", "norm", "embedder")
    for sample in details.samples:
        for one in sample.embeddings:
            photos.add_row(
                Text(sample.source),
                _time(sample.created_at),
                Text(one.pack),
                f"{one.quality:.4g}",
                f"{one.norm:.4g}",
                one.embedder[:12],
            )
    _print(photos)
    history = _table("when", "who", "what", "version")
    for entry in details.history:
        history.add_row(_time(entry.at), Text(entry.actor), entry.action, str(entry.version))
    _print(history)


@app.command(epilog="Example: facestream gallery remove 'Anna Smith' --yes")
def remove(
    name: str = NAME,
    place: str = PLACE,
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    json: bool = JSON,
) -> None:
    """Remove a person: all embeddings go, also from the file; running matchers follow."""
    with _open(place) as gallery:
        person = gallery.show(name).identity
        question = f"Remove {person.name} ({_photos(person.samples)}) from {gallery.place}?"
        if not yes and not typer.confirm(question, err=True):
            typer.echo("nothing was removed", err=True)
            raise typer.Exit(1)
        samples = gallery.remove(person.name)
        version = gallery.version()
    if json:
        _echo({"removed": person.name, "samples": samples, "version": version})
    else:
        _print(Text(f"removed {person.name} ({_photos(samples)}), gallery version {version}"))


def _open(place: str) -> Gallery:
    from ..stream.gallery import Gallery  # slow to import

    return Gallery.open(place or gallery_path(), create=False)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _time(seconds: float) -> str:
    """The user's own clock, to the minute."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _print(what: Table | Text) -> None:
    Console(highlight=False).print(what)


def _echo(answer: object) -> None:
    typer.echo(msgspec.json.encode(answer))
