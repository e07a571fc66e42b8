"""The integrator's contract: one Struct per kind of event, and how it travels.

A message is two frames: the topic `facestream/v1/<kind>/<camera>` and the payload, msgpack or JSON.
This module needs msgspec alone, so that a subscriber can use it without the rest of the package.
Within version 1 fields are only ever added, with a default; what a reader does not know it ignores.
The docstring below a field is its documentation: docs/events.md and the schemas are made from it.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec

from .. import PublishError, RecordError

SCHEMA_VERSION = 1
TOPIC_ROOT = f"facestream/v{SCHEMA_VERSION}"

UtcTime = Annotated[datetime, msgspec.Meta(tz=True)]
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
Cause = Literal["frames", "track", "camera", "gallery"]
Unreadable = Literal["unknown kind", "newer version", "unreadable"]


class EventError(PublishError):
    """A message is no event that this version reads; `reason` says which of the three ways."""

    def __init__(self, message: str, reason: Unreadable = "unreadable") -> None:
        """`reason` is what a subscriber counts the message under."""
        super().__init__(message)
        self.reason: Unreadable = reason


class CandidateScore(msgspec.Struct, frozen=True):
    """One gallery identity ranked against the track."""

    identity: str
    """Name of the identity in the gallery."""
    score: float
    """By `match.score`, a cosine or an IDA score in cosine units: what is compared with the
    threshold."""
    cosine: float
    """Plain cosine between the track's template and the identity's, -1 to 1: what explains it."""


class EvidenceFrame(msgspec.Struct, frozen=True):
    """A frame that weighs much in the decision."""

    sequence: int
    """Number of the frame in its camera's stream."""
    pts: float
    """Time of the frame on the stream's own clock, in seconds."""
    captured_at: UtcTime
    """Wall clock of the frame."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 of the face in pixels of the full frame, origin top left."""
    quality: float
    """Quality of the face in the unit of the pack's source; larger is better."""
    weight: float
    """Share of this frame in the track's template, 0 to 1."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every event carries."""

    id: str
    """The same when an event is repeated, and for no other event: drop what you have seen."""
    camera: str
    """Name of the camera; "-" for events of the publisher itself."""
    decided_at: UtcTime
    """When the pipeline decided."""
    epoch: str = ""
    """Lives as long as the journal; a new one means that numbering started over."""
    sequence: int = 0
    """Counts all events of an epoch from 1, without holes."""
    previous: int | None = None
    """Sequence of the newest earlier event on the same topic, null for the first: a subscriber with
    a filter tells by it a lost event from one it did not ask for."""
    published_at: UtcTime | None = None
    """When the journal took the event, just before it was sent."""
    version: int = SCHEMA_VERSION
    """Version of the schema, the 1 of the topic's v1. Added fields do not raise it."""

    def __post_init__(self) -> None:
        """Refuse a time without a zone: its encoding would be no instant."""
        require_zone("decided_at", self.decided_at)

    @property
    def kind(self) -> str:
        """The kind, as in the topic: "match", "sighting.started", ..."""
        return str(self.__struct_config__.tag)

    @property
    def topic(self) -> str:
        """facestream/v1/<kind>/<camera>."""
        return f"{TOPIC_ROOT}/{self.kind}/{self.camera}"


class TrackEvent(Event, frozen=True, kw_only=True):
    """What every event about a track carries."""

    track: int
    """Number of the track, unique within its camera and epoch."""
    frame: int
    """Number, in its camera's stream, of the frame that the event stems from; each run counts from
    0."""
    pts: float
    """Time of that frame on the stream's own clock, in seconds: in a file from its start, of a
    camera from the first frame of the run, across reconnections."""
    captured_at: UtcTime
    """Wall clock of that frame."""

    def __post_init__(self) -> None:
        """Refuse times without a zone."""
        super().__post_init__()
        require_zone("captured_at", self.captured_at)


