"""One camera: the thread that reads it, whatever becomes of its source.

Recorded sources are lossless: their readers wait while the queue is full. Live sources keep the
newest frame only, count what it replaced, and are opened again whenever they are lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from .. import FacestreamError, SourceError, SourceMissing, SourceUnreachable
from ..configs.schema import CameraConfig
from .decode import SourceStalled
from .flow import State, StateChange
from .records import Frame
from .redact import redact, redact_address
from .source import Source, is_live, kind_of, open_source
from .timing import Timeline
from .watcher import SourceInfo

log = logging.getLogger(__name__)

Item = Frame | SourceInfo | StateChange

_STALL_SLACK = 0.25  # seconds; lets the reader's own timeout speak first


def backoff(failures: int, first: float, most: float, draw: float) -> float:
    """Return the pause in seconds before the next attempt after `failures` failed ones in a row.

    Exponential back-off with full jitter: draw (0..1) x min(most, first 2^failures), so that
    cameras that were lost together do not come back together.
    """
    return draw * min(most, first * 2.0 ** min(failures, 32))


class CameraReader:
    """One camera: its thread, its outbox and its counts. The lock is that of `changed`."""

    def __init__(
        self,
        config: CameraConfig,
        changed: threading.Condition,
        queue: int,
        jitter: Callable[[], float],
    ) -> None:
        """queue: items that may wait, of a recorded source; jitter: draws from 0..1."""
        self.config = config
        self.live = is_live(config)
        self.outbox: deque[Item] = deque()
        self.dropped: Counter[str] = Counter()
        self.frames = 0
        self.state: State | None = None
        self.failure: FacestreamError | None = None
        self.crash: Exception | None = None  # an unexpected error: for the taker to raise
        self.over = False
        self._changed = changed
        self._queue = queue
        self._jitter = jitter
        self._stop = threading.Event()
        self._timeline = Timeline(live=self.live)
        self._source: Source | None = None
        self._detail = ""
        self._first = 0
        self._opened_at: float | None = None
        self._paced = False
        self._last_frame = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"read-{config.name}", daemon=True)

    def open(self) -> Source:
        """Open a recorded source now, so that a wrong name is an error before anything starts."""
        self._say("connecting", f"opening {redact_address(self.config.url)}")
        source = self._source = self._open()
        self._announce(source)
        return source

    def start(self, first: int = 0, frames: int = 0, opened_at: float | None = None) -> None:
        """Read; a recorded source from frame `first` on, after `frames`, as if opened then."""
        self.frames = frames
        self._first, self._opened_at = first, opened_at
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; waiters on `changed` must be woken."""
        self._stop.set()

    def close(self) -> None:
        """Close a source whose thread does not run; a running one closes it itself."""
        if not self._thread.is_alive() and self._source is not None:
            self._source.close()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, and leave one behind that does not."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        self.close()
        if self._thread.is_alive():
            log.warning("camera %s: its decoder is blocked and is left behind", self.config.name)

    def watch(self, now: float) -> float:
        """Say "stalled" where no frame came in time; return the seconds until the next look.

        Most stalls end the read and are told by the reader itself; a webcam's driver can block it.
        """
        if not self.live or self._paced or self.over or self.state != "running":
            return 1.0
        left = self._last_frame + self.config.stall_seconds + _STALL_SLACK - now
        if left <= 0:
            self._say("stalled", f"no picture for {self.config.stall_seconds:g} s")
            return 1.0
        return min(left, 1.0)

    def _run(self) -> None:
        try:
            if self.live:
                self._run_live()
            else:
                self._run_recorded()
        except Exception as error:  # told to the taker, who raises it
            self.crash = error
        finally:
            with self._changed:
                self.over = True
                self._changed.notify_all()

    def _run_recorded(self) -> None:
        try:
            source = self._source or self.open()
        except SourceError as error:
            self._fail(error)
            return
        source.first = self._first
        if self._opened_at is not None:
            self._timeline.opened_at = self._opened_at
        try:
            for frame in source:
                if not self._put_when_room(frame):
                    return
        except SourceError as error:
            self._fail(error)
        else:
            missing = self.dropped["missing"]
            whole = f"cut off: {missing} frames are missing" if missing else "every frame was read"
            self._say("ended", whole)
        finally:
            source.close()

    def _run_live(self) -> None:
        config = self.config
        failed = brief = 0  # in a row: attempts that failed; that gave video for a moment only
        lost: SourceError
        self._say("connecting", f"opening {redact_address(config.url)}")
        while not self._stop.is_set():
            try:
                source = self._open()
            except SourceError as error:
                failed, lost = failed + 1, error
            else:
                failed, opened = 0, time.monotonic()
                try:
                    self._play(source)
                    return
                except SourceError as error:
                    lost = error
                finally:
                    source.close()
                brief = 0 if time.monotonic() - opened > config.stall_seconds else brief + 1
            if self._is_final(lost):
                self._fail(lost)
                return
            if isinstance(lost, SourceStalled):
                self._say("stalled", str(lost))
            if config.retry_attempts and failed >= config.retry_attempts:
                most = config.retry_attempts
                self._fail(SourceUnreachable(f"{lost}; given up (retry_attempts is {most})"))
                return
            first, most_seconds = config.retry_first_seconds, config.retry_most_seconds
            pause = backoff(failed + brief, first, most_seconds, self._jitter())
            log.info("camera %s: %s; next attempt in %.1f s", config.name, lost, pause)
            self._say("reconnecting", str(lost))
            self._stop.wait(pause)

    def _is_final(self, error: SourceError) -> bool:
        """Whether another attempt cannot help: it is a file, or an address that nothing reads."""
        kind = kind_of(self.config.url)
        if kind == "device":
            return False  # a webcam may be plugged in later
        return kind != "network" or isinstance(error, SourceMissing)

    def _play(self, source: Source) -> None:
        """Deliver a live source until it ends, fails or is stopped."""
        self._announce(source)
        started, first = time.monotonic(), None
        for frame in source:
            first = frame.pts if first is None else first
            if source.paced:
                self._stop.wait(max(0.0, started + (frame.pts - first) - time.monotonic()))
            if self._stop.is_set():
                return
            self._put_newest(frame)
        self._say("ended", "the source is at its end")

    def _open(self) -> Source:
        return open_source(self.config, timeline=self._timeline, dropped=self.dropped)

    def _announce(self, source: Source) -> None:
        with self._changed:
            self.outbox.append(source.info)
            self._paced = source.paced
            self._last_frame = time.monotonic()
        self._say("running", "frames arrive")

    def _fail(self, error: SourceError) -> None:
        self.failure = error
        self._say("failed", str(error))

    def _say(self, state: State, detail: str) -> None:
        """Tell a change of state, or of the reason for being in it."""
        with self._changed:
            same = state == self.state and (state == "stalled" or detail == self._detail)
            if same:
                return
            self.state, self._detail = state, detail
            dropped = dict(self.dropped)
            self.outbox.append(
                StateChange(self.config.name, state, redact(detail), self.frames, dropped)
            )
            self._changed.notify_all()

    def _put_newest(self, frame: Frame) -> None:
        """Put a live frame in the place of one that nobody took."""
        if self.state == "stalled":
            self._say("running", "frames arrive again")
        with self._changed:
            self.frames += 1
            self._last_frame = time.monotonic()
            waiting = next((item for item in self.outbox if isinstance(item, Frame)), None)
            if waiting is not None:
                self.outbox.remove(waiting)
                self.dropped["newer"] += 1
            self.outbox.append(frame)
            self._changed.notify_all()

    def _put_when_room(self, frame: Frame) -> bool:
        """Put a recorded frame when the queue has room; False when stopped meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or len(self.outbox) < self._queue)
            if self._stop.is_set():
                return False
            self.frames += 1
            self.outbox.append(frame)
            self._changed.notify_all()
            return True
