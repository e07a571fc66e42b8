"""Messages of every released version are still read, and their schemas are only ever added to.

`golden/vMAJOR.MINOR` holds one message of every kind as that version sent it (.msgpack), what is in
it (.json: for events and heartbeats their JSON form as well), and the schemas of all (schema.json).
The directory of the version in development is written, and written again whenever something was
added, by `python tests/stream/test_golden.py`. With the heading of a version in CHANGELOG.md that
directory is frozen; to add something more, raise `__version__` and run the command once.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import pytest

import facestream
from facestream.stream.events import KINDS, decode
from facestream.stream.protocol import Answer, Heartbeat, Question
from facestream.tools.docs_events import MESSAGES, message_examples

GOLDEN = Path(__file__).parent / "golden"
CHANGELOG = Path(facestream.__file__).parent / "CHANGELOG.md"
MINOR = ".".join(facestream.__version__.split(".")[:2])
VERSIONS = sorted(GOLDEN.glob("v*"))
STORED = [path for version in VERSIONS for path in sorted(version.glob("*.msgpack"))]
COMMAND = "python tests/stream/test_golden.py"


def write(folder: Path) -> None:
    """Write the messages and schemas of today; refuses to touch those of a released version."""
    if re.search(rf"^## \[?{re.escape(MINOR)}\.", CHANGELOG.read_text("utf-8"), re.MULTILINE):
        sys.exit(f"{MINOR} is released and its messages are frozen: raise __version__ first")
    folder.mkdir(parents=True, exist_ok=True)
    for name, message in message_examples().items():
        (folder / f"{name}.msgpack").write_bytes(msgspec.msgpack.encode(message))
        pretty = msgspec.json.format(msgspec.json.encode(message), indent=2)
        (folder / f"{name}.json").write_bytes(pretty + b"\n")
    (folder / "schema.json").write_text(json.dumps(schemas(), indent=1) + "\n", encoding="utf-8")


def schemas() -> dict[str, Any]:
    """What every message looks like, without what is there for people or named in code alone."""
    return {name: shape(msgspec.json.schema(struct)) for name, struct in MESSAGES.items()}


def shape(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with what it refers to in place, without titles and descriptions."""

    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return plain(schema["$defs"][node["$ref"].removeprefix("#/$defs/")])
        if "properties" in node:
            fields = {name: plain(field) for name, field in node["properties"].items()}
            return {"properties": fields, "required": sorted(node.get("required", []))}
        return {key: plain(node[key]) for key in node if key not in ("title", "description")}

    found: dict[str, Any] = json.loads(json.dumps(plain({"$ref": schema["$ref"]})))
    return found


