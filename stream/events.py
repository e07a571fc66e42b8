"""The integrator's contract: one Struct per kind of event, schema version 1.

This module needs msgspec alone, so that a subscriber can use it without the rest of the package.
Evolution is additive: fields are only ever added, with a default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

SCHEMA_VERSION = 1
TOPIC_ROOT = "facestream/v1"


class CandidateScore(msgspec.Struct, frozen=True):
    """One gallery identity ranked against the track: `score` decides, `cosine` explains."""

    identity: str
    score: float
    cosine: float


class EvidenceFrame(msgspec.Struct, frozen=True):
    """A frame that weighs much in the decision. box: x0 y0 x1 y1 in pixels; weight: share 0..1."""

    sequence: int
    pts: float
    captured_at: datetime
    box: tuple[float, float, float, float]
    quality: float
    weight: float


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every event carries.

    epoch lives as long as the journal; sequence counts all events of an epoch from 1; previous is
    the sequence of the newest earlier event on the same topic (None for the first), so that a
    subscriber with a filter can tell a gap from a filter. id is the same when an event is repeated.
    decided_at is when the pipeline decided, published_at when the journal took it (both UTC).
    """

    id: str
    camera: str
    decided_at: datetime
    epoch: str = ""
    sequence: int = 0
    previous: int | None = None
    published_at: datetime | None = None
    version: int = SCHEMA_VERSION

    @property
    def kind(self) -> str:
        """The kind, as in the topic: "match", "sighting.started", ..."""
        return str(self.__struct_config__.tag)

    @property
    def topic(self) -> str:
        """facestream/v1/<kind>/<camera>."""
        return f"{TOPIC_ROOT}/{self.kind}/{self.camera}"


class TrackEvent(Event, frozen=True, kw_only=True):
    """What every event about a track carries. captured_at: wall clock of the frame it stems from."""

    track: int
    frame: int
    pts: float
    captured_at: datetime


class DecisionEvent(TrackEvent, frozen=True, kw_only=True):
    """What every event with a decision carries.

    score and threshold are in the pack's cosine units; score, cosine and
    false_positive_probability belong to the best candidate, which is named in `candidates` only.
    target_fpir: the rate the threshold was set for. Qualities are in the unit of the pack's source.
    """

    identity: str | None
    score: float | None
    cosine: float | None
    threshold: float
    target_fpir: float | None
    false_positive_probability: float | None
    candidates: tuple[CandidateScore, ...]
    frames: int
    quality_min: float | None
    quality_median: float | None
    quality_max: float | None
    evidence: tuple[EvidenceFrame, ...]
    pack: str
    gallery_version: int


class SightingStarted(TrackEvent, frozen=True, kw_only=True, tag="sighting.started"):
    """A track was confirmed: somebody is in view."""


class MatchEvent(DecisionEvent, frozen=True, kw_only=True, tag="match"):
    """A track was given an identity for the first time."""


class MatchRevised(DecisionEvent, frozen=True, kw_only=True, tag="match.revised"):
    """Later frames changed the decision; identity is None when the name was withdrawn."""

    previous_identity: str | None


class Unknown(DecisionEvent, frozen=True, kw_only=True, tag="unknown"):
    """Enough frames were seen and nobody in the gallery passes the threshold."""


class SightingEnded(DecisionEvent, frozen=True, kw_only=True, tag="sighting.ended"):
    """The track is over; this is its final decision. reason tells why there is none, if so."""

    started_at: datetime
    duration: float
    faces: int
    reason: Literal["matched", "unknown", "no usable face"]


class CameraState(Event, frozen=True, kw_only=True, tag="camera.state"):
    """A source changed state.

    frames: read so far; dropped: frames left out so far, by reason; detail: one line for people,
    without credentials.
    """

    state: Literal["connecting", "running", "stalled", "reconnecting", "ended", "failed"]
    detail: str
    frames: int
    dropped: dict[str, int]


class System(Event, frozen=True, kw_only=True, tag="system"):
    """The publisher itself: started, stopped, gallery changed. camera is "-"."""

    state: Literal["started", "stopped", "gallery.changed"]
    detail: str


AnyEvent = (
    SightingStarted | MatchEvent | MatchRevised | Unknown | SightingEnded | CameraState | System
)
