"""A subscriber's two sockets, and what their connections tell of the publisher.

Needs pyzmq and msgspec alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import zmq

from .. import PublishError
from .arrival import Filter
from .client_errors import KeyRefused
from .endpoints import check_connect
from .keys import Pair, load_pair
from .protocol import Question, replay_of

# What waits for a reader that is busy; what is lost beyond this is asked for again.
RECEIVE_QUEUE = 10_000
ANSWER_QUEUE = 100
LARGEST_EVENT = 1 << 20
LARGEST_ANSWER = 16 << 20
READ_MOST = 500
RECONNECT_MS, RECONNECT_MOST_MS = 100, 5000
# A publisher whose machine vanished is noticed, and connected to again.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 10_000, 30_000
BROKEN_HANDSHAKES = 5
MEND_SECONDS = 5.0
TRY_AGAIN = 300

STANDS = zmq.EVENT_HANDSHAKE_SUCCEEDED
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
MISMATCH = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
BROKEN = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
LOST = zmq.EVENT_DISCONNECTED
DONTWAIT = int(zmq.DONTWAIT)  # the flag itself costs a call for every message
_ENCODER = msgspec.msgpack.Encoder()

Plain = zmq.Socket[bytes]


class _Link:
    """A connected socket and what its monitor tells."""

    def __init__(self, socket: Plain, endpoint: str) -> None:
        self.socket = socket
        self.endpoint = endpoint
        self.monitor: Plain = socket.get_monitor_socket(STANDS | REFUSED | MISMATCH | BROKEN | LOST)
        self._lost_at: float | None = None
        socket.connect(endpoint)

    def news(self, now: float) -> Iterator[tuple[int, int]]:
        """What has happened to the connection, each with its value."""
        for frames in _read(self.monitor):
            what, value = struct.unpack("=Hi", frames[0])
            if what in (STANDS, LOST):
                self._lost_at = now if what == LOST else None
            yield what, value

    def mend(self, now: float) -> None:
        """Connect again where libzmq may have given up, as it does after an oversized message."""
        if self._lost_at is not None and now - self._lost_at > MEND_SECONDS:
            self._lost_at = now
            with contextlib.suppress(zmq.ZMQError):  # there is nothing to disconnect if it has
                self.socket.disconnect(self.endpoint)
            self.socket.connect(self.endpoint)


class News(NamedTuple):
    """What has come over the sockets since they were read last."""

    connected: bool
    replay_connected: bool
    events: list[list[bytes]]
    answers: list[list[bytes]]


class ClientSockets:
    """SUB and DEALER, connected, with a monitor each. Nothing here waits."""

    def __init__(
        self,
        endpoint: str,
        replay: str | None,
        wanted: Filter,
        key: str | Path | None,
        context: zmq.Context[Plain],
    ) -> None:
        """The context stays yours. Raises PublishError for a malformed endpoint or key file."""
        self.endpoint = check_connect(endpoint, "the publisher's endpoint")
        default = replay_of(self.endpoint) if replay is None else replay
        self.replay = check_connect(default, "the publisher's replay endpoint")
        self._context = context
        self._key = None if key is None else load_pair(Path(key).expanduser())
        self._broken = 0
        self._open: list[Plain] = []
        try:
            self.events = self._make(zmq.SUB, self.endpoint)
            self.events.rcvhwm, self.events.maxmsgsize = RECEIVE_QUEUE, LARGEST_EVENT
            for topic in (*wanted.prefixes(), *wanted.heartbeat_prefixes()):
                self.events.subscribe(topic)
            self.answers = self._make(zmq.DEALER, self.replay)
            self.answers.rcvhwm, self.answers.maxmsgsize = ANSWER_QUEUE, LARGEST_ANSWER
            # A question waits here, not in a queue that outlives its sense.
            self.answers.immediate = True
            self._links = [
                self._connect(self.events, self.endpoint),
                self._connect(self.answers, self.replay),
            ]
            self._poller = zmq.Poller()
            for socket in self._open:
                self._poller.register(socket, zmq.POLLIN)
            self._descriptors = [socket.fileno() for socket in self._open]
        except zmq.ZMQError as error:
            self.close()
            raise PublishError(
                f"cannot subscribe to {endpoint!r} ({error.strerror}): expected an endpoint like "
                "tcp://127.0.0.1:5555 or ipc:///run/facestream/events"
            ) from error
        except BaseException:
            self.close()
            raise

    def poll(self, seconds: float) -> list[Plain]:
        """Wait for something to read; returns the sockets that have it."""
        return [socket for socket, _ in self._poller.poll(math.ceil(seconds * 1000))]

    async def wait(self, seconds: float) -> None:
        """Wait in asyncio until there is something to read, or the time is over."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        # A descriptor of ZeroMQ tells that something changed, and only once: what, `poll` says.
        for number in self._descriptors:
            loop.add_reader(number, woken.set)
        try:
            if not self.poll(0) and seconds > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), seconds)
        finally:
            for number in self._descriptors:
                loop.remove_reader(number)

    def read(self, ready: Collection[Plain], now: float) -> News:
        """Read what has come. ready: what `poll` returned.

        Raises KeyRefused, and PublishError where no publisher of ours is at the endpoint.
        """
        link, replay = self._links
        connected = link.monitor in ready and self._look(link, now)
        replay_connected = replay.monitor in ready and self._look_at_replay(replay, now)
        answers = list(_read(self.answers)) if self.answers in ready else []
        # Read last: what was sent before an answer comes before it.
        events = list(_read(self.events)) if self.events in ready or answers else []
        return News(connected, replay_connected, events, answers)

    def send(self, question: Question) -> bool:
        """Send to the replay socket; False while nobody is connected."""
        try:
            self.answers.send(_ENCODER.encode(question), DONTWAIT)
        except zmq.Again:
            return False
        return True

    def mend(self, now: float) -> None:
        """Connect again what was given up."""
        for link in self._links:
            link.mend(now)

    def close(self) -> None:
        """Close all of them. Twice is no error."""
        for socket in self._open:
            if socket.type != zmq.PAIR:
                socket.disable_monitor()
        while self._open:
            self._open.pop().close(linger=0)

    def _make(self, kind: int, endpoint: str) -> Plain:
        socket = self._context.socket(kind)
        self._open.append(socket)
        socket.linger = 0
        socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MOST_MS
        socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
        socket.ipv6 = endpoint.startswith("tcp://[")
        if self._key is not None and endpoint.startswith("tcp://"):
            _lock(socket, self._key)
        return socket

    def _connect(self, socket: Plain, endpoint: str) -> _Link:
        link = _Link(socket, endpoint)
        self._open.append(link.monitor)
        return link

    def _look(self, link: _Link, now: float) -> bool:
        """Whether the subscription was connected (again)."""
        connected = False
        for what, value in link.news(now):
            if what == STANDS:
                connected, self._broken = True, 0
            elif what == REFUSED and value != TRY_AGAIN:
                raise self._refused(self.endpoint)
            elif what == MISMATCH:
                raise self._mismatch(value)
            elif what == BROKEN:
                self._broken += 1
                if self._broken >= BROKEN_HANDSHAKES:
                    raise self._broken_off()
        return connected

    def _look_at_replay(self, link: _Link, now: float) -> bool:
        connected = False
        for what, value in link.news(now):
            connected = connected or what == STANDS
            if what == REFUSED and value != TRY_AGAIN:
                raise self._refused(self.replay)
        return connected

    def _refused(self, endpoint: str) -> KeyRefused:
        name = "" if self._key is None else f" {self._key.name!r}"
        return KeyRefused(
            f"{endpoint} refuses the key{name}: it was revoked, is not for subscribers, or is "
            "another publisher's; ask who runs it for a new one (`facestream keys new NAME`)"
        )

    def _broken_off(self) -> KeyRefused:
        why = (
            "it asks for a key, or is no publisher of facestream; name your key file (key=, --key)"
        )
        if self._key is not None:
            why = (
                f"the key {self._key.name!r} was made for another publisher, or this one asks for "
                "no key; ask who runs it for a key file"
            )
        return KeyRefused(f"{self.endpoint} breaks off every handshake: {why}")

    def _mismatch(self, value: int) -> PublishError:
        if value != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return PublishError(f"what answers at {self.endpoint} is no publisher of facestream")
        if self._key is None:
            return KeyRefused(
                f"{self.endpoint} asks for a key: name your key file (key=, --key), which "
                "`facestream keys new NAME` makes on the publisher's machine"
            )
        return KeyRefused(f"{self.endpoint} asks for no key: leave it out")


def _lock(socket: Plain, key: Pair) -> None:
    socket.curve_publickey = key.public.encode()
    socket.curve_secretkey = key.secret.encode()
    socket.curve_serverkey = key.server.encode()


def _read(socket: Plain) -> Iterator[list[bytes]]:
    for _ in range(READ_MOST):
        try:
            yield socket.recv_multipart(DONTWAIT)
        except zmq.Again:
            return
