"""Gap detection and replay without sockets: whatever the wire loses, everything comes once."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from facestream.stream.catchup import WAITING_MOST
from facestream.stream.client_errors import NotAllowed, VersionTooNew
from facestream.stream.cursor import Cursor
from facestream.stream.events import AnyEvent
from facestream.stream.protocol import Heartbeat

from .catching import EPOCH, Publisher, Subscriber, start


def test_from_the_oldest_everything_comes_in_order_and_goes_on_live() -> None:
    publisher = Publisher()
    for _ in range(5):
        publisher.publish(lost=True)
    subscriber = start(publisher)
    publisher.publish()
    subscriber.hear()
    assert subscriber.sequences == [1, 2, 3, 4, 5, 6]
    assert len(publisher.requests) == 1


def test_from_now_on_the_first_event_is_where_it_begins() -> None:
    publisher = Publisher()
    for _ in range(5):
        publisher.publish(lost=True)
    subscriber = start(publisher, after=None)
    publisher.publish()
    publisher.publish(lost=True)
    publisher.publish()
    subscriber.hear()
    assert subscriber.sequences == [6]
    subscriber.settle()
    assert subscriber.sequences == [6, 7, 8]


def test_from_now_on_a_heartbeat_tells_where_now_is() -> None:
    publisher = Publisher()
    publisher.publish(lost=True)
    subscriber = start(publisher, after=None)
    publisher.beat()
    publisher.publish(lost=True)
    publisher.beat()
    subscriber.hear()
    subscriber.settle()
    assert subscriber.sequences == [2]


@pytest.mark.parametrize("cameras", [None, ["door"]])
def test_an_event_that_was_on_its_way_at_the_start_is_none_of_the_past(
    cameras: list[str] | None,
) -> None:
    publisher = Publisher()
    event = publisher.publish()
    subscriber = Subscriber(publisher, after=None, cameras=cameras)
    publisher.wire.clear()
    publisher.beat()  # the heartbeat overtook it
    publisher.wire += [event, event]
    subscriber.hear()
    assert subscriber.sequences == [1]


def test_with_a_filter_holes_in_the_numbers_mean_nothing() -> None:
    publisher = Publisher()
    subscriber = start(publisher, cameras=["door"])
    for camera in ("door", "hall", "hall", "door2", "door"):
        publisher.publish(camera)
    subscriber.hear()
    assert subscriber.sequences == [1, 5]
    assert len(publisher.requests) == 1, "no gap was suspected"


@pytest.mark.parametrize("cameras", [None, ["door"], ["door", "hall"]])
def test_a_gap_is_filled_before_what_comes_after_it(cameras: list[str] | None) -> None:
    publisher = Publisher()
    subscriber = start(publisher, cameras=cameras)
    publisher.publish()
    subscriber.hear()
    publisher.publish(lost=True)
    publisher.publish()
    publisher.publish()
    subscriber.hear()
    assert subscriber.sequences == [1]
    subscriber.settle()
    assert subscriber.sequences == [1, 2, 3, 4]


def test_a_heartbeat_tells_of_a_last_event_that_was_lost() -> None:
    publisher = Publisher()
    subscriber = start(publisher)
    publisher.publish(lost=True)
    publisher.beat()
    subscriber.hear()
    subscriber.answer()
    assert subscriber.sequences == [1]


def test_what_was_sent_while_the_connection_was_down_is_asked_for() -> None:
    publisher = Publisher()
    subscriber = start(publisher)
    publisher.publish(lost=True)
    subscriber.reconnect()
    subscriber.answer()
    assert subscriber.sequences == [1]


def test_a_long_silence_is_asked_about() -> None:
    publisher = Publisher()
    subscriber = start(publisher)
    publisher.publish(lost=True)
    subscriber.turn(5.5)
    subscriber.answer()
    assert subscriber.sequences == [1]
    before = len(publisher.requests)
    for _ in range(600):
        subscriber.turn(1.0)
        subscriber.answer()
    assert 5 < len(publisher.requests) - before < 20, "ever more rarely, while nothing comes"


def test_a_cursor_is_where_the_next_subscriber_goes_on() -> None:
    publisher = Publisher()
    first = start(publisher, cameras=["door"])
    for camera in ("door", "hall", "door"):
        publisher.publish(camera)
    first.hear()
    cursor = first.handled.cursor()
    assert cursor == Cursor(EPOCH, 0, {"facestream/v1/sighting.started/door": 3})
    publisher.publish(lost=True)
    second = start(publisher, cameras=["door"], after=cursor)
    assert second.sequences == [4]


def test_heartbeats_let_a_cursor_follow_topics_on_which_nothing_comes() -> None:
    publisher = Publisher()
    publisher.publish("door")
    subscriber = start(publisher, cameras=["door"])
    for _ in range(50):
        publisher.publish("hall")
    for _ in range(10):
        publisher.beat()
    subscriber.hear()
    cursor = subscriber.handled.cursor()
    assert cursor == Cursor(EPOCH, 51, {})
    assert len(publisher.requests) == 1


def test_what_waits_for_a_replay_is_bounded_and_the_rest_is_asked_for_again() -> None:
    publisher = Publisher()
    subscriber = start(publisher)
    publisher.publish(lost=True)
    for _ in range(3 * WAITING_MOST):
        publisher.publish()
    subscriber.hear()
    assert len(subscriber.catchup._waiting) == WAITING_MOST
    for _ in range(2 * WAITING_MOST):
        subscriber.answer()
    assert subscriber.sequences == list(range(1, 3 * WAITING_MOST + 2))


def test_expired_events_are_told_with_their_range_and_the_rest_comes() -> None:
    publisher = Publisher()
    for _ in range(9):
        publisher.publish(lost=True)
    publisher.oldest = 6
    subscriber = start(publisher, after=Cursor(EPOCH, 2))
    (error,) = subscriber.errors
    assert (error.reason, error.first, error.last) == ("expired", 3, 5)
    assert "events 3 to 5" in str(error)
    assert subscriber.sequences == [6, 7, 8, 9]
    assert start(publisher).sequences == [6, 7, 8, 9], "the oldest there is, is no loss"


def test_another_journal_is_told_and_begun_with_its_first_event() -> None:
    publisher = Publisher()
    publisher.publish()
    subscriber = start(publisher)
    other = Publisher("second")
    other.publish(lost=True)
    subscriber.reconnect(other)
    other.publish()
    subscriber.hear()
    subscriber.settle()
    (error,) = subscriber.errors
    assert (error.reason, error.epoch, error.first, error.last) == ("epoch", EPOCH, 2, None)
    assert [(e.epoch, e.sequence) for e in subscriber.seen] == [
        (EPOCH, 1),
        ("second", 1),
        ("second", 2),
    ]


def test_an_older_copy_of_the_journal_is_another_journal() -> None:
    publisher = Publisher()
    for _ in range(3):
        publisher.publish()
    subscriber = start(publisher)
    older = Publisher()
    older.publish(lost=True)
    subscriber.reconnect(older)
    subscriber.settle()
    assert [error.reason for error in subscriber.errors] == ["epoch"]
    assert subscriber.sequences == [1, 2, 3, 1]


def test_without_replay_live_events_come_and_gaps_are_counted() -> None:
    publisher = Publisher()
    publisher.up = False
    subscriber = Subscriber(publisher, after=None, patience=1.0)
    publisher.publish()
    subscriber.hear()
    assert subscriber.sequences == [1], "nothing waits before there is a gap"
    publisher.publish(lost=True)
    publisher.publish()
    subscriber.hear()
    assert subscriber.sequences == [1]
    subscriber.turn(1.5)
    assert subscriber.sequences == [1, 3]
    publisher.publish(lost=True)
    publisher.publish()
    publisher.beat()
    subscriber.hear()
    assert subscriber.sequences == [1, 3, 5], "and from then on nothing waits"
    assert subscriber.skipped["gap"] == 2
    publisher.up = True
    subscriber.reconnect()
    publisher.publish(lost=True)
    subscriber.settle()
    assert subscriber.sequences == [1, 3, 5, 6]


def test_a_replay_that_answered_once_and_no_more_costs_an_error() -> None:
    publisher = Publisher()
    subscriber = start(publisher, patience=2.0)
    publisher.up = False
    publisher.publish(lost=True)
    publisher.publish()
    subscriber.hear()
    subscriber.turn(3.0)
    (error,) = subscriber.errors
    assert (error.reason, error.first, error.last) == ("no answer", 1, 1)
    assert subscriber.sequences == [2]


def test_a_caller_that_was_busy_is_not_taken_for_a_silent_publisher() -> None:
    publisher = Publisher()
    subscriber = start(publisher, patience=2.0)
    publisher.publish(lost=True)
    publisher.publish()
    subscriber.hear()
    subscriber.now += 3600.0
    subscriber.turn()
    assert not subscriber.errors
    subscriber.settle()
    assert subscriber.sequences == [1, 2]
    before = len(publisher.requests)
    subscriber.now += 3600.0
    subscriber.turn()
    assert len(publisher.requests) == before


def test_endless_refusals_are_asked_ever_more_rarely() -> None:
    publisher = Publisher()
    subscriber = start(publisher, patience=1e9)
    publisher.publish(lost=True)
    publisher.publish()
    subscriber.hear()
    for _ in range(1000):
        if publisher.request is not None:
            publisher.refuse("busy")
            subscriber.catchup.answer(publisher.answers.pop(), subscriber.now)
        subscriber.turn(0.1)
    assert 10 < len(publisher.requests) < 25
    assert subscriber.skipped["refused"] == len(publisher.requests) - 1


def test_numbers_that_the_journal_does_not_know_are_dropped() -> None:
    publisher = Publisher()
    subscriber = start(publisher)
    event = publisher.publish()
    publisher.wire = [replace(event, id="x", sequence=10**9, previous=10**9 - 1), event]
    subscriber.hear()
    subscriber.settle()
    assert subscriber.sequences == [1]
    assert subscriber.skipped["not in the journal"] == 1


def test_a_question_that_nobody_answers_is_asked_again() -> None:
    publisher = Publisher()
    publisher.publish(lost=True)
    subscriber = Subscriber(publisher)
    subscriber.turn()
    first = publisher.request
    publisher.request = None  # lost with a restart
    subscriber.turn(6.0)
    assert first is not None and publisher.request is not None
    assert publisher.request.number == first.number + 1
    subscriber.settle()
    assert subscriber.sequences == [1]


@pytest.mark.parametrize(
    ("reason", "error"), [("not allowed", NotAllowed), ("version", VersionTooNew)]
)
def test_refusals_that_no_waiting_helps_against(reason: str, error: type[Exception]) -> None:
    subscriber = Subscriber(Publisher())
    subscriber.turn()
    subscriber.publisher.refuse(reason)
    with pytest.raises(error):
        subscriber.answer()


def test_a_newer_protocol_is_told() -> None:
    publisher = Publisher()
    publisher.publish(lost=True)
    publisher.beat()
    (beat,) = publisher.wire
    assert isinstance(beat, Heartbeat)
    publisher.wire = [replace(beat, version=2)]
    with pytest.raises(VersionTooNew, match="update facestream here"):
        Subscriber(publisher).hear()


CAMERAS = ["door", "hall", "yard"]
MOVES = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(CAMERAS), st.booleans()),
    st.tuples(st.just("hear"), st.integers(1, 4), st.none()),
    st.tuples(st.sampled_from(["beat", "answer", "reconnect", "restart"]), st.none(), st.none()),
)


def in_order(events: Iterable[AnyEvent]) -> bool:
    sequences = [event.sequence for event in events]
    return sequences == sorted(set(sequences))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(MOVES, max_size=60),
    st.sampled_from([None, ["door"], ["door", "hall"]]),
    st.sampled_from([2, 1000]),
)
def test_whatever_is_lost_everything_comes_once_and_each_topic_in_order(
    moves: list[tuple[str, object, object]], cameras: list[str] | None, stop_every: int
) -> None:
    publisher = Publisher()
    subscriber = start(publisher, cameras=cameras)
    seen: list[AnyEvent] = []
    for number, (what, first, second) in enumerate(moves):
        if what == "publish":
            publisher.publish(str(first), lost=bool(second))
        elif what == "hear":
            assert isinstance(first, int)
            subscriber.hear(first)
        elif what == "restart":  # the subscriber is, and goes on from its cursor
            seen += subscriber.seen
            after = subscriber.handled.cursor() or "oldest"
            publisher.wire.clear()
            publisher.answers.clear()
            subscriber = Subscriber(publisher, cameras=cameras, after=after)
        else:
            getattr(publisher if what == "beat" else subscriber, what)()
        if number % stop_every == 0:
            subscriber.turn()
    subscriber.settle()
    seen += subscriber.seen
    wanted = [e.sequence for e in publisher.journal if cameras is None or e.camera in cameras]
    assert sorted(e.sequence for e in seen) == wanted
    assert all(in_order(e for e in seen if e.camera == camera) for camera in CAMERAS)
    if cameras is None:
        assert in_order(seen)
    assert not subscriber.errors
