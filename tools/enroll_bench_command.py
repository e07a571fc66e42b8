"""`facestream bench enroll`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import ConfigError


def bench_enroll(
    people: Annotated[
        Path,
        typer.Argument(help="FOLDER/NAME/*: people with at least 2 photos more than --photos."),
    ],
    pack: Annotated[list[str] | None, typer.Option(help="Packs; default: open and omz.")] = None,
    photos: int = typer.Option(3, min=1, help="Photos of a person in the gallery."),
    most: int = typer.Option(8, min=3, help="Photos of a person that are used at most."),
    draws: int = typer.Option(10, min=2, help="Random choices of the photos in the gallery."),
    timed: int = typer.Option(200, min=1, help="Photos that are enrolled for the speed."),
    what: str = typer.Option("", help="What the photos are, for the page."),
    page: Annotated[
        Path | None, typer.Option(help="Write the page of Markdown to this file.")
    ] = None,
    json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Measure enrolment on people of whom there are several photos.

    Example: facestream bench enroll people/ --pack open --page enrolment.md
    """
    from .enroll_bench import measure_pack
    from .enroll_bench_page import to_json, write_page

    folders = sorted(entry for entry in people.iterdir() if entry.is_dir())
    files = [(one.name, sorted(one.iterdir())[:most]) for one in folders]
    files = [(name, found) for name, found in files if len(found) >= photos + 2]
    if len(files) < 2:
        raise ConfigError(
            f"{people} must hold two people or more with {photos + 2} photos or more, got "
            f"{len(files)} of {len(folders)} folders"
        )
    found = {
        name: measure_pack(name, files, photos=photos, draws=draws, timed=timed)
        for name in pack or ["open", "omz"]
    }
    options = f"--photos {photos} --most {most} --draws {draws} --timed {timed}"
    text = write_page(found, what or people.name, options, photos)
    if page is not None:
        page.write_text(text, encoding="utf-8")
    typer.echo(to_json(found) if json else text)
