"""The parts in the middle: Detecting (with tracking) and Embedding.

They keep what a stage needs between works, by camera, and throw it away when a newer attempt of the
camera begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from ..configs.schema import Config
from ..models.pack import Pack
from .detect import DetectStage
from .embed import EmbedStage
from .flow import Begin, Down, Finish, Mark, Resume, StateChange, TracksEnded, Work
from .meter import Meter
from .records import Detections, Frame, Observed, Tracked
from .track import TrackStage

HELD_FRAMES = 32
"""Frames held back for a batch at most, also where they show nobody."""

Frames = dict[tuple[str, int], Frame]
"""Frames by camera and sequence, for watchers in the same node as the source."""


class Attempts:
    """The newest attempt of each camera, and whether it has been answered."""

    def __init__(self) -> None:
        """No camera has begun."""
        self._begun: dict[str, Begin] = {}
        self._resumed: set[str] = set()

    @property
    def any_live(self) -> bool:
        """Whether a live camera has begun."""
        return any(begin.live for begin in self._begun.values())

    def begin(self, begin: Begin) -> None:
        """A newer attempt begins."""
        self._begun[begin.camera] = begin
        self._resumed.discard(begin.camera)

    def resume(self, resume: Resume) -> bool:
        """Whether the answer is to the newest attempt; its works are current from now on."""
        begun = self._begun.get(resume.camera)
        if begun is None or begun.attempt != resume.attempt:
            return False
        self._resumed.add(resume.camera)
        return True

    def holds(self, work: Work) -> bool:
        """Whether a work is of its camera's newest attempt, and that was answered."""
        begun = self._begun.get(work.camera)
        return begun is not None and begun.attempt == work.attempt and work.camera in self._resumed

    def sift(self, downs: Iterable[Down]) -> list[Down]:
        """Note the beginnings among these; return them and the works that are current."""
        downs = list(downs)
        for down in downs:
            if isinstance(down, Begin):
                self.begin(down)
        return [down for down in downs if isinstance(down, Begin) or self.holds(down)]


class Detecting:
    """Frames in, tracked faces out; a camera's tracks end where its source does."""

    def __init__(
        self, config: Config, pack: Pack, meter: Meter, *, frames: Frames | None = None
    ) -> None:
        """frames: where to keep frames for watchers of the same node; None keeps none."""
        self._config = config.track
        self._meter = meter
        self._frames = frames
        self._detect = DetectStage(
            pack.detector,
            pack.consumers,
            config.detect,
            regions={camera.name: camera.region for camera in config.cameras},
            minimal_eye_distance=pack.card.embedder.minimal_eye_distance,
            longest_side=pack.card.detector.longest_side,
        )
        self._attempts = Attempts()
        self._trackers: dict[str, TrackStage] = {}

    def take(self, downs: Sequence[Down]) -> list[Down]:
        """Detect in all frames at once, then track them in their order."""
        downs = self._attempts.sift(downs)
        items = [down.item for down in downs if isinstance(down, Work)]
        found = iter(self._find([item for item in items if isinstance(item, Frame)]))
        out: list[Down] = []
        for down in downs:
            if isinstance(down, Begin):
                self._trackers.pop(down.camera, None)
                out.append(down)
            elif isinstance(down.item, Frame):
                out.append(self._track(down, down.item, next(found)))
            else:
                out += self._pass(down)
        return out

    def idle(self) -> list[Down]:
        """Nothing is held back."""
        return []

    def resume(self, resume: Resume) -> None:
        """Number tracks as the part that decides says; go on where the mark was set."""
        if not self._attempts.resume(resume):
            return
        first = {resume.camera: resume.first_track}
        tracker = TrackStage(self._config, resume.epoch, first_ids=first)
        if "detect" in resume.states:
            tracker.restore(resume.camera, resume.states["detect"])
        self._trackers[resume.camera] = tracker

    def _find(self, frames: Sequence[Frame]) -> list[Detections]:
        if not frames:
            return []
        with self._meter.measure("detect", len(frames)):
            return self._detect.process(frames)

    def _track(self, work: Work, frame: Frame, detections: Detections) -> Work:
        with self._meter.measure("track"):
            tracked = self._trackers[work.camera].process(detections)
        if self._frames is not None:
            self._frames[frame.camera, frame.sequence] = frame
        return Work(work.camera, work.attempt, work.position, tracked)

    def _pass(self, work: Work) -> list[Work]:
        """A work without a frame: marks are added to, and the end of the source ends the tracks."""
        tracker, item = self._trackers[work.camera], work.item
        if isinstance(item, Mark):
            states = {**item.states, "detect": tracker.snapshot(work.camera)}
            return [Work(work.camera, work.attempt, work.position, Mark(states))]
        over = isinstance(item, Finish) or (
            isinstance(item, StateChange) and item.state in ("ended", "failed", "reconnecting")
        )
        ends = tracker.finish(work.camera) if over else ()
        if not ends:
            return [work]
        ended = TracksEnded(work.camera, ends)
        return [Work(work.camera, work.attempt, work.position, ended), work]


