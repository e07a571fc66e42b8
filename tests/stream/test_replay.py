"""Replay over real sockets: everything once and in order, refusals, peers that misbehave."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facestream.configs.schema import PublishConfig
from facestream.stream.events import CameraState, decode, encode
from facestream.stream.journal import Journal
from facestream.stream.protocol import (
    Answer,
    ReplayCancel,
    ReplayCredit,
    ReplayDone,
    ReplayEvents,
    ReplayRefused,
    ReplayRequest,
    replay_of,
)
from facestream.stream.publish import Publisher
from facestream.stream.replay import PAGE_BYTES, PAGE_EVENTS, REQUESTS_MOST

from .wire import NOW, sighting

CONFIG = PublishConfig("tcp://127.0.0.1:*")
Socket = zmq.Socket[bytes]


@pytest.fixture
def publisher(journal: Journal) -> Iterator[Publisher]:
    with Publisher(journal, CONFIG) as opened:
        yield opened


class Asker:
    """A subscriber's side of replay, as bare as can be."""

    def __init__(self, context: zmq.Context[Socket], endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, after: int = 0, number: int = 1, credit: int = 10_000, **more: Any) -> None:
        more = {"epoch": "", **more}
        self.send(ReplayRequest(number=number, after=after, credit=credit, **more))

    def send(self, question: object) -> None:
        self.socket.send(msgspec.msgpack.encode(question))

    def answer(self) -> Answer:
        """The next answer that says anything."""
        while True:
            assert self.socket.poll(30_000), "no answer came"
            answer: Answer = msgspec.msgpack.decode(self.socket.recv(), type=Answer)
            if not isinstance(answer, ReplayEvents) or answer.payloads:
                return answer

    def silence(self, milliseconds: int = 200) -> bool:
        return not self.socket.poll(milliseconds)

    def rest(self) -> list[int]:
        """Sequences of all events up to ReplayDone."""
        found: list[int] = []
        while True:
            answer = self.answer()
            if isinstance(answer, ReplayDone):
                return found
            found += sequences(answer)


def sequences(answer: Answer) -> list[int]:
    assert isinstance(answer, ReplayEvents), answer
    return [decode(payload).sequence for payload in answer.payloads]


def refusal(answer: Answer) -> str:
    assert isinstance(answer, ReplayRefused), answer
    return answer.reason


def state(number: int, detail: str = "") -> CameraState:
    return CameraState(
        id=f"state-{number}",
        camera="door",
        decided_at=NOW,
        state="running",
        detail=detail,
        frames=number,
        dropped={},
    )


@pytest.fixture
def asker(context: zmq.Context[Socket], publisher: Publisher) -> Iterator[Asker]:
    with Asker(context, publisher.replay_endpoint) as opened:
        yield opened


