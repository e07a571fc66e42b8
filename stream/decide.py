"""Sightings: when a track is decided, and which event tells it.

One sighting per confirmed track. A decision is taken for all faces of a frame at once (one identity
to at most one face), in frames that the track's own observation count picks: the same recorded clip
therefore gives the same decisions at any batch size and on any machine. No two live tracks of a
camera have one name, nor have two of cameras that are apart, as far as both were in view at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from .. import RecordError
from ..configs.schema import MatchConfig
from .aggregate import AggregateStage
from .apart import Apart
from .assign import Standing
from .events import Cause
from .match import MatchStage
from .records import FrameRef, Match, Observed, Template, TrackEnd, TrackKey
from .sightings import (
    Sighting,
    StoredSighting,
    basis_of,
    dump_sightings,
    load_sightings,
)
from .telling import Decided, Teller, named_candidate
from .watcher import Label


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
        self.epoch = epoch
        self.sightings: dict[str, dict[int, Sighting]] = {}
        self._tell = Teller(match.rule, pack=pack, epoch=epoch, clock=clock)
        self._apart = Apart(config.apart, config.apart_seconds)

    def begin(self, camera: str, *, live: bool) -> None:
        """Note whether a camera is live: only such are held to `match.apart`."""
        self._apart.begin(camera, live=live)

    def process(self, observed: Observed) -> list[Decided]:
        """The events of one frame, in the order they happened. Frames of a camera come in order."""
        frame = observed.tracked.frame
        live = self.sightings.setdefault(frame.camera, {})
        out: list[Decided] = []
        for key in observed.tracked.started:
            live[key.track] = Sighting(started=frame, seen=frame)
            out.append(self._tell.started(key, frame))
        visible = {face.track for face in observed.tracked.faces}
        for face in observed.tracked.faces:
            sighting = live[face.track]
            sighting.seen, sighting.faces, sighting.moved = frame, face.ordinal + 1, None
            sighting.rivals |= visible - {face.track}
        self.aggregate.update(observed)
        due = self._is_contested(observed)
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
            out += self._announce(end.key, sighting.last, None, final=True)
        out.append(self._tell.ended(end, sighting, found))
        self.aggregate.end(end.key)
        del live[end.key.track]
        self._bar(end.key, sighting)
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
                sighting.ambiguous,
            )
        return labels

    # --- deciding ---

    def _decide(
        self, frame: FrameRef, keys: Sequence[TrackKey], *, final: bool = False
    ) -> list[Decided]:
        """Decide tracks of one frame together; final: the one track is over."""
        live = self.sightings[frame.camera]
        ready = [k for k in keys if live[k.track].observations >= self.config.least_frames]
        templates = [t for k in ready if (t := self.aggregate.template(k, frame)) is not None]
        standings = self._standings(live, ready)
        matches = self.match.decide(templates, standings)
        out = self._hand_over(matches, final=final)
        for found, match in zip(templates, matches, strict=True):
            sighting = live[match.key.track]
            cause: Cause = "frames"
            if sighting.last is not None and match.gallery_version > sighting.last.gallery_version:
                cause = "gallery"
            elif sighting.identity in {*standings[match.key].elsewhere, *sighting.barred}:
                cause = "camera"
            sighting.decided_at_count = sighting.observations
            sighting.last, sighting.basis = match, basis_of(found.template)
            scores = [candidate.score for candidate in match.candidates]
            if sighting.highest is not None:
                scores.append(sighting.highest)
            sighting.highest = max(scores, default=None)
            out += self._announce(match.key, match, found.template, cause, final=final)
        return out

    def _standings(
        self, live: dict[int, Sighting], keys: Sequence[TrackKey]
    ) -> dict[TrackKey, Standing]:
        """What each track has, and whom it cannot be: somebody once seen beside it has that name.

        A rival that is decided in the same frame is not in the way: both are assigned together.
        """
        deciding = {key.track for key in keys}
        standings = {}
        for key in keys:
            own = live[key.track]
            rivals = [live[rival] for rival in own.rivals - deciding]
            names = {name for one in rivals for name in (one.identity, one.moved)}
            barred = frozenset(name for name in names if name is not None) | own.barred
            elsewhere: dict[str, float] = {}
            for _, other in self._elsewhere(key.camera, own):
                name, gain = other.identity, self._gain(other)
                if name is not None:
                    elsewhere[name] = max(gain, elsewhere.get(name, gain))
            held = own.identity or own.moved
            standings[key] = Standing(held, frozenset(own.ambiguous), barred, elsewhere)
        return standings

    def _hand_over(self, matches: Sequence[Match], *, final: bool) -> list[Decided]:
        """Take names from tracks that cannot have them beside those that are given them now.

        That is a track of this camera that is out of sight (one in view was decided too), and one
        of another camera that was outdone. A track that is over takes nothing.
        """
        out: list[Decided] = []
        deciding = {match.key.track for match in matches}
        for match in () if final else matches:
            sighting = self.sightings[match.key.camera][match.key.track]
            if match.identity is None or not self._is_told(sighting, match, final):
                continue
            for track, other in self.sightings[match.key.camera].items():
                if other.identity == match.identity and track not in deciding:
                    out.append(self._withdraw(match.key._replace(track=track), other, "track"))
            for key, other in self._elsewhere(match.key.camera, sighting):
                if other.identity == match.identity:
                    out.append(self._withdraw(key, other, "camera"))
        return out

    def _withdraw(self, key: TrackKey, sighting: Sighting, cause: Cause) -> Decided:
        """Take a track's name, as of the newest frame that shows it; it is due when seen again."""
        assert sighting.last is not None
        before, sighting.identity, sighting.ambiguous = sighting.identity, None, ()
        sighting.decided_at_count = 0
        match = msgspec.structs.replace(
            sighting.last, identity=None, ambiguous=(), frame=sighting.seen
        )
        if cause == "track":
            sighting.moved = before  # it was right: told again when the track ends
        else:
            sighting.last = match
        found = self.aggregate.template(key, sighting.seen)
        template = None if found is None else found.template
        if template is not None:
            sighting.basis = basis_of(template)
        return self._tell.revised(sighting, match, template, before, cause)

    def _is_told(self, sighting: Sighting, match: Match, final: bool) -> bool:
        """Whether a decision counts yet: unknown, or one of two, only once there is enough."""
        enough = final or sighting.observations >= self.config.unknown_frames
        clear = match.identity is not None and not match.ambiguous
        return enough or clear or sighting.announced != "nothing"

    def _announce(
        self,
        key: TrackKey,
        match: Match,
        template: Template | None,
        cause: Cause = "frames",
        *,
        final: bool,
    ) -> list[Decided]:
        live = self.sightings[key.camera]
        sighting = live[key.track]
        if not self._is_told(sighting, match, final):
            return []
        before, sighting.identity = sighting.identity, match.identity
        doubted, sighting.ambiguous = sighting.ambiguous, match.ambiguous
        if final and match.identity is not None:
            others = [other for track, other in live.items() if track != key.track]
            others += [other for _, other in self._elsewhere(key.camera, sighting)]
            if any(other.identity == match.identity for other in others):
                return []  # no two live tracks may have it: the end alone tells it
        if sighting.announced == "nothing":
            sighting.announced = "unknown" if match.identity is None else "match"
            return [self._tell.first(sighting, match, template)]
        if match.identity == before and set(doubted) == set(match.ambiguous):
            return []
        sighting.announced = "match"
        return [self._tell.revised(sighting, match, template, before, cause)]

    # --- cameras that are apart ---

    def _elsewhere(self, camera: str, own: Sighting) -> list[tuple[TrackKey, Sighting]]:
        """Named tracks of cameras apart from this one that cannot be of the same person."""
        return [
            (TrackKey(other, self.epoch, track), sighting)
            for other in self._apart.others(camera)
            for track, sighting in self.sightings.get(other, {}).items()
            if sighting.identity is not None and self._apart.overlap(own, sighting)
        ]

    def _is_contested(self, observed: Observed) -> bool:
        """Whether a camera that is apart has somebody by a name that this frame shows, too."""
        camera = observed.tracked.frame.camera
        seen = (self.sightings[camera][one.key.track] for one in observed.observations)
        return any(
            other.identity == own.identity
            for own in seen
            if own.identity is not None
            for _, other in self._elsewhere(camera, own)
        )

    def _gain(self, sighting: Sighting) -> float:
        """What a name is worth where it is, as `MatchStage.decide` counts."""
        named = named_candidate(sighting.last)
        assert sighting.last is not None and named is not None
        return self.match.gain(named.score - sighting.last.threshold)

    def _bar(self, key: TrackKey, ended: Sighting) -> None:
        """Whoever was seen beside a track, or elsewhere at its time, cannot be who it was."""
        for other in self.sightings[key.camera].values():
            if ended.identity is not None and key.track in other.rivals:
                other.barred.add(ended.identity)
            other.rivals.discard(key.track)
        for camera in self._apart.others(key.camera):
            for other in self.sightings.get(camera, {}).values():
                if ended.identity is not None and self._apart.overlap(ended, other):
                    other.barred.add(ended.identity)
                    if other.identity == ended.identity:
                        other.decided_at_count = 0
