"""`facestream search PHOTO`: who is it, and where was this face seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from .. import EnrolmentRefused
from ..configs.paths import gallery_path, sightings_path
from ..configs.schema import Config, MatchConfig
from .gallery_text import JSON, PLACE, echo, open_gallery, show, table
from .pack_in_use import PACK, chosen_pack
from .sightings_open import (
    CAMERA,
    SCORE,
    SINCE,
    STORE,
    UNTIL,
    ScoreName,
    chance_words,
    choose,
    count_words,
    left_out,
    open_store,
    sighting_table,
    yardstick_of,
)

if TYPE_CHECKING:
    from ..models.pack import Pack
    from ..models.photo import Described
    from ..stream.records import Match
    from ..stream.sighting_records import Found


def search(
    photo: Path = typer.Argument(help="A photo; of several faces the tallest is taken."),  # noqa: B008
    top: int = typer.Option(5, min=1, help="How many people, and sightings."),
    camera: str | None = CAMERA,
    since: str | None = SINCE,
    until: str | None = UNTIL,
    pack: str = PACK,
    score: ScoreName = SCORE,
    gallery: str = PLACE,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Who in the gallery the face of a photo is, and which sightings show it.

    Exit code 5 when the photo shows no usable face. The photo is not stored.

    Example: facestream search visitor.jpg --since 2027-01-01
    """
    from ..models.pack import open_pack

    wanted = choose(camera=camera, since=since, until=until)
    models = open_pack(chosen_pack(pack, gallery))
    described, faces = _describe(models, photo)
    match, where = _who(models, described, score, top, gallery)
    found = None
    if place or sightings_path().exists():
        from ..stream.sighting_search import SightingSearch

        with open_store(place) as store:
            looking = SightingSearch(store, yardstick_of(models, score))
            found = looking.like(described.embedding / described.norm, top, wanted)
    if json:
        echo(_answer(photo, described, faces, match, found))
        return
    more = f" (the tallest of {faces} faces)" if faces > 1 else ""
    unit = models.quality.unit
    show(Text(f"{photo}: quality {described.quality:.3g}{more}, {unit}"))
    _print_people(match, where)
    _print_sightings(found)


def _describe(pack: Pack, photo: Path) -> tuple[Described, int]:
    """The tallest face of a photo, and how many it shows. Raises EnrolmentRefused."""
    from ..models.photo import describe_face, find_faces, tallest_face
    from ..stream.enrol_photos import decode, read_bytes

    image = decode(read_bytes(photo))
    faces = find_faces(pack.detector, image)
    face = tallest_face(faces)
    if face is None:
        raise EnrolmentRefused(f"no face found in {photo}")
    return describe_face(pack, image, face), len(faces.boxes)


def _who(
    pack: Pack, described: Described, score: ScoreName, top: int, place: str
) -> tuple[Match | None, str]:
    """The decision a run would take on this one picture; None without a gallery."""
    from ..stream.records import FrameRef, Template, TrackKey, TrackTemplate
    from .build import matching

    if not place and not gallery_path().exists():
        return None, ""
    config = Config(cameras=(), match=MatchConfig(score=score, top_k=top))
    quality = described.quality
    template = Template(described.embedding / described.norm, 1, quality, quality, quality, ())
    probe = TrackTemplate(TrackKey("-", "-", 0), FrameRef("-", 0, 0.0, 0.0, 0, 0), template)
    with open_gallery(place) as gallery, matching(pack, config, gallery) as stage:
        (match,) = stage.decide([probe])
        return match, gallery.place


def _answer(
    photo: Path, described: Described, faces: int, match: Match | None, found: Found | None
) -> dict[str, Any]:
    people = None
    if match is not None:
        people = {
            "identity": match.identity,
            "threshold": match.threshold,
            "false_positive_probability": match.false_positive_probability,
            "candidates": match.candidates,
            "gallery_version": match.gallery_version,
        }
    quality = described.quality
    return {
        "photo": str(photo),
        "faces": faces,
        "quality": quality,
        "people": people,
        "sightings": found,
    }


def _print_people(match: Match | None, where: str) -> None:
    if match is None:
        show(Text("there is no gallery to look in", style="dim"))
        return
    shown = table("person", "score", "cosine", "")
    for one in match.candidates:
        named = one.identity == match.identity
        verdict = Text("this is who it is", style="green") if named else Text("")
        shown.add_row(Text(one.identity), f"{one.score:.3f}", f"{one.cosine:.3f}", verdict)
    if match.candidates:
        show(shown)
    chance = match.false_positive_probability
    words = "nobody" if match.identity is None else match.identity
    by_chance = ""
    if chance is not None:
        by_chance = (
            f"; a stranger reaches the best score with a probability of {chance_words(chance)}"
        )
    show(Text(f"in {where}: {words} (threshold {match.threshold:.3f}{by_chance})"))


def _print_sightings(found: Found | None) -> None:
    if found is None:
        show(Text("there is no sighting store to look in", style="dim"))
        return
    if found.hits:
        hits = [hit.sighting for hit in found.hits]
        show(sighting_table(hits, [hit.score for hit in found.hits]))
    same = sum(hit.score >= found.threshold for hit in found.hits)
    show(
        Text(
            f"{count_words(found.searched)} searched; {same} of those shown are the same person "
            f"(from {found.threshold:.3f} on)"
        )
    )
    for line in left_out(found):
        show(line)