@pytest.mark.parametrize(
    ("endpoint", "replay"),
    [
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"),
        ("tcp://[::1]:5555", "tcp://[::1]:5556"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("ipc:///run/events", "ipc:///run/events-replay"),
        ("inproc://events", "inproc://events-replay"),
    ],
)
def test_both_sides_find_the_replay_socket_by_one_rule(endpoint: str, replay: str) -> None:
    assert replay_of(endpoint) == replay


@pytest.mark.parametrize("form", ["msgpack", "json"])
def test_what_was_missed_comes_as_it_was_stored(
    journal: Journal, context: zmq.Context[Socket], form: str
) -> None:
    config = replace(CONFIG, format=form)  # type: ignore[arg-type]
    with Publisher(journal, config) as publisher:
        stored = publisher.publish_many([sighting(n) for n in range(5)])
        with Asker(context, publisher.replay_endpoint) as asker:
            asker.ask(after=2, number=7, epoch=journal.epoch)
            events = asker.answer()
            assert isinstance(events, ReplayEvents) and events.number == 7
            assert [decode(payload) for payload in events.payloads] == stored[2:]
            assert asker.answer() == ReplayDone(number=7, epoch=journal.epoch, head=5)


def test_nothing_missed_is_told_at_once_even_without_credit(
    asker: Asker, publisher: Publisher
) -> None:
    done = ReplayDone(number=1, epoch=publisher.journal.epoch, head=0)
    asker.ask(credit=0)
    assert asker.answer() == done
    publisher.publish(sighting(1))
    asker.ask(after=1, credit=0)
    assert asker.answer() == msgspec.structs.replace(done, head=1)


@settings(max_examples=8, deadline=None)
@given(
    events=st.lists(st.tuples(st.booleans(), st.sampled_from("ab")), max_size=30),
    share=st.floats(0, 1),
    credits=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    topics=st.sets(
        st.sampled_from(
            ["facestream/v1/", "facestream/v1/camera.state/", "facestream/v1/sighting.started/a"]
        )
    ),
)
@example(events=[(True, "a")] * 30, share=0.0, credits=[1], topics=set())
def test_whatever_the_credit_and_filter_everything_asked_for_comes_once_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[bool, str]],
    share: float,
    credits: list[int],
    topics: set[str],
) -> None:
    after = round(share * len(events))
    context: zmq.Context[Socket] = zmq.Context()
    with (
        context,
        Journal.open(tmp_path_factory.mktemp("journals") / "journal.db") as journal,
        Publisher(journal, CONFIG) as publisher,
        Asker(context, publisher.replay_endpoint) as asker,
    ):
        publisher.publish_many(
            [
                sighting(n, camera) if seen else msgspec.structs.replace(state(n), camera=camera)
                for n, (seen, camera) in enumerate(events)
            ]
        )
        expected = [e.sequence for e in journal.read(after, sorted(topics) or None)]
        more = itertools.cycle(credits)
        credit = next(more)
        asker.ask(after=after, credit=credit, topics=tuple(topics))
        found: list[int] = []
        while not isinstance(answer := asker.answer(), ReplayDone):
            found += sequences(answer)
            credit -= len(sequences(answer))
            assert credit >= 0
            if not credit:
                credit = next(more)
                asker.send(ReplayCredit(number=1, credit=credit))
        assert found == expected


def test_without_credit_nothing_is_sent(asker: Asker, publisher: Publisher) -> None:
    publisher.publish_many([sighting(n) for n in range(10)])
    asker.ask(credit=3)
    assert sequences(asker.answer()) == [1, 2, 3]
    assert asker.silence()
    asker.send(ReplayCredit(number=2, credit=100))  # of another request
    asker.send(ReplayCredit(number=1, credit=-100))
    assert asker.silence()
    asker.send(ReplayCredit(number=1, credit=4))
    assert sequences(asker.answer()) == [4, 5, 6, 7]
    asker.send(ReplayCredit(number=1, credit=2**63))
    assert asker.rest() == [8, 9, 10]


def test_pages_are_bounded_in_number_and_in_bytes(asker: Asker, publisher: Publisher) -> None:
    publisher.publish_many([state(n, "x" * 30_000) for n in range(20)])
    publisher.publish_many([sighting(n) for n in range(3 * PAGE_EVENTS)])
    publisher.publish(state(20, "x" * (PAGE_BYTES + 1)))
    asker.ask()
    found: list[int] = []
    while not isinstance(answer := asker.answer(), ReplayDone):
        assert isinstance(answer, ReplayEvents)
        assert len(answer.payloads) <= PAGE_EVENTS
        assert len(answer.payloads) == 1 or sum(map(len, answer.payloads)) <= PAGE_BYTES
        found += sequences(answer)
    assert found == list(range(1, 22 + 3 * PAGE_EVENTS))


def test_events_published_meanwhile_are_included(asker: Asker, publisher: Publisher) -> None:
    publisher.publish_many([sighting(n) for n in range(10)])
    asker.ask(credit=5)
    found = sequences(asker.answer())
    publisher.publish_many([sighting(n) for n in range(10, 20)])
    asker.send(ReplayCredit(number=1, credit=1000))
    assert found + asker.rest() == list(range(1, 21))


