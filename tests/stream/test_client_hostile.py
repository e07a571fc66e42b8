"""Publishers that are none of ours: whatever they send is counted, logged once, and passed over."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import pytest
import zmq

from facestream import PublishError
from facestream.stream import client_sockets
from facestream.stream.arrival import LARGEST_SEQUENCE
from facestream.stream.client import Subscription, subscribe
from facestream.stream.client_errors import EventsLost, VersionTooNew
from facestream.stream.cursor import Cursor
from facestream.stream.events import AnyEvent, encode
from facestream.stream.protocol import (
    Answer,
    Heartbeat,
    Question,
    ReplayDone,
    ReplayEvents,
    ReplayRefused,
    ReplayRequest,
)

from .wire import sighting

PATIENCE = 60.0
TOPIC = "facestream/v1/sighting.started/door"
BEATS = "facestream/v1/heartbeat/sighting.started/door"

Reply = Callable[[ReplayRequest], "list[Answer | bytes]"]


def event(sequence: int, epoch: str = "e") -> AnyEvent:
    return msgspec.structs.replace(
        sighting(sequence), epoch=epoch, sequence=sequence, previous=sequence - 1 or None
    )


def beat(newest: int, **changes: object) -> list[bytes]:
    heartbeat = Heartbeat(
        epoch="e", topic=TOPIC, newest=newest, head=newest, oldest=1, interval=0.1
    )
    changed = msgspec.structs.replace(heartbeat, **changes)
    return [BEATS.encode(), msgspec.msgpack.encode(changed)]


def message(sequence: int, epoch: str = "e") -> list[bytes]:
    return [TOPIC.encode(), encode(event(sequence, epoch))]


def done(request: ReplayRequest, head: int, epoch: str = "e") -> ReplayDone:
    return ReplayDone(number=request.number, epoch=epoch, head=head)


def events(request: ReplayRequest, *sequences: int) -> ReplayEvents:
    payloads = tuple(encode(event(sequence)) for sequence in sequences)
    return ReplayEvents(number=request.number, payloads=payloads)


def refused(request: ReplayRequest, reason: str, **changes: object) -> ReplayRefused:
    refusal = ReplayRefused(number=request.number, reason="busy", detail="no", epoch="e", oldest=1)
    return msgspec.structs.replace(refusal, reason=reason, **changes)


def nothing_more(request: ReplayRequest) -> list[Answer | bytes]:
    """As a publisher whose journal ends where the request begins."""
    if request.after == LARGEST_SEQUENCE:
        return [refused(request, "epoch")]
    return [done(request, request.after)]


class Impostor:
    """An XPUB and a ROUTER in a thread; what they send is up to the test."""

    def __init__(self, reply: Reply, live: list[list[bytes]]) -> None:
        self.questions: list[Question] = []
        self.live = live
        self._reply = reply
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._events = self._context.socket(zmq.XPUB)
        self._router = self._context.socket(zmq.ROUTER)
        self._events.linger = self._router.linger = 0
        self.endpoint = f"tcp://127.0.0.1:{self._events.bind_to_random_port('tcp://127.0.0.1')}"
        self.replay = f"tcp://127.0.0.1:{self._router.bind_to_random_port('tcp://127.0.0.1')}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        decoder = msgspec.msgpack.Decoder(Question)
        while not self._stop.is_set():
            if self._router.poll(20):
                peer, payload = self._router.recv_multipart()
                question = decoder.decode(payload)
                self.questions.append(question)
                if isinstance(question, ReplayRequest):
                    for answer in self._reply(question):
                        content = (
                            answer if isinstance(answer, bytes) else msgspec.msgpack.encode(answer)
                        )
                        self._router.send_multipart([peer, content])
            while self._events.poll(0):
                self._events.recv()
            for frames in self.live:
                self._events.send_multipart(frames)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._events.close()
        self._router.close()
        self._context.term()


@contextmanager
def facing(
    reply: Reply, live: list[list[bytes]] | None = None, **options: object
) -> Iterator[tuple[Impostor, Subscription]]:
    """A subscriber of an impostor, which sends `live` over and over."""
    with ExitStack() as stack:
        impostor = Impostor(reply, live or [])
        stack.callback(impostor.close)
        settings = {"timeout": PATIENCE, "after": Cursor("e", 0), **options}
        subscription = stack.enter_context(
            subscribe(impostor.endpoint, replay=impostor.replay, **settings)  # type: ignore[arg-type]
        )
        yield impostor, subscription


def test_strange_messages_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    strange = [
        [b"facestream/v1/party/door", b'{"kind":"party"}'],
        [b"facestream/v1/system/-", b'{"kind":"system","version":2}'],
        [b"facestream/v1/system/-", b"garbage"],
        [b"facestream/v1/system/-"],
        [b"facestream/v1/"],
        [b"facestream/v1/system/-", b"", b""],
        [b"facestream/v1/match/door", message(1)[1]],
        [BEATS.encode(), b"\xc1"],
        [TOPIC.encode(), encode(msgspec.structs.replace(event(1), sequence=0))],
        [TOPIC.encode(), encode(msgspec.structs.replace(event(1), sequence=2**60))],
        [TOPIC.encode(), encode(msgspec.structs.replace(event(1), previous=7))],
        [TOPIC.encode(), encode(msgspec.structs.replace(event(1), epoch=""))],
        beat(5, head=3),
    ]
    with (
        caplog.at_level(logging.WARNING),
        facing(nothing_more, [*strange, message(1)], after=None) as (impostor, seen),
    ):
        assert next(seen).sequence == 1
        impostor.live = [*strange, message(2)]
        assert next(seen).sequence == 2
        assert set(seen.skipped) == {"unknown kind", "newer version", "unreadable"}
        assert seen.skipped["unreadable"] >= 11
    ours = [record for record in caplog.records if "skipped" in record.message]
    assert len(ours) == 3, "each reason is logged once"


def test_an_event_of_an_unknown_kind_keeps_its_place_in_the_numbers() -> None:
    header = {"kind": "party", "camera": "door", "epoch": "e", "sequence": 2, "previous": None}
    party = [b"facestream/v1/party/door", msgspec.json.encode(header)]
    live = [message(1), party, message(3)]
    with facing(nothing_more, live, after=None) as (_, seen):
        assert [next(seen).sequence for _ in range(2)] == [1, 3]  # a gap would not be filled


def next_event(seen: Subscription) -> AnyEvent:
    """The next event, behind whatever was lost."""
    while True:
        try:
            return next(seen)
        except EventsLost:
            continue


@pytest.mark.parametrize(
    "answers",
    [
        lambda request: [b"", b"\xc1garbage", b"\x81"],
        lambda request: [msgspec.msgpack.encode({"type": "party", "number": 1})],
        lambda request: [done(request, 9, epoch="")],
        lambda request: [done(request, -1)],
        lambda request: [refused(request, "busy")],
        lambda request: [refused(request, "malformed")],
        lambda request: [refused(request, "expired", oldest=0)],
        lambda request: [refused(request, "epoch", epoch="")],
        lambda request: [refused(request, "busy", number=-1)],
    ],
)
def test_a_gap_that_no_answer_fills_is_given_up(answers: Reply) -> None:
    with facing(answers, [message(2)], replay_timeout=1.0) as (impostor, seen):
        assert next_event(seen).sequence == 2
        assert len(impostor.questions) < 20
        assert seen.skipped


def test_a_replay_that_repeats_and_invents_gives_every_event_once() -> None:
    def reply(request: ReplayRequest) -> list[Answer | bytes]:
        other = ReplayEvents(number=request.number, payloads=(message(4, "other")[1], b"\xc1"))
        before = events(msgspec.structs.replace(request, number=request.number - 1), 9)
        answers = [before, events(request, 1, 1, 2), events(request, 2, 1), other]
        return [*answers, events(request, 3), done(request, 3)]

    with facing(reply) as (impostor, seen):
        assert [next(seen).sequence for _ in range(3)] == [1, 2, 3]
        impostor.live = [message(4)]
        assert next(seen).sequence == 4
        assert seen.skipped["out of order"] == 4 and seen.skipped["unreadable"] == 1


def test_numbers_that_nobody_can_fill_do_not_make_it_ask_all_the_time() -> None:
    live = [message(1), beat(10**9), message(10**9)]

    def reply(request: ReplayRequest) -> list[Answer | bytes]:
        return [events(request, 1), done(request, 1)] if not request.after else [done(request, 1)]

    with facing(reply, live, timeout=3.0) as (impostor, seen):
        started = time.monotonic()
        assert [event.sequence for event in seen] == [1]
        assert len(impostor.questions) < 10 + 2 * (time.monotonic() - started)


def test_a_journal_that_changes_all_the_time_costs_an_error_each() -> None:
    def reply(request: ReplayRequest) -> list[Answer | bytes]:
        return [refused(request, "epoch", epoch=f"e{request.number}")]

    with facing(reply) as (_, seen):
        for _ in range(5):
            with pytest.raises(EventsLost) as caught:
                next(seen)
            assert caught.value.reason == "epoch"


def test_an_oversized_message_costs_the_connection_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_sockets, "LARGEST_EVENT", 10_000)
    monkeypatch.setattr(client_sockets, "MEND_SECONDS", 0.2)
    large = [TOPIC.encode(), b"x" * 20_000]
    live = [message(1), large]
    with facing(nothing_more, live) as (impostor, seen):
        assert next(seen).sequence == 1
        impostor.live = [message(2)]
        assert next(seen).sequence == 2


def test_a_newer_protocol_is_told() -> None:
    with (
        facing(nothing_more, [beat(0, version=2)]) as (_, seen),
        pytest.raises(VersionTooNew, match="update facestream here"),
    ):
        next(seen)
    with (
        facing(lambda request: [refused(request, "version")]) as (_, seen),
        pytest.raises(VersionTooNew, match="update facestream there"),
    ):
        next(seen)


@contextmanager
def tcp_server(greeting: bytes) -> Iterator[str]:
    """A server that sends a greeting and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as connections:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.enter_context(connection)
                connection.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10])
def test_a_server_of_another_protocol_gives_no_events(greeting: bytes) -> None:
    with tcp_server(greeting) as endpoint, subscribe(endpoint, timeout=0.5) as seen:
        assert list(seen) == []


def test_a_handshake_that_makes_no_sense_is_told() -> None:
    with (
        tcp_server(b"\xff" * 80) as endpoint,
        subscribe(endpoint, timeout=PATIENCE) as seen,
        pytest.raises(PublishError),
    ):
        next(seen)