def breaks(old: Any, new: Any, where: str) -> Iterator[str]:
    """Everything that `new` does to `old` besides adding fields that have a default."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield f"{where} was {json.dumps(old)}, is {json.dumps(new)}"
        return
    if "properties" in old and "properties" in new:
        fields = new["properties"]
        for name, field in old["properties"].items():
            if name in fields:
                yield from breaks(field, fields[name], f"{where}.{name}")
            else:
                yield f"{where}.{name} is gone"
        for name in sorted({*old["required"]} ^ {*new["required"]}):
            if name in fields:
                yield f"{where}.{name} " + (
                    "has no default" if name in new["required"] else "was required, has a default"
                )
        return
    for key in sorted({*old, *new}):
        yield from breaks(old.get(key), new.get(key), f"{where}: {key}")


def reader(name: str) -> Callable[[bytes], Any]:
    """What reads a message of this name from msgpack."""
    if name in KINDS:
        return decode
    if name == "heartbeat":
        return msgspec.msgpack.Decoder(Heartbeat).decode
    return msgspec.msgpack.Decoder(
        Question if MESSAGES[name] in get_args(Question) else Answer
    ).decode


def holds(got: Any, expected: Any) -> bool:
    """Whether all that is expected is there; fields may have come since."""
    if isinstance(expected, dict):
        return all(key in got and holds(got[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(holds, got, expected))
    return bool(got == expected)


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_message_of_every_version_is_still_read(path: Path) -> None:
    expected = path.with_suffix(".json").read_bytes()
    message = reader(path.stem)(path.read_bytes())
    assert holds(msgspec.to_builtins(message), json.loads(expected))
    if path.stem in KINDS:
        assert decode(expected) == message
    elif path.stem == "heartbeat":
        assert msgspec.json.decode(expected, type=Heartbeat) == message


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_message_with_more_in_it_is_read_as_before(path: Path) -> None:
    def add(node: Any) -> Any:
        if isinstance(node, list):
            return [add(item) for item in node]
        if isinstance(node, dict):
            return {**{key: add(value) for key, value in node.items()}, "added": {"x": [1]}}
        return node

    later = msgspec.msgpack.decode(path.read_bytes())
    # What camera.state counts under names of their own is no record that fields are added to.
    later = {key: value if key == "dropped" else add(value) for key, value in later.items()}
    read = reader(path.stem)
    assert read(msgspec.msgpack.encode({**later, "added": None})) == read(path.read_bytes())


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_since_a_version_only_fields_with_defaults_were_added(version: Path) -> None:
    before, now = json.loads((version / "schema.json").read_text(encoding="utf-8")), schemas()
    assert {path.stem for path in version.glob("*.msgpack")} == set(before)
    found = [
        change
        for name, old in before.items()
        for change in ([f"{name} is gone"] if name not in now else breaks(old, now[name], name))
    ]
    assert not found, f"readers of {version.name} break: {'; '.join(found)}"


def test_the_version_in_development_has_its_golden_messages() -> None:
    stored = json.loads((GOLDEN / f"v{MINOR}" / "schema.json").read_text(encoding="utf-8"))
    assert stored == schemas(), f"something was added: run `{COMMAND}`"


class Old(msgspec.Struct, tag_field="kind", tag="old"):
    name: str
    count: int
    state: Literal["on", "off"]
    extra: int | None = None


FIELDS: dict[str, Any] = {"name": str, "count": int, "state": Literal["on", "off"]}
EXTRA = ("extra", int | None, None)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([*FIELDS.items(), EXTRA], []),
        ([*FIELDS.items(), EXTRA, ("note", str, "")], []),
        ([("count", int), ("name", str), ("state", Literal["off", "on"]), EXTRA], []),
        ([*FIELDS.items(), EXTRA, ("note", str, "")][1:], ["old.name is gone"]),
        ([*FIELDS.items(), ("note", str), EXTRA], ["old.note has no default"]),
        ([*FIELDS.items(), ("extra", int | None)], ["old.extra has no default"]),
        (
            [*{**FIELDS, "count": str}.items(), EXTRA],
            ['old.count: type was "integer", is "string"'],
        ),
        (
            [*{**FIELDS, "state": Literal["on", "off", "standby"]}.items(), EXTRA],
            ['old.state: enum was ["off", "on"], is ["off", "on", "standby"]'],
        ),
        ([*FIELDS.items(), ("extra", int | None, 3)], ["old.extra: default was null, is 3"]),
        (
            [*FIELDS.items(), EXTRA, ("note", str)][1:],
            ["old.name is gone", "old.note has no default"],
        ),
    ],
    ids=[
        "nothing",
        "added",
        "other order",
        "removed",
        "added without default",
        "default taken away",
        "retyped",
        "value added to a closed set",
        "other default",
        "renamed",
    ],
)
def test_what_breaks_readers_is_named(fields: list[Any], found: list[str]) -> None:
    kind = msgspec.defstruct("Renamed", sorted(fields, key=len), tag_field="kind", tag="old")
    old, new = (shape(msgspec.json.schema(struct)) for struct in (Old, kind))
    assert list(breaks(old, new, "old")) == found


if __name__ == "__main__":
    write(GOLDEN / f"v{MINOR}")