def test_a_new_request_takes_the_place_of_the_one_before(
    asker: Asker, publisher: Publisher
) -> None:
    publisher.publish_many([sighting(n) for n in range(10)])
    asker.ask(credit=2)
    assert sequences(asker.answer()) == [1, 2]
    asker.ask(after=7, number=2)
    answer = asker.answer()
    assert (answer.number, sequences(answer)) == (2, [8, 9, 10])
    assert asker.answer().number == 2


def test_a_cancelled_request_is_over(asker: Asker, publisher: Publisher) -> None:
    publisher.publish_many([sighting(n) for n in range(10)])
    asker.ask(credit=2)
    assert sequences(asker.answer()) == [1, 2]
    asker.send(ReplayCancel(number=1))
    asker.send(ReplayCredit(number=1, credit=100))
    assert asker.silence()


def test_another_epoch_and_an_older_copy_of_the_journal_are_told(
    asker: Asker, publisher: Publisher
) -> None:
    publisher.publish_many([sighting(n) for n in range(3)])
    epoch = publisher.journal.epoch
    asker.ask(epoch="another")
    answer = asker.answer()
    assert isinstance(answer, ReplayRefused)
    assert (answer.reason, answer.epoch, answer.oldest) == ("epoch", epoch, 1)
    asker.ask(after=4, epoch=epoch)
    assert refusal(asker.answer()) == "epoch"
    assert publisher.refused == {"publish.endpoint": {}, "publish.replay": {}}  # nobody's fault


def test_what_retention_dropped_is_told_and_the_rest_can_be_had(
    asker: Asker, publisher: Publisher
) -> None:
    stored = publisher.publish_many([sighting(n) for n in range(10)])
    each = sum(len(encode(event)) for event in stored) / 10
    asker.ask(credit=2, number=1)
    assert sequences(asker.answer()) == [1, 2]
    publisher.journal.expire(datetime.now(UTC), None, 4.5 * each)
    asker.send(ReplayCredit(number=1, credit=100))
    assert refusal(asker.answer()) == "expired"  # in the middle
    asker.ask(after=5, number=2)
    answer = asker.answer()
    assert isinstance(answer, ReplayRefused)
    assert (answer.number, answer.reason, answer.oldest) == (2, "expired", 7)
    asker.ask(after=answer.oldest - 1)
    assert asker.rest() == [7, 8, 9, 10]
    asker.ask(after=0)  # all there is
    assert asker.rest() == [7, 8, 9, 10]


def test_a_question_of_a_later_protocol_is_told_so(asker: Asker, publisher: Publisher) -> None:
    asker.ask(version=2, number=5)
    first = asker.answer()
    asker.send({"type": "request", "version": 3, "number": 6, "cursor": "of a later version"})
    second = asker.answer()
    assert [(a.number, refusal(a)) for a in (first, second)] == [(5, "version"), (6, "version")]
    assert publisher.refused["publish.replay"] == {"version": 2}


GARBAGE = [
    b"",
    b"hello",
    b"\xc1" * 100,
    b"\x93" * 10_000,
    msgspec.msgpack.encode({"type": "party", "number": 1}),
    msgspec.msgpack.encode({"type": "request"}),
    msgspec.msgpack.encode(ReplayRequest(number=1, epoch="", after=0, credit=1))[:-3],
    msgspec.msgpack.encode(ReplayRequest(number=1, epoch="", after=-1, credit=1)),
    msgspec.msgpack.encode(ReplayRequest(number=1, epoch="", after=2**64 - 1, credit=1)),
    msgspec.msgpack.encode(ReplayRequest(number=1, epoch="", after=0, credit=-1)),
    msgspec.msgpack.encode(
        ReplayRequest(number=1, epoch="", after=0, credit=1, topics=("x",) * 1001)
    ),
]


