"""The subscriber's side: typed events from a running facestream in a few lines.

    from facestream.stream.client import subscribe

    with subscribe("tcp://127.0.0.1:5555", kinds=["match"], cursor="matches.cursor") as events:
        for event in events:
            print(event.camera, event.identity, event.score)

What is lost on the way is noticed and read again from the publisher's journal (stream/catchup).
Needs msgspec and pyzmq alone, none of the package's other dependencies.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import zmq

from .. import ConfigError
from .arrival import Filter, Skipped, read_event, read_heartbeat
from .catchup import Catchup
from .client_errors import EventsLost
from .client_sockets import ClientSockets, Plain
from .cursor import Cursor, CursorFile, Position, Step
from .events import TOPIC_ROOT, UNDECODABLE, AnyEvent, EventError, parse_topic
from .protocol import HEARTBEAT_ROOT, Answer

After = Cursor | Literal["oldest"] | None
_ANSWERS = msgspec.msgpack.Decoder(Answer)
_BEATS = f"{HEARTBEAT_ROOT}/".encode()
_EVENTS = f"{TOPIC_ROOT}/".encode()
BUSY_SECONDS, IDLE_SECONDS = 0.1, 1.0


def subscribe(
    endpoint: str,
    *,
    kinds: Collection[str] | str | None = None,
    cameras: Collection[str] | str | None = None,
    timeout: float | None = None,
    context: zmq.Context[Any] | None = None,
    replay: str | None = None,
    after: After = None,
    cursor: str | os.PathLike[str] | None = None,
    key: str | Path | None = None,
    replay_timeout: float = 10.0,
) -> Subscription:
    """Subscribe to events: an iterator, and a context manager that closes it.

    endpoint: where the publisher is bound, e.g. "tcp://127.0.0.1:5555". It need not run yet, and
    may be restarted: what was missed meanwhile comes from its journal.
    kinds, cameras: deliver these only (one name, or several); None delivers all. Events of the
    publisher itself have the camera "-".
    timeout: end the iteration after so many seconds without an event that was asked for; None waits
    for ever.
    context: only for inproc:// endpoints, which live in one ZeroMQ context; it stays yours.
    replay: the publisher's replay endpoint (`publish.replay`); None takes the one it has unless
    configured otherwise: the next port, or the path or name with -replay added.
    after: where to begin. None: with what comes from now on. "oldest": with the oldest event that
    the journal holds. A Cursor: behind it.
    cursor: a file that remembers how far this subscriber came, from one run to the next; `after`
    counts only while there is none. An event counts as handled once the next one is asked for:
    whoever is killed in between is given it again. For the same kinds and cameras every time, and
    for one subscriber at a time.
    key: the file NAME.key_secret that `facestream keys new NAME` made, for tcp endpoints of a
    publisher with keys.
    replay_timeout: seconds that events behind a gap wait for a replay socket that does not answer.

    Every event is delivered once. Events of one topic, and without a filter all of them, come in
    the order of `sequence`; with one, an event that was lost on the way may come after later ones
    of other topics. A publisher without replay, as of an older version, is noticed by the first
    gap: that it cannot be filled is logged once and counted in `skipped`.

    Iterating raises EventsLost when events are gone for good, and goes on behind them when it is
    asked for the next event; KeyRefused, NotAllowed and VersionTooNew, which end it. Raises
    ConfigError for a kind that does not exist, or a cursor that cannot be used; PublishError for a
    malformed endpoint or key file.
    Ctrl-C in a loop over it closes it and raises KeyboardInterrupt as usual.
    """
    return Subscription(
        endpoint,
        Filter(kinds, cameras),
        timeout,
        context,
        replay=replay,
        after=after,
        cursor=cursor,
        key=key,
        replay_timeout=replay_timeout,
    )


def asubscribe(
    endpoint: str,
    *,
    kinds: Collection[str] | str | None = None,
    cameras: Collection[str] | str | None = None,
    timeout: float | None = None,
    context: zmq.Context[Any] | None = None,
    replay: str | None = None,
    after: After = None,
    cursor: str | os.PathLike[str] | None = None,
    key: str | Path | None = None,
    replay_timeout: float = 10.0,
) -> AsyncSubscription:
    """`subscribe` for asyncio: an asynchronous iterator and context manager.

    context: a zmq.Context or zmq.asyncio.Context.
    """
    return AsyncSubscription(
        endpoint,
        Filter(kinds, cameras),
        timeout,
        context,
        replay=replay,
        after=after,
        cursor=cursor,
        key=key,
        replay_timeout=replay_timeout,
    )


def topic_filters(
    kinds: Collection[str] | str | None, cameras: Collection[str] | str | None
) -> list[str]:
    """Topic prefixes that let through these kinds and cameras; ConfigError for an unknown kind."""
    return Filter(kinds, cameras).prefixes()


class _Subscriber:
    """What both kinds of subscription share: everything but the waiting.

    `skipped` counts what could not be used by reason ("unknown kind", "newer version",
    "unreadable", ...). It is passed over and logged once per reason, so that a publisher that was
    updated first never stops an older subscriber.
    """

    def __init__(
        self,
        endpoint: str,
        wanted: Filter,
        timeout: float | None,
        context: zmq.Context[Any] | None,
        *,
        replay: str | None,
        after: After,
        cursor: str | os.PathLike[str] | None,
        key: str | Path | None,
        replay_timeout: float,
    ) -> None:
        """Use `subscribe` or `asubscribe`."""
        self.endpoint = endpoint
        self.skipped = Skipped(endpoint)
        self._timeout = timeout
        self._file = None if cursor is None else CursorFile(cursor)
        begin = (self._file.read() if self._file is not None else None) or after
        if not (begin is None or begin == "oldest" or isinstance(begin, Cursor)):
            raise ConfigError(f'after must be None, "oldest" or a Cursor, got {begin!r}')
        self._handled = Position(begin if isinstance(begin, Cursor) else None)
        self._given: Step | None = None
        self._events: deque[list[bytes]] = deque()
        self._answers: deque[list[bytes]] = deque()
        self._now = 0.0
        self._own_context: zmq.Context[Plain] | None = None
        self._sockets: ClientSockets | None = None
        if context is None:
            shared = self._own_context = zmq.Context()
        else:
            shared = zmq.Context.shadow(context.underlying)
        try:
            self._sockets = ClientSockets(endpoint, replay, wanted, key, shared)
        except BaseException:
            self._disconnect()
            raise
        self._catchup = Catchup(
            wanted, begin, self.skipped, replay=self._sockets.replay, patience=replay_timeout
        )

    @property
    def cursor(self) -> Cursor | None:
        """How far the caller has come, for `after` of a later subscription.

        The event that was delivered last counts once the next one is asked for, or `handled` is
        called. None while nothing is known of the publisher.
        """
        return self._handled.cursor()

    def handled(self) -> None:
        """Count the event that was delivered last as handled, before the next one is asked for.

        For a caller that may not ask again. Raises ConfigError as `close`.
        """
        if self._given is not None:
            self._handled.apply(self._given)
            self._given = None
            self._save(time.monotonic())

    def close(self) -> None:
        """Close the sockets and write the cursor file; closing twice is no error.

        Raises ConfigError where the cursor cannot be written.
        """
        self._disconnect()
        if self._file is not None:
            self._file.write(self.cursor, time.monotonic())

    def _disconnect(self) -> None:
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        if self._own_context is not None:
            self._own_context.term()
            self._own_context = None

    def _settle(self) -> float:
        """Another event is asked for; returns until when it is waited for."""
        self.handled()
        return time.monotonic() + (math.inf if self._timeout is None else self._timeout)

    def _save(self, now: float) -> None:
        if self._file is not None and self._file.due(now):
            self._file.write(self.cursor, now)

    def _next(self) -> AnyEvent | None:
        """The next event that is here already; None when all of it is read. Raises EventsLost."""
        ready, events, answers = self._catchup.ready, self._events, self._answers
        while True:
            while ready:
                step = ready.popleft()
                if step.event is not None or step.error is not None:
                    self._given = step
                    if step.error is not None:
                        raise step.error
                    return step.event
                self._handled.apply(step)
            # One at a time: events that wait are bytes, which cost least.
            if events:
                self._take(events.popleft())
            elif answers:
                self._take_answer(answers.popleft())
            else:
                return None

    def _speak(self, sockets: ClientSockets) -> None:
        """Before a wait: ask for what is missing, keep the cursor."""
        now = time.monotonic()
        self._catchup.tick(now)
        self._catchup.ask(now, sockets.send)
        sockets.mend(now)
        self._save(now)

    def _read(self, sockets: ClientSockets, ready: Collection[Plain]) -> None:
        """Read what has come."""
        self._now = time.monotonic()
        news = sockets.read(ready, self._now)
        if news.connected:
            self._catchup.connected()
        if news.replay_connected:
            self._catchup.replay_connected(self._now)
        self._events.extend(news.events)
        self._answers.extend(news.answers)

    def _take_answer(self, frames: list[bytes]) -> None:
        try:
            (payload,) = frames
            answer = _ANSWERS.decode(payload)
        except (ValueError, *UNDECODABLE) as error:
            self.skipped.add("unreadable", f"expected an answer to a replay request: {error}")
            return
        self._catchup.answer(answer, self._now)

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != 2 or not frames[0].startswith(_EVENTS):
            self._strange(frames)
            return
        topic, payload = frames
        if topic.startswith(_BEATS):
            beat = read_heartbeat(payload, self.skipped)
            if beat is not None:
                self._catchup.beat(beat, self._now)
            return
        arrival = read_event(payload, self.skipped)
        if arrival is not None and arrival.topic.encode() == topic:
            self._catchup.arrive(arrival, self._now)
        elif arrival is not None:
            self.skipped.add("unreadable", f"expected an event on {arrival.topic[:80]!r}")

    def _strange(self, frames: list[bytes]) -> None:
        try:
            if len(frames) != 2:
                raise EventError(f"expected a topic and a payload, got {len(frames)} frames")
            parse_topic(frames[0])
        except EventError as error:
            self.skipped.add(error.reason, error)

    def _wait(self, until: float) -> float:
        """Seconds to wait for the sockets, at most; 0 once the timeout is over."""
        most = BUSY_SECONDS if self._catchup.busy() else IDLE_SECONDS
        return max(0.0, min(most, until - time.monotonic()))


class Subscription(_Subscriber):
    """Iterates over events as they come; made by `subscribe`."""

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> AnyEvent:
        """The next event; StopIteration after `timeout` seconds without one, or once closed."""
        try:
            until, over = self._settle(), False
            while self._sockets is not None:
                event = self._next()
                if event is not None:
                    return event
                if over:
                    break
                self._speak(self._sockets)
                ready = self._sockets.poll(self._wait(until))
                self._read(self._sockets, ready)
                # What was read but not asked for does not begin the timeout anew.
                over = time.monotonic() >= until
        except EventsLost:
            raise
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


class AsyncSubscription(_Subscriber):
    """Iterates over events as they come, for asyncio; made by `asubscribe`."""

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> AnyEvent:
        """The next event; StopAsyncIteration after `timeout` idle seconds, or once closed.

        A cancelled wait loses nothing and leaves the subscription open.
        """
        await asyncio.sleep(0)  # events that are here already do not keep others from their turn
        try:
            until, over = self._settle(), False
            while self._sockets is not None:
                event = self._next()
                if event is not None:
                    return event
                if over:
                    break
                self._speak(self._sockets)
                await self._sockets.wait(self._wait(until))
                self._read(self._sockets, self._sockets.poll(0))
                over = time.monotonic() >= until
        except (EventsLost, asyncio.CancelledError):
            raise
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        self.close()
