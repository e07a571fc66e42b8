"""`facestream sightings`: who was seen where and when, and who strangers are."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.text import Text

from .. import ConfigError
from . import sightings_keep, sightings_people
from .gallery_text import JSON, PLACE, clock, echo, show, table
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
    person_of,
    second_of,
    sighting_table,
    who,
    yardstick_of,
)

app = typer.Typer(
    help="List, search, name, erase and export sightings; find recurring strangers.",
    no_args_is_help=True,
)

KEY = typer.Argument(help="The id, or its beginning, as `facestream sightings list` shows it.")
PICTURES = typer.Option(None, help="Write the evidence pictures into this folder. They show faces.")
HEAVIEST = 8
"""Frames that `show` prints."""


@app.command("list", epilog="Example: facestream sightings list --unknown --since 2027-01-01")
def list_sightings(
    camera: str | None = CAMERA,
    since: str | None = SINCE,
    until: str | None = UNTIL,
    person: str | None = typer.Option(None, help="Only of this person (name, or gallery id)."),
    unknown: bool = typer.Option(False, "--unknown", help="Only of people without a name."),
    limit: int = typer.Option(50, min=0, help="The newest so many; 0 for all."),
    gallery: str = PLACE,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """List sightings, oldest first."""
    wanted = choose(
        camera=camera,
        since=since,
        until=until,
        person=None if person is None else person_of(person, gallery),
        unknown=unknown,
        limit=limit or None,
    )
    with open_store(place) as store:
        found, total, where = store.list(wanted), store.count(wanted), store.place
    if json:
        echo({"store": where, "total": total, "sightings": found})
        return
    if found:
        show(sighting_table(found))
    older = f", the newest {len(found)} shown" if total > len(found) else ""
    show(Text(f"{count_words(total)}{older}, in {where}"))


@app.command("show", epilog="Example: facestream sightings show 3fa9c1 --pictures evidence/")
def show_sighting(
    key: str = KEY,
    pictures: Path | None = PICTURES,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Show a sighting: how it was decided, and what each frame weighs in its template."""
    with open_store(place) as store:
        details = store.show(key)
    one = details.sighting
    files = []
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for crop in details.crops:
            file = pictures / f"{one.id[:8]}-{crop.frame}.jpg"
            file.write_bytes(crop.jpeg)
            files.append(str(file))
    if json:
        echo(details)
        return
    show(Text(f"{one.id}  ").append(who(one)))
    facts = {
        "camera": f"{one.camera}, track {one.track}",
        "started": clock(one.started_at) + second_of(one.started_at),
        "seen for": f"{one.seen_at - one.started_at:.1f} s, ended: {one.reason}",
        "in the stream": f"{one.first_pts or 0:.2f} s, frame {one.first_frame}",
        "faces": f"{one.faces} seen, {one.frames} fused",
    }
    if one.score is not None:
        chance = "" if one.probability is None else f", by chance {chance_words(one.probability)}"
        facts["score"] = f"{one.score:.3f} (threshold {one.threshold:.3f}{chance})"
    if one.best_score is not None:
        facts["best score"] = f"{one.best_score:.3f} of all decisions"
    if one.threshold_why:
        facts["threshold"] = one.threshold_why
    if one.named == "given":
        score = "by hand" if one.named_score is None else f"score {one.named_score:.3f}"
        facts["named"] = f"{clock(one.named_at or 0.0)}, {score}"
    if one.pack:
        facts["pack"] = f"{one.pack}, gallery version {one.gallery_version}"
    kept = [word for word, has in (("template", one.template), ("pictures", one.crops)) if has]
    facts["kept"] = " and ".join(kept) or "neither template nor pictures"
    for name, text in facts.items():
        show(Text(f"{name}: ", style="dim").append(text))
    if details.weights:
        shown = table("frame", "at", "quality", "weight", "")
        heaviest = sorted(details.weights, key=lambda frame: -frame.weight)[:HEAVIEST]
        for frame in heaviest:
            bar = "█" * round(30 * frame.weight / heaviest[0].weight)
            cells = (f"{frame.pts:.2f} s", f"{frame.quality:.3g}", f"{100 * frame.weight:.1f} %")
            shown.add_row(str(frame.frame), *cells, Text(bar, style="cyan"))
        show(shown)
        if more := len(details.weights) - len(heaviest):
            show(Text(f"and {more} frames that weigh less", style="dim"))
    for path in files:
        show(Text(path))


@app.command(epilog="Example: facestream sightings like 3fa9c1 --top 5")
def like(
    key: str = KEY,
    top: int = typer.Option(10, min=1, help="How many."),
    pack: str = PACK,
    score: ScoreName = SCORE,
    gallery: str = PLACE,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Where else the person of a sighting was seen, best first."""
    from ..models.pack import open_pack
    from ..stream.sighting_search import SightingSearch

    models = open_pack(chosen_pack(pack, gallery))
    with open_store(place) as store:
        yardstick = yardstick_of(models, score)
        found = SightingSearch(store, yardstick).like_sighting(key, top)
    if json:
        echo(found)
        return
    if found.hits:
        hits = [hit.sighting for hit in found.hits]
        show(sighting_table(hits, [hit.score for hit in found.hits]))
    show(
        Text(
            f"{count_words(found.searched)} searched; from {found.threshold:.3f} on it is taken "
            "for the same person"
        )
    )
    for line in left_out(found):
        show(line)


@app.command(epilog="Example: facestream sightings erase --person 'Anna Smith' --yes")
def erase(
    keys: list[str] = typer.Argument(None, help="Ids, or their beginnings."),  # noqa: B008
    person: str | None = typer.Option(
        None, help="All sightings that show, or once showed, this person (name, or gallery id)."
    ),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    gallery: str = PLACE,
    place: str = STORE,
    json: bool = JSON,
) -> None:
    """Erase sightings, with templates and pictures, also from the file; they do not come back."""
    if bool(keys) == (person is not None):
        raise ConfigError("give ids of sightings, or --person")
    who = None if person is None else person_of(person, gallery)
    with open_store(place) as store:
        ids = [store.find(key).id for key in keys or []]
        what = f"all sightings of {person}" if person is not None else count_words(len(ids))
        if not yes and not typer.confirm(f"Erase {what} from {store.place}?", err=True):
            typer.echo("nothing was erased", err=True)
            raise typer.Exit(1)
        count = store.erase_person(who[0], uid=who[1]) if who else store.erase(ids)
    if json:
        echo({"erased": count})
    else:
        show(Text(f"erased {count_words(count)}"))


app.command("cluster", epilog=sightings_people.CLUSTER_EXAMPLE)(sightings_people.cluster)
app.command("name", epilog=sightings_people.NAME_EXAMPLE)(sightings_people.name)
app.command("unname", epilog=sightings_people.UNNAME_EXAMPLE)(sightings_people.unname)
app.command("find", epilog=sightings_people.FIND_EXAMPLE)(sightings_people.find)
app.command("purge", epilog=sightings_keep.PURGE_EXAMPLE)(sightings_keep.purge)
app.command("export", epilog=sightings_keep.EXPORT_EXAMPLE)(sightings_keep.export)
