"""Writes the generated parts of docs/: messages, their schemas, configuration, packs.

python -m facestream.tools.docs
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

from ..configs.reference import attribute_docs, escape, write_reference
from ..models.card import Card, DecisionSpec
from ..models.card_file import read_card
from ..models.store import CARDS
from .docs_asyncapi import write_asyncapi
from .docs_events import (
    MESSAGES,
    write_common,
    write_heartbeat,
    write_kinds,
    write_replay,
    write_schema,
)
from .docs_examples import examples

ROOT = Path(__file__).parent.parent
_GENERATED = re.compile(
    r"(<!-- generated: (?P<part>\w+) -->\n).*?(<!-- end of generated: (?P=part) -->)", re.DOTALL
)


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
        f"abstains below {gate:g} px between the eyes. Set on {decision.fitted_on}."
        f"{_intervals(decision)}\n",
        "\n".join(table) + "\n",
        f"Written by `{measured.command}` on {measured.data}.\n",
    ]
    return "\n".join(parts)


def _intervals(decision: DecisionSpec) -> str:
    """Where other people would have put the thresholds."""
    if decision.threshold_interval is None or decision.cosine_threshold_interval is None:
        return ""
    low, high = decision.threshold_interval
    cosine_low, cosine_high = decision.cosine_threshold_interval
    return (
        f" 95 % of resamples of these people put it between {low:.3f} and {high:.3f} (cosine: "
        f"{cosine_low:.3f} and {cosine_high:.3f})."
    )


def write_all(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file with its content; what is written by hand stays as it is."""
    docs = root / "docs"
    parts = {
        "common": write_common,
        "kinds": lambda: write_kinds(examples()),
        "heartbeat": write_heartbeat,
        "replay": write_replay,
        "card": write_card_sections,
        "packs": write_packs,
    }
    files = {docs / "configuration.md": write_reference()}
    for path in (docs / "events.md", docs / "packs.md"):
        files[path] = _GENERATED.sub(
            lambda found: f"{found[1]}\n{parts[found['part']]()}\n{found[3]}",
            path.read_text(encoding="utf-8"),
        )
    files[docs / "asyncapi.yaml"] = write_asyncapi()
    for name in MESSAGES:
        files[docs / "schemas" / f"{name}.json"] = json.dumps(write_schema(name), indent=2) + "\n"
    return files


def main() -> None:
    """Write the files."""
    for path, text in write_all().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
