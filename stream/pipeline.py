"""The main job in one process: joins the stages from source to publish.

Only this file and `decide` know several stages. Reader threads decode; everything else runs in the
caller's thread, in frame order per camera, so that decisions need no locks and repeat exactly.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from .. import JournalError, __version__
from ..configs.schema import Config
from ..models.pack import Pack
from .aggregate import AggregateStage
from .decide import Decided, DecideStage, instant
from .detect import DetectStage
from .embed import EmbedStage
from .events import AnyEvent, CameraState, System, event_id
from .feed import Feeds, StateChange
from .match import MatchStage
from .meter import Meter
from .publish import Publisher
from .records import Detections, Frame, Observed, Template, Tracked
from .track import TrackStage
from .watcher import SourceInfo, Watcher

IDLE_SECONDS = 0.2
HELD_FRAMES = 32


@dataclass
class Totals:
    """What a run did. rejected: faces left out, by reason; latencies: capture to event, seconds."""

    frames: int = 0
    faces: int = 0
    embedded: int = 0
    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    interrupted: bool = False


class Pipeline:
    """Runs a configuration until its sources end or `stop` is called."""

    def __init__(
        self,
        config: Config,
        pack: Pack,
        match: MatchStage,
        aggregate: AggregateStage,
        publisher: Publisher,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """The parts are built by the caller (`tools.run.build`), so that tests can exchange them."""
        self.config = config
        self.publisher = publisher
        self.watchers = tuple(watchers)
        self.totals = Totals()
        self.meter = Meter()
        self.feeds = Feeds(config.cameras)
        epoch = publisher.journal.epoch
        self.epoch = epoch
        self.detect = DetectStage(
            pack.detector,
            pack.consumers,
            config.detect,
            regions={camera.name: camera.region for camera in config.cameras},
            minimal_eye_distance=pack.card.embedder.minimal_eye_distance,
        )
        self.track = TrackStage(
            config.track, epoch, first_ids=next_ids(publisher.journal.last_tracks())
        )
        self.embed = EmbedStage(
            pack.embedder,
            pack.quality,
            epoch=epoch,
            batch=config.embed.batch,
            keep_crops=config.output.page,
        )
        self.decide = DecideStage(aggregate, match, config.match, pack=pack.card.name, epoch=epoch)
        self._wants_frames = any(watcher.wants_frames for watcher in self.watchers)
        self._held: list[Tracked] = []
        self._held_since = 0.0
        self._frames: dict[tuple[str, int], Frame] = {}
        self._state_changes = 0
        self._run_id = time.time_ns()
        self._stopping = False
        self._journal_lost = False

    def run(self) -> Totals:
        """Read, decide and publish until the sources end; everything decided is flushed on the way.

        Raises SourceError when a recorded source cannot be opened, or all live ones were given up.
        """
        started = time.perf_counter()
        try:
            self.feeds.start()
            self._system("started", f"facestream {__version__}")
            while not (self._stopping or self.feeds.finished):
                self._step()
            self._flush()
        except JournalError:
            self._journal_lost = True
            raise
        finally:
            self._finish()
            self.totals.seconds = time.perf_counter() - started
        return self.totals

    def stop(self) -> None:
        """Ask `run` to end after the work in hand; safe from a signal handler."""
        self._stopping = True
        self.totals.interrupted = True

    def _step(self) -> None:
        with self.meter.measure("read"):
            items = self.feeds.take(self.config.detect.batch, IDLE_SECONDS)
        frames: list[Frame] = []
        for item in items:
            if isinstance(item, Frame):
                frames.append(item)
                continue
            self._process(frames)
            frames = []
            if isinstance(item, SourceInfo):
                for watcher in self.watchers:
                    watcher.source(item)
            else:
                self._camera_state(item)
        self._process(frames)
        if not items or time.monotonic() - self._held_since > self.config.embed.wait_ms / 1000.0:
            self._flush()

    def _process(self, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        with self.meter.measure("detect", len(frames)):
            detected = self.detect.process(frames)
        for frame, detections in zip(frames, detected, strict=True):
            self._count(detections)
            with self.meter.measure("track"):
                tracked = self.track.process(detections)
            if not self._held:
                self._held_since = time.monotonic()
            self._held.append(tracked)
            if self._wants_frames:
                self._frames[frame.camera, frame.sequence] = frame
        faces = sum(len(tracked.faces) for tracked in self._held)
        if faces >= self.config.embed.batch or len(self._held) >= HELD_FRAMES:
            self._flush()

    def _count(self, detections: Detections) -> None:
        self.totals.frames += 1
        self.totals.faces += len(detections.faces)
        self.totals.rejected.update(detections.rejected)

    def _flush(self) -> None:
        """Embed what is held and decide it, frame by frame."""
        held, self._held = self._held, []
        if not held:
            return
        with self.meter.measure("embed", sum(len(tracked.faces) for tracked in held)):
            observed = self.embed.process(held)
        for item in observed:
            self._decide(item)

    def _decide(self, observed: Observed) -> None:
        self.totals.embedded += len(observed.observations)
        self.totals.rejected.update(observed.rejected)
        with self.meter.measure("decide", len(observed.observations)):
            decided = self.decide.process(observed)
        for event, template in decided:
            self._publish(event, template)
        ref = observed.tracked.frame
        frame = self._frames.pop((ref.camera, ref.sequence), None)
        if frame is not None:
            with self.meter.measure("watch"):
                labels = self.decide.labels(ref.camera)
                for watcher in self.watchers:
                    watcher.frame(frame, observed.tracked, labels)

    def _publish(self, event: AnyEvent, template: Template | None = None) -> None:
        with self.meter.measure("publish"):
            stored = self.publisher.publish(event)
        self.totals.events += 1
        captured: datetime | None = getattr(stored, "captured_at", None)
        if captured is not None and stored.published_at is not None:
            self.totals.latencies.append((stored.published_at - captured).total_seconds())
        for watcher in self.watchers:
            watcher.event(stored, template)

    def _camera_state(self, change: StateChange) -> None:
        if change.state in ("ended", "failed", "reconnecting"):
            self._end_tracks(change.camera)
        self._state_changes += 1
        parts = (self.epoch, change.camera, str(self._run_id), f"state-{self._state_changes}")
        self._publish(
            CameraState(
                id=event_id(*parts),
                camera=change.camera,
                decided_at=instant(time.time()),
                state=change.state,
                detail=change.detail,
                frames=change.frames,
                dropped=dict(change.dropped),
            )
        )

    def _end_tracks(self, camera: str) -> None:
        self._flush()
        for end in self.track.finish(camera):
            for event, template in self.decide.end(end):
                self._publish(event, template)

    def _system(self, state: Literal["started", "stopped"], detail: str) -> None:
        self._publish(
            System(
                id=event_id(self.epoch, "-", str(self._run_id), state),
                camera="-",
                decided_at=datetime.now(UTC),
                state=state,
                detail=detail,
            )
        )

    def _finish(self) -> None:
        """Stop reading, close every sighting, and let the watchers write what there is."""
        self.feeds.stop()
        self.totals.dropped = self.feeds.dropped
        try:
            if not self._journal_lost:
                for camera in self.config.cameras:
                    self._end_tracks(camera.name)
                how = "interrupted" if self.totals.interrupted else "sources ended"
                self._system("stopped", how)
        finally:
            for watcher in self.watchers:
                watcher.close()


def next_ids(last: Mapping[str, int]) -> dict[str, int]:
    """First track id to hand out per camera after those already in the journal."""
    return {camera: track + 1 for camera, track in last.items()}


def describe(totals: Totals) -> dict[str, Any]:
    """Totals as plain data for JSON."""
    return {
        "frames": totals.frames,
        "faces": totals.faces,
        "embedded": totals.embedded,
        "events": totals.events,
        "rejected": dict(totals.rejected),
        "dropped": {camera: dict(by) for camera, by in totals.dropped.items()},
        "seconds": totals.seconds,
        "interrupted": totals.interrupted,
    }
