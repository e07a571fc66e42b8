"""`facestream gallery`: who is enrolled, and what is kept of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from .. import ConfigError
from . import gallery_lists, gallery_move, gallery_not, gallery_packs
from .gallery_text import (
    JSON,
    NAME,
    PLACE,
    clock,
    echo,
    history_table,
    moment,
    open_gallery,
    photos,
    table,
)
from .gallery_text import show as show_text
from .sightings_open import STORE, count_words, forget_erased

if TYPE_CHECKING:
    from ..stream.gallery_records import Change, Details

app = typer.Typer(
    help="List, show, edit and remove the people of a gallery; move galleries.",
    no_args_is_help=True,
)
app.add_typer(gallery_lists.app, name="watchlist")
app.command("not", epilog=gallery_not.EXAMPLE)(gallery_not.mark_not)
app.command("packs", epilog=gallery_packs.PACKS_EXAMPLE)(gallery_packs.list_packs)
app.command("reembed", epilog=gallery_packs.REEMBED_EXAMPLE)(gallery_packs.reembed_gallery)
app.command("switch", epilog=gallery_packs.SWITCH_EXAMPLE)(gallery_packs.switch_pack)
app.command("drop-pack", epilog=gallery_packs.DROP_EXAMPLE)(gallery_packs.drop_pack)
app.command("export", epilog=gallery_move.EXPORT_EXAMPLE)(gallery_move.export_gallery)
app.command("import", epilog=gallery_move.IMPORT_EXAMPLE)(gallery_move.import_gallery)


@app.command("list", epilog="Example: facestream gallery list --json")
def list_people(place: str = PLACE, json: bool = JSON) -> None:
    """List everybody who is enrolled."""
    with open_gallery(place) as gallery:
        version, people = gallery.version(), gallery.identities()
        where, packs = gallery.place, gallery.packs.list()
    if json:
        echo({"gallery": where, "version": version, "identities": people, "packs": packs})
        return
    shown = table("name", "photos", "packs", "enrolled", "notes")
    for person in people:
        shown.add_row(
            Text(person.name),
            str(person.samples),
            Text(", ".join(person.packs)),
            clock(person.created_at),
            Text(person.notes),
        )
    if people:
        show_text(shown)
    now = time.time()
    for person in people:
        if why_not := person.why_not(now):
            show_text(Text(f"not matched: {person.name} {why_not}", style="yellow"))
    for line in gallery_packs.waiting_lines(packs):
        show_text(line)
    show_text(Text(f"identities: {len(people)}, version {version}, in {where}"))


@app.command(epilog="Example: facestream gallery show 'Anna Smith'")
def show(name: str = NAME, place: str = PLACE, json: bool = JSON) -> None:
    """Show a person's photos (by name; no pictures are stored), marks, and who did what when."""
    with open_gallery(place) as gallery:
        details, packs = gallery.show(name), gallery.packs.list()
    if json:
        echo(details)
        return
    _print_person(details)
    for status in packs:
        if details.identity.name in status.waiting:
            show_text(Text(f"no embedding yet of pack {status.pack}", style="yellow"))
    shown = table("photo", "added", "pack", "quality", "norm", "embedder")
    for sample in details.samples:
        for one in sample.embeddings:
            shown.add_row(
                Text(sample.source),
                clock(sample.created_at),
                Text(one.pack),
                f"{one.quality:.4g}",
                f"{one.norm:.4g}",
                one.embedder[:12],
            )
    show_text(shown)
    if details.marks:
        show_text(gallery_not.marks_table(details.marks, names=False))
        show_text(
            Text(
                f"marks 'not this person': {len(details.marks)}; one is taken back with "
                "`facestream gallery not --undo MARK`",
                style="dim",
            )
        )
    show_text(history_table(details.history, names=False))


