"""Who follows a run from within the part that decides: its totals and its watchers.

A run that resumes makes some frames and events a second time. They count once, and are told once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import methodcaller

from .events import AnyEvent, TrackEvent
from .node import take_all
from .records import Frame, FrameRef, Observed, Template, Tracked
from .totals import Totals
from .watcher import Label, SourceInfo, Watcher


class Audience:
    """Counts what is decided and tells the watchers, in the order in which they were given."""

    def __init__(self, cameras: Iterable[str], watchers: Sequence[Watcher]) -> None:
        """cameras: names of all there are."""
        self.totals = Totals(dropped={camera: {} for camera in cameras})
        self._watchers = tuple(watchers)
        self._told = self._watchers
        self._newest_frame: dict[str, int] = {}
        self._newest_event: dict[str, int] = {}

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._told)

    def begin(self, camera: str) -> None:
        """Another run of a camera begins, whose frames are numbered from 0 again."""
        self._newest_frame.pop(camera, None)

    def count(self, observed: Observed) -> bool:
        """Count a frame and what it shows; False where it was counted before."""
        tracked, totals = observed.tracked, self.totals
        frame = tracked.frame
        if frame.sequence <= self._newest_frame.get(frame.camera, -1):
            return False
        self._newest_frame[frame.camera] = frame.sequence
        totals.frames += 1
        totals.faces += tracked.detected
        totals.embedded += len(observed.observations)
        totals.rejected.update(tracked.rejected)
        totals.rejected.update(observed.rejected)
        return True

    def source(self, info: SourceInfo) -> None:
        """Tell what is known of a camera's source."""
        self._tell(methodcaller("source", info))

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: dict[int, Label]) -> None:
        """Tell a frame that `count` was new for."""
        self._tell(methodcaller("frame", frame, tracked, labels))

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """Count and tell an event as it is stored, unless it was told before."""
        if event.sequence <= self._newest_event.get(event.camera, 0):
            return
        self._newest_event[event.camera] = event.sequence
        self.totals.events += 1
        if isinstance(event, TrackEvent) and event.published_at is not None:
            passed = event.published_at - event.captured_at
            self.totals.latencies.append(passed.total_seconds())
        self._tell(methodcaller("event", event, template))

    def dismiss(self) -> None:
        """Tell the watchers nothing more but the end, so that what they heard has no gap."""
        self._told = ()

    def close(self) -> None:
        """Let the watchers write what there is; raises the first error, after all were closed."""
        error = take_all([watcher.close for watcher in self._watchers])
        if error is not None:
            raise error

    def _tell(self, call: Callable[[Watcher], None]) -> None:
        """Tell all watchers; one that fails ends the run, and is only closed from then on."""
        for watcher in self._told:
            try:
                call(watcher)
            except BaseException:
                self._told = tuple(other for other in self._told if other is not watcher)
                raise
