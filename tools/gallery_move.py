"""`facestream gallery export|import`: a gallery as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from .gallery_text import JSON, PLACE, echo, open_gallery, photos, show
from .sightings_open import count_words

EXPORT_EXAMPLE = "Example: facestream gallery export people.zip"
IMPORT_EXAMPLE = "Example: facestream gallery import people.zip --gallery postgresql://host/people"


def export_gallery(
    path: Annotated[Path, typer.Argument(help="The new archive.")],
    place: str = PLACE,
    json: bool = JSON,
) -> None:
    """Write everybody, with embeddings, marks and watchlists, into one archive.

    The audit trail stays.

    The archive holds biometric data, readable by its owner only.
    """
    with open_gallery(place) as gallery:
        count = gallery.export(path)
    if json:
        echo({"archive": str(path), "people": count})
    else:
        show(Text(f"people exported: {count}, into {path}"))


def import_gallery(
    path: Annotated[Path, typer.Argument(help="An archive that `export` wrote.")],
    place: str = PLACE,
    skip: bool = typer.Option(
        False,
        "--skip",
        help="Leave out who is here already, whose name or photo is taken, or who was erased here.",
    ),
    erased: bool = typer.Option(
        False, "--erased", help="Bring back people who were erased from this gallery."
    ),
    json: bool = JSON,
) -> None:
    """Add everybody of an archive in one step, or nobody. A new gallery is made where none is."""
    from ..stream.gallery_archive import read_archive

    read_archive(path)  # before a gallery is made for nothing
    with open_gallery(place, create=True) as gallery:
        summary = gallery.import_archive(path, skip=skip, erased=erased)
        version = gallery.version()
    if json:
        echo({"version": version, "summary": summary})
        return
    for reason in summary.skipped.values():
        show(Text(f"left out: {reason}", style="yellow"))
    show(
        Text(
            f"people imported: {summary.people} ({photos(summary.samples)}, "
            f"{count_words(summary.marks, 'mark')}), left out: {len(summary.skipped)}, "
            f"gallery version {version}"
        )
    )
