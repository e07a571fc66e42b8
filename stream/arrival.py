"""What a subscriber asks for, and what comes: topics, payloads, and the numbers in them.

Needs msgspec alone.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from .. import ConfigError
from .events import KINDS, TOPIC_ROOT, UNDECODABLE, AnyEvent, EventError, decode
from .protocol import HEARTBEAT_ROOT, Heartbeat

log = logging.getLogger(__name__)

LARGEST_SEQUENCE = 2**53 - 1
REPLAY_PREFIXES_MOST = 500


class Arrival(NamedTuple):
    """An event with its place in the stream; `event` is None where only its numbers can be read."""

    topic: str
    epoch: str
    sequence: int
    previous: int | None
    event: AnyEvent | None


class Skipped(Counter[str]):
    """Counts what could not be used, by reason, and logs the first of each."""

    def __init__(self, endpoint: str) -> None:
        """endpoint: what the log names as the source."""
        super().__init__()
        self._endpoint = endpoint

    def add(self, reason: str, detail: object) -> None:
        """Count one."""
        self[reason] += 1
        if self[reason] == 1:
            log.warning("%s: skipped a message: %s", self._endpoint, detail)


class Filter:
    """Which kinds and cameras are asked for; None means all of them."""

    def __init__(
        self, kinds: Collection[str] | str | None, cameras: Collection[str] | str | None
    ) -> None:
        """One name, or several. Raises ConfigError for a kind that does not exist."""
        kinds = [kinds] if isinstance(kinds, str) else kinds
        cameras = [cameras] if isinstance(cameras, str) else cameras
        for kind in kinds or ():
            if kind not in KINDS:
                near = difflib.get_close_matches(kind, KINDS, n=1)
                raise ConfigError(
                    f"no kind of event is called {kind!r}"
                    + (
                        f", did you mean {near[0]!r}?"
                        if near
                        else f"; there are {', '.join(KINDS)}"
                    )
                )
        self._kinds = None if kinds is None else frozenset(kinds)
        self._cameras = None if cameras is None else frozenset(cameras)
        self.everything = kinds is None and cameras is None
        """Whether every event is asked for: then a hole in the numbers is a gap."""

    def prefixes(self) -> list[str]:
        """Prefixes of the topics of events, for a subscription or a replay."""
        if self.everything:
            return [f"{TOPIC_ROOT}/"]
        return [f"{TOPIC_ROOT}/{ending}" for ending in self._endings()]

    def heartbeat_prefixes(self) -> list[str]:
        """Prefixes of the topics of their heartbeats, beyond those that `prefixes` covers."""
        return [] if self.everything else [f"{HEARTBEAT_ROOT}/{end}" for end in self._endings()]

    def replay_prefixes(self) -> tuple[str, ...]:
        """The prefixes for a replay request; fewer and wider ones where they would be too many."""
        if self.everything:
            return ()
        prefixes = self.prefixes()
        if len(prefixes) > REPLAY_PREFIXES_MOST:
            prefixes = [f"{TOPIC_ROOT}/{kind}/" for kind in sorted(self._kinds or KINDS)]
        return tuple(prefixes)

    def wants(self, topic: str) -> bool:
        """Whether a topic is asked for. A prefix alone lets "door2" through for "door"."""
        if self.everything:
            return True
        kind, _, camera = topic.removeprefix(f"{TOPIC_ROOT}/").partition("/")
        return (self._kinds is None or kind in self._kinds) and (
            self._cameras is None or camera in self._cameras
        )

    def _endings(self) -> list[str]:
        kinds = list(KINDS) if self._kinds is None else sorted(self._kinds)
        if self._cameras is None:
            return [f"{kind}/" for kind in kinds]
        return [f"{kind}/{camera}" for kind in kinds for camera in sorted(self._cameras)]


class _Numbers(msgspec.Struct):
    kind: str
    camera: str
    epoch: str
    sequence: int
    previous: int | None = None


def read_event(payload: bytes, skipped: Skipped) -> Arrival | None:
    """The event in a payload with its numbers; None where not even these can be read.

    An event that this version does not know is counted and keeps its place, without its content.
    """
    event: AnyEvent | None
    try:
        event = decode(payload)
        topic, numbers = event.topic, event
    except EventError as error:
        skipped.add(error.reason, error)
        if error.reason == "unreadable":
            return None
        decoder: Any = msgspec.json if payload[:1] == b"{" else msgspec.msgpack
        try:
            numbers = decoder.decode(payload, type=_Numbers)
        except UNDECODABLE:
            return None
        event, topic = None, f"{TOPIC_ROOT}/{numbers.kind}/{numbers.camera}"
    sequence, previous = numbers.sequence, numbers.previous
    if (
        not numbers.epoch
        or not 0 < sequence <= LARGEST_SEQUENCE
        or (previous is not None and not 0 < previous < sequence)
    ):
        skipped.add("unreadable", f"expected a numbered event on {topic[:80]!r}, got {sequence}")
        return None
    return Arrival(topic, numbers.epoch, sequence, previous, event)


def read_heartbeat(payload: bytes, skipped: Skipped) -> Heartbeat | None:
    """The heartbeat in a payload; None where it is none."""
    decoder: Any = msgspec.json if payload[:1] == b"{" else msgspec.msgpack
    try:
        beat: Heartbeat = decoder.decode(payload, type=Heartbeat)
    except UNDECODABLE as error:
        skipped.add("unreadable", f"expected a heartbeat, got {len(payload)} bytes: {error}")
        return None
    if not beat.epoch or not 0 <= beat.newest <= beat.head <= LARGEST_SEQUENCE:
        skipped.add("unreadable", "expected a heartbeat with newest between 0 and head")
        return None
    return beat
