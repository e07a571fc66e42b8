"""What the commands about sightings share: opening stores, the pack's yardstick, printing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import typer
from rich.table import Table
from rich.text import Text

from .. import EnrolmentRefused, SightingsError, UnknownIdentity
from ..configs.paths import gallery_path, sightings_path
from ..configs.schema import Config, MatchConfig
from .gallery_text import clock, moment, open_gallery, table

if TYPE_CHECKING:
    from ..models.pack import Pack
    from ..stream.gallery import Gallery
    from ..stream.sighting_records import Found, SightingFilter, SightingRecord
    from ..stream.sighting_search import Yardstick
    from ..stream.sighting_store import Sightings

STORE = typer.Option(
    "", "--sightings", help="A file or SQLAlchemy URL; default: sightings.db in the data folder."
)
SCORE = typer.Option(MatchConfig.score, "--score", help="ida or cosine, as match.score.")
CAMERA = typer.Option(None, "--camera", help="Only of this camera.")
SINCE = typer.Option(None, "--since", help="Only from this day or time on.")
UNTIL = typer.Option(None, "--until", help="Only before this day or time.")

LEAST_CHANCE = 1e-4
"""Below this a fitted probability is the shape of the fit and not what strangers did."""

ScoreName = Literal["ida", "cosine"]


def open_store(place: str) -> Sightings:
    """The sighting store that `--sightings` names."""
    from ..stream.sighting_store import Sightings  # slow to import

    return Sightings.open(place or sightings_path(), create=False)


def forget_erased(gallery: Gallery, place: str) -> int:
    """Erase the sightings of everybody who was removed from a gallery; returns how many.

    place: the store, as `--sightings` names it; there may be none in the data folder. Raises
    SightingsError, saying that the gallery's part is done.
    """
    if not place and not sightings_path().exists():
        return 0
    from ..stream.sighting_people import KEEP_ALL, erased_people

    try:
        with open_store(place) as store:
            gone = erased_people(gallery, store.people())
            return store.purge(KEEP_ALL, gone=gone).of_erased if gone else 0
    except SightingsError as error:
        raise SightingsError(
            f"removed from the gallery, but not from the sightings: {error}; repeat with "
            "`facestream sightings purge`"
        ) from error


def person_of(person: str, gallery: str) -> tuple[str, str]:
    """A person's name, and the gallery's id, "" where it does not know them.

    The id finds them under a former name, too, and nobody else who has or had the same.
    gallery: as `--gallery` names it; there may be none in the data folder.
    """
    if not gallery and not gallery_path().exists():
        return person, ""
    with open_gallery(gallery) as people:
        try:
            identity = people.show(person).identity
        except (UnknownIdentity, EnrolmentRefused):  # the latter for what can be no name
            return person, ""
    return identity.name, identity.id


def choose(
    *,
    camera: str | None = None,
    since: str | None = None,
    until: str | None = None,
    person: tuple[str, str] | None = None,
    unknown: bool = False,
    limit: int | None = None,
) -> SightingFilter:
    """The filter that the options say. Raises ConfigError for times that are none.

    person: as `person_of` returns it.
    """
    from ..stream.sighting_records import SightingFilter

    return SightingFilter(
        camera=camera,
        since=moment("--since", since) if since is not None else None,
        until=moment("--until", until) if until is not None else None,
        person=() if person is None else person[:1],
        uid="" if person is None else person[1],
        unknown=unknown,
        limit=limit,
    )


def yardstick_of(pack: Pack, score: ScoreName) -> Yardstick:
    """How this pack's faces compare, with the pack's own threshold. Raises ConfigError."""
    from ..stream.sighting_search import Yardstick
    from .build import anchors_of, check_score, decision_numbers

    config = Config(cameras=(), match=MatchConfig(score=score))
    check_score(pack, config)
    numbers = decision_numbers(pack.card, config)
    threshold = numbers.threshold if score == "ida" else numbers.cosine_threshold
    return Yardstick(pack.card, anchors_of(pack), score, threshold)


def sighting_table(
    sightings: Sequence[SightingRecord], scores: Sequence[float] | None = None
) -> Table:
    """Sightings, one a line; scores: of each, where they were searched for."""
    extra = ["score"] if scores is not None else []
    shown = table("started", "seconds", "camera", "who", *extra, "frames", "id")
    for column in (shown.columns[0], shown.columns[-1]):
        column.no_wrap = True
    shown.columns[1].justify = "right"
    for place, one in enumerate(sightings):
        cells: list[Text | str] = [
            Text(clock(one.started_at) + second_of(one.started_at)),
            f"{max(0.0, one.seen_at - one.started_at):.0f}",
            Text(one.camera),
            who(one),
        ]
        if scores is not None:
            cells.append(Text(f"{scores[place]:.3f}"))
        shown.add_row(*cells, str(one.frames), Text(one.id[:8], style="dim"))
    return shown


def who(one: SightingRecord) -> Text:
    """Whom a sighting shows, in words."""
    if one.identity is not None:
        later = " (later)" if one.named == "given" else ""
        return Text(one.identity, style="green").append(later, style="dim")
    if one.stranger:
        return Text(one.stranger, style="yellow")
    words = {"open": "in view", "unknown": "unknown", "matched": "erased from the gallery"}
    return Text(words.get(one.reason, one.reason), style="yellow" if one.frames else "dim")


def chance_words(chance: float) -> str:
    """A probability, as far down as strangers' scores tell it."""
    return f"{chance:.2g}" if chance >= LEAST_CHANCE else f"under {LEAST_CHANCE:g}"


def second_of(moment: float) -> str:
    """The seconds that `clock` leaves out."""
    return f":{int(moment) % 60:02}"


def left_out(found: Found) -> list[Text]:
    """What a search could not look at, in words."""
    lines = []
    if found.other_models:
        lines.append(f"not compared, as another pack or embedder made them: {found.other_models}")
    if found.without_template:
        lines.append(f"without a template, and so not searched: {found.without_template}")
    return [Text(line, style="dim") for line in lines]


def count_words(count: int, what: str = "sighting") -> str:
    """How many, in words."""
    return f"1 {what}" if count == 1 else f"{count} {what}s"
