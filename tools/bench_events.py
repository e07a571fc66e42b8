"""Events from one process to another, ours and bare, for `bench transport`.

A round publishes matches of 1 to 2 KB in batches and ends when the last of them is in the hands of
the subscriber. Left publishes, right subscribes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import zmq
from msgspec.structs import replace

from ..configs.schema import AccessConfig, PublishConfig
from ..stream.access import Access
from ..stream.client import subscribe
from ..stream.events import AnyEvent, CandidateScore, EvidenceFrame, MatchEvent
from ..stream.journal import Checkpoint, Journal
from ..stream.publish import Publisher
from .bench_peers import WAIT, Link, Pair, Window, hear, rounds

ANYWHERE = "tcp://127.0.0.1:*"
CAMERA, WARM = "entrance", "warm"
_NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)

Endpoint = Callable[[str], object]
"""Is told where the publisher is bound."""


class Pace(NamedTuple):
    """batch: events of one transaction. under_way: events sent and not heard, at most; fewer than
    any queue holds, so nothing is dropped. heard: after how many the subscriber says so."""

    batch: int
    under_way: int
    heard: int


STREAM = Pace(16, 4000, 500)
TRIPS = Pace(1, 0, 1)


class Publishing(NamedTuple):
    """How a batch is published. prepare: what is done to all events before the time is taken."""

    send: Callable[[Any], object]
    prepare: Callable[[list[AnyEvent]], Sequence[Any]] = list


def make_events(first: int, count: int, camera: str = CAMERA) -> list[AnyEvent]:
    """Matches with five candidates and six frames of evidence, as stored: 1.3 KB of msgpack."""
    candidates = tuple(CandidateScore(f"person-{n:04d}", 0.51 - n / 50, 0.48) for n in range(5))
    evidence = tuple(
        EvidenceFrame(n, n / 25, _NOW, (812.5, 240.0, 871.0, 318.5), 0.71, 0.16) for n in range(6)
    )
    match = MatchEvent(
        id="",
        camera=camera,
        decided_at=_NOW,
        epoch="5f1c0e9ab2d47783",
        published_at=_NOW,
        track=0,
        frame=112,
        pts=4.48,
        captured_at=_NOW,
        identity="person-0000",
        score=0.51,
        cosine=0.48,
        threshold=0.38,
        target_fpir=0.01,
        false_positive_probability=0.0004,
        candidates=candidates,
        frames=9,
        quality_min=0.32,
        quality_median=0.55,
        quality_max=0.71,
        evidence=evidence,
        pack="open",
        gallery_version=12,
    )
    return [
        replace(match, id=f"{camera}-{number:032x}", sequence=number, previous=number, track=number)
        for number in range(first, first + count)
    ]


class Unstored(Journal):
    """Numbers events as the journal does and stores none: what is left is the transport."""

    _newest = 0

    def append_many(
        self, events: Sequence[AnyEvent], checkpoints: Mapping[str, Checkpoint | None] = {}
    ) -> list[AnyEvent]:
        """The events as they would be stored."""
        stored = [
            replace(
                event,
                epoch=self.epoch,
                sequence=number,
                previous=number - 1 or None,
                published_at=_NOW,
            )
            for number, event in enumerate(events, self._newest + 1)
        ]
        self._newest += len(stored)
        return stored


@contextmanager
def publishing(journal: type[Journal], endpoint: Endpoint, scratch: str) -> Iterator[Publishing]:
    """Our publisher."""
    with (
        zmq.Context() as context,
        Access(AccessConfig(keys=scratch), context) as access,  # there are none
        journal.open(Path(scratch) / "journal.db") as opened,
        Publisher(opened, PublishConfig(ANYWHERE), context, access) as publisher,
    ):
        endpoint(publisher.endpoint)
        yield Publishing(publisher.publish_many)


def subscribing(endpoint: str) -> Iterator[bool]:
    """Our client; says of each event whether it counts."""
    with subscribe(endpoint, timeout=WAIT) as events:
        for event in events:
            yield event.camera == CAMERA


@contextmanager
def publishing_bare(endpoint: Endpoint, scratch: str) -> Iterator[Publishing]:
    """pyzmq's PUB, with msgspec."""
    with _bare_socket(endpoint) as send:
        encode = msgspec.msgpack.Encoder().encode
        yield Publishing(lambda events: send((event.topic, encode(event)) for event in events))


