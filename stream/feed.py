"""All cameras at once: one reading thread each, one place to take their frames from."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from .. import ConfigError, FacestreamError
from ..configs.schema import CameraConfig
from .camera import CameraReader, Item
from .memory import keep_picture_memory
from .records import Frame
from .source import check_camera

_JOIN_SECONDS = 2.0


def _may_give(reader: CameraReader, rooms: Mapping[str, int] | None) -> bool:
    """Whether the next item of a reader may be taken."""
    if not reader.outbox or rooms is None:
        return bool(reader.outbox)
    room = rooms.get(reader.config.name)
    return room is not None and (room > 0 or not isinstance(reader.outbox[0], Frame))


class Feeds:
    """Reads all cameras; `take` hands over what they gave, fairly and in each camera's order."""

    def __init__(
        self,
        cameras: Sequence[CameraConfig],
        *,
        queue: int = 16,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Prepare readers; queue: items that wait per recorded camera; jitter: draws from 0..1.

        Raises ConfigError where two cameras share a name or there is none.
        """
        names = [camera.name for camera in cameras]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"expected one or more cameras of different names, got {names}")
        self._changed = threading.Condition(threading.RLock())
        self._make = partial(CameraReader, changed=self._changed, queue=queue, jitter=jitter)
        self._readers = [self._make(camera) for camera in cameras]
        self._turn = -1
        self._told = False

    def start(self) -> None:
        """`open`, then read all recorded sources from their beginning."""
        self.open()
        for reader in self._readers:
            if not reader.live:
                reader.start()

    def open(self) -> None:
        """Open the recorded sources, then read the live ones.

        Raises SourceError or ConfigError where a recorded source does not open; nothing runs then.
        Live cameras are connected to by their threads and tell how it goes as StateChanges.
        """
        for reader in self._readers:
            check_camera(reader.config)
        keep_picture_memory()
        try:
            for reader in self._readers:
                if not reader.live:
                    reader.open()
        except FacestreamError:
            self.stop()
            raise
        for reader in self._readers:
            if reader.live:
                reader.start()

    def begin(
        self, camera: str, *, first: int = 0, frames: int = 0, opened_at: float | None = None
    ) -> None:
        """Read a recorded source, opening it where it is not open.

        first: the first sequence to give, to go on with an earlier reading; frames: how many were
        given before it; opened_at: when that reading began, by the wall clock, seconds since 1970.
        """
        self._reader(camera).start(first, frames, opened_at)

    def renew(self, camera: str) -> None:
        """Stop reading a recorded source, so that `begin` reads it anew; forget what waits."""
        with self._changed:
            old = self._reader(camera)
            self._readers[self._readers.index(old)] = self._make(old.config)
            old.stop()
            self._changed.notify_all()
        old.close()

    def drop(self, camera: str, reason: str, frames: int) -> None:
        """Count frames that were lost after they were taken."""
        with self._changed:
            self._reader(camera).dropped[reason] += frames

    def take(self, most: int, wait: float, rooms: Mapping[str, int] | None = None) -> list[Item]:
        """Return up to `most` items; wait up to `wait` seconds for the first one.

        rooms: how many frames may be taken of each camera, and nothing of a camera that is not
        named; None sets no limit. One item of each camera in turn, beginning with another camera
        every time. When every camera has failed and all was taken, raises the first camera's
        SourceError, once. An unexpected error in a reader is raised here too.
        """
        deadline = time.monotonic() + wait
        with self._changed:
            while True:
                now = time.monotonic()
                look = min(reader.watch(now) for reader in self._readers)
                items = self._collect(most, rooms)
                if items:
                    self._changed.notify_all()  # there is room in a queue
                    return items
                self._raise_failure()
                if self.finished or now >= deadline:
                    return []
                self._changed.wait(min(look, deadline - now))

    def stop(self) -> None:
        """End all readers; waits two seconds at most for decoders that are blocked."""
        with self._changed:
            for reader in self._readers:
                reader.stop()
            self._changed.notify_all()
        deadline = time.monotonic() + _JOIN_SECONDS
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))

    @property
    def finished(self) -> bool:
        """Every camera ended or failed, all it gave was taken, and a failure of all was raised."""
        with self._changed:
            return self._drained() and (self._told or self._failure() is None)

    @property
    def dropped(self) -> dict[str, dict[str, int]]:
        """Frames left out so far, by camera and reason (newer, corrupt, missing, unreadable)."""
        with self._changed:
            return {reader.config.name: dict(reader.dropped) for reader in self._readers}

    @property
    def failures(self) -> dict[str, FacestreamError]:
        """Why cameras failed for good, by camera."""
        with self._changed:
            return {r.config.name: r.failure for r in self._readers if r.failure is not None}

    def _reader(self, camera: str) -> CameraReader:
        return next(reader for reader in self._readers if reader.config.name == camera)

    def _collect(self, most: int, rooms: Mapping[str, int] | None) -> list[Item]:
        items: list[Item] = []
        left = None if rooms is None else dict(rooms)
        self._turn = (self._turn + 1) % len(self._readers)
        order = self._readers[self._turn :] + self._readers[: self._turn]
        while len(items) < most:
            waiting = [reader for reader in order if _may_give(reader, left)]
            if not waiting:
                break
            for reader in waiting[: most - len(items)]:
                item = reader.outbox.popleft()
                if left is not None and isinstance(item, Frame):
                    left[item.camera] -= 1
                items.append(item)
        return items

    def _drained(self) -> bool:
        return all(reader.over and not reader.outbox for reader in self._readers)

    def _failure(self) -> FacestreamError | None:
        """The first camera's failure where all cameras have failed."""
        failures = [reader.failure for reader in self._readers]
        return failures[0] if all(f is not None for f in failures) else None

    def _raise_failure(self) -> None:
        for reader in self._readers:
            if reader.crash is not None and not reader.outbox:
                raise reader.crash
        failure = self._failure()
        if failure is not None and self._drained() and not self._told:
            self._told = True
            raise failure
