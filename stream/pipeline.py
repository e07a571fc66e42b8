"""The main job in one process: joins the stages from source to publish.

Only this file and `decide` know several stages. Reader threads decode; everything else runs in the
caller's thread, in frame order per camera, so that decisions need no locks and repeat exactly.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from typing import Any, Literal

from .. import JournalError, __version__
from ..configs.schema import Config
from ..models.pack import Pack
from .aggregate import AggregateStage
from .decide import Decided, DecideStage, instant
from .detect import DetectStage
from .embed import EmbedStage
from .events import CameraState, System, TrackEvent, event_id
from .feed import Feeds
from .flow import StateChange
from .match import GalleryIndex, MatchStage
from .meter import Meter
from .publish import Publisher
from .records import Detections, Frame, Observed, Tracked
from .redact import redact
from .source import is_live
from .track import TrackStage
from .watcher import SourceInfo, Watcher

IDLE_SECONDS = 0.2
HELD_FRAMES = 32
LATENCIES = 10_000
"""Latencies kept, the newest: a camera may run for months."""

log = logging.getLogger(__name__)


@dataclass
class Totals:
    """What a run did.

    rejected: faces left out, by reason; failed: cameras given up, with the reason; latencies:
    capture to event of the newest events, seconds.
    """

    frames: int = 0
    faces: int = 0
    embedded: int = 0
    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
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
        gallery: Callable[[], GalleryIndex],
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """The parts are built by the caller (`tools.build`), so that tests can exchange them.

        gallery: the index that `match` searches; it is asked again and again, for its version.
        """
        self.config = config
        self.publisher = publisher
        self.watchers = tuple(watchers)
        self._told = self.watchers
        self._gallery = gallery
        self._gallery_version = gallery()[0]
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
            longest_side=pack.card.detector.longest_side,
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
        self._live = any(is_live(camera) for camera in config.cameras)
        self._patience = config.embed.wait_ms / 1000.0
        self._observed: deque[Observed] = deque()
        self._frames: dict[tuple[str, int], Frame] = {}
        self._state_changes = 0
        self._run_id = time.time_ns()
        self._stopping = False

    def run(self) -> Totals:
        """Read, decide and publish until the sources end; everything decided is flushed on the way.

        Raises SourceError when a recorded source cannot be opened, or all cameras were given up;
        JournalError and DiskFull when events cannot be stored; and what a watcher raises.
        """
        started = time.perf_counter()
        error: BaseException | None = None
        try:
            self._system("started", f"facestream {__version__}")
            self.feeds.start()
            # Only a step without items tells that a reader has failed: the last one is without.
            while not self._stopping and (self._step() or not self.feeds.finished):
                pass
            self._flush()
        except BaseException as failure:
            error = failure
        error = self._finish(error)
        self.totals.seconds = time.perf_counter() - started
        if error is not None:
            raise error
        return self.totals

    def stop(self) -> None:
        """Ask `run` to end after the work in hand; safe from a signal handler."""
        self._stopping = True
        self.totals.interrupted = True

    def _step(self) -> bool:
        """Take what is there through the stages; whether there was anything."""
        self._follow_gallery()
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
                self._tell(methodcaller("source", item))
            else:
                self._camera_state(item)
        self._process(frames)
        if not items or (self._live and time.monotonic() - self._held_since > self._patience):
            self._flush()
        return bool(items)

    def _follow_gallery(self) -> None:
        """Tell a change of the gallery, and decide everybody in view anew."""
        version, _, names = self._gallery()
        if version == self._gallery_version:
            return
        self._gallery_version = version
        self.decide.reconsider()
        self._system("gallery.changed", f"version {version}: {len(names)} people can be recognised")

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
        if crops_of(self._held) >= self.config.embed.batch or len(self._held) >= HELD_FRAMES:
            self._flush()

    def _count(self, detections: Detections) -> None:
        self.totals.frames += 1
        self.totals.faces += len(detections.faces)
        self.totals.rejected.update(detections.rejected)

    def _flush(self) -> None:
        """Embed what is held and decide it, frame by frame.

        What an error leaves undecided is decided by the next call: `_finish` makes one.
        """
        held, self._held = self._held, []
        if held:
            with self.meter.measure("embed", crops_of(held)):
                self._observed += self.embed.process(held)
        while self._observed:
            self._decide(self._observed.popleft())

    def _decide(self, observed: Observed) -> None:
        self.totals.embedded += len(observed.observations)
        self.totals.rejected.update(observed.rejected)
        with self.meter.measure("decide", len(observed.observations)):
            decided = self.decide.process(observed)
        self._publish(decided)
        ref = observed.tracked.frame
        frame = self._frames.pop((ref.camera, ref.sequence), None)
        if frame is not None:
            with self.meter.measure("watch"):
                labels = self.decide.labels(ref.camera)
                self._tell(methodcaller("frame", frame, observed.tracked, labels))

    def _publish(self, decided: Sequence[Decided]) -> None:
        """Store all, send all, then tell the watchers: one that breaks costs no event."""
        if not decided:
            return
        self._follow_gallery()  # these may have been decided on a newer one than the last step's
        with self.meter.measure("publish", len(decided)):
            stored = self.publisher.publish_many([event for event, _ in decided])
        self.totals.events += len(stored)
        for event, (_, template) in zip(stored, decided, strict=True):
            if isinstance(event, TrackEvent) and event.published_at is not None:
                passed = event.published_at - event.captured_at
                self.totals.latencies.append(passed.total_seconds())
            self._tell(methodcaller("event", event, template))

    def _tell(self, call: Callable[[Watcher], None]) -> None:
        """Tell all watchers; one that fails ends the run, and is only closed from then on."""
        for watcher in self._told:
            try:
                call(watcher)
            except BaseException:
                self._told = tuple(other for other in self._told if other is not watcher)
                raise

    def _camera_state(self, change: StateChange) -> None:
        if change.state in ("ended", "failed", "reconnecting"):
            self._end_tracks(change.camera)
        self._state_changes += 1
        parts = (self.epoch, change.camera, str(self._run_id), f"state-{self._state_changes}")
        event = CameraState(
            id=event_id(*parts),
            camera=change.camera,
            decided_at=instant(time.time()),
            state=change.state,
            detail=change.detail,
            frames=change.frames,
            dropped=dict(change.dropped),
        )
        self._publish([Decided(event, None)])

    def _end_tracks(self, camera: str) -> None:
        self._flush()
        ends = self.track.finish(camera)
        self._publish([told for end in ends for told in self.decide.end(end)])

    def _system(self, state: Literal["started", "stopped", "gallery.changed"], detail: str) -> None:
        event = System(
            id=event_id(self.epoch, "-", str(self._run_id), state, detail),
            camera="-",
            decided_at=instant(time.time()),
            state=state,
            detail=detail,
        )
        self._publish([Decided(event, None)])

    def _finish(self, error: BaseException | None) -> BaseException | None:
        """Stop reading, close every sighting, and let the watchers write what there is.

        Every step is taken whatever became of the others. Returns the first error, which `error`
        is if given: those that follow from it must not hide it.
        """
        steps: list[Callable[[], None]] = [self.feeds.stop]
        if not isinstance(error, JournalError):
            how = type(error).__name__ if error is not None else "sources ended"
            how = "interrupted" if self.totals.interrupted else how
            steps.append(partial(self._close_sightings, how))
        for step in [*steps, *(watcher.close for watcher in self.watchers)]:
            try:
                step()
            except BaseException as later:
                if error is None:
                    error = later
                else:
                    log.error("while ending after an error: %s", later)
        self.totals.dropped = self.feeds.dropped
        self.totals.failed = {
            camera: redact(str(why)) for camera, why in self.feeds.failures.items()
        }
        return error

    def _close_sightings(self, how: str) -> None:
        for camera in self.config.cameras:
            self._end_tracks(camera.name)
        self._system("stopped", how)


def crops_of(held: Sequence[Tracked]) -> int:
    """How many faces of these frames go through the embedder."""
    return sum(bool(face.face.crops) for tracked in held for face in tracked.faces)


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
        "failed": dict(totals.failed),
        "seconds": totals.seconds,
        "interrupted": totals.interrupted,
    }
