"""Writes the generated parts of docs/: events and their schemas, the configuration, the packs.

python -m facestream.tools.docs
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from ..configs.reference import attribute_docs, describe_type, escape, write_reference
from ..models.card import Card
from ..models.card_file import read_card
from ..models.store import CARDS
from ..stream.events import (
    KINDS,
    AnyEvent,
    CameraState,
    CandidateScore,
    DecisionEvent,
    Event,
    EvidenceFrame,
    MatchEvent,
    MatchRevised,
    SightingEnded,
    SightingStarted,
    System,
    TrackEvent,
    Unknown,
    encode,
    event_id,
)

ROOT = Path(__file__).parent.parent
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_GENERATED = re.compile(
    r"(<!-- generated: (?P<part>\w+) -->\n).*?(<!-- end of generated: (?P=part) -->)", re.DOTALL
)


def examples() -> list[AnyEvent]:
    """One event of every kind, as the journal stores it: a morning at the entrance."""
    epoch, start = "5f1c0e9ab2d47783", datetime(2026, 3, 2, 8, 30, tzinfo=UTC)

    def header(kind: str, camera: str, sequence: int, second: float) -> dict[str, Any]:
        return {
            "id": event_id(epoch, camera, kind, sequence),
            "camera": camera,
            "decided_at": start + timedelta(seconds=second + 0.031),
            "epoch": epoch,
            "sequence": sequence,
            "previous": sequence - 17,
            "published_at": start + timedelta(seconds=second + 0.033),
        }

    def track(kind: str, number: int, sequence: int, second: float) -> dict[str, Any]:
        return {
            **header(kind, "entrance", sequence, second),
            "track": number,
            "frame": int(25 * second),
            "pts": second,
            "captured_at": start + timedelta(seconds=second),
        }

    ada = _decision("ada", (("ada", 0.47, 0.52), ("grace", 0.41, 0.5)), start)
    grace = _decision("grace", (("grace", 0.58, 0.61), ("ada", 0.29, 0.4)), start)
    nobody = _decision(None, (("ada", 0.11, 0.21), ("grace", 0.04, 0.17)), start)
    return [
        System(**header("system", "-", 101, 0.0), state="started", detail="facestream 0.1.0"),
        CameraState(
            **header("camera.state", "entrance", 102, 0.4),
            state="running",
            detail="1920x1080, h264",
            frames=1,
            dropped={},
        ),
        SightingStarted(**track("sighting.started", 7, 103, 4.0)),
        MatchEvent(**track("match", 7, 104, 4.48), **ada),
        MatchRevised(**track("match.revised", 7, 105, 5.6), **grace, previous_identity="ada"),
        Unknown(**track("unknown", 8, 106, 9.2), **nobody),
        SightingEnded(
            **track("sighting.ended", 8, 107, 11.0),
            **nobody,
            started_at=start + timedelta(seconds=8.6),
            duration=2.4,
            faces=51,
            reason="unknown",
        ),
    ]


def _decision(
    identity: str | None, scores: tuple[tuple[str, float, float], ...], start: datetime
) -> dict[str, Any]:
    candidates = tuple(CandidateScore(*score) for score in scores)
    frame = EvidenceFrame(
        sequence=110,
        pts=4.4,
        captured_at=start + timedelta(seconds=4.4),
        box=(812.5, 240.0, 871.0, 318.5),
        quality=0.71,
        weight=0.24,
    )
    return {
        "identity": identity,
        "score": candidates[0].score,
        "cosine": candidates[0].cosine,
        "threshold": 0.38,
        "target_fpir": 0.01,
        "false_positive_probability": None,
        "candidates": candidates,
        "frames": 9,
        "quality_min": 0.32,
        "quality_median": 0.55,
        "quality_max": 0.71,
        "evidence": (frame,),
        "pack": "omz",
        "gallery_version": 12,
    }


def write_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind of event, each property with its meaning."""
    struct = KINDS[kind]
    schema = msgspec.json.schema(struct)
    structs: dict[str, type] = {s.__name__: s for s in (struct, CandidateScore, EvidenceFrame)}
    for name, definition in schema["$defs"].items():
        docs = attribute_docs(structs[name])
        for field, described in definition["properties"].items():
            if field in docs:
                described["description"] = docs[field]
    return {"$schema": SCHEMA_DIALECT, "$id": f"urn:facestream:v1:{kind}", **schema}


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


def write_kinds() -> str:
    """Every kind with what it means, its own fields and an example."""
    parts = []
    for example in sorted(examples(), key=lambda event: list(KINDS).index(event.kind)):
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


def write_card_sections() -> str:
    """The keys of a card and what they hold."""
    docs = attribute_docs(Card)
    needed = {f.name for f in fields(Card) if f.default is MISSING and f.default_factory is MISSING}
    lines = ["| Key | | Meaning |", "|---|---|---|"]
    lines += [
        f"| `{key}` | {'required' if key in needed else 'optional'} | {escape(docs[key])} |"
        for key in docs
        if key != "path"
    ]
    return "\n".join(lines) + "\n"


def write_packs() -> str:
    """Every pack that ships: its card's numbers, and what was measured with which command."""
    return "\n".join(_pack(read_card(path)) for path in sorted(CARDS.glob("*.yaml")))


def _pack(card: Card) -> str:
    use = "commercial use allowed" if card.commercial_use else "**no commercial use**"
    gate = card.embedder.minimal_eye_distance
    parts = [
        f"### {card.name}\n",
        f"{card.description}\n",
        f"{card.licence}; {use}. {card.licence_note}\n",
    ]
    if card.decision is None or card.measured is None:
        parts.append(
            "No thresholds are fitted, and nothing was measured here: see "
            "[own numbers](#fit-anchors-and-thresholds).\n"
        )
        return "\n".join(parts)
    decision, measured = card.decision, card.measured
    measures = list(dict.fromkeys(name for row in measured.values.values() for name in row))
    table = [f"| probes | {' | '.join(measures)} |", "|---|" + "---:|" * len(measures)]
    for condition, row in measured.values.items():
        cells = [f"{row[name]:.4g}" if name in row else "" for name in measures]
        table.append(f"| {condition} | {' | '.join(cells)} |")
    parts += [
        f"Names from an IDA score of {decision.threshold:.3f} (plain cosine: "
        f"{decision.cosine_threshold:.3f}), set for a false-match rate of {decision.target_fmr:g}; "
        f"abstains below {gate:g} px between the eyes.\n",
        "\n".join(table) + "\n",
        f"Written by `{measured.command}` on {measured.data}.\n",
    ]
    return "\n".join(parts)


def write_all(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file with its content; what is written by hand stays as it is."""
    docs = root / "docs"
    parts = {
        "common": write_common,
        "kinds": write_kinds,
        "card": write_card_sections,
        "packs": write_packs,
    }
    files = {docs / "configuration.md": write_reference()}
    for path in (docs / "events.md", docs / "packs.md"):
        files[path] = _GENERATED.sub(
            lambda found: f"{found[1]}\n{parts[found['part']]()}\n{found[3]}",
            path.read_text(encoding="utf-8"),
        )
    for kind in KINDS:
        files[docs / "schemas" / f"{kind}.json"] = json.dumps(write_schema(kind), indent=2) + "\n"
    return files


def main() -> None:
    """Write the files."""
    for path, text in write_all().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
