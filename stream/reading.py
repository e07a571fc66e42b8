"""The first part: gives what the cameras' readers give as works, as many as may be under way.

It knows nothing of what becomes of them. A recorded camera goes on where the part that decides
says; a live one always with the newest frame.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from .. import ConfigError, RecordError
from ..configs.schema import CameraConfig, Config
from .camera import Item
from .feed import Feeds
from .fingerprint import source_fingerprint
from .flow import Begin, Done, Down, Finish, Mark, Restart, Resume, StateChange, Up, Work
from .flow import Item as Part
from .meter import Meter
from .records import Frame
from .source import is_live
from .watcher import SourceInfo

ANSWER_SECONDS = 0.005
"""How long `receive` waits where an answer from below may bring more than the cameras do."""
STATE_VERSION = 1

log = logging.getLogger(__name__)


class _State(msgspec.Struct, frozen=True, array_like=True):
    """Where a recorded camera was read to: first is the next sequence to give."""

    version: int
    opened_at: float
    first: int
    frames: int


_STATE = msgspec.msgpack.Decoder(_State)


@dataclass
class _Camera:
    """One camera's attempt: where its works have come to.

    phase: begin (Begin is to be sent), asked (Resume is waited for), open, closing (Finish was
    sent), over. ready: what `receive` gives next. under_way: positions of frames that are not done.
    opened_at, first, frames: as in _State. info, state: the newest of the camera's.
    """

    config: CameraConfig
    live: bool
    fingerprint: str
    window: int
    session: str = ""
    attempt: str = ""
    phase: Literal["begin", "asked", "open", "closing", "over"] = "begin"
    ready: list[Down] = field(default_factory=list)
    next: int = 0
    under_way: deque[int] = field(default_factory=deque)
    opened_at: float = 0.0
    first: int = 0
    frames: int = 0
    info: SourceInfo | None = None
    state: StateChange | None = None

    def begin(self) -> None:
        """Begin a new attempt."""
        self.attempt = secrets.token_hex(8)
        self.phase = "begin"
        name = self.config.name
        self.ready = [Begin(name, self.attempt, self.live, self.fingerprint, self.session)]
        self.next = 0
        self.under_way.clear()

    def give(self, item: Part) -> Work:
        """The next work of the attempt."""
        if isinstance(item, Frame):
            self.under_way.append(self.next)
            self.first, self.frames = item.sequence + 1, self.frames + 1
        elif isinstance(item, Finish):
            self.phase = "closing"
        work = Work(self.config.name, self.attempt, self.next, item)
        self.next += 1
        return work

    def mark(self) -> Mark:
        """A mark after what was given so far."""
        state = _State(STATE_VERSION, self.opened_at, self.first, self.frames)
        return Mark({"source": msgspec.msgpack.encode(state)})

    def done(self, position: int) -> None:
        """Works up to `position` are decided."""
        while self.under_way and self.under_way[0] <= position:
            self.under_way.popleft()
        if self.phase == "closing" and position == self.next - 1:
            self.phase = "over"


class Reading:
    """Inlet over the cameras of a configuration."""

    def __init__(
        self, config: Config, meter: Meter, cameras: Sequence[str] = (), *, session: str = ""
    ) -> None:
        """cameras: names of those to read here; none means all. session: as in Begin.

        Raises ConfigError where two cameras share a name or there is none.
        """
        chosen = [c for c in config.cameras if not cameras or c.name in cameras]
        self.feeds = Feeds(chosen)
        self._meter = meter
        self._most = config.detect.batch
        self._mark_frames = config.topology.mark_frames
        topology = config.topology
        self._cameras = {
            camera.name: _Camera(
                camera,
                live := is_live(camera),
                "",
                topology.live_window if live else topology.window,
                session,
            )
            for camera in chosen
        }
        self._stopped = False
        self._was_over = False

    @property
    def finished(self) -> bool:
        """Every camera came to its end, all it gave was decided, and a failure of all was told."""
        over = all(camera.phase == "over" for camera in self._cameras.values())
        return over and (self._stopped or self._was_over or self.feeds.finished)

    def start(self) -> None:
        """Open the recorded sources and connect to the live ones; raises as `Feeds.open`."""
        self.feeds.open()
        for camera in self._cameras.values():
            if not camera.live:
                camera.fingerprint = source_fingerprint(camera.config)
            camera.begin()

    def receive(self, wait: float) -> list[Down]:
        """Works of all cameras by turns, never more frames than may be under way.

        Raises the first camera's SourceError when all have failed and that was decided, and an
        unexpected error in a reader.
        """
        ready = [down for camera in self._cameras.values() for down in camera.ready]
        if ready:
            for camera in self._cameras.values():
                camera.ready = []
                camera.phase = "asked" if camera.phase == "begin" else camera.phase
            return ready
        rooms = self._rooms()
        phases = {camera.phase for camera in self._cameras.values()}
        if not rooms and phases != {"over"}:
            time.sleep(min(wait, ANSWER_SECONDS))
            return []
        if "asked" in phases or not all(rooms.values()):
            wait = min(wait, ANSWER_SECONDS)
        with self._meter.measure("read"):
            items = self.feeds.take(self._most, wait, rooms)
        return [work for item in items for work in self._works(item)]

    def answer(self, ups: Sequence[Up]) -> None:
        """Follow the answers to the newest attempts. Raises ConfigError where a camera is refused.

        A `Restart` begins a recorded source again where the part that decides says, and counts a
        live one's frames under way as dropped.
        """
        for up in ups:
            camera = self._cameras.get(up.camera)
            if camera is None or camera.attempt != up.attempt or camera.phase == "over":
                continue
            if isinstance(up, Done):
                camera.done(up.position)
            elif isinstance(up, Resume):
                self._resume(camera, up)
            elif isinstance(up, Restart):
                self._restart(camera, up)
            else:
                raise ConfigError(f"camera {up.camera} is refused: {up.why}")

    def stop(self, how: str) -> None:
        """Stop reading; what was read and not given yet is left out, and cameras are finished."""
        if self._stopped:
            return
        self._stopped = True
        self.feeds.stop()
        dropped = self.feeds.dropped
        for name, camera in self._cameras.items():
            if camera.phase == "open":
                camera.ready.append(camera.give(Finish(how, dropped[name])))
            elif camera.phase != "closing":
                camera.phase, camera.ready = "over", []

    def close(self) -> None:
        """Let go of the sources."""
        if not self._stopped:
            self.feeds.stop()

    def _rooms(self) -> dict[str, int]:
        """How many frames may be taken of each camera that is open."""
        return {
            name: camera.window - len(camera.under_way)
            for name, camera in self._cameras.items()
            if camera.phase == "open"
        }

    def _works(self, item: Item) -> list[Work]:
        """An item of a camera as a work, with the mark or the end that follows it."""
        camera = self._cameras[item.camera]
        works = [camera.give(item)]
        if isinstance(item, Frame):
            if not camera.live and camera.frames % self._mark_frames == 0:
                works.append(camera.give(camera.mark()))
        elif isinstance(item, SourceInfo):
            camera.info = item
        else:
            camera.state = item
            works += self._end(camera, item)
        return works

    def _end(self, camera: _Camera, change: StateChange) -> list[Work]:
        if change.state not in ("ended", "failed"):
            return []
        return [camera.give(Finish(f"the source has {change.state}", change.dropped))]

    def _resume(self, camera: _Camera, resume: Resume) -> None:
        if camera.phase != "asked":
            return
        if resume.over:
            camera.phase, self._was_over = "over", True
            return
        camera.phase = "open"
        if camera.live:
            self._tell_again(camera)
        elif "source" in resume.states:
            state = _read_state(resume.states["source"])
            camera.opened_at, camera.first, camera.frames = (
                state.opened_at,
                state.first,
                state.frames,
            )
        else:
            # The first mark says when the run began: frames have the same times when it resumes.
            camera.opened_at, camera.first, camera.frames = time.time(), 0, 0
            camera.ready.append(camera.give(camera.mark()))
        if not camera.live:
            self.feeds.begin(
                resume.camera,
                first=camera.first,
                frames=camera.frames,
                opened_at=camera.opened_at,
            )

    def _tell_again(self, camera: _Camera) -> None:
        """Tell what an earlier attempt was told of a live camera, as it is now."""
        if camera.info is not None:
            camera.ready.append(camera.give(camera.info))
        if camera.state is not None:
            dropped = self.feeds.dropped[camera.config.name]
            state = msgspec.structs.replace(camera.state, dropped=dropped)
            camera.ready += [camera.give(state), *self._end(camera, state)]

    def _restart(self, camera: _Camera, restart: Restart) -> None:
        log.info("camera %s begins again: %s", restart.camera, restart.why)
        if self._stopped:
            camera.phase, camera.ready = "over", []
            return
        if camera.live:
            self.feeds.drop(restart.camera, "node restarted", len(camera.under_way))
        else:
            self.feeds.renew(restart.camera)
        camera.begin()


def _read_state(data: bytes) -> _State:
    try:
        state = _STATE.decode(data)
    except msgspec.DecodeError as error:
        raise RecordError(f"expected the state of a source, got other bytes: {error}") from error
    if state.version != STATE_VERSION:
        raise RecordError(
            f"the state of a source must be version {STATE_VERSION}, got {state.version}: use the "
            "facestream that made it"
        )
    return state
