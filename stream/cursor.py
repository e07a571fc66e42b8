"""Where a subscriber is: a value, the bookkeeping behind it, and a file that outlives the process.

Needs msgspec alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from .. import ConfigError, PublishError
from .events import AnyEvent

CURSOR_VERSION = 1
WRITE_EVERY = 0.5
"""Seconds between two writes of a cursor file, at least."""
TOPICS_MOST = 100_000
"""Topics that are told apart, at most: a publisher has one per kind and camera."""
ROUND_BEATS = 3


class Cursor(msgspec.Struct, frozen=True):
    """How far a subscriber has come: what it need not be sent again."""

    epoch: str
    """The publisher's epoch; sequences of another one count anew."""
    sequence: int
    """Everything that was asked for up to this sequence has been handled."""
    topics: dict[str, int] = {}
    """Topics of which events beyond it have been handled too, with the newest of them."""


class Step(NamedTuple):
    """One move of a `Position`, with the event or error that goes to the caller before it.

    settled: everything asked for up to here is done. topic, sequence: this topic is, up to there.
    restart: forget what was before, numbers count in `epoch` from now on.
    """

    epoch: str
    settled: int = 0
    topic: str = ""
    sequence: int = 0
    restart: bool = False
    event: AnyEvent | None = None
    error: PublishError | None = None


class Position:
    """A cursor that moves."""

    def __init__(self, cursor: Cursor | None = None) -> None:
        """Begin at a cursor; None begins nowhere: the epoch is "" until a step tells it."""
        self.epoch = "" if cursor is None else cursor.epoch
        self.floor = 0 if cursor is None else cursor.sequence
        self.heads = {} if cursor is None else dict(cursor.topics)

    def newest(self, topic: str) -> int:
        """Sequence up to which this topic is done."""
        return max(self.floor, self.heads.get(topic, 0))

    def apply(self, step: Step) -> None:
        """Move."""
        if step.restart:
            self.epoch, self.floor, self.heads = step.epoch, step.settled, {}
            return
        if step.topic:
            self.heads[step.topic] = step.sequence
        if step.settled > self.floor:
            self.floor = step.settled
            if self.heads and step.event is None:
                self.heads = {t: head for t, head in self.heads.items() if head > self.floor}

    def cursor(self) -> Cursor | None:
        """As a value; None while nothing is known of the publisher."""
        if not self.epoch:
            return None
        heads = {topic: head for topic, head in self.heads.items() if head > self.floor}
        return Cursor(self.epoch, self.floor, heads)


class Rounds:
    """Tells from heartbeats up to where all topics are complete: so far a floor may rise.

    A heartbeat of a topic of which nothing is missing proves the topic up to the head of the epoch.
    A round is over when every known topic had several heartbeats. A topic that is not known yet,
    because its first event was lost, has been heard of by then, so what was proven for all known
    topics when the round began holds for every topic.
    """

    def __init__(self) -> None:
        """Begin with no topic known."""
        self._proven: dict[str, int] = {}
        self._awaited: dict[str, int] = {}
        self._floor = 0

    def clear(self) -> None:
        """Something was lost: begin anew."""
        self._proven.clear()
        self._awaited.clear()
        self._floor = 0

    def beat(self, topic: str, head: int) -> int:
        """Note a heartbeat; returns up to where every topic is complete, 0 where that is open."""
        if topic not in self._proven and len(self._proven) >= TOPICS_MOST:
            return 0
        self._proven[topic] = head
        awaited = self._awaited.pop(topic, 0) - 1
        if awaited > 0:
            self._awaited[topic] = awaited
        if self._awaited:
            return 0
        complete, self._floor = self._floor, min(self._proven.values())
        self._awaited = dict.fromkeys(self._proven, ROUND_BEATS)
        return complete


class _Stored(msgspec.Struct):
    facestream_cursor: int
    epoch: str
    sequence: int
    topics: dict[str, int]


class CursorFile:
    """Keeps a cursor in a file, which is replaced as a whole and is readable by its owner alone."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the file; nothing is read or written yet. One subscriber has one file."""
        self.path = Path(path).expanduser()
        self._stored: Cursor | None = None
        self._written = float("-inf")

    def read(self) -> Cursor | None:
        """The cursor in the file; None where there is no file yet.

        Raises ConfigError when it cannot be read, is damaged, or is of another version.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"the cursor {self.path} cannot be read ({error.strerror}): check its rights, or "
                "name another file"
            ) from error
        try:
            stored = msgspec.json.decode(content, type=_Stored)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(
                f"{self.path} is no cursor of facestream, or is damaged ({error}): name another "
                "file, or delete this one to begin anew"
            ) from error
        if stored.facestream_cursor != CURSOR_VERSION:
            raise ConfigError(
                f"the cursor {self.path} is of version {stored.facestream_cursor}, this facestream "
                f"reads {CURSOR_VERSION}: update facestream, or name another file"
            )
        numbers = [stored.sequence, *stored.topics.values()]
        if not stored.epoch or min(numbers) < 0:
            raise ConfigError(
                f"{self.path} is damaged (no epoch, or a sequence below 0): delete it to begin anew"
            )
        self._stored = Cursor(stored.epoch, stored.sequence, stored.topics)
        return self._stored

    def due(self, now: float) -> bool:
        """Whether the last write is long enough ago for the next."""
        return now - self._written >= WRITE_EVERY

    def write(self, cursor: Cursor | None, now: float) -> None:
        """Replace the file, unless it says so already. Raises ConfigError where it cannot be."""
        if cursor is None or cursor == self._stored:
            return
        content = msgspec.json.encode(
            _Stored(CURSOR_VERSION, cursor.epoch, cursor.sequence, cursor.topics)
        )
        try:
            _replace(self.path, content)
        except OSError as error:
            raise ConfigError(
                f"the cursor {self.path} cannot be written ({error.strerror}): make its folder "
                "writable, or name another file"
            ) from error
        self._stored, self._written = cursor, now


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file, to the disk, then put it in its place: never a half-written file."""
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
