"""Events for tests, and subscribers that miss none of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import zmq

from facestream.stream.events import KINDS, SightingStarted, decode
from facestream.stream.publish import Publisher

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)


def sighting(number: int, camera: str = "door", track: int | None = None) -> SightingStarted:
    """An event of its own for each number and camera; its track is the number unless given."""
    return SightingStarted(
        id=f"{camera}-{number}",
        camera=camera,
        decided_at=NOW,
        track=number if track is None else track,
        frame=number,
        pts=number / 25,
        captured_at=NOW,
    )


@contextmanager
def repeating(send: Callable[[], object]) -> Iterator[None]:
    """Calls `send` over and over beside the test, so that late subscribers hear it as well."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            send()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


@contextmanager
def heard(
    publisher: Publisher, context: zmq.Context[zmq.Socket[bytes]]
) -> Iterator[zmq.Socket[bytes]]:
    """A bare subscriber to everything that has caught up: from then on it misses nothing."""
    with context.socket(zmq.SUB) as subscriber:
        for kind in KINDS:  # and no heartbeats
            subscriber.subscribe(f"facestream/v1/{kind}/")
        subscriber.connect(publisher.endpoint)
        deadline = time.monotonic() + 30
        number = 1_000_000
        while not subscriber.poll(20):
            assert time.monotonic() < deadline, "the subscriber never heard the publisher"
            number += 1
            publisher.publish(sighting(number))
        last = publisher.publish(sighting(number + 1)).id
        while decode(subscriber.recv_multipart()[1]).id != last:
            pass
        yield subscriber