class DecisionEvent(TrackEvent, frozen=True, kw_only=True):
    """What every event with a decision carries."""

    identity: str | None
    """Who it is; null where nobody in the gallery passes the threshold."""
    score: float | None
    """By `match.score`, a cosine or an IDA score in cosine units: of the identity given, else of
    the best candidate; null where the gallery offered none."""
    cosine: float | None
    """Plain cosine of that same candidate, -1 to 1."""
    threshold: float
    """The score that names somebody, as in force for this decision, in cosine units."""
    target_fpir: float | None
    """False-positive identification rate the threshold was set for, 0 to 1; null where it was not
    set for one. The packs' own thresholds are set for a rate of false matches per comparison."""
    false_positive_probability: float | None
    """Calibrated probability, 0 to 1, that an unknown person reaches this score; null where the
    pack has no calibration."""
    candidates: tuple[CandidateScore, ...]
    """The best gallery identities, best first."""
    frames: int
    """Faces fused into the track's template so far."""
    quality_min: float | None
    """Least quality among them, in the unit of the pack's source; larger is better."""
    quality_median: float | None
    """Median quality among them."""
    quality_max: float | None
    """Greatest quality among them."""
    evidence: tuple[EvidenceFrame, ...]
    """The frames that weigh most, heaviest first."""
    pack: str
    """Model pack that made the embeddings."""
    gallery_version: int
    """Version of the gallery that the track was compared with; 0 where it never was."""
    ambiguous: tuple[str, ...] = ()
    """Identities that the track is as much like, the one given first: look at it before acting on
    the name. Empty where there is no doubt between two who are enrolled."""
    threshold_why: str = ""
    """Where the threshold comes from, in one line for people: fitted to this gallery, set by the
    operator, or the pack's own."""


class SightingStarted(TrackEvent, frozen=True, kw_only=True, tag="sighting.started"):
    """A track was confirmed: somebody is in view."""


class MatchEvent(DecisionEvent, frozen=True, kw_only=True, tag="match"):
    """The first decision on a track: it is somebody in the gallery."""


class MatchRevised(DecisionEvent, frozen=True, kw_only=True, tag="match.revised"):
    """Later frames changed the decision; identity is null when the name was withdrawn."""

    previous_identity: str | None
    """The identity given before; null where the track was unknown until now. The same as `identity`
    where nothing but `ambiguous` changed."""
    cause: Cause = "frames"
    """Why. frames: later frames changed it; track: the name went over to another track of this
    camera, which is in view; camera: to one of another camera, which cannot show the same person at
    that moment; gallery: the gallery changed, or somebody was marked as not this person."""


class Unknown(DecisionEvent, frozen=True, kw_only=True, tag="unknown"):
    """The first decision on a track: enough frames, and nobody in the gallery passes."""


class SightingEnded(DecisionEvent, frozen=True, kw_only=True, tag="sighting.ended"):
    """The track is over; this is its final decision."""

    started_at: UtcTime
    """Wall clock of the frame in which the sighting started."""
    duration: float
    """From the first to the last frame on the stream's clock, in seconds."""
    faces: int
    """Faces seen, those that were too poor for the template included."""
    reason: Literal["matched", "unknown", "too few frames", "no usable face"]
    """How it ended; the last two say why there is no decision."""
    best_score: float | None = None
    """The best score of all decisions on the track, whoever it was for; null where the gallery
    offered nobody. Thresholds hold for this number: a track is decided many times."""


class CameraState(Event, frozen=True, kw_only=True, tag="camera.state"):
    """A source changed state."""

    state: Literal["connecting", "running", "stalled", "reconnecting", "ended", "failed"]
    """The state it is in now."""
    detail: str
    """One line for people, without credentials."""
    frames: int
    """Frames read so far in this run; with a stride of n, every n-th counts."""
    dropped: dict[str, int]
    """Frames left out so far, by reason: newer (a later frame took the place of one that nobody had
    time for), corrupt (did not decode), missing (a file was cut off), unreadable (a file in a
    folder is no picture)."""


class System(Event, frozen=True, kw_only=True, tag="system"):
    """The publisher itself: started, stopped, or its gallery changed. camera is "-"."""

    state: Literal["started", "stopped", "gallery.changed"]
    """What happened."""
    detail: str
    """One line for people."""


