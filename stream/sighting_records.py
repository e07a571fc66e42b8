"""What the sighting store hands out. Times: seconds since 1970 (UTC)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from .events import event_id

Floats = npt.NDArray[np.float32]

Reason = Literal["open", "matched", "unknown", "too few frames", "no usable face"]
Naming = Literal["", "decided", "given"]


class SightingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One track of one camera: who, where, when, and how sure."""

    id: str
    """32 hexadecimal digits, made of epoch, camera and track: see `sighting_id`."""
    camera: str
    """Name of the camera."""
    epoch: str
    """Epoch of the journal, as in events."""
    track: int
    """Number of the track, as in events."""
    started_at: float
    """Wall clock of the frame in which it started."""
    seen_at: float
    """Wall clock of the newest frame that an event told of."""
    ended_at: float | None
    """Wall clock of its last frame; None while it is open."""
    first_frame: int | None
    """Number of the frame in which it started, in its camera's stream."""
    first_pts: float | None
    """Time of that frame on the stream's own clock, in seconds: where to look in a file."""
    reason: Reason
    """How it ended; "open" while it has not."""
    identity: str | None
    """Who it is: the name given afterwards, else the one decided at the time; None: unknown."""
    uid: str
    """The gallery's id of that person, which names change nothing about; "" for nobody."""
    named: Naming
    """Where the name comes from: decided by the run, or given afterwards; "" for nobody."""
    named_at: float | None
    """When the name was given afterwards."""
    named_score: float | None
    """The score it was given for; None where somebody named this sighting or its stranger."""
    stranger: str
    """Which recurring stranger `cluster` took it for; "" for none."""
    score: float | None
    """Score of the identity decided, else of the best candidate, as in events."""
    cosine: float | None
    """Plain cosine of that same candidate."""
    threshold: float | None
    """The score that named somebody; None before the first decision."""
    threshold_why: str
    """Where that threshold came from, in words."""
    best_score: float | None
    """The best score of all decisions, whoever it was for; None while it is open."""
    probability: float | None
    """Calibrated probability that an unknown person reaches the score."""
    pack: str
    """Model pack that made the embeddings; "" before the first decision."""
    embedder: str
    """SHA-256 of the embedder's file: only sightings of the same one compare."""
    gallery_version: int
    """Version of the gallery it was compared with; 0 where it never was."""
    frames: int
    """Faces fused into its template."""
    faces: int
    """Faces seen; 0 while it is open."""
    quality_min: float | None
    """Least quality of those fused, in the unit of the pack's source."""
    quality_median: float | None
    """Their median."""
    quality_max: float | None
    """Their greatest."""
    template: bool
    """Whether its fused template is kept."""
    crops: int
    """How many evidence pictures are kept."""


class FrameWeight(msgspec.Struct, frozen=True, kw_only=True):
    """One frame of a sighting and its share of the template; shares of all frames sum to 1."""

    ordinal: int
    """How-manieth face of the track, from 0; faces too poor for the template are left out."""
    frame: int
    """Number of the frame in its camera's stream."""
    pts: float
    """Its time on the stream's own clock, in seconds."""
    quality: float
    """Quality of the face, in the unit of the pack's source."""
    weight: float
    """Its share, 0 to 1."""


class Crop(msgspec.Struct, frozen=True, kw_only=True):
    """One evidence picture: the face as the embedder saw it."""

    frame: int
    pts: float
    captured_at: float
    quality: float
    weight: float
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the full frame."""
    jpeg: bytes


class SightingDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A sighting with what is kept beside it."""

    sighting: SightingRecord
    weights: tuple[FrameWeight, ...]
    crops: tuple[Crop, ...]


class SightingFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sightings; what is left out sets no bound. since, until: when they started."""

    camera: str | None = None
    since: float | None = None
    until: float | None = None
    person: tuple[str, ...] = ()
    """Names and gallery ids of one person: those taken for any of them."""
    uid: str = ""
    """The gallery's id of `person`: names then count only for sightings that have no id, as others
    may have had the same name."""
    unknown: bool = False
    """Only who has no name, decided or given."""
    stranger: str | None = None
    template: bool = False
    """Only those with a template."""
    limit: int | None = None
    """The newest so many."""


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """How many went: whole sightings by age, templates and pictures by theirs, by erased people."""

    sightings: int = 0
    templates: int = 0
    crops: int = 0
    of_erased: int = 0

    @property
    def anything(self) -> bool:
        """Whether anything went."""
        return any(msgspec.structs.astuple(self))


class Templates(NamedTuple):
    """Sightings with their templates. sightings: S of them; vectors: (S, C) float32, unit length.

    other: sightings whose templates another pack or embedder file made, which do not compare.
    """

    sightings: tuple[SightingRecord, ...]
    vectors: Floats
    other: int


class SightingHit(msgspec.Struct, frozen=True, kw_only=True):
    """A sighting that was found: by its score, with the plain cosine that explains it."""

    sighting: SightingRecord
    score: float
    cosine: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search in the sightings gave, best first.

    searched: sightings compared. other_models: left out, as another pack or embedder made theirs.
    without_template: sightings that keep none, and so cannot be found. threshold: the score from
    which on it is taken for the same person.
    """

    hits: tuple[SightingHit, ...]
    searched: int
    other_models: int
    without_template: int
    threshold: float


class Stranger(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody without a name who was seen repeatedly."""

    id: str
    sightings: tuple[SightingRecord, ...]
    """Oldest first."""
    cameras: tuple[str, ...]
    days: int
    """On how many days by this machine's clock."""
    cohesion: float
    """Mean score between two of its sightings."""


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """What naming did. marked: sightings that carry the name now, and did not before."""

    name: str
    uid: str
    enrolled: int
    """Templates that were added to the gallery."""
    marked: tuple[SightingRecord, ...]
    found: tuple[SightingHit, ...]
    """Those of `marked` that were not named themselves, but look like it."""


def sighting_id(epoch: str, camera: str, track: int) -> str:
    """The id of a sighting, from any event of its track."""
    return event_id(epoch, camera, str(track))
