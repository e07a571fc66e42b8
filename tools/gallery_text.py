"""What the commands of `facestream gallery` share: opening, printing, times."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import ConfigError
from ..configs.paths import gallery_path

if TYPE_CHECKING:
    from ..stream.gallery import Gallery
    from ..stream.gallery_records import AuditEntry

PLACE = typer.Option(
    "", "--gallery", help="A file or SQLAlchemy URL; default: gallery.db in the data folder."
)
JSON = typer.Option(False, "--json", help="Print one JSON object.")
NAME = typer.Argument(help="The name, as `facestream gallery list` shows it.")


def open_gallery(place: str, *, create: bool = False) -> Gallery:
    """The gallery that `--gallery` names."""
    from ..stream.gallery import Gallery  # slow to import

    return Gallery.open(place or gallery_path(), create=create)


def moment(option: str, text: str) -> float | None:
    """Seconds since 1970 of a day or a time by this machine's clock; None for "never".

    Raises ConfigError for what is neither.
    """
    if text == "never":
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"{option} must be a day such as 2027-01-01 (from its beginning), a time such as "
            f"'2027-01-01 18:30', or never; got {text!r}"
        ) from None


def table(*columns: str) -> Table:
    """A table without lines."""
    return Table(*columns, box=None, pad_edge=False)


def history_table(entries: tuple[AuditEntry, ...], *, names: bool) -> Table:
    """The audit trail; names: with whose each line is."""
    shown = table("when", "who", "what", "details", *(["identity"] if names else []), "version")
    for entry in entries:
        cells = [clock(entry.at), entry.actor, entry.action, entry.details]
        if names:
            cells.append(entry.name or (f"erased {entry.id[:12]}" if entry.id else ""))
        shown.add_row(*map(Text, cells), str(entry.version))
    return shown


def photos(count: int) -> str:
    """How many photos, in words."""
    return "1 photo" if count == 1 else f"{count} photos"


def clock(seconds: float) -> str:
    """The user's own clock, to the minute."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def show(what: Table | Text) -> None:
    """Print for people."""
    Console(highlight=False).print(what)


def echo(answer: object) -> None:
    """Print for programs."""
    typer.echo(msgspec.json.encode(answer))
