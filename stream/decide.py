"""Sightings: when a track is decided, and which event tells it.

One sighting per confirmed track. A decision is taken for all faces of a frame at once (one identity
to at most one face), in frames that the track's own observation count picks: the same recorded clip
therefore gives the same decisions at any batch size and on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from .. import RecordError
from ..configs.schema import MatchConfig
from .aggregate import AggregateStage
from .events import (
    AnyEvent,
    CandidateScore,
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
from .sightings import (
    Basis,
    Sighting,
    StoredSighting,
    basis_of,
    dump_sightings,
    instant,
    load_sightings,
)
from .watcher import Label


class Decided(NamedTuple):
    """An event still to be published, with the template behind it (None: nothing was decided)."""

    event: AnyEvent
    template: Template | None


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
        found = self.aggregate.template(end.key, end.last)
        if found is not None and sighting.observations >= self.config.least_frames:
            out += self._decide(end.last, [end.key], final=True)
        elif sighting.last is not None:  # of an earlier process: its template is gone
            out += self._announce(sighting, sighting.last, None, final=True)
        out.append(self._ended(end, sighting, found))
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
            stored.append(StoredSighting(track, sighting, template))
        return dump_sightings(stored)

    def restore(self, camera: str, data: bytes) -> None:
        """Take up a camera where `snapshot` left it: what is decided later is the same to the bit.

        Raises RecordError when the bytes are no snapshot, or made by another aggregator; then
        nothing is known of the camera.
        """
        self.forget(camera)
        stored = load_sightings(data)
        self.sightings[camera] = {one.track: one.sighting for one in stored}
        try:
            for one in stored:
                if one.template is not None:
                    self.aggregate.restore(TrackKey(camera, self.epoch, one.track), one.template)
        except RecordError:
            self.forget(camera)
            raise

    def outline(self, camera: str) -> bytes:
        """All sightings of a camera in short, as bytes: enough to close them, not to go on."""
        live = self.sightings.get(camera, {}).items()
        return dump_sightings(StoredSighting(track, sighting) for track, sighting in live)

    def close_outlined(self, camera: str, data: bytes) -> list[Decided]:
        """Close the sightings of an `outline`, with the decisions they had. Raises RecordError."""
        self.forget(camera)
        stored = load_sightings(data)
        self.sightings[camera] = {one.track: one.sighting for one in stored}
        return self.close(camera)

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
            sighting.last, sighting.basis = match, basis_of(found.template)
            out += self._announce(sighting, match, found.template, final=final)
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
        self, sighting: Sighting, match: Match, template: Template | None, *, final: bool
    ) -> list[Decided]:
        before, sighting.identity = sighting.identity, match.identity
        enough = final or sighting.observations >= self.config.unknown_frames
        if match.identity is None and sighting.announced == "nothing":
            if not enough:
                return []
            sighting.announced = "unknown"
            return [self._decision(Unknown, sighting, match, template)]
        if match.identity == before:
            return []
        if sighting.announced == "nothing":
            sighting.announced = "match"
            return [self._decision(MatchEvent, sighting, match, template)]
        sighting.announced = "match"
        return [self._decision(MatchRevised, sighting, match, template, previous_identity=before)]

    def _decision(
        self,
        kind: type[MatchEvent] | type[MatchRevised] | type[Unknown],
        sighting: Sighting,
        match: Match,
        template: Template | None,
        **more: Any,
    ) -> Decided:
        sighting.changes += 1
        event = kind(
            **self._common(match.key, match.frame, f"decision-{sighting.changes}"),
            **self._evidence(match, sighting.basis),
            **more,
        )
        return Decided(event, template)

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
        basis = basis_of(template) if template is not None else sighting.basis
        event = SightingEnded(
            **self._common(end.key, end.last, "ended"),
            **self._evidence(sighting.last, basis),
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

    def _evidence(self, match: Match | None, basis: Basis) -> dict[str, Any]:
        best = named_candidate(match)
        rule = match or self.match.rule()  # nothing was decided: what would have been in force
        return {
            "identity": match.identity if match is not None else None,
            "score": best.score if best is not None else None,
            "cosine": best.cosine if best is not None else None,
            "threshold": rule.threshold,
            "target_fpir": rule.target_fpir,
            "threshold_why": rule.why,
            "false_positive_probability": (
                match.false_positive_probability if match is not None else None
            ),
            "candidates": tuple(
                CandidateScore(c.identity, c.score, c.cosine)
                for c in (match.candidates if match is not None else ())
            ),
            "frames": basis.frames,
            "quality_min": basis.quality_min,
            "quality_median": basis.quality_median,
            "quality_max": basis.quality_max,
            "evidence": basis.evidence,
            "pack": self.pack,
            "gallery_version": match.gallery_version if match is not None else 0,
        }


def named_candidate(match: Match | None) -> Candidate | None:
    """The candidate that a match names, or the best one where it names nobody."""
    if match is None or not match.candidates:
        return None
    named = [c for c in match.candidates if c.identity == match.identity]
    return named[0] if named else match.candidates[0]
