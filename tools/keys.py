"""`facestream keys`: who may connect over tcp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..configs.paths import keys_folder

if TYPE_CHECKING:
    from ..stream.keys import KeyStore

app = typer.Typer(
    help="Make, list and revoke the keys of who may connect over tcp.", no_args_is_help=True
)

FOLDER = typer.Option(
    "", "--keys", help="The folder of keys (access.keys); default: keys/ in the data folder."
)
JSON = typer.Option(False, "--json", help="Print one JSON object.")
TOPIC = typer.Option(
    [],
    help="What a subscriber may read: KIND/CAMERA, KIND or */CAMERA, as in match/door, or "
    "match/door* for cameras whose names begin so; can be repeated; default: everything.",
)
OUT = typer.Option(Path("."), help="Folder for NAME.key_secret.")
FILE = typer.Argument(help="The NAME.key_secret that the other machine made.")
NAME = typer.Argument(help="The name, as `facestream keys list` shows it.")


@app.command(epilog="Example: facestream keys new wall-display --topic match/door")
def new(
    name: str = typer.Argument(help="Whose key: letters, digits, dots, dashes, underscores."),
    role: Literal["subscriber", "node"] = typer.Option(
        "subscriber", help="subscriber: reads events; node: a part of the pipeline elsewhere."
    ),
    topic: list[str] = TOPIC,
    out: Path = OUT,
    folder: str = FOLDER,
    json: bool = JSON,
) -> None:
    """Make a key. NAME.key_secret is all that its owner needs; no copy of it is kept here.

    The first key turns keys on: from then on every tcp socket of this machine asks for one.
    """
    store = _store(folder)
    first = store.server() is None
    key, file = store.create(name, role, tuple(topic), out)
    if json:
        _echo(
            {
                "name": key.name,
                "role": key.role,
                "topics": key.topics,
                "file": str(file),
                "folder": str(store.folder),
            }
        )
        return
    if first:
        _print(Text(f"keys are on: tcp sockets ask for one of {store.folder} from now on"))
    may = "may connect as a node" if role == "node" else f"may read {_rights(key.topics)}"
    _print(Text(f"{name} {may}; bring its owner {file}, and keep no copy"))


@app.command("list", epilog="Example: facestream keys list --json")
def list_keys(folder: str = FOLDER, json: bool = JSON) -> None:
    """List the keys that may connect, and the other machines that this one has keys for."""
    store = _store(folder)
    keys, damaged = store.allowed()
    peers = store.peers()
    if json:
        answer = {"folder": str(store.folder), "on": store.server() is not None}
        _echo({**answer, "keys": list(keys.values()), "damaged": damaged, "peers": peers})
        return
    table = Table("name", "role", "may read", "made", "begins", box=None, pad_edge=False)
    for key in keys.values():
        rights = _rights(key.topics) if key.role == "subscriber" else ""
        made = key.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(key.name, key.role, Text(rights), made, Text(key.public[:8]))
    if keys:
        _print(table)
    for name, error in damaged.items():
        _print(Text(f"{name}: damaged, lets nobody in: {error}", style="red"))
    for address in peers:
        _print(Text(f"nodes here have a key for {address}"))
    on = "" if store.server() is not None else ", keys are off"
    _print(Text(f"keys: {len(keys)}, in {store.folder}{on}"))


@app.command(epilog="Example: facestream keys revoke wall-display")
def revoke(name: str = NAME, folder: str = FOLDER, json: bool = JSON) -> None:
    """Revoke a key: running programs let it in no more and end its live connections."""
    _store(folder).revoke(name)
    if json:
        _echo({"revoked": name})
    else:
        _print(Text(f"revoked {name}; running programs follow within seconds"))


@app.command("import", epilog="Example: facestream keys import door-box.key_secret machine2")
def import_key(
    file: Path = FILE,
    address: str = typer.Argument(help="HOST or HOST:PORT of that machine, as the topology says."),
    folder: str = FOLDER,
    json: bool = JSON,
) -> None:
    """Give this machine's nodes the key that another machine made for them."""
    path = _store(folder).add_peer(file, address)
    if json:
        _echo({"address": address, "file": str(path)})
    else:
        _print(Text(f"nodes here connect to {address} with {path}; {file} can be deleted"))


def _store(folder: str) -> KeyStore:
    from ..stream.keys import KeyStore  # pyzmq takes a while to import

    return KeyStore(Path(folder).expanduser() if folder else keys_folder())


def _rights(topics: tuple[str, ...]) -> str:
    return "everything" if topics == ("*",) else ", ".join(topics)


def _print(what: Table | Text) -> None:
    Console(highlight=False, soft_wrap=isinstance(what, Text)).print(what)


def _echo(answer: object) -> None:
    typer.echo(msgspec.json.encode(answer))