@app.command(
    epilog="Example: facestream gallery edit 'Anna Smith' --valid-until 2027-01-01 --label team=red"
)
def edit(
    name: str = NAME,
    new_name: str | None = typer.Option(None, "--name", help="The name from now on."),
    notes: str | None = typer.Option(None, help="Free text in place of the notes."),
    basis: str | None = typer.Option(
        None, help="The legal basis, or a reference to the consent; '' for none."
    ),
    valid_from: str | None = typer.Option(
        None, help="Not matched before this day or time; never: no bound."
    ),
    valid_until: str | None = typer.Option(
        None, help="Not matched from this day or time on; never: no bound."
    ),
    keep_until: str | None = typer.Option(
        None, help="Erased by `facestream gallery purge` from then on; never: kept."
    ),
    label: list[str] = typer.Option([], help="KEY=VALUE; once per label."),  # noqa: B008
    unlabel: list[str] = typer.Option([], help="KEY of a label to take away."),  # noqa: B008
    place: str = PLACE,
    json: bool = JSON,
) -> None:
    """Change what is kept of a person, in one step; running matchers follow."""
    change = _change(
        {"name": new_name, "notes": notes, "basis": basis},
        {"valid_from": valid_from, "valid_until": valid_until, "keep_until": keep_until},
        _labels(label, unlabel),
    )
    with open_gallery(place) as gallery:
        changed = gallery.edit(name, change)
        person = gallery.show(new_name or name).identity
        version = gallery.version()
    if json:
        echo({"changed": changed, "version": version, "identity": person})
    else:
        what = "changed" if changed else "nothing to change of"
        show_text(Text(f"{what} {person.name}, gallery version {version}"))


@app.command(epilog="Example: facestream gallery remove 'Anna Smith' --yes")
def remove(
    name: str = NAME,
    place: str = PLACE,
    sightings: str = STORE,
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    json: bool = JSON,
) -> None:
    """Remove a person: embeddings and sightings go, also from the file; running matchers follow."""
    with open_gallery(place) as gallery:
        person = gallery.show(name).identity
        question = f"Remove {person.name} ({photos(person.samples)}) from {gallery.place}?"
        if not yes and not typer.confirm(question, err=True):
            typer.echo("nothing was removed", err=True)
            raise typer.Exit(1)
        samples = gallery.remove(person.name)
        version = gallery.version()
        seen = forget_erased(gallery, sightings)
    if json:
        answer = {"samples": samples, "sightings": seen, "version": version}
        echo({"removed": person.name, **answer})
    else:
        what = f"{photos(samples)}, {count_words(seen)}"
        show_text(Text(f"removed {person.name} ({what}), gallery version {version}"))


@app.command(epilog="Example: facestream gallery purge --json")
def purge(place: str = PLACE, sightings: str = STORE, json: bool = JSON) -> None:
    """Erase everybody whose `keep-until` has passed, as `remove` does; for a daily timer."""
    with open_gallery(place) as gallery:
        names = gallery.purge()
        version = gallery.version()
        seen = forget_erased(gallery, sightings)
    if json:
        echo({"purged": names, "sightings": seen, "version": version})
    else:
        for name in names:
            show_text(Text(f"erased {name}"))
        show_text(Text(f"identities erased: {len(names)}, gallery version {version}"))


@app.command(epilog="Example: facestream gallery audit --json > audit.json")
def audit(
    name: str = typer.Argument("", help="Of this person alone."),
    place: str = PLACE,
    json: bool = JSON,
) -> None:
    """Print who changed what when. Who was erased appears by an id that means nobody any more."""
    with open_gallery(place) as gallery:
        entries = gallery.show(name).history if name else gallery.history()
        where, version = gallery.place, gallery.version()
    if json:
        echo({"gallery": where, "version": version, "entries": entries})
    else:
        show_text(history_table(entries, names=True))


def _print_person(details: Details) -> None:
    person = details.identity
    show_text(Text(person.name, style="bold"))
    if person.notes:
        show_text(Text(f"notes: {person.notes}"))
    if why_not := person.why_not(time.time()):
        show_text(Text(f"not matched: {why_not}", style="yellow"))
    bounds = ("valid_from", "valid_until", "keep_until")
    facts = {key: clock(at) for key in bounds if (at := getattr(person, key)) is not None}
    facts |= {"basis": person.basis} if person.basis else {}
    facts |= {"watchlists": ", ".join(person.watchlists)} if person.watchlists else {}
    facts |= {f"label {key}": value for key, value in person.labels.items()}
    for key, text in facts.items():
        show_text(Text(f"{key.replace('_', ' ')}: {text}"))


def _change(
    texts: dict[str, str | None], moments: dict[str, str | None], labels: dict[str, str | None]
) -> Change:
    """The change that the options say. Raises ConfigError where they say none."""
    from ..stream.gallery_records import Change

    given: dict[str, object] = {key: text for key, text in texts.items() if text is not None}
    for key, text in moments.items():
        if text is not None:
            given[key] = moment(f"--{key.replace('_', '-')}", text)
    if labels:
        given["labels"] = labels
    if not given:
        raise ConfigError("nothing to change: give an option such as --notes (see --help)")
    return Change(**given)  # type: ignore[arg-type]


def _labels(label: list[str], unlabel: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = dict.fromkeys(unlabel)
    for pair in label:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ConfigError(f"--label must be KEY=VALUE, got {pair!r}")
        found[key] = value
    return found
