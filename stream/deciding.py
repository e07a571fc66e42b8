"""The last part: decides, publishes, tells the watchers, and remembers where a run can resume.

The journal is what survives. Beside the events it holds two records of each camera, until its run
is over: the newest mark of a recorded one, to resume from, and an outline of the open sightings, to
close them where there is nothing to resume. The outline is stored with the events that change it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from .. import RecordError, __version__
from ..configs.schema import Config
from ..models.card import Card
from .aggregate import AggregateStage
from .attempt import OWN_MARK, Attempt, OwnMark
from .audience import Audience
from .decide import DecideStage
from .endings import Endings, outline_key
from .events import CameraState, System, event_id
from .fingerprint import settings_digest
from .flow import (
    Begin,
    Done,
    Down,
    Finish,
    Mark,
    Refuse,
    Restart,
    Resume,
    StateChange,
    TracksEnded,
    Up,
    Work,
)
from .journal import Checkpoint
from .match import GalleryIndex, MatchStage
from .meter import Meter
from .publish import Publisher
from .records import Observed
from .sighting_keeper import SightingKeeper
from .sightings import instant
from .telling import Decided
from .watcher import SourceInfo, Watcher
from .workers import Frames

MARK_SECONDS = 1.0
"""A mark that no event is stored with waits up to this long for one: each storing costs a sync."""

log = logging.getLogger(__name__)


class Deciding:
    """Outlet of the node that decides."""

    def __init__(
        self,
        config: Config,
        card: Card,
        match: MatchStage,
        aggregate: AggregateStage,
        publisher: Publisher,
        gallery: Callable[[], GalleryIndex],
        meter: Meter,
        *,
        watchers: Sequence[Watcher] = (),
        frames: Frames | None = None,
        sightings: SightingKeeper | None = None,
    ) -> None:
        """gallery: the index that `match` searches; it is asked again and again, for its version.

        frames: where `Detecting` keeps frames for the watchers; None where it keeps none.
        sightings: who stores them; None stores none.
        """
        self._sightings = sightings
        self._audience = Audience((camera.name for camera in config.cameras), watchers)
        self.totals = self._audience.totals
        self._publisher = publisher
        self._journal = publisher.journal
        self._gallery = gallery
        self._gallery_known = _known(gallery())
        self._gallery_changes = 0
        self._meter = meter
        self._frames = frames
        self._settings = settings_digest(config, card)
        epoch = self._journal.epoch
        self._epoch = epoch
        self._decide = DecideStage(aggregate, match, config.match, pack=card.name, epoch=epoch)
        self._names = frozenset(camera.name for camera in config.cameras)
        self._endings = Endings(self._journal, self._names)
        self._cameras: dict[str, Attempt] = {}
        self._restarted: dict[str, str] = {}
        self._todo: deque[Down] = deque()
        self._ups: list[Up] = []
        self._process_id = time.time_ns()

    @property
    def finished(self) -> bool:
        """Every camera of the configuration came to an end."""
        over = {name for name, camera in self._cameras.items() if camera.finished}
        return over == self._names

    @property
    def _all_live(self) -> bool:
        """Whether no camera of those that began could go on with its run."""
        return all(camera.begin.live for camera in self._cameras.values())

    def start(self) -> None:
        """Tell that the system runs."""
        self._system("started", f"facestream {__version__}")

    def send(self, downs: Sequence[Down]) -> None:
        """Decide works in their order.

        What an error leaves undecided is decided by the next call. Raises JournalError and DiskFull
        when events cannot be stored, and what a watcher raises.
        """
        self._follow_gallery()
        self._todo += downs
        while self._todo:
            down = self._todo.popleft()
            if isinstance(down, Begin):
                self._begin(down)
            else:
                self._work(down)
        if self._sightings is not None:
            self._sightings.pulse(live=self._all_live)

    def collect(self) -> list[Up]:
        """Answers to what was sent: each camera's newest decided position, once."""
        ups, self._ups = self._ups, []
        for name, camera in self._cameras.items():
            if camera.reached > camera.answered:
                camera.answered = camera.reached
                ups.append(Done(name, camera.begin.attempt, camera.reached))
        return ups

    def stop(self, how: str) -> None:
        """Tell that the system stops."""
        self._system("stopped", how)

    def close(self) -> None:
        """Let the watchers write what there is; raises the first error, after all were closed."""
        self._audience.close()

    # --- a camera begins ---

    def _begin(self, begin: Begin) -> None:
        name = begin.camera
        if name not in self._names:
            why = f"no camera {name!r} in the configuration of the node that decides"
            self._ups.append(Refuse(name, begin.attempt, why))
            return
        self._decide.begin(name, live=begin.live)
        fingerprint = "" if begin.live else f"{begin.fingerprint}-{self._settings}"
        is_over, stored = self._endings.look_up(begin, fingerprint)
        self._publish([], stored)
        if is_over:
            self._cameras[name] = Attempt(begin, fingerprint, "", 1, finished=True)
            self._ups.append(Resume(name, begin.attempt, self._epoch, "", 1, over=True))
            return
        saved = self._journal.checkpoint(name)
        states: dict[str, bytes] = {}
        if saved is not None and (first_track := self._take_up(name, saved, fingerprint)):
            camera = Attempt(begin, fingerprint, saved.run, first_track, self._journal.newest)
            states = saved.states
        else:
            self._close_left(name, saved)
            run = begin.attempt if begin.live else str(self._journal.next_run(name))
            first_track = self._journal.last_tracks().get(name, 0) + 1
            camera = Attempt(begin, fingerprint, run, first_track)
            self._audience.begin(name)
        self._cameras[name] = camera
        self._ups.append(
            Resume(name, begin.attempt, self._epoch, camera.run, camera.first_track, states)
        )

    def _take_up(self, name: str, saved: Checkpoint, fingerprint: str) -> int:
        """Go on with a recorded run: its first track; 0 where this is not the run to go on with."""
        if saved.live or saved.fingerprint != fingerprint:
            return 0
        try:
            state = OWN_MARK.decode(saved.state)
            self._decide.restore(name, state.sightings)
        except (msgspec.DecodeError, RecordError) as error:
            log.warning("camera %s: its run begins anew: %s", name, error)
            return 0
        return state.first_track

    def _close_left(self, name: str, saved: Checkpoint | None) -> None:
        """Close the sightings that an earlier attempt or process left open, and forget its mark."""
        outline = self._journal.checkpoint(outline_key(name))
        left: list[Decided] = []
        if self._decide.sightings.get(name):
            left = self._decide.close(name)
        elif outline is not None:
            try:
                left = self._decide.close_outlined(name, outline.state)
            except RecordError as error:
                log.warning("camera %s: sightings of the last run stay open: %s", name, error)
        if left or outline is not None or saved is not None:
            self._publish(left, {name: None, outline_key(name): None})

    # --- works ---

    def _work(self, work: Work) -> None:
        camera = self._cameras.get(work.camera)
        if camera is None:
            if self._restarted.get(work.camera) != work.attempt:
                self._restarted[work.camera] = work.attempt
                why = "the node that decides knows nothing of it"
                self._ups.append(Restart(work.camera, work.attempt, why))
            return
        if camera.begin.attempt != work.attempt or camera.finished:
            return
        item = work.item
        if isinstance(item, Observed):
            self._observed(camera, item)
        elif isinstance(item, SourceInfo):
            self._audience.source(item)
        elif isinstance(item, StateChange):
            self._camera_state(camera, item)
        elif isinstance(item, TracksEnded):
            ended = [told for end in item.ends for told in self._decide.end(end)]
            self._publish_tracks(camera, ended)
            return  # the work that ended the tracks comes next, at the same position
        elif isinstance(item, Mark):
            self._mark(camera, item)
        elif isinstance(item, Finish):
            self._finish(camera, item)
        else:
            raise RecordError(f"expected what embedding makes of a frame, got {type(item)}")
        camera.reached = work.position

    def _observed(self, camera: Attempt, observed: Observed) -> None:
        is_new = self._audience.count(observed)
        with self._meter.measure("decide", len(observed.observations)):
            decided = self._decide.process(observed)
        self._publish_tracks(camera, decided)
        tracked, ref = observed.tracked, observed.tracked.frame
        kept = self._frames.pop((ref.camera, ref.sequence), None) if self._frames else None
        if not (is_new and self._audience.listens):
            return
        with self._meter.measure("watch"):
            labels = self._decide.labels(ref.camera)
            self._audience.frame(kept or ref, tracked, labels)

    def _camera_state(self, camera: Attempt, change: StateChange) -> None:
        # Counted within the run: what a source tells again after a resume has the same ids.
        camera.told += 1
        self.totals.dropped[change.camera] = dict(change.dropped)
        if change.state == "failed":
            self.totals.failed[change.camera] = change.detail
        event = CameraState(
            id=event_id(self._epoch, change.camera, camera.run, f"state-{camera.told}"),
            camera=change.camera,
            decided_at=instant(time.time()),
            state=change.state,
            detail=change.detail,
            frames=change.frames,
            dropped=dict(change.dropped),
        )
        self._publish([Decided(event, None)], self._take_mark(camera))

    def _finish(self, camera: Attempt, item: Finish) -> None:
        name = camera.begin.camera
        camera.finished = True
        self.totals.dropped[name] = dict(item.dropped)
        kept: dict[str, Checkpoint | None] = {name: None, outline_key(name): None}
        others = any(not c.finished and not c.begin.live for c in self._cameras.values())
        kept |= self._endings.finish(camera.begin, camera.fingerprint, camera.run, others=others)
        self._publish(self._decide.close(name), kept)

    def _mark(self, camera: Attempt, mark: Mark) -> None:
        """Remember a point to resume from; store it with the next event, or soon without one."""
        sightings = self._decide.snapshot(camera.begin.camera)
        state = msgspec.msgpack.encode(OwnMark(camera.first_track, sightings))
        camera.mark = Checkpoint(
            camera.fingerprint, camera.run, camera.begin.live, state, mark.states
        )
        stored_at = camera.marked_at
        if stored_at is None or time.monotonic() - stored_at >= MARK_SECONDS:
            self._publish([], self._take_mark(camera))

    def _take_mark(self, camera: Attempt) -> dict[str, Checkpoint | None]:
        """The mark that is to be stored, if there is one."""
        mark, camera.mark = camera.mark, None
        if mark is None:
            return {}
        camera.marked_at = time.monotonic()
        return {camera.begin.camera: mark}

    def _outline(self, camera: Attempt) -> dict[str, Checkpoint | None]:
        """What to store so that whoever is in view now can be closed by another process."""
        name = camera.begin.camera
        if not self._decide.sightings.get(name):
            return {outline_key(name): None}
        state = self._decide.outline(name)
        outline = Checkpoint(camera.fingerprint, camera.run, camera.begin.live, state, {})
        return {outline_key(name): outline}

    # --- events ---

    def _follow_gallery(self) -> None:
        """Tell a change of the gallery, and decide everybody in view anew."""
        known = _known(self._gallery())
        if known == self._gallery_known:
            return
        self._gallery_known = version, names = known
        self._gallery_changes += 1
        self._decide.reconsider()
        detail = f"version {version}: {len(names)} people can be recognised"
        # Who expires changes the people and not the version: the words alone may come again.
        self._system("gallery.changed", detail, f"change {self._gallery_changes}")

    def _system(
        self, state: Literal["started", "stopped", "gallery.changed"], detail: str, *which: str
    ) -> None:
        event = System(
            id=event_id(self._epoch, "-", str(self._process_id), state, detail, *which),
            camera="-",
            decided_at=instant(time.time()),
            state=state,
            detail=detail,
        )
        self._publish([Decided(event, None)])

    def _publish_tracks(self, camera: Attempt, decided: Sequence[Decided]) -> None:
        """Publish what was decided, with the outline of the tracks of its cameras still open.

        While a resumed run only repeats itself the outline of the killed one stays: it is newer.
        """
        if not decided:
            return
        mark = self._take_mark(camera)
        if camera.repeats is None:
            for name in {event.camera for event, _ in decided}:
                mark |= self._outline(self._cameras[name])
            self._publish(decided, mark)
            return
        newest = self._publish(decided, mark)
        if newest > camera.repeats:
            camera.repeats = None
            self._publish([], self._outline(camera))

    def _publish(
        self, decided: Sequence[Decided], checkpoints: dict[str, Checkpoint | None] | None = None
    ) -> int:
        """Store all, send all, then tell the watchers: one that breaks costs no event.

        Returns the highest sequence among the events; 0 without any.
        """
        if not decided and not checkpoints:
            return 0
        self._follow_gallery()  # these may have been decided on a newer one than the last step's
        try:
            if self._sightings is not None:
                with self._meter.measure("sightings", len(decided)):
                    self._sightings.store(decided, live=self._all_live)
            with self._meter.measure("publish", len(decided)):
                events = [event for event, _ in decided]
                stored = self._publisher.publish_many(events, checkpoints or {})
            for event, (_, template) in zip(stored, decided, strict=True):
                self._audience.event(event, template)
        except KeyboardInterrupt:
            self._audience.dismiss()  # some of these may be stored and not told
            raise
        return max((event.sequence for event in stored), default=0)


def _known(gallery: GalleryIndex) -> tuple[int, Sequence[str]]:
    """What is told when it changes: validity that ends changes the names, and no version."""
    return gallery.version, gallery.names
