"""Decisions on a recorded video, and whom each track really shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from .. import EnrolmentRefused, GalleryEmpty, SourceCorrupt
from ..configs.schema import Config, MatchConfig
from ..models.aggregators import make_aggregator
from ..models.fusion import Aggregator, Doubles, Floats
from ..models.pack import Pack
from ..stream.aggregate import AggregateStage
from ..stream.assign import Standing
from ..stream.decide import DecideStage
from ..stream.enrol import Enroller
from ..stream.events import MatchEvent, MatchRevised, SightingEnded
from ..stream.gallery import Gallery
from ..stream.match import ALL_NEW, GalleryIndex, MatchStage
from ..stream.records import Match, Template, TrackKey, TrackTemplate
from ..stream.telling import Decided
from ..stream.thresholds import Rules as DecisionRules
from .build import check_score, know, rules_for, spread_of
from .eval_tracks import Boxes, Judged, judge_frame
from .eval_video_record import EPOCH, Recording
from .eval_video_set import Clip, Rules
from .report_record import Bad


class Alert(NamedTuple):
    """A match that the running system would have published.

    shown: number of the truth's track that the face belongs to, 0 for none. seconds: of the video.
    """

    identity: str
    shown: int
    seconds: float


class Seen(NamedTuple):
    """Where a track can be seen: its id, a frame, and its face's box (4,) there.

    shown: number of the truth's track whose face that is, 0 for none.
    """

    track: int
    frame: int
    box: Floats
    shown: int


class SystemTrack(NamedTuple):
    """A track that ended. shown: as in Alert, what most of its faces belong to.

    templates: (C,) of every decision in order, the last of all observations; none where there were
    too few to decide. seen: the frames that weigh most in the last, as many as are kept.
    """

    shown: int
    templates: tuple[Floats, ...]
    seen: tuple[Seen, ...] = ()


class Watched(NamedTuple):
    """A video as the system saw it, frame by frame beside the truth.

    numbers: of the frames. truth, tracked and found: per frame; found are the detector's faces (ids
    are 0). judged_tracked and judged_found: how they match.
    """

    numbers: list[int]
    truth: list[Boxes]
    tracked: list[Boxes]
    found: list[Boxes]
    judged_tracked: list[Judged]
    judged_found: list[Judged]


class Replay(NamedTuple):
    """What a recording gives. decided: the template of every decision, by track."""

    events: list[Decided]
    decided: dict[int, list[Floats]]


class Decisions(NamedTuple):
    """What was decided on a video."""

    alerts: list[Alert]
    tracks: list[SystemTrack]


class Decider:
    """Decides recorded videos as the running system does, with one gallery; use it with `with`."""

    def __init__(
        self, config: Config, pack: Pack, photos: dict[str, list[Path]], bad: list[Bad]
    ) -> None:
        """Enrol the photos; those refused go into `bad`.

        Raises GalleryEmpty when all were refused, ConfigError and ModelError as a run does.
        """
        check_score(pack, config)
        self._config, self._pack = config, pack
        self._rules = self._rules_of(config)
        self._stack = ExitStack()
        self.gallery = self._stack.enter_context(Gallery.temporary())
        try:
            self._enrol(photos, bad)
            self.known = self._stack.enter_context(know(self.gallery, pack, config.match))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Decider:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the gallery."""
        self._stack.close()

    def under(self, config: Config) -> Decider:
        """The same people and gallery, decided by another configuration; it closes with this one.

        What the gallery is searched with (search, precision, density) stays as it was.
        """
        check_score(self._pack, config)
        other = copy(self)
        other._config, other._rules = config, other._rules_of(config)
        return other

    @property
    def threshold(self) -> float:
        """In force for this gallery."""
        return self._rules(self.known()[1], None).threshold

    @property
    def identities(self) -> list[str]:
        """Whom the gallery holds, in the order of its index."""
        return list(self.known()[2])

    def replay(self, recording: Recording) -> Replay:
        """Fuse, match and decide every frame, then what is left open at the end."""
        config = self._config
        spread = spread_of(self._pack.card, config.match)
        match = NotingMatch(self.known, config.match, self._rules, spread=spread)
        events = replay_with(match, recording, config, self._pack)
        decided = {key: [one.embedding for one in found] for key, found in match.decided.items()}
        return Replay(events, decided)

    def decide(self, clip: Clip, recording: Recording, watched: Watched) -> Decisions:
        """What the events say, beside whom the tracks really show."""
        shown = Shown(watched)
        alerts, tracks = [], []
        replay = self.replay(recording)
        for event, template in replay.events:
            if isinstance(event, MatchEvent | MatchRevised) and event.identity is not None:
                person = shown.at(event.track, event.frame)
                alerts.append(Alert(event.identity, person, event.frame / clip.truth.fps))
            elif isinstance(event, SightingEnded):
                templates = tuple(replay.decided.get(event.track, ()))
                kept = template.evidence if template is not None else ()
                seen = tuple(shown.see(event.track, one.frame.sequence, one.box) for one in kept)
                tracks.append(SystemTrack(shown.mostly(event.track), templates, seen))
        return Decisions(alerts, tracks)

    def score(self, templates: Floats) -> Doubles:
        """Scores (T, G) of unit templates (T, C) against everybody, as the matcher ranks them."""
        _, index, names, _ = self.known()
        scores = np.full((len(templates), len(names)), -np.inf)
        if len(templates):
            hits = index.search(templates, len(names), by=self._config.match.score)
            for row, ranked in enumerate(hits):
                for hit in ranked:
                    scores[row, hit.identity] = hit.score
        return scores

    def _rules_of(self, config: Config) -> DecisionRules:
        return rules_for(self._pack.card, self._pack.strangers, config)

    def _enrol(self, photos: dict[str, list[Path]], bad: list[Bad]) -> None:
        # The truth says who is who: people who look alike are no mistake of whoever enrols.
        rules = replace(self._config.enrol, duplicates="add")
        enroller = Enroller(self._pack, self.gallery, rules)
        enrolled = 0
        for name, files in sorted(photos.items()):
            for photo in files:
                try:
                    enroller.enrol_photo(name, photo)
                    enrolled += 1
                except EnrolmentRefused as refusal:
                    bad.append(Bad(f"{name}: {photo.name}", f"not enrolled: {refusal}"))
        if not enrolled:
            raise GalleryEmpty(
                f"nobody could be enrolled: all {len(bad)} photos were refused"
                + (f", the first because: {bad[-1].why}" if bad else "")
            )


