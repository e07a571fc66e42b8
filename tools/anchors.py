"""`facestream anchors`: the faces against which IDA measures how crowded a place is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .gallery_text import JSON, PLACE, echo, open_gallery, show, table
from .pack_in_use import PACK, chosen_pack

if TYPE_CHECKING:
    from ..models.card import Card
    from ..models.fusion import Floats
    from ..models.ida import Anchors

app = typer.Typer(
    help="The faces of nobody, against which IDA measures density: build, list and verify them.",
    no_args_is_help=True,
)

NAMED = 10
"""How many of those who look alike are named in text; --json names all."""

ALIKE = typer.Option(
    None,
    help="Cosine from which two faces show one person; default: what different people reach less "
    "than once in so many pairs, by the pack's own numbers.",
)


@app.command(epilog="Example: facestream anchors build synthetic-faces/ --pack packs/mine.yaml")
def build(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of faces, one picture and one identity each; or the class weights of a "
            "classification layer, .npy or .npz."
        ),
    ],
    pack: str = typer.Option("open", help="Model pack, or the path of a card, that gets them."),
    every: int = typer.Option(1, min=1, help="Take every n-th picture or class."),
    attribution: str = typer.Option("", help="Whose faces these are and their licence."),
    alike: float | None = ALIKE,
    gallery: str = typer.Option(
        "", help="Leave out whoever looks like somebody enrolled there: a file or SQLAlchemy URL."
    ),
    json: bool = JSON,
) -> None:
    """Make a pack's anchors, and write them beside its card under a new version.

    Of faces that look alike only the first is taken. Thresholds fitted with other anchors go:
    `facestream train calibrate` comes next.
    """
    from ..models.pack import open_pack
    from ..models.store import load_card
    from ..train.anchors import choose_apart, embed_faces, read_weights, write_anchors

    card = load_card(pack)
    if source.is_dir() or not source.exists():
        found = embed_faces(open_pack(card), source, every=every)
    else:
        found = read_weights(card, source, every=every)
    people = _templates(card, gallery) if gallery else None
    count = len(found.vectors)
    bar = _bar(card, alike, count * (count - 1) // 2 + count * len(people or ()))
    chosen, left_out = choose_apart(found, bar, people)
    report = write_anchors(card, chosen, attribution=attribution, alike=left_out)
    if json:
        pairs = [one._asdict() for one in report.alike]
        echo({**report._asdict(), "path": str(report.path), "alike": pairs, "bar": bar})
        return
    for one in report.alike[:NAMED]:
        show(Text(f"left out: {one.name} looks like {one.like} at {one.cosine:.3f}"))
    show(
        Text(
            f"{report.path}: {report.kept} anchors of dimension {report.dimension}, version "
            f"{report.version}; left out: {len(report.alike)} alike (cosine {bar:.3f} or more), "
            f"{report.refused} without a usable face; fit the thresholds anew with "
            f"`facestream train calibrate --pack {pack}`"
        )
    )


@app.command("list", epilog="Example: facestream anchors list")
def list_anchors(
    packs: Annotated[
        list[str] | None, typer.Argument(help="Packs, or paths of cards; default: all there are.")
    ] = None,
    json: bool = JSON,
) -> None:
    """Show the anchors of packs: version, how many, and the parameters they are used with."""
    from ..models.store import cards, load_card

    rows = [_summary(load_card(one)) for one in packs or cards().values()]
    if json:
        echo({"anchors": rows})
        return
    shown = table("pack", "version", "anchors", "k", "tau", "of")
    for row in rows:
        cells = [row[key] for key in ("pack", "version", "count", "k", "tau", "attribution")]
        shown.add_row(*(Text("-" if cell is None else str(cell)) for cell in cells))
    show(shown)


@app.command(epilog="Example: facestream anchors verify --pack omz --gallery people.db")
def verify(
    pack: str = PACK,
    place: str = PLACE,
    alike: float | None = ALIKE,
    mend: bool = typer.Option(False, "--mend", help="Compute the kept densities anew."),
    json: bool = JSON,
) -> None:
    """Check that nobody enrolled looks like an anchor, and that kept densities are the anchors'.

    Exit code 1 where that is not so.
    """
    from ..models.store import load_card
    from ..stream.gallery_anchors import verify_anchors

    card = load_card(chosen_pack(pack, place))
    anchors = _anchors(card)
    embedder = card.checksum(card.embedder.file)
    with open_gallery(place) as gallery:
        if mend:
            from ..models.pack import open_pack
            from .build import measure_people

            gallery.forget_densities(card.name, embedder, but=[])
            measure_people(gallery, open_pack(card))
        bar = _bar(card, alike, len(gallery.identities()) * len(anchors.vectors))
        found = verify_anchors(gallery, anchors, pack=card.name, embedder=embedder, bar=bar)
    if json:
        echo(
            {"pack": card.name, "version": anchors.version, "bar": bar, "own": anchors.own}
            | {"holds": found.holds, "found": found}
        )
    else:
        for one in found.alike[:NAMED]:
            show(Text(f"{one.name} looks like anchor {one.anchor} at {one.cosine:.3f}"))
        if found.alike:
            show(
                Text(
                    f"a person's own density leaves out anchors from {anchors.own:.3f} on, but "
                    "faces of theirs meet them all: `facestream anchors build FACES/ --gallery "
                    "PLACE` makes anchors without such faces"
                )
            )
        if found.wrong:
            names = ", ".join(found.wrong[:NAMED])
            show(Text(f"densities that are not these anchors': {names}; --mend computes them"))
        show(
            Text(
                f"pack {card.name}, anchors {anchors.version}: {found.people} people, of whom "
                f"{len(found.alike)} look like an anchor (cosine {bar:.3f} or more), "
                f"{len(found.wrong)} have a wrong density and {found.unmeasured} none yet"
            )
        )
    if not found.holds:
        raise typer.Exit(1)


def _bar(card: Card, alike: float | None, pairs: int) -> float:
    """The cosine from which two faces show one person."""
    from ..models.anchor_check import DUPLICATE, alike_bar

    if alike is not None:
        return min(alike, DUPLICATE)
    if card.decision is None:
        return DUPLICATE
    numbers = card.decision
    return alike_bar(numbers.impostor_cosine_centre, numbers.impostor_cosine_spread, pairs)


def _anchors(card: Card) -> Anchors:
    """A card's anchors. Raises ModelError where it has none."""
    from .. import ModelError
    from ..models.anchor_check import card_anchors
    from ..models.pack import load_anchors

    vectors = load_anchors(card)
    if vectors is None:
        raise ModelError(
            f"pack {card.name} has no anchors: `facestream anchors build FACES/ --pack "
            f"{card.name}` makes them"
        )
    return card_anchors(card, vectors)


def _summary(card: Card) -> dict[str, Any]:
    from ..models.pack import load_anchors
    from ..models.store import checksum

    vectors = load_anchors(card)
    keys = ("version", "count", "dimension", "k", "tau", "sha256", "attribution")
    if card.ida is None or vectors is None:
        return {"pack": card.name, **dict.fromkeys(keys)}
    ida = card.ida
    digest = checksum(card.folder / ida.anchors)
    values = (ida.anchor_version, *vectors.shape, ida.k, ida.tau, digest, ida.attribution)
    return {"pack": card.name, **dict(zip(keys, values, strict=True))}


def _templates(card: Card, place: str) -> dict[str, Floats]:
    """Everybody of a gallery who has an embedding of this pack: unit templates by name."""
    with open_gallery(place) as gallery:
        roster = gallery.roster(card.name, card.checksum(card.embedder.file))
    names = (roster.people[owner].name for owner in roster.owners)
    return dict(zip(names, roster.vectors, strict=True))
