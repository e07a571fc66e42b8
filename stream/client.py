"""The subscriber's side: typed events from a running facestream in a few lines.

    from facestream.stream.client import subscribe

    with subscribe("tcp://127.0.0.1:5555", kinds=["match"]) as events:
        for event in events:
            print(event.camera, event.identity, event.score)

Needs msgspec and pyzmq alone, none of the package's other dependencies.
"""

from __future__ import annotations

import difflib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Generic, Self, TypeVar

import zmq
import zmq.asyncio

from .. import ConfigError, PublishError
from .events import KINDS, TOPIC_ROOT, AnyEvent, EventError, decode, parse_topic

log = logging.getLogger(__name__)

# Events that wait for a reader that is busy; beyond this the newest are lost.
RECEIVE_QUEUE = 10_000

SocketT = TypeVar("SocketT", bound="zmq.Socket[bytes] | zmq.asyncio.Socket")


def subscribe(
    endpoint: str,
    *,
    kinds: Collection[str] | None = None,
    cameras: Collection[str] | None = None,
    timeout: float | None = None,
    context: zmq.Context[zmq.Socket[bytes]] | None = None,
) -> Subscription:
    """Subscribe to events: an iterator, and a context manager that closes it.

    endpoint: where the publisher is bound, e.g. "tcp://127.0.0.1:5555". It need not run yet: events
    come once it does, and go on after it was restarted. What was published before the connection
    stood is not delivered.
    kinds, cameras: deliver these only (one name, or several); None delivers all. Events of the
    publisher itself have the camera "-".
    timeout: end the iteration after so many seconds without an event that was asked for; None waits
    for ever.
    context: only for inproc:// endpoints, which live in one ZeroMQ context; it stays yours.

    Raises ConfigError for a kind that does not exist, PublishError for a malformed endpoint.
    Ctrl-C in a loop over it closes it and raises KeyboardInterrupt as usual.
    """
    return Subscription(
        endpoint, kinds, cameras, timeout, context or zmq.Context(), context is None
    )


def asubscribe(
    endpoint: str,
    *,
    kinds: Collection[str] | None = None,
    cameras: Collection[str] | None = None,
    timeout: float | None = None,
    context: zmq.asyncio.Context | None = None,
) -> AsyncSubscription:
    """`subscribe` for asyncio: an asynchronous iterator and context manager."""
    shared = context or zmq.asyncio.Context()
    return AsyncSubscription(endpoint, kinds, cameras, timeout, shared, context is None)


class _Subscriber(Generic[SocketT]):
    """What both kinds of subscription share: the socket, the filter, the count of what was skipped.

    `skipped` counts messages that this version cannot read by reason ("unknown kind", "newer
    version", "unreadable"). They are passed over and logged once per reason, so that a publisher
    that was updated first never stops an older subscriber.
    """

    def __init__(
        self,
        endpoint: str,
        kinds: Collection[str] | None,
        cameras: Collection[str] | None,
        timeout: float | None,
        context: zmq.Context[SocketT],
        own_context: bool,
    ) -> None:
        """Use `subscribe` or `asubscribe`."""
        self.endpoint = endpoint
        self.skipped: Counter[str] = Counter()
        kinds = [kinds] if isinstance(kinds, str) else kinds
        cameras = [cameras] if isinstance(cameras, str) else cameras
        self._cameras = None if cameras is None else frozenset(cameras)
        self._timeout = timeout
        self._context: zmq.Context[SocketT] | None = context if own_context else None
        self._socket: SocketT | None = None
        try:
            topics = topic_filters(kinds, cameras)
            self._socket = context.socket(zmq.SUB)
            self._socket.linger = 0
            self._socket.rcvhwm = RECEIVE_QUEUE
            self._socket.ipv6 = endpoint.startswith("tcp://[")
            for topic in topics:
                self._socket.subscribe(topic)
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise PublishError(
                f"cannot subscribe to {endpoint!r} ({error.strerror}): expected an endpoint like "
                "tcp://127.0.0.1:5555 or ipc:///run/facestream/events"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket; closing twice is no error."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def _patience(self) -> Callable[[], int | None]:
        """Milliseconds left of the timeout, which begins now; None where there is none.

        What is passed over does not begin it anew: a busy neighbour would keep it from ending.
        """
        if self._timeout is None:
            return lambda: None
        end = time.monotonic() + self._timeout
        return lambda: math.ceil(max(0.0, end - time.monotonic()) * 1000)

    def _read(self, frames: list[bytes]) -> AnyEvent | None:
        """The event in a message; None where it is not ours or cannot be read."""
        try:
            if len(frames) != 2:
                raise EventError(f"expected a topic and a payload, got {len(frames)} frames")
            # ZeroMQ filters by prefix: who asks for "door" is sent "door2" as well.
            camera = parse_topic(frames[0]).camera
            if self._cameras is not None and camera not in self._cameras:
                return None
            return decode(frames[1])
        except EventError as error:
            self.skipped[error.reason] += 1
            if self.skipped[error.reason] == 1:
                log.warning("%s: skipped a message: %s", self.endpoint, error)
            return None


class Subscription(_Subscriber["zmq.Socket[bytes]"]):
    """Iterates over events as they come; made by `subscribe`."""

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> AnyEvent:
        """The next event; StopIteration after `timeout` seconds without one, or once closed."""
        left = self._patience()
        try:
            while self._socket is not None and self._socket.poll(left()):
                event = self._read(self._socket.recv_multipart())
                if event is not None:
                    return event
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class AsyncSubscription(_Subscriber[zmq.asyncio.Socket]):
    """Iterates over events as they come, for asyncio; made by `asubscribe`."""

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> AnyEvent:
        """The next event; StopAsyncIteration after `timeout` idle seconds, or once closed.

        A cancelled wait loses nothing and leaves the subscription open.
        """
        left = self._patience()
        while self._socket is not None and await self._socket.poll(left()):
            event = self._read(await self._socket.recv_multipart(zmq.DONTWAIT))
            if event is not None:
                return event
        self.close()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        self.close()


def topic_filters(kinds: Collection[str] | None, cameras: Collection[str] | None) -> list[str]:
    """Topic prefixes that let through these kinds and cameras; ConfigError for an unknown kind."""
    for kind in kinds or ():
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            raise ConfigError(
                f"no kind of event is called {kind!r}"
                + (f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(KINDS)}")
            )
    if kinds is None and cameras is None:
        return [f"{TOPIC_ROOT}/"]
    wanted = KINDS if kinds is None else kinds
    if cameras is None:
        return [f"{TOPIC_ROOT}/{kind}/" for kind in wanted]
    return [f"{TOPIC_ROOT}/{kind}/{camera}" for kind in wanted for camera in cameras]
