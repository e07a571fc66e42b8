"""Putting a trained network into a pack: beside its card, and named there with its origin."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from .. import ModelError
from ..models.caface_head import load_head
from ..models.card import Card, HeadSpec
from ..models.card_file import replace_section
from ..models.ida_learned import load_learned_density
from ..models.quality_head import load_quality_head
from ..models.scalar_fusion import load_scalar_head
from ..models.store import written_whole

Kind = Literal["density", "learned", "caface", "quality"]
_READ: dict[Kind, Callable[[Path], object]] = {
    "density": load_learned_density,
    "learned": load_scalar_head,
    "caface": load_head,
    "quality": load_quality_head,
}
_SECTIONS: dict[Kind, str] = {
    "density": "ida",
    "learned": "fusion",
    "caface": "fusion",
    "quality": "quality",
}


class Provenance(NamedTuple):
    """What a card says of a trained network.

    attribution: whose faces. command: what trained it. validation: what that run measured.
    """

    licence: str
    attribution: str
    command: str
    validation: Mapping[str, float]


def install_head(card: Card, kind: Kind, exported: Path, origin: Provenance) -> Path:
    """Copy an exported network beside a card and name it there, under its own file name.

    kind: density (IDA-L, in the card's `ida`), or the aggregator that it is the head of (in
    `fusion`). Which aggregator is used stays as the card says. quality: takes the place of the
    card's source, since a pack has one.
    Raises ModelError for a density where there are no anchors, CorruptModelFile for a file that is
    not of the kind.
    """
    if kind == "density" and card.ida is None:
        raise ModelError(f"pack {card.name!r} has no anchors, so nothing to put a network beside")
    _READ[kind](exported)
    data = exported.read_bytes()
    target = card.folder / exported.name
    with written_whole(target) as partial:
        partial.write_bytes(data)
    head = HeadSpec(
        target.name,
        hashlib.sha256(data).hexdigest(),
        origin.licence,
        origin.attribution,
        origin.command,
        {name: round(value, 4) for name, value in origin.validation.items()},
    )
    written = msgspec.to_builtins(head)
    if kind == "quality":
        changed = {"kind": "head", "head": written}
    else:
        section = msgspec.to_builtins(card.ida if kind == "density" else card.fusion)
        changed = section | {"learned" if kind == "density" else kind: written}
    given = {key: value for key, value in changed.items() if value is not None}
    replace_section(card.path, _SECTIONS[kind], given)
    return target