def test_bad_questions_are_counted_told_and_change_nothing_else(
    asker: Asker, publisher: Publisher, context: zmq.Context[Socket]
) -> None:
    publisher.publish_many([sighting(n) for n in range(10)])
    asker.ask(credit=5)
    assert sequences(asker.answer()) == [1, 2, 3, 4, 5]
    with Asker(context, publisher.replay_endpoint) as hostile:
        for garbage in GARBAGE:
            hostile.socket.send(garbage)
            assert refusal(hostile.answer()) == "malformed"
        for parts in ([b"", b""], [b"a"] * 1000):
            hostile.socket.send_multipart(parts)
            assert refusal(hostile.answer()) == "malformed"
    assert publisher.refused["publish.replay"] == {"malformed": len(GARBAGE) + 2}
    with Asker(context, publisher.replay_endpoint) as hostile:
        hostile.socket.send(b"x" * 10_000_000)  # libzmq ends the connection
        assert hostile.silence()
    asker.send(ReplayCredit(number=1, credit=100))
    assert asker.rest() == [6, 7, 8, 9, 10]


@settings(max_examples=20, deadline=None)
@given(garbage=st.lists(st.binary(max_size=200), max_size=10))
def test_no_bytes_stop_the_server(
    tmp_path_factory: pytest.TempPathFactory, garbage: list[bytes]
) -> None:
    context: zmq.Context[Socket] = zmq.Context()
    with (
        context,
        Journal.open(tmp_path_factory.mktemp("journals") / "journal.db") as journal,
        Publisher(journal, CONFIG) as publisher,
        Asker(context, publisher.replay_endpoint) as asker,
    ):
        publisher.publish(sighting(1))
        for content in garbage:
            asker.socket.send(content)
            assert refusal(asker.answer()) == "malformed"
        asker.ask()
        assert asker.rest() == [1]


def test_too_many_requests_are_told_to_come_later_and_those_of_peers_that_left_make_room(
    publisher: Publisher, context: zmq.Context[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facestream.stream.replay.PROBE_SECONDS", 0.2)
    publisher.publish_many([sighting(n) for n in range(3)])
    crowd = [Asker(context, publisher.replay_endpoint) for _ in range(REQUESTS_MOST)]
    for member in crowd:
        member.ask(credit=1)
        assert sequences(member.answer()) == [1]
    with Asker(context, publisher.replay_endpoint) as late:
        late.ask()
        assert refusal(late.answer()) == "busy"
        for member in crowd[1:]:
            member.__exit__()
        deadline = time.monotonic() + 30
        late.ask()
        while isinstance(answer := late.answer(), ReplayRefused):
            assert time.monotonic() < deadline, "room was never made"
            time.sleep(0.05)
            late.ask()
        assert sequences(answer) == [1, 2, 3]
    crowd[0].send(ReplayCredit(number=1, credit=5))  # who stayed is still served
    assert crowd[0].rest() == [2, 3]
    crowd[0].__exit__()


def test_a_peer_that_does_not_read_holds_up_nobody_and_loses_nothing(
    publisher: Publisher, context: zmq.Context[Socket]
) -> None:
    count = 60
    publisher.publish_many([state(n, "x" * 200_000) for n in range(count)])
    with Asker(context, publisher.replay_endpoint) as slow:
        slow.socket.close()
        slow.socket = context.socket(zmq.DEALER)
        slow.socket.linger, slow.socket.rcvhwm, slow.socket.rcvbuf = 0, 1, 4096
        slow.socket.connect(publisher.replay_endpoint)
        slow.ask()
        assert slow.socket.poll(30_000)
        for _ in range(3):
            with Asker(context, publisher.replay_endpoint) as other:
                other.ask(after=count - 2)
                assert other.rest() == [count - 1, count]
        publisher.publish(sighting(1))
        assert slow.rest() == list(range(1, count + 2))


def test_many_are_served_side_by_side(publisher: Publisher, context: zmq.Context[Socket]) -> None:
    publisher.publish_many([sighting(n) for n in range(1000)])
    askers = [Asker(context, publisher.replay_endpoint) for _ in range(20)]
    for asker in askers:
        asker.ask()
    firsts = [sequences(asker.answer()) for asker in askers]
    for asker, first in zip(askers, firsts, strict=True):
        assert first + asker.rest() == list(range(1, 1001))
        asker.__exit__()
