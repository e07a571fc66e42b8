"""What a run has seen, collected from its events: one record per sighting (track).

Shared by the page and the live table, so that both tell the same story.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from ..stream.events import (
    AnyEvent,
    CandidateScore,
    DecisionEvent,
    SightingEnded,
    TrackEvent,
)
from ..stream.watcher import Label

State = Literal["undecided", "matched", "unknown", "too few frames", "no usable face"]
MOST_POINTS = 400


class Point(NamedTuple):
    """A score on the way: stream time in s, the best candidate's score, and who it was then.

    decided: whether an identity of None means unknown; else nothing was decided yet.
    """

    pts: float
    score: float
    identity: str | None
    decided: bool


@dataclass
class Sighting:
    """One track from its first face to its last, as far as it is known now.

    Times first and last are seconds of the stream; began is the wall clock (UTC) at its second 0.
    faces counts the frames it was found in. score, cosine and false_positive_probability are the
    best candidate's.
    """

    camera: str
    track: int
    first: float
    last: float
    began: datetime
    state: State = "undecided"
    identity: str | None = None
    ambiguous: tuple[str, ...] = ()
    score: float | None = None
    cosine: float | None = None
    threshold: float | None = None
    target_fpir: float | None = None
    false_positive_probability: float | None = None
    candidates: tuple[CandidateScore, ...] = ()
    frames: int = 0
    faces: int | None = None
    quality: tuple[float, float, float] | None = None
    pack: str = ""
    gallery_version: int | None = None
    ended: bool = False
    points: list[Point] = field(default_factory=list)

    @property
    def who(self) -> str:
        """The name, or all that it might be; the state in words where there is none."""
        if self.identity is None:
            return self.state
        return " or ".join(self.ambiguous) or self.identity

    @property
    def seconds(self) -> float:
        """How long it was in view."""
        return max(0.0, self.last - self.first)

    def wall(self, pts: float) -> datetime:
        """Wall clock (UTC) of a stream time in s."""
        return self.began + timedelta(seconds=pts)


class Summary:
    """The newest sightings of a run, in the order in which they began."""

    def __init__(self, keep: int = 1000) -> None:
        """Keep at most this many; older ones are forgotten, and counted in `forgotten`."""
        self._keep = keep
        self._sightings: dict[tuple[str, int], Sighting] = {}
        self.forgotten = 0

    @property
    def sightings(self) -> list[Sighting]:
        """All kept sightings, oldest first."""
        return list(self._sightings.values())

    def add(self, event: AnyEvent) -> Sighting | None:
        """Take an event in; returns the sighting that it changed, None for other events."""
        if not isinstance(event, TrackEvent):
            return None
        key = (event.camera, event.track)
        sighting = self._sightings.get(key)
        if sighting is None:
            began = event.captured_at - timedelta(seconds=event.pts)
            sighting = Sighting(*key, event.pts, event.pts, began)
            self._sightings[key] = sighting
            if len(self._sightings) > self._keep:
                del self._sightings[next(iter(self._sightings))]
                self.forgotten += 1
        sighting.last = max(sighting.last, event.pts)
        if isinstance(event, DecisionEvent):
            _decide(sighting, event)
        return sighting

    def see(self, camera: str, track: int, pts: float, label: Label) -> None:
        """Note that a track is in view at a stream time, and its score if that is news."""
        sighting = self._sightings.get((camera, track))
        if sighting is None or sighting.ended:
            return
        sighting.last = max(sighting.last, pts)
        sighting.faces = (sighting.faces or 0) + 1
        if label.score is None:
            return
        point = Point(pts, label.score, label.identity, label.decided)
        if sighting.points and sighting.points[-1][1:] == point[1:]:
            return
        sighting.score = label.score
        sighting.points.append(point)
        if len(sighting.points) > MOST_POINTS:  # a long sighting keeps every second point
            del sighting.points[1:-1:2]


def _decide(sighting: Sighting, event: DecisionEvent) -> None:
    """Copy a decision into its sighting."""
    sighting.identity = event.identity
    sighting.state = "unknown" if event.identity is None else "matched"
    sighting.ambiguous = event.ambiguous
    sighting.score, sighting.cosine = event.score, event.cosine
    sighting.threshold, sighting.target_fpir = event.threshold, event.target_fpir
    sighting.false_positive_probability = event.false_positive_probability
    sighting.candidates = event.candidates
    sighting.frames = event.frames
    sighting.pack, sighting.gallery_version = event.pack, event.gallery_version
    low, middle, high = event.quality_min, event.quality_median, event.quality_max
    if low is not None and middle is not None and high is not None:
        sighting.quality = (low, middle, high)
    if event.score is not None:
        sighting.points.append(Point(event.pts, event.score, event.identity, True))
    if isinstance(event, SightingEnded):
        sighting.state = event.reason
        sighting.ended = True
        sighting.faces = event.faces
        sighting.first = min(sighting.first, event.pts - event.duration)


class Person(NamedTuple):
    """All sightings of one identity (None: the unknowns, who may be several people)."""

    identity: str | None
    sightings: tuple[Sighting, ...]

    @property
    def best(self) -> float | None:
        """The highest score among the sightings."""
        return max((s.score for s in self.sightings if s.score is not None), default=None)


def group(sightings: list[Sighting]) -> list[Person]:
    """Sightings by identity, first seen first; those without a name last, as one group."""
    names = dict.fromkeys(s.identity for s in sightings if s.identity is not None)
    people = [Person(n, tuple(s for s in sightings if s.identity == n)) for n in names]
    nameless = tuple(s for s in sightings if s.identity is None)
    return [*people, Person(None, nameless)] if nameless else people


def clock(seconds: float) -> str:
    """Stream time for people: 00:03.2, or 1:02:03.4 from an hour on."""
    tenths = max(0, round(10 * seconds))
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{minutes:02d}:{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{tail}" if hours else tail