@contextmanager
def publishing_bytes(endpoint: Endpoint, scratch: str) -> Iterator[Publishing]:
    """pyzmq's PUB, and payloads that were encoded before."""
    with _bare_socket(endpoint) as send:
        encode = msgspec.msgpack.Encoder().encode
        yield Publishing(send, lambda events: [(event.topic, encode(event)) for event in events])


@contextmanager
def publishing_stored(endpoint: Endpoint, scratch: str) -> Iterator[Publishing]:
    """As `publishing_bare`, after a durable transaction of SQLite that holds the payloads."""
    encode = msgspec.msgpack.Encoder().encode
    database = sqlite3.connect(Path(scratch) / "bare.db", isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE events (id TEXT UNIQUE, topic TEXT, payload BLOB)")
        with _bare_socket(endpoint) as send:

            def store_and_send(events: Sequence[AnyEvent]) -> None:
                rows = [(event.id, event.topic, encode(event)) for event in events]
                database.execute("BEGIN IMMEDIATE")
                database.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
                database.execute("COMMIT")
                send((topic, payload) for _, topic, payload in rows)

            yield Publishing(store_and_send)
    finally:
        database.close()


@contextmanager
def _bare_socket(endpoint: Endpoint) -> Iterator[Callable[[Iterable[tuple[str, bytes]]], None]]:
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.linger = 0
        socket.sndhwm = 2 * STREAM.under_way
        socket.bind(ANYWHERE)
        endpoint(socket.get_string(zmq.LAST_ENDPOINT))

        def send(messages: Iterable[tuple[str, bytes]]) -> None:
            for topic, payload in messages:
                socket.send_multipart([topic.encode(), payload])

        yield send


def subscribing_bare(endpoint: str) -> Iterator[bool]:
    """pyzmq's SUB, with msgspec."""
    decode = msgspec.msgpack.Decoder(AnyEvent).decode
    for _, payload in _bare_messages(endpoint):
        event = decode(payload)
        yield event.camera == CAMERA


def subscribing_bytes(endpoint: str) -> Iterator[bool]:
    """pyzmq's SUB, and nothing is decoded."""
    counts = make_events(0, 1)[0].topic.encode()
    for topic, _ in _bare_messages(endpoint):
        yield topic == counts


def _bare_messages(endpoint: str) -> Iterator[list[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.rcvhwm = 2 * STREAM.under_way
        socket.subscribe("facestream/v1/")
        socket.connect(endpoint)
        while socket.poll(int(WAIT * 1000)):
            yield socket.recv_multipart()


def publish(
    publishing: Callable[[Endpoint, str], AbstractContextManager[Publishing]],
    pace: Pace,
    control: Link,
    peer: Link,
    scratch: str,
) -> None:
    """The left side."""
    with publishing(peer.send, scratch) as (send, prepare):
        for number in count(1):
            send(prepare(make_events(number, 1, WARM)))
            if peer.poll(0.02):
                break
        peer.recv()
        first = 1
        for wanted in rounds(control):
            items = prepare(make_events(first, wanted))
            first += wanted
            window = Window(peer, pace.under_way)
            for start in range(0, wanted, pace.batch):
                batch = items[start : start + pace.batch]
                send(batch)
                window.sent(len(batch))
            control.send(window.finish())


def take(
    subscribing: Callable[[str], Iterator[bool]],
    pace: Pace,
    control: Link,
    peer: Link,
    scratch: str,
) -> None:
    """The right side."""
    heard = subscribing(peer.recv())
    next(heard)
    peer.send("here")
    events = (number for number in heard if number)  # some of those before may still come
    for wanted in rounds(control):
        hear(peer, wanted, events, pace.heard)


def pair(
    publishing: Callable[[Endpoint, str], AbstractContextManager[Publishing]],
    subscribing: Callable[[str], Iterator[bool]],
    pace: Pace,
) -> Pair:
    """A publisher and a subscriber."""
    return Pair(partial(publish, publishing, pace), partial(take, subscribing, pace))
