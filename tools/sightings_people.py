"""`facestream sightings cluster`, `name` and `find`: who strangers are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import typer
from msgspec import structs
from rich.text import Text

from .gallery_text import JSON, PLACE, clock, echo, open_gallery, show, table
from .pack_in_use import AUTO, PACK, chosen_pack, pack_of
from .sightings_open import (
    CAMERA,
    SCORE,
    SINCE,
    STORE,
    UNTIL,
    ScoreName,
    choose,
    count_words,
    open_store,
    sighting_table,
    yardstick_of,
)

if TYPE_CHECKING:
    from ..stream.gallery import Gallery
    from ..stream.sighting_naming import SightingNaming
    from ..stream.sighting_store import Sightings

CLUSTER_EXAMPLE = "Example: facestream sightings cluster --least 3 --apart day"
NAME_EXAMPLE = "Example: facestream sightings name s-3fa9c1 'Anna Smith'"
UNNAME_EXAMPLE = "Example: facestream sightings unname 3fa9c1"
FIND_EXAMPLE = "Example: facestream sightings find 'Anna Smith' --mark"

KEYS = typer.Argument(help="Ids, or their beginnings, as `facestream sightings list` shows them.")


def cluster(
    least: int = typer.Option(2, min=2, help="Sightings that make a recurring stranger."),
    apart: Literal["track", "camera", "day"] = typer.Option(
        "track", help="They must differ in this: just be several, on several cameras, or days."
    ),
    camera: str | None = CAMERA,
    since: str | None = SINCE,
    until: str | None = UNTIL,
    threshold: float | None = typer.Option(
        None, help="Mean score from which on groups are joined; default: the pack's threshold."
    ),
    pack: str = PACK,
    score: ScoreName = SCORE,
    gallery: str = PLACE,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Find strangers who recur among unknown people; each gets an id, to be named by.

    Ids stay with whom they were given to. Needs templates: see sightings.templates.
    """
    from ..models.pack import open_pack
    from ..stream.sighting_search import SightingSearch

    wanted = choose(camera=camera, since=since, until=until)
    models = open_pack(chosen_pack(pack, gallery))
    with open_store(place) as store:
        search = SightingSearch(store, yardstick_of(models, score))
        found = search.cluster(least=least, apart=apart, wanted=wanted, threshold=threshold)
        unknown = structs.replace(wanted, unknown=True)
        bare = store.count(unknown) - store.count(structs.replace(unknown, template=True))
    if json:
        echo({"strangers": found, "without_template": bare})
        return
    shown = table("stranger", "sightings", "cameras", "days", "first", "last", "likeness")
    for one in found:
        first, last = one.sightings[0], one.sightings[-1]
        shown.add_row(
            Text(one.id, style="yellow"),
            str(len(one.sightings)),
            Text(", ".join(one.cameras)),
            str(one.days),
            clock(first.started_at),
            clock(last.seen_at),
            f"{one.cohesion:.3f}",
        )
    if found:
        show(shown)
        show(Text("name one: facestream sightings name STRANGER NAME", style="dim"))
    show(Text(f"recurring strangers: {len(found)}"))
    if bare:
        words = f"without a template, and so not grouped: {bare} (sightings.templates keeps them)"
        show(Text(words, style="dim"))


def name(
    which: str = typer.Argument(help="A stranger (s-...), or the id of a sighting."),
    person: str = typer.Argument(metavar="NAME", help="Who that is."),
    duplicates: Literal["refuse", "merge", "add"] = typer.Option(
        "refuse", help="When it looks like somebody else in the gallery: as enrol.duplicates."
    ),
    gallery: str = PLACE,
    pack: str = PACK,
    score: ScoreName = SCORE,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Name a stranger: enrol the fused face, and give past sightings the name. One step.

    Sightings that look like the new face are named, too, each with the score it is named for.
    """
    from ..configs.schema import EnrolConfig

    with open_store(place) as store, open_gallery(gallery, create=True) as people:
        naming = _naming(store, people, pack, score)
        named = naming.name(which, person, rules=EnrolConfig(duplicates=duplicates))
    if json:
        echo(named)
        return
    if named.marked:
        show(sighting_table(named.marked))
    enrolled = "enrolled, and " if named.enrolled else ""
    alike = f", {len(named.found)} of them found by likeness" if named.found else ""
    show(Text(f"{named.name}: {enrolled}{count_words(len(named.marked))} named{alike}"))


def find(
    person: str = typer.Argument(metavar="NAME", help="Somebody in the gallery."),
    mark: bool = typer.Option(False, "--mark", help="Give what is found the name."),
    gallery: str = PLACE,
    pack: str = PACK,
    score: ScoreName = SCORE,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Find past sightings of unknown people that the gallery of today names so."""
    with open_store(place) as store, open_gallery(gallery) as people:
        found = _naming(store, people, pack, score).find(person, mark=mark)
    if json:
        echo({"person": person, "marked": mark, "found": found})
        return
    if found:
        show(sighting_table([hit.sighting for hit in found], [hit.score for hit in found]))
    verb = "named" if mark else "found (--mark names them)" if found else "found"
    show(Text(f"{count_words(len(found))} of {person} {verb}"))


def unname(
    keys: list[str] = KEYS,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Take back names that were given to sightings; what a run decided stands again.

    The gallery keeps the face that was enrolled: see `facestream gallery remove`.
    """
    with open_store(place) as store:
        count = store.unname([store.find(key).id for key in keys])
    if json:
        echo({"unnamed": count})
    else:
        show(Text(f"took the name back from {count_words(count)}"))


def _naming(store: Sightings, gallery: Gallery, pack: str, score: ScoreName) -> SightingNaming:
    from ..configs.schema import Config, MatchConfig
    from ..models.pack import open_pack
    from ..stream.sighting_naming import SightingNaming
    from .build import matching

    config = Config(cameras=(), match=MatchConfig(score=score))
    opened = open_pack(pack_of(gallery) if pack == AUTO else pack)
    yardstick = yardstick_of(opened, score)
    return SightingNaming(store, gallery, yardstick, partial(matching, opened, config))
