"""`facestream gallery watchlist`: named sets of people."""

from __future__ import annotations

import typer
from rich.text import Text

from .gallery_text import JSON, PLACE, echo, open_gallery, show, table

app = typer.Typer(help="Named sets of the people of a gallery.", no_args_is_help=True)

LIST = typer.Argument(help="The watchlist, as `facestream gallery watchlist list` shows it.")
PEOPLE = typer.Argument(help="Names, as `facestream gallery list` shows them.")


@app.command("list", epilog="Example: facestream gallery watchlist list")
def list_watchlists(place: str = PLACE, json: bool = JSON) -> None:
    """List the watchlists and who is on them."""
    with open_gallery(place) as gallery:
        version, found = gallery.version(), gallery.watchlists()
    if json:
        echo({"version": version, "watchlists": found})
        return
    shown = table("watchlist", "people", "notes")
    for one in found:
        shown.add_row(Text(one.name), Text(", ".join(one.members)), Text(one.notes))
    if found:
        show(shown)
    show(Text(f"watchlists: {len(found)}, version {version}"))


@app.command(epilog="Example: facestream gallery watchlist make Staff --notes 'doors A to C'")
def make(
    watchlist: str = typer.Argument(help="The name of the new watchlist."),
    notes: str = typer.Option("", help="Free text kept with it."),
    place: str = PLACE,
    json: bool = JSON,
) -> None:
    """Make an empty watchlist."""
    with open_gallery(place) as gallery:
        gallery.make_watchlist(watchlist, notes=notes)
        _tell({"made": watchlist}, f"made {watchlist}", gallery.version(), json)


@app.command(epilog="Example: facestream gallery watchlist remove Staff")
def remove(watchlist: str = LIST, place: str = PLACE, json: bool = JSON) -> None:
    """Remove a watchlist; its people stay enrolled."""
    with open_gallery(place) as gallery:
        gallery.remove_watchlist(watchlist)
        _tell({"removed": watchlist}, f"removed {watchlist}", gallery.version(), json)


@app.command(epilog="Example: facestream gallery watchlist add Staff 'Anna Smith' Bob")
def add(
    watchlist: str = LIST, people: list[str] = PEOPLE, place: str = PLACE, json: bool = JSON
) -> None:
    """Put people on a watchlist: all of them, or nobody."""
    with open_gallery(place) as gallery:
        count = gallery.put_on(watchlist, people)
        text = f"put on {watchlist}: {count} of {len(people)}"
        _tell({"added": count}, text, gallery.version(), json)


@app.command(epilog="Example: facestream gallery watchlist take Staff Bob")
def take(
    watchlist: str = LIST, people: list[str] = PEOPLE, place: str = PLACE, json: bool = JSON
) -> None:
    """Take people off a watchlist: all of them, or nobody."""
    with open_gallery(place) as gallery:
        count = gallery.take_off(watchlist, people)
        text = f"taken off {watchlist}: {count} of {len(people)}"
        _tell({"taken": count}, text, gallery.version(), json)


def _tell(answer: dict[str, object], text: str, version: int, json: bool) -> None:
    if json:
        echo({**answer, "version": version})
    else:
        show(Text(f"{text}, gallery version {version}"))