class NotingMatch(MatchStage):
    """The matcher, which also notes what it was asked: a track is decided many times."""

    def __init__(
        self,
        index: Callable[[], GalleryIndex],
        config: MatchConfig,
        rules: DecisionRules,
        *,
        spread: float = 0.0,
    ) -> None:
        """As MatchStage."""
        super().__init__(index, config, rules, spread=spread)
        self.decided: dict[int, list[Template]] = {}

    def decide(
        self,
        templates: Sequence[TrackTemplate],
        standings: Mapping[TrackKey, Standing] = ALL_NEW,
    ) -> list[Match]:
        """As MatchStage."""
        for one in templates:
            self.decided.setdefault(one.key.track, []).append(one.template)
        return super().decide(templates, standings)


def replay_with(
    match: MatchStage, recording: Recording, config: Config, pack: Pack
) -> list[Decided]:
    """The events of a recording, fused as configured and matched by this matcher."""
    stage = DecideStage(
        AggregateStage(live_aggregator(config, pack), config.fuse.evidence),
        match,
        config.match,
        pack=pack.card.name,
        epoch=EPOCH,
    )
    events: list[Decided] = []
    for seen in recording.frames():
        events += stage.process(seen.observed)
    for end in recording.ends().ends:
        events += stage.end(end)
    return events


def live_aggregator(config: Config, pack: Pack) -> Aggregator:
    """The aggregator that a run of this configuration fuses with."""
    chosen = config.fuse.aggregator
    name = pack.card.fusion.aggregator if chosen == "auto" else chosen
    return make_aggregator(
        name,
        dimension=pack.card.embedder.dimension,
        head_path=pack.fusion_heads.get(name),
    )


class Shown:
    """Whom system tracks show, by the faces of the truth that they were matched with."""

    def __init__(self, watched: Watched) -> None:
        """Go through all frames once."""
        self._frames: dict[int, list[tuple[int, int]]] = {}
        for number, truth, tracked, judged in zip(
            watched.numbers, watched.truth, watched.tracked, watched.judged_tracked, strict=True
        ):
            for row, column in zip(judged.rows, judged.columns, strict=True):
                track = int(tracked.ids[column])
                self._frames.setdefault(track, []).append((number, int(truth.ids[row])))

    def at(self, track: int, frame: int) -> int:
        """The truth's track in the newest matched frame up to this one; 0 without any."""
        before = [shown for number, shown in self._frames.get(track, ()) if number <= frame]
        return before[-1] if before else 0

    def see(self, track: int, frame: int, box: Floats) -> Seen:
        """A track's face in one frame, and whose it is in this very frame."""
        here = [shown for number, shown in self._frames.get(track, ()) if number == frame]
        return Seen(track, frame, box, here[0] if here else 0)

    def mostly(self, track: int) -> int:
        """The truth's track in most matched frames, of several the first; 0 without any."""
        counts = Counter(shown for _, shown in self._frames.get(track, ()))
        return counts.most_common(1)[0][0] if counts else 0


def watch(clip: Clip, recording: Recording, rules: Rules) -> Watched:
    """Lay what was seen beside the truth. Raises SourceCorrupt when the video ends before it."""
    by_frame: dict[int, list[int]] = {}
    for place, face in enumerate(clip.truth.faces):
        by_frame.setdefault(face.frame, []).append(place)
    watched = Watched([], [], [], [], [], [])
    for seen in recording.frames():
        tracked = seen.observed.tracked
        faces = [clip.truth.faces[n] for n in by_frame.pop(tracked.frame.sequence, ())]
        truth = boxes_of([(face.track, face.box) for face in faces])
        counted = np.array([rules.must_find(face) for face in faces], np.bool_)
        following = boxes_of([(face.track, face.face.box) for face in tracked.faces])
        found = boxes_of([(0, row[:4]) for row in seen.found])
        watched.numbers.append(tracked.frame.sequence)
        watched.truth.append(truth)
        watched.tracked.append(following)
        watched.found.append(found)
        watched.judged_tracked.append(judge_frame(truth, counted, following, rules.least_iou))
        watched.judged_found.append(judge_frame(truth, counted, found, rules.least_iou))
    _check_all_seen(clip, by_frame)
    return watched


def boxes_of(faces: Sequence[tuple[int, Floats]]) -> Boxes:
    """Ids and boxes of (id, box (4,)) as arrays."""
    ids = np.array([one for one, _ in faces], np.int64)
    return Boxes(ids, np.array([box for _, box in faces], np.float64).reshape(-1, 4))


def _check_all_seen(clip: Clip, left: dict[int, list[int]]) -> None:
    if left:
        raise SourceCorrupt(
            f"{clip.source}: expected frame {min(left)}, which is annotated, but it was not read: "
            "check that video and annotation belong together"
        )
