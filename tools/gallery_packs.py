"""`facestream gallery packs|reembed|switch|drop-pack`: going over to another pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from .gallery_text import JSON, PLACE, echo, open_gallery, show, table

if TYPE_CHECKING:
    from ..stream.gallery_packs import PackStatus
    from ..stream.gallery_reembed import Reembedded

PACKS_EXAMPLE = "Example: facestream gallery packs"
REEMBED_EXAMPLE = "Example: facestream gallery reembed photos/ --pack omz"
SWITCH_EXAMPLE = "Example: facestream gallery switch omz --without 'Anna Smith'"
DROP_EXAMPLE = "Example: facestream gallery drop-pack open --yes"

NAMES = 5
"""How many of those who wait are named in text; --json names all."""

PACK = typer.Argument(help="The pack, as `facestream gallery packs` shows it.")
EMBEDDER = typer.Option(
    "", help="How the SHA-256 of its embedder's file begins, where there are several of one pack."
)


def list_packs(place: str = PLACE, json: bool = JSON) -> None:
    """Show which packs people are enrolled with, which is in use, and who waits for the others."""
    with open_gallery(place) as gallery:
        version, packs = gallery.version(), gallery.packs.list()
    if json:
        echo({"version": version, "packs": packs})
        return
    shown = table("pack", "embedder", "in use", "people", "photos", "without it")
    for one in packs:
        used = "yes" if one.in_use else ""
        numbers = [str(one.people), str(one.samples), str(len(one.waiting))]
        shown.add_row(Text(one.pack), one.embedder[:12], used, *numbers)
    if packs:
        show(shown)
    for line in waiting_lines(packs):
        show(line)
    show(Text(f"packs: {len(packs)}, version {version}"))


def reembed_gallery(
    photos: Annotated[
        Path, typer.Argument(help="The photos that people were enrolled from, in any folders.")
    ],
    pack: str = typer.Option(..., help="The other model pack, or the path of a card."),
    place: str = PLACE,
    json: bool = JSON,
) -> None:
    """Embed the photos of the gallery's samples with another pack, beside the one in use.

    Running matchers go on with theirs. An interrupted run can simply be repeated.
    """
    # Networks and the database are slow to import, and `--help` needs neither.
    from ..models.pack import open_pack
    from ..stream.gallery_reembed import reembed
    from .build import measure_people

    models = open_pack(pack)
    with open_gallery(place) as gallery:
        with Progress(console=Console(stderr=True), transient=True, disable=json) as bar:
            task = bar.add_task("embedding", total=None)
            summary = reembed(
                models,
                gallery,
                photos,
                progress=lambda done, count: bar.update(task, completed=done, total=count),
            )
        measure_people(gallery, models)
        version = gallery.version()
        embedder = models.card.checksum(models.card.embedder.file)
        waiting = [
            one
            for one in gallery.packs.list()
            if (one.pack, one.embedder) == (models.card.name, embedder)
        ]
    if json:
        left = waiting[0].waiting if waiting else None
        echo({"version": version, "summary": summary, "waiting": left})
    else:
        _print(summary, waiting, version)


def switch_pack(
    pack: str = PACK,
    embedder: str = EMBEDDER,
    without: list[str] = typer.Option(  # noqa: B008
        [], help="Somebody who need not be recognised with it; once per name."
    ),
    place: str = PLACE,
    json: bool = JSON,
) -> None:
    """Put another pack in use, in one step: runs with models.pack=auto take it when they start.

    Refused while somebody who is matched today has no embedding of it.
    """
    with open_gallery(place) as gallery:
        switch = gallery.packs.switch(pack, embedder=embedder, without=without)
    if json:
        echo(switch)
        return
    if not switch.changed:
        show(Text(f"pack {pack} is in use already, gallery version {switch.version}"))
        return
    instead = f" instead of {switch.before}" if switch.before else ""
    show(Text(f"pack {pack} is in use{instead}, gallery version {switch.version}"))
    for name in switch.without:
        show(Text(f"not matched any more: {name}", style="yellow"))
    if switch.marks:
        text = f"marks 'not this person' that hold with pack {switch.before} alone: {switch.marks}"
        show(Text(text, style="yellow"))


def drop_pack(
    pack: str = PACK,
    embedder: str = EMBEDDER,
    without: list[str] = typer.Option(  # noqa: B008
        [], help="Somebody who may be left without any photo; once per name."
    ),
    place: str = PLACE,
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    json: bool = JSON,
) -> None:
    """Erase the embeddings of a pack that is not in use any more, also from the file."""
    with open_gallery(place) as gallery:
        question = f"Erase the embeddings of pack {pack} from {gallery.place}?"
        if not yes and not typer.confirm(question, err=True):
            typer.echo("nothing was erased", err=True)
            raise typer.Exit(1)
        dropped = gallery.packs.drop(pack, embedder=embedder, without=without)
    if json:
        echo(dropped)
        return
    show(
        Text(
            f"embeddings erased: {dropped.embeddings}, photos that had no other: "
            f"{dropped.samples}, marks: {dropped.marks}, gallery version {dropped.version}"
        )
    )


def waiting_lines(packs: tuple[PackStatus, ...]) -> list[Text]:
    """What there is to say of packs side by side: who waits for those that are not in use."""
    lines = []
    for one in packs:
        if one.waiting:
            names = ", ".join(one.waiting[:NAMES])
            more = f" and {len(one.waiting) - NAMES} more" if one.waiting[NAMES:] else ""
            text = f"pack {one.pack}: no embedding yet of {names}{more}"
            lines.append(Text(text, style="yellow"))
    return lines


def _print(summary: Reembedded, waiting: list[PackStatus], version: int) -> None:
    for refused in summary.refused:
        text = f"refused: {refused.source} of {refused.identity}: {refused.reason}"
        show(Text(text, style="yellow"))
    for sample in summary.without_photo:
        show(Text(f"no photo found: {sample.source} of {sample.identity}", style="yellow"))
    show(
        Text(
            f"photos embedded with pack {summary.pack}: {summary.done}, refused: "
            f"{len(summary.refused)}, not found: {len(summary.without_photo)}, gallery version "
            f"{version}"
        )
    )
    for line in waiting_lines(tuple(waiting)):
        show(line)
