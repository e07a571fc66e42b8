"""`facestream sightings purge` and `export`: how long sightings are kept, and taking them along."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import msgspec
import typer
from rich.text import Text

from ..configs.load import load
from ..configs.paths import gallery_path
from .gallery_text import JSON, PLACE, echo, open_gallery, show
from .sightings_open import CAMERA, SINCE, STORE, UNTIL, choose, count_words, open_store

PURGE_EXAMPLE = "Example: facestream sightings purge lobby.yaml"
EXPORT_EXAMPLE = "Example: facestream sightings export sightings.jsonl --since 2027-01-01"


def purge(
    config: Path | None = typer.Argument(  # noqa: B008
        None, help="Configuration whose sightings.*_days apply; without it only the options."
    ),
    keep_days: float | None = typer.Option(None, min=0, help="Delete older sightings."),
    template_days: float | None = typer.Option(None, min=0, help="Delete older templates."),
    crop_days: float | None = typer.Option(None, min=0, help="Delete older pictures."),
    gallery: str = PLACE,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Delete what is too old, and all sightings of people who were removed from the gallery.

    A run does the same every hour.
    """
    from ..stream.sighting_people import KEEP_ALL, erased_people

    limits = KEEP_ALL
    if config is not None:
        limits = load(config).sightings
        gallery = gallery or load(config).gallery.url
        place = place or limits.url
    limits = dataclasses.replace(
        limits,
        keep_days=keep_days if keep_days is not None else limits.keep_days,
        template_days=template_days if template_days is not None else limits.template_days,
        crop_days=crop_days if crop_days is not None else limits.crop_days,
    )
    with open_store(place) as store:
        gone: frozenset[str] = frozenset()
        if gallery or gallery_path().exists():
            with open_gallery(gallery) as people:
                gone = erased_people(people, store.people())
        purged = store.purge(limits, gone=gone)
    if json:
        echo(purged)
        return
    faces = f"{count_words(purged.templates, 'template')}, {count_words(purged.crops, 'picture')}"
    old, erased = count_words(purged.sightings), count_words(purged.of_erased)
    show(Text(f"deleted by age: {old}, {faces}; of removed people: {erased}"))


def export(
    file: Path = typer.Argument(help="A new file: one JSON object a line."),  # noqa: B008
    pictures: bool = typer.Option(
        False, "--pictures", help="With evidence pictures (JPEG in base64). They show faces."
    ),
    camera: str | None = CAMERA,
    since: str | None = SINCE,
    until: str | None = UNTIL,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Write sightings with the weights of their frames into a file. Templates stay here."""
    wanted = choose(camera=camera, since=since, until=until)
    with open_store(place) as store:
        records = store.list(wanted)
        # Who was where: as the store itself, for the owner's eyes only.
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as out:
            for record in records:
                details = store.show(record.id)
                if not pictures:
                    details = msgspec.structs.replace(details, crops=())
                out.write(msgspec.json.encode(details) + b"\n")
    if json:
        echo({"file": str(file), "sightings": len(records)})
    else:
        show(Text(f"wrote {count_words(len(records))} into {file}"))