AnyEvent = (
    SightingStarted | MatchEvent | MatchRevised | Unknown | SightingEnded | CameraState | System
)

KINDS: dict[str, type[Event]] = {
    str(struct.__struct_config__.tag): struct for struct in get_args(AnyEvent)
}
"""Every kind of event this version knows, with its Struct."""


class Topic(NamedTuple):
    """A topic taken apart."""

    kind: str
    camera: str


class _Header(msgspec.Struct):
    kind: str
    version: int = SCHEMA_VERSION


_PACK = msgspec.msgpack.Encoder()
_UNPACK = msgspec.msgpack.Decoder(AnyEvent)
_JSON = msgspec.json.Encoder()
_UNJSON = msgspec.json.Decoder(AnyEvent)


def require_zone(name: str, time: datetime) -> None:
    """Raise RecordError for a datetime without a time zone."""
    if time.tzinfo is None:
        raise RecordError(f"{name} must have a time zone (UTC), got {time.isoformat()} without one")


def event_id(epoch: str, camera: str, *parts: str | int | float | None) -> str:
    """Identify an event by where it comes from: 32 hexadecimal digits.

    parts: what tells the event from the others of its camera and comes out the same when it is
    made again (kind, track, ...), so that a repeat is recognised. Where all that it knows starts
    over with a run (frame numbers, counts), one part must be of the run.
    """
    content = msgspec.msgpack.encode((epoch, camera, *parts))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def parse_topic(topic: str | bytes) -> Topic:
    """Take `facestream/v1/<kind>/<camera>` apart. Raises EventError for anything else."""
    text = topic.decode("utf-8", "replace") if isinstance(topic, bytes) else topic
    parts = text.split("/", 3)
    if len(parts) != 4 or parts[0] != "facestream":
        raise EventError(f"topic must be {TOPIC_ROOT}/KIND/CAMERA, got {text[:80]!r}")
    if f"{parts[0]}/{parts[1]}" != TOPIC_ROOT:
        raise EventError(
            f"topic must start with {TOPIC_ROOT}/, got {text[:80]!r}: update facestream",
            "newer version",
        )
    return Topic(parts[2], parts[3])


def encode(event: AnyEvent, form: Literal["msgpack", "json"] = "msgpack") -> bytes:
    """The payload of an event. Raises RecordError where a field holds what cannot be encoded."""
    try:
        return (_JSON if form == "json" else _PACK).encode(event)
    except TypeError as error:
        raise RecordError(f"{event.kind} event must hold plain values: {error}") from error


def decode(payload: bytes) -> AnyEvent:
    """The event in a payload, msgpack or JSON as its first byte tells.

    Fields that this version does not know are ignored. Raises EventError with `reason`
    "unknown kind", "newer version" or "unreadable".
    """
    # "{" opens every JSON object; as msgpack that byte is a bare number, never a map.
    is_json = payload[:1] == b"{"
    event: AnyEvent
    try:
        event = _UNJSON.decode(payload) if is_json else _UNPACK.decode(payload)
    except UNDECODABLE as error:
        raise _explain(payload, is_json, error) from error
    if event.version > SCHEMA_VERSION:
        raise _too_new(event.version)
    return event


def _explain(payload: bytes, is_json: bool, error: Exception) -> EventError:
    """Why a payload is no event: tells a newer publisher from garbage."""
    decoder: Any = msgspec.json if is_json else msgspec.msgpack
    try:
        header = decoder.decode(payload, type=_Header)
    except UNDECODABLE:
        return EventError(f"expected an event, got {len(payload)} bytes that are none: {error}")
    if header.version > SCHEMA_VERSION:
        return _too_new(header.version)
    if header.kind not in KINDS:
        return EventError(
            f"unknown kind of event {header.kind[:80]!r}; this version knows {', '.join(KINDS)}",
            "unknown kind",
        )
    return EventError(f"{header.kind} event does not fit its schema: {error}")


def _too_new(version: int) -> EventError:
    return EventError(
        f"expected schema version {SCHEMA_VERSION}, got {version}: update facestream",
        "newer version",
    )