class Embedding:
    """Tracked faces in, observations out. Holds works back until a batch is full, all in order."""

    def __init__(
        self,
        config: Config,
        pack: Pack,
        meter: Meter,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds, for the patience with live cameras."""
        self._pack = pack
        self._batch = config.embed.batch
        self._patience = config.embed.wait_ms / 1000.0
        kept = config.sightings
        self._keep_crops = config.output.page or (kept.keep and kept.crops != "none")
        self._meter = meter
        self._clock = clock
        self._attempts = Attempts()
        self._epoch = ""
        self._embed: EmbedStage | None = None
        self._held: list[Work] = []
        self._held_since = 0.0

    def take(self, downs: Sequence[Down]) -> list[Down]:
        """Hold works until a batch is full; with live cameras not for longer than embed.wait_ms."""
        out: list[Down] = []
        for down in self._attempts.sift(downs):
            if isinstance(down, Begin):
                self._held = [work for work in self._held if work.camera != down.camera]
                out.append(down)
                continue
            if not self._held:
                self._held_since = self._clock()
            self._held.append(down)
        frames = [work.item for work in self._held if isinstance(work.item, Tracked)]
        waited = self._clock() - self._held_since > self._patience and self._attempts.any_live
        full = len(frames) >= HELD_FRAMES or crops_of(frames) >= self._batch
        if full or waited or not frames:
            out += self._flush()
        return out

    def idle(self) -> list[Down]:
        """Embed what is held."""
        return self._flush()

    def resume(self, resume: Resume) -> None:
        """Name tracks in the epoch of the part that decides."""
        if not self._attempts.resume(resume) or self._epoch == resume.epoch:
            return
        self._epoch = resume.epoch
        self._embed = EmbedStage(
            self._pack.embedder,
            self._pack.quality,
            epoch=resume.epoch,
            batch=self._batch,
            keep_crops=self._keep_crops,
        )

    def _flush(self) -> list[Down]:
        held, self._held = self._held, []
        frames = [work.item for work in held if isinstance(work.item, Tracked)]
        embedded = iter(self._process(frames))
        return [
            Work(work.camera, work.attempt, work.position, next(embedded))
            if isinstance(work.item, Tracked)
            else work
            for work in held
        ]

    def _process(self, frames: Sequence[Tracked]) -> list[Observed]:
        if not frames:
            return []
        if self._embed is None:
            raise RuntimeError("works come after the answer that names their epoch")
        with self._meter.measure("embed", crops_of(frames)):
            return self._embed.process(frames)


def crops_of(frames: Iterable[Tracked]) -> int:
    """How many faces of these frames go through the embedder."""
    return sum(bool(face.face.crops) for tracked in frames for face in tracked.faces)
