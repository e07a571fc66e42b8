"""Sightings: when a track is decided, and which event tells it.

One sighting per confirmed track. A decision is taken for all faces of a frame at once (one identity
to at most one face), in frames that the track's own observation count picks: the same recorded clip
therefore gives the same decisions at any batch size and on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec

from .. import RecordError
from ..configs.schema import MatchConfig
from .aggregate import AggregateStage
from .events import (
    AnyEvent,
    CandidateScore,
    EvidenceFrame,
    MatchEvent,
    MatchRevised,
    SightingEnded,
    SightingStarted,
    Unknown,
    event_id,
)
from .match import MatchStage
from .records import (
    Candidate,
    FrameRef,
    Match,
    Observed,
    Template,
    TrackEnd,
    TrackKey,
    TrackTemplate,
)
from .watcher import Label

SNAPSHOT_VERSION = 1


class Decided(NamedTuple):
    """An event still to be published, with the template behind it (None: nothing was decided)."""

    event: AnyEvent
    template: Template | None


@dataclass
class Sighting:
    """One live track. `rivals` are the tracks seen in a frame together with it: other people.

    seen: the newest frame that shows it; faces: how many have. barred: the names of rivals that
    have ended, which this track cannot have either.
    """

    started: FrameRef
    seen: FrameRef
    faces: int = 0
    observations: int = 0
    decided_at_count: int = 0
    last: Match | None = None
    identity: str | None = None
    announced: Literal["nothing", "match", "unknown"] = "nothing"
    changes: int = 0
    rivals: set[int] = field(default_factory=set)
    barred: set[str] = field(default_factory=set)


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """A sighting and the state of its template; None before its first usable observation."""

    track: int
    sighting: Sighting
    template: bytes | None


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    sightings: list[_Stored]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


def is_due(count: int, decided_at: int, least: int) -> bool:
    """Whether `count` observations call for a decision when the last was at `decided_at`.

    First at `least`, then whenever the evidence grew by half, at the latest every 16 observations.
    """
    if count < least:
        return False
    return decided_at == 0 or count - decided_at >= min(16, max(1, decided_at // 2))


class DecideStage:
    """Turns observed frames into events. State: one Sighting per live track, by camera."""

    def __init__(
        self,
        aggregate: AggregateStage,
        match: MatchStage,
        config: MatchConfig,
        *,
        pack: str,
        epoch: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock gives UTC seconds and stamps `decided_at`."""
        self.aggregate = aggregate
        self.match = match
        self.config = config
        self.pack = pack
        self.epoch = epoch
        self.clock = clock
        self.sightings: dict[str, dict[int, Sighting]] = {}

    def process(self, observed: Observed) -> list[Decided]:
        """The events of one frame, in the order they happened. Frames of a camera come in order."""
        frame = observed.tracked.frame
        live = self.sightings.setdefault(frame.camera, {})
        out: list[Decided] = []
        for key in observed.tracked.started:
            live[key.track] = Sighting(started=frame, seen=frame)
            out.append(Decided(self._started(key, frame), None))
        visible = {face.track for face in observed.tracked.faces}
        for face in observed.tracked.faces:
            sighting = live[face.track]
            sighting.seen, sighting.faces = frame, face.ordinal + 1
            sighting.rivals |= visible - {face.track}
        self.aggregate.update(observed)
        due = False
        for observation in observed.observations:
            sighting = live[observation.key.track]
            sighting.observations += 1
            due |= is_due(
                sighting.observations, sighting.decided_at_count, self.config.least_frames
            )
        if due:
            out += self._decide(frame, [o.key for o in observed.observations])
        for end in observed.tracked.ended:
            out += self.end(end)
        return out

    def end(self, end: TrackEnd) -> list[Decided]:
        """Close a sighting: a last decision on all its frames, then its final event.

        A track whose beginning was never processed (an error came between) has no sighting.
        """
        live = self.sightings.get(end.key.camera, {})
        sighting = live.get(end.key.track)
        if sighting is None:
            return []
        out: list[Decided] = []
        template = None
        if sighting.observations:
            template = self.aggregate.template(end.key, end.last)
        if template is not None and sighting.observations >= self.config.least_frames:
            out += self._decide(end.last, [end.key], final=True)
        out.append(self._ended(end, sighting, template))
        self.aggregate.end(end.key)
        del live[end.key.track]
        for other in live.values():
            if end.key.track in other.rivals and sighting.identity is not None:
                other.barred.add(sighting.identity)
            other.rivals.discard(end.key.track)
        return out

    def close(self, camera: str) -> list[Decided]:
        """Close all sightings of a camera, as of the newest frame that shows each."""
        left = sorted(self.sightings.get(camera, {}).items())
        ends = [
            TrackEnd(TrackKey(camera, self.epoch, track), one.started, one.seen, one.faces)
            for track, one in left
        ]
        return [decided for end in ends for decided in self.end(end)]

    def forget(self, camera: str) -> None:
        """Forget all sightings of a camera without a word."""
        for track in self.sightings.pop(camera, {}):
            self.aggregate.end(TrackKey(camera, self.epoch, track))

    def snapshot(self, camera: str) -> bytes:
        """All sightings of a camera with their templates, as bytes (msgpack, no pickle)."""
        known = set(self.aggregate.tracks)
        stored = []
        for track, sighting in self.sightings.get(camera, {}).items():
            key = TrackKey(camera, self.epoch, track)
            template = self.aggregate.snapshot(key) if key in known else None
            stored.append(_Stored(track, sighting, template))
        return msgspec.msgpack.encode(_Snapshot(SNAPSHOT_VERSION, stored))

    def restore(self, camera: str, data: bytes, *, templates: bool = True) -> None:
        """Take up a camera where `snapshot` left it: what is decided later is the same to the bit.

        templates: False leaves them out, so that sightings can only be closed, with the decision
        they have. Raises RecordError when the bytes are no snapshot, or made by another aggregator;
        then nothing is known of the camera.
        """
        self.forget(camera)
        try:
            snapshot = _DECODER.decode(data)
        except msgspec.DecodeError as error:
            raise RecordError(
                f"expected the snapshot of a camera's sightings, got other bytes: {error}"
            ) from error
        if snapshot.version != SNAPSHOT_VERSION:
            raise RecordError(
                f"a snapshot of sightings must be version {SNAPSHOT_VERSION}, "
                f"got {snapshot.version}: use the facestream that made it"
            )
        self.sightings[camera] = {one.track: one.sighting for one in snapshot.sightings}
        try:
            for one in snapshot.sightings:
                if templates and one.template is not None:
                    self.aggregate.restore(TrackKey(camera, self.epoch, one.track), one.template)
        except RecordError:
            self.forget(camera)
            raise

    def reconsider(self) -> None:
        """Make every live track due with its next observation: the gallery has changed."""
        for live in self.sightings.values():
            for sighting in live.values():
                sighting.decided_at_count = 0

    def labels(self, camera: str) -> dict[int, Label]:
        """What to write beside each live track of a camera now."""
        labels = {}
        for track, sighting in self.sightings.get(camera, {}).items():
            best = named_candidate(sighting.last)
            labels[track] = Label(
                sighting.identity,
                sighting.announced != "nothing",
                best.score if best is not None else None,
            )
        return labels

    def _decide(
        self, frame: FrameRef, keys: Sequence[TrackKey], *, final: bool = False
    ) -> list[Decided]:
        live = self.sightings[frame.camera]
        ready = [k for k in keys if live[k.track].observations >= self.config.least_frames]
        templates = [t for k in ready if (t := self.aggregate.template(k, frame)) is not None]
        matches = self.match.decide(templates, self._taken_by_rivals(live, ready))
        out: list[Decided] = []
        for found, match in zip(templates, matches, strict=True):
            sighting = live[match.key.track]
            sighting.decided_at_count = sighting.observations
            sighting.last = match
            out += self._announce(sighting, match, found, final=final)
        return out

    def _taken_by_rivals(
        self, live: dict[int, Sighting], keys: Sequence[TrackKey]
    ) -> dict[TrackKey, frozenset[str]]:
        """Identities that each track cannot be: somebody once seen beside it has or had them."""
        deciding = {key.track for key in keys}
        return {
            key: frozenset(
                identity
                for rival in live[key.track].rivals - deciding
                if (identity := live[rival].identity) is not None
            )
            | live[key.track].barred
            for key in keys
        }

    def _announce(
        self, sighting: Sighting, match: Match, found: TrackTemplate, *, final: bool
    ) -> list[Decided]:
        before, sighting.identity = sighting.identity, match.identity
        enough = final or sighting.observations >= self.config.unknown_frames
        if match.identity is None and sighting.announced == "nothing":
            if not enough:
                return []
            sighting.announced = "unknown"
            return [self._decision(Unknown, sighting, match, found)]
        if match.identity == before:
            return []
        if sighting.announced == "nothing":
            sighting.announced = "match"
            return [self._decision(MatchEvent, sighting, match, found)]
        sighting.announced = "match"
        return [self._decision(MatchRevised, sighting, match, found, previous_identity=before)]

    def _decision(
        self,
        kind: type[MatchEvent] | type[MatchRevised] | type[Unknown],
        sighting: Sighting,
        match: Match,
        found: TrackTemplate,
        **more: Any,
    ) -> Decided:
        sighting.changes += 1
        event = kind(
            **self._common(match.key, match.frame, f"decision-{sighting.changes}"),
            **self._evidence(match, found.template),
            **more,
        )
        return Decided(event, found.template)

    def _started(self, key: TrackKey, frame: FrameRef) -> SightingStarted:
        return SightingStarted(**self._common(key, frame, "started"))

    def _ended(self, end: TrackEnd, sighting: Sighting, found: TrackTemplate | None) -> Decided:
        reason: Literal["matched", "unknown", "too few frames", "no usable face"]
        if sighting.observations == 0:
            reason = "no usable face"
        elif sighting.last is None:
            reason = "too few frames"
        else:
            reason = "matched" if sighting.identity is not None else "unknown"
        template = found.template if found is not None else None
        event = SightingEnded(
            **self._common(end.key, end.last, "ended"),
            **self._evidence(sighting.last, template),
            started_at=instant(sighting.started.captured_at),
            duration=end.last.pts - sighting.started.pts,
            faces=end.faces,
            reason=reason,
        )
        return Decided(event, template)

    def _common(self, key: TrackKey, frame: FrameRef, what: str) -> dict[str, Any]:
        return {
            "id": event_id(self.epoch, key.camera, str(key.track), what),
            "camera": key.camera,
            "decided_at": instant(self.clock()),
            "track": key.track,
            "frame": frame.sequence,
            "pts": frame.pts,
            "captured_at": instant(frame.captured_at),
        }

    def _evidence(self, match: Match | None, template: Template | None) -> dict[str, Any]:
        best = named_candidate(match)
        return {
            "identity": match.identity if match is not None else None,
            "score": best.score if best is not None else None,
            "cosine": best.cosine if best is not None else None,
            "threshold": self.match.threshold,
            "target_fpir": self.match.target_fpir,
            "false_positive_probability": (
                match.false_positive_probability if match is not None else None
            ),
            "candidates": tuple(
                CandidateScore(c.identity, c.score, c.cosine)
                for c in (match.candidates if match is not None else ())
            ),
            "frames": template.frames if template is not None else 0,
            "quality_min": template.quality_min if template is not None else None,
            "quality_median": template.quality_median if template is not None else None,
            "quality_max": template.quality_max if template is not None else None,
            "evidence": tuple(
                EvidenceFrame(
                    sequence=e.frame.sequence,
                    pts=e.frame.pts,
                    captured_at=instant(e.frame.captured_at),
                    box=(float(e.box[0]), float(e.box[1]), float(e.box[2]), float(e.box[3])),
                    quality=e.quality,
                    weight=e.weight,
                )
                for e in (template.evidence if template is not None else ())
            ),
            "pack": self.pack,
            "gallery_version": match.gallery_version if match is not None else 0,
        }


def named_candidate(match: Match | None) -> Candidate | None:
    """The candidate that a match names, or the best one where it names nobody."""
    if match is None or not match.candidates:
        return None
    named = [c for c in match.candidates if c.identity == match.identity]
    return named[0] if named else match.candidates[0]


def instant(seconds: float) -> datetime:
    """Seconds since 1970 as a UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)
