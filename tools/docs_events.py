"""Writes what the documents say of messages from their Structs: schemas, tables, examples."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import msgspec

from ..configs.reference import attribute_docs, describe_type, escape
from ..stream.events import (
    KINDS,
    AnyEvent,
    CandidateScore,
    DecisionEvent,
    Event,
    EvidenceFrame,
    TrackEvent,
    encode,
)
from ..stream.protocol import Answer, Heartbeat, Question
from .docs_examples import examples, heartbeat_example, replay_examples

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
RECORDS: tuple[type[msgspec.Struct], ...] = (CandidateScore, EvidenceFrame)

REPLAY: dict[str, type[msgspec.Struct]] = {
    f"replay.{struct.__struct_config__.tag}": struct
    for struct in (*get_args(Question), *get_args(Answer))
}
"""Every message of the replay socket with its Struct."""

MESSAGES: dict[str, type[msgspec.Struct]] = {**KINDS, "heartbeat": Heartbeat, **REPLAY}
"""Every message that a subscriber can meet, by name, with its Struct."""


def message_examples() -> dict[str, msgspec.Struct]:
    """One message of every name in MESSAGES."""
    found: dict[str, msgspec.Struct] = {event.kind: event for event in examples()}
    found["heartbeat"] = heartbeat_example()
    for message in replay_examples():
        found[f"replay.{message.__struct_config__.tag}"] = message
    return {name: found[name] for name in MESSAGES}


def write_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of one message, each property with its meaning."""
    schema = msgspec.json.schema(MESSAGES[name])
    describe(schema["$defs"])
    return {"$schema": SCHEMA_DIALECT, "$id": f"urn:facestream:v1:{name}", **schema}


def describe(definitions: dict[str, Any]) -> None:
    """Give every property in schemas of Structs, by the Struct's name, its documentation."""
    structs: dict[str, type[msgspec.Struct]] = {
        struct.__name__: struct for struct in (*RECORDS, *MESSAGES.values())
    }
    for name, definition in definitions.items():
        struct = structs[name]
        docs, tag = attribute_docs(struct), struct.__struct_config__.tag_field
        definition["description"] = inspect.getdoc(struct)
        for field, described in definition["properties"].items():
            described["description"] = (
                "Tells this message from the others." if field == tag else docs[field]
            )
            if field == "payloads":
                # JSON has no bytes: its schemas can only say what stands for them.
                described["items"]["description"] = "Base64 in JSON; on the wire msgpack bin."


def write_fields(struct: type, names: tuple[str, ...]) -> str:
    """A table of some fields of a Struct."""
    hints, docs = get_type_hints(struct, include_extras=True), attribute_docs(struct)
    lines = ["| Field | Type | Meaning |", "|---|---|---|"]
    lines += [f"| `{n}` | {describe_type(hints[n])} | {escape(docs[n])} |" for n in names]
    return "\n".join(lines) + "\n"


def write_common() -> str:
    """The fields that kinds share, and the two records that decisions hold."""
    parts = []
    for title, struct, base in (
        ("Every event", Event, None),
        ("Events about a track", TrackEvent, Event),
        ("Events with a decision", DecisionEvent, TrackEvent),
        ("CandidateScore", CandidateScore, None),
        ("EvidenceFrame", EvidenceFrame, None),
    ):
        parts.append(f"### {title}\n\n{inspect.getdoc(struct)}\n")
        parts.append(write_fields(struct, _own(struct, base)))
    return "\n".join(parts)


def write_kinds(events: Sequence[AnyEvent]) -> str:
    """Every kind with what it means, its own fields and an example, which is one of `events`."""
    parts = []
    for example in sorted(events, key=lambda event: list(KINDS).index(event.kind)):
        struct = type(example)
        base = next(b for b in (DecisionEvent, TrackEvent, Event) if issubclass(struct, b))
        also = {
            Event: "what every event carries",
            TrackEvent: "what every event about a track carries",
            DecisionEvent: "what every event with a decision carries",
        }[base]
        own = _own(struct, base)
        parts.append(f"### {example.kind}\n\n{inspect.getdoc(struct)}\n")
        parts.append(
            f"Carries {also}{', and:' if own else '.'} ([schema](schemas/{example.kind}.json))\n"
        )
        if own:
            parts.append(write_fields(struct, own))
        pretty = msgspec.json.format(encode(example, "json"), indent=2).decode()
        parts.append(f"```json\n{pretty}\n```\n")
    return "\n".join(parts)


def _own(struct: type[msgspec.Struct], base: type[msgspec.Struct] | None) -> tuple[str, ...]:
    inherited = () if base is None else base.__struct_fields__
    return tuple(name for name in struct.__struct_fields__ if name not in inherited)


def write_heartbeat() -> str:
    """The heartbeat: its fields and an example."""
    return _message("heartbeat", "")


def write_replay() -> str:
    """Every message of the replay socket: its fields and an example."""
    asked = [f"replay.{struct.__struct_config__.tag}" for struct in get_args(Question)]
    return "\n".join(
        f"### {name.removeprefix('replay.')}\n\n"
        + _message(name, "Subscriber to publisher. " if name in asked else "To the subscriber. ")
        for name in REPLAY
    )


def _message(name: str, direction: str) -> str:
    """A message that is no event: what it means, its fields, an example on one line."""
    struct = MESSAGES[name]
    tag = struct.__struct_config__
    about = " ".join((inspect.getdoc(struct) or "").split())
    lines = write_fields(struct, struct.__struct_fields__).splitlines()
    lines.insert(2, f'| `{tag.tag_field}` | text | Always "{tag.tag}". |')
    example = msgspec.to_builtins(message_examples()[name], builtin_types=(bytes,))
    if "payloads" in example:
        example["payloads"] = [f"<{len(payload)} bytes>" for payload in example["payloads"]]
    shown = textwrap.fill(json.dumps(example), 98, break_long_words=False, break_on_hyphens=False)
    return (
        f"{direction}{about} ([schema](schemas/{name}.json))\n\n"
        + "\n".join(lines)
        + f"\n\n```text\n{shown}\n```\n"
    )
