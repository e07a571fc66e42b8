"""The state of a sighting, and how it is kept: exactly, to go on, or in short, to be closed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import msgspec

from .. import RecordError
from .events import EvidenceFrame
from .records import FrameRef, Match, Template

SNAPSHOT_VERSION = 2


class Basis(msgspec.Struct, frozen=True):
    """What an event says of the template behind a decision; fields as in DecisionEvent."""

    frames: int = 0
    quality_min: float | None = None
    quality_median: float | None = None
    quality_max: float | None = None
    evidence: tuple[EvidenceFrame, ...] = ()


@dataclass
class Sighting:
    """One live track. `rivals` are the tracks seen in a frame together with it: other people.

    seen: the newest frame that shows it; faces: how many have. basis: of the last decision.
    ambiguous: as was told last. barred: the names of rivals that have ended, which this track
    cannot have either. moved: the name that went over to another track while this one was out of
    sight; None once it is seen again. highest: the best score that any decision found.
    """

    started: FrameRef
    seen: FrameRef
    faces: int = 0
    observations: int = 0
    decided_at_count: int = 0
    last: Match | None = None
    basis: Basis = field(default_factory=Basis)
    identity: str | None = None
    announced: Literal["nothing", "match", "unknown"] = "nothing"
    changes: int = 0
    rivals: set[int] = field(default_factory=set)
    barred: set[str] = field(default_factory=set)
    ambiguous: tuple[str, ...] = ()
    moved: str | None = None
    highest: float | None = None


class StoredSighting(msgspec.Struct, frozen=True, array_like=True):
    """A sighting with the state of its template (aggregate); None: it has none, or is in short."""

    track: int
    sighting: Sighting
    template: bytes | None = None


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    sightings: list[StoredSighting]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


def dump_sightings(sightings: Iterable[StoredSighting]) -> bytes:
    """Sightings as bytes (msgpack, no pickle)."""
    return msgspec.msgpack.encode(_Snapshot(SNAPSHOT_VERSION, list(sightings)))


def load_sightings(data: bytes) -> list[StoredSighting]:
    """What `dump_sightings` made bytes of. Raises RecordError for other bytes or versions."""
    try:
        snapshot = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise RecordError(f"expected stored sightings, got other bytes: {error}") from error
    if snapshot.version != SNAPSHOT_VERSION:
        raise RecordError(
            f"stored sightings must be version {SNAPSHOT_VERSION}, got {snapshot.version}: use the "
            "facestream that stored them"
        )
    return snapshot.sightings


def basis_of(template: Template) -> Basis:
    """A template without its embedding and pictures."""
    return Basis(
        template.frames,
        template.quality_min,
        template.quality_median,
        template.quality_max,
        tuple(
            EvidenceFrame(
                sequence=e.frame.sequence,
                pts=e.frame.pts,
                captured_at=instant(e.frame.captured_at),
                box=(float(e.box[0]), float(e.box[1]), float(e.box[2]), float(e.box[3])),
                quality=e.quality,
                weight=e.weight,
            )
            for e in template.evidence
        ),
    )


def instant(seconds: float) -> datetime:
    """Seconds since 1970 as a UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)
