"""Frames shown to a DecideStage; who is seen is given as cosines, which a test can read off.

Embeddings lie between the axes on which Anna, Bert and Carol are enrolled. The aggregator is the
plain mean: a template is the mean of what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from facestream.configs.schema import MatchConfig
from facestream.models.aggregators import make_aggregator
from facestream.models.search import SearchIndex
from facestream.stream.aggregate import AggregateStage
from facestream.stream.decide import DecideStage
from facestream.stream.events import AnyEvent, DecisionEvent, SightingEnded
from facestream.stream.match import GalleryIndex, MatchStage
from facestream.stream.negatives import NONE
from facestream.stream.records import (
    Face,
    FrameRef,
    Observation,
    Observed,
    Tracked,
    TrackedFace,
    TrackEnd,
    TrackKey,
)
from facestream.stream.telling import Decided
from facestream.stream.thresholds import DecisionNumbers, PackRules
from facestream.stream.watcher import Label

C = 6
PEOPLE = ("Anna", "Bert", "Carol")
CLOCK = 2e9
NOBODY = (0.0, 0.0, 0.0)
ANNA, BERT = (0.9, 0.1, 0.0), (0.1, 0.9, 0.0)
FAINT = (0.55, 0.0, 0.0)
"""Anna, barely."""
TWIN = (0.66, 0.64, 0.0)
"""Anna or Bert."""
Cosines = Sequence[float]


def vector(cosines: Cosines) -> np.ndarray:
    """A unit embedding with these cosines to Anna, Bert and Carol."""
    rest = np.sqrt(1.0 - sum(c * c for c in cosines))
    return np.array([*cosines, rest, 0, 0][:C], np.float32)


class World:
    """Shows frames to a DecideStage; who is seen in a frame is given as cosines by track."""

    def __init__(
        self, *, epoch: str = "e1", camera: str = "door", began: float = 1e9, **config: object
    ) -> None:
        self.epoch, self.camera, self.began = epoch, camera, began
        self.version, self.names = 1, PEOPLE
        self.negatives = NONE
        self.config = MatchConfig(score="cosine", **config)  # type: ignore[arg-type]
        self.stage = self._stage()
        self.sequence = -1
        self.faces: dict[int, list[FrameRef]] = {}
        self.events: list[AnyEvent] = []

    def _stage(self) -> DecideStage:
        aggregate = AggregateStage(make_aggregator("mean", dimension=C), 2)
        numbers = DecisionNumbers(threshold=9.0, cosine_threshold=0.5, target_fpir=0.01)
        rules = PackRules(self.config, numbers)
        match = MatchStage(self.gallery, self.config, rules)
        return DecideStage(
            aggregate, match, self.config, pack="tiny", epoch=self.epoch, clock=lambda: CLOCK
        )

    def gallery(self) -> GalleryIndex:
        rows = np.eye(len(PEOPLE), C, dtype=np.float32)[: len(self.names)]
        index = SearchIndex(rows, np.arange(len(rows)))
        return GalleryIndex(self.version, index, self.names, self.negatives)

    def key(self, track: int) -> TrackKey:
        return TrackKey(self.camera, self.epoch, track)

    def show(
        self, seen: Mapping[int, Cosines | None], *, ended: Sequence[int] = ()
    ) -> list[AnyEvent]:
        """One frame; None: the face is there, but not usable. Returns the frame's events."""
        self.sequence += 1
        pts = self.sequence / 25
        frame = FrameRef(self.camera, self.sequence, pts, self.began + pts, 640, 360)
        started = [self.key(track) for track in seen if track not in self.faces]
        ends = [self._end(track) for track in ended]
        tracked, observations = [], []
        for track, cosines in seen.items():
            before = self.faces.setdefault(track, [])
            face = Face(np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 0.9)
            tracked.append(TrackedFace(track, len(before), face))
            if cosines is not None:
                observations.append(self._observe(track, len(before), frame, cosines))
            before.append(frame)
        whole = Tracked(frame, tuple(tracked), tuple(started), tuple(ends))
        return self._keep(self.stage.process(Observed(whole, tuple(observations))))

    def show_often(self, times: int, seen: Mapping[int, Cosines | None]) -> list[AnyEvent]:
        return [event for _ in range(times) for event in self.show(seen)]

    def end(self, track: int) -> list[AnyEvent]:
        """The source ended: the track is closed outside of any frame."""
        return self._keep(self.stage.end(self._end(track)))

    def label(self, track: int) -> Label:
        return self.stage.labels(self.camera)[track]

    def _end(self, track: int) -> TrackEnd:
        frames = self.faces[track]
        return TrackEnd(self.key(track), frames[0], frames[-1], len(frames))

    def _observe(self, track: int, ordinal: int, frame: FrameRef, cosines: Cosines) -> Observation:
        return Observation(
            key=self.key(track),
            frame=frame,
            ordinal=ordinal,
            embedding=3.0 * vector(cosines),
            norm=3.0,
            quality=0.25 * (ordinal % 4),
            style=np.zeros((0, 2), np.float32),
            box=np.array([1, 2, 3, 4], np.float32),
        )

    def _keep(self, decided: list[Decided]) -> list[AnyEvent]:
        for event, template in decided:
            if isinstance(event, DecisionEvent) and not isinstance(event, SightingEnded):
                assert template is not None and template.frames == event.frames
        self.events += [event for event, _ in decided]
        return [event for event, _ in decided]


def kinds(events: Sequence[AnyEvent]) -> list[str]:
    return [event.kind for event in events]


def named(events: Sequence[AnyEvent]) -> list[tuple[str, str | None]]:
    return [(e.kind, e.identity) for e in events if isinstance(e, DecisionEvent)]


def told(events: list[AnyEvent]) -> list[tuple[int, str, str | None]]:
    """Track, kind and identity of decisions."""
    return [(e.track, e.kind, e.identity) for e in events if isinstance(e, DecisionEvent)]


class Names:
    """Who has which name, as a subscriber would know it from the events alone."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, int], str] = {}

    def hear(self, event: AnyEvent) -> None:
        if not isinstance(event, DecisionEvent):
            return
        key = (event.camera, event.track)
        if event.identity is None or isinstance(event, SightingEnded):
            self.held.pop(key, None)
        else:
            self.held[key] = event.identity

    def of(self, camera: str) -> list[str]:
        return [name for (where, _), name in self.held.items() if where == camera]
