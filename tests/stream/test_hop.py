"""Hops between nodes over real sockets: order, loss, restarts, versions, and what is no message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import pytest
import zmq

from facestream import PublishError
from facestream.configs.schema import AccessConfig
from facestream.stream.access import Access
from facestream.stream.carriers import ByReference, InMessage
from facestream.stream.flow import Begin, Done, Down, Finish, Refuse, Restart, Resume, Up, Work
from facestream.stream.hop import HOP_VERSION, Hello, envelope
from facestream.stream.hop_in import HopIn
from facestream.stream.hop_out import HopOut
from facestream.stream.packing import pack
from facestream.stream.records import Frame
from facestream.stream.ring import RingReader, RingWriter

PATIENCE = 30.0
Make = Callable[..., HopIn]


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


class Ends:
    """Makes the ends of hops, and closes them."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.context = context
        self.access = Access(AccessConfig(), context)
        self.made: list[HopIn | HopOut] = []

    def later(self, endpoint: str, *, pixels: object = InMessage, models: str = "m") -> HopIn:
        end = HopIn(
            self.access, self.context, endpoint, node="later", models=models, pixels=pixels, most=16
        )  # type: ignore[arg-type]
        self.made.append(end)
        end.start()
        return end

    def once_more(self, later: HopIn) -> HopIn:
        """Another end at the same place, as a process that was started again makes it."""
        later.close()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.later(later.endpoint)
            except PublishError:  # ZeroMQ frees an endpoint a moment after it is asked to
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def earlier(self, address: str, *, pixels: object = None, models: str = "m") -> HopOut:
        end = HopOut(
            self.access,
            self.context,
            address,
            node="earlier",
            models=models,
            pixels=pixels or InMessage(),
        )  # type: ignore[arg-type]
        self.made.append(end)
        end.start()
        return end

    def close(self) -> None:
        for end in self.made:
            end.close()
        self.access.close()


@pytest.fixture
def ends(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Ends]:
    ends = Ends(context)
    yield ends
    ends.close()


def begin(attempt: str, camera: str = "door") -> Begin:
    return Begin(camera, attempt, False, "f")


def frame(position: int, attempt: str = "a", camera: str = "door", size: int = 64) -> Work:
    image = np.full((size, size, 3), position % 256, np.uint8)
    return Work(camera, attempt, position, Frame(camera, position, 0.0, 0.0, image))


def finish(position: int, attempt: str = "a") -> Work:
    return Work("door", attempt, position, Finish("sources ended"))


def until(earlier: HopOut, later: HopIn, done: Callable[[list[Down], list[Up]], bool]) -> None:
    """Let both ends turn until what arrived is enough."""
    downs: list[Down] = []
    ups: list[Up] = []
    deadline = time.monotonic() + PATIENCE
    while not done(downs, ups):
        assert time.monotonic() < deadline, (downs, ups)
        downs += later.receive(0.01)
        earlier.send([])
        ups += earlier.collect()


def answers(earlier: HopOut, later: HopIn, count: int = 1) -> list[Up]:
    found: list[Up] = []

    def enough(_: list[Down], ups: list[Up]) -> bool:
        found[:] = ups
        return len(ups) >= count

    until(earlier, later, enough)
    return found


def works(earlier: HopOut, later: HopIn, count: int) -> list[Down]:
    found: list[Down] = []

    def enough(downs: list[Down], _: list[Up]) -> bool:
        found[:] = downs
        return len(downs) >= count

    until(earlier, later, enough)
    return found


def endpoints(tmp_path: object) -> dict[str, str]:
    return {
        "inproc": "inproc://later",
        "ipc": f"ipc://{tmp_path}/later",
        "tcp": "tcp://127.0.0.1:*",
    }


@pytest.mark.parametrize("transport", ["inproc", "ipc", "tcp"])
def test_works_arrive_in_order_and_answers_come_back(
    ends: Ends, tmp_path: object, transport: str
) -> None:
    table = ByReference()
    inproc = transport == "inproc"
    later = ends.later(
        endpoints(tmp_path)[transport], pixels=(lambda: table) if inproc else InMessage
    )
    earlier = ends.earlier(later.endpoint, pixels=table if inproc else None)
    sent = [begin("a"), *(frame(n) for n in range(20))]
    earlier.send(sent)
    got = works(earlier, later, 21)
    assert got[0] == sent[0]
    assert [(w.position, w.item.image[0, 0, 0]) for w in got[1:]] == [(n, n) for n in range(20)]
    assert (got[1] is sent[1]) == inproc  # by reference: nothing is copied
    resume = Resume("door", "a", "epoch", "1", 7, {"source": b"x"})
    later.answer([resume, Done("door", "a", 19)])
    assert answers(earlier, later, 2) == [resume, Done("door", "a", 19)]


def test_the_next_node_may_come_later(ends: Ends, tmp_path: object) -> None:
    address = endpoints(tmp_path)["ipc"]
    earlier = ends.earlier(address)
    earlier.send([begin("a"), frame(0)])
    assert earlier.collect() == []
    later = ends.later(address)
    assert len(works(earlier, later, 2)) == 2


def test_a_node_takes_works_of_several_before_it(ends: Ends) -> None:
    later = ends.later("tcp://127.0.0.1:*")
    two = [ends.earlier(later.endpoint) for _ in range(2)]
    for number, earlier in enumerate(two):
        name = f"cam{number}"
        earlier.send([begin("a", name), frame(0, camera=name)])
        works(earlier, later, 2)
    later.answer([Done("cam1", "a", 0), Done("cam0", "a", 0)])
    for number, earlier in enumerate(two):
        assert answers(earlier, later) == [Done(f"cam{number}", "a", 0)]


def test_a_next_node_that_was_started_again_has_everything_begin_again(
    ends: Ends, tmp_path: object
) -> None:
    address = endpoints(tmp_path)["ipc"]
    later = ends.later(address)
    earlier = ends.earlier(address)
    earlier.send([begin("a"), frame(0)])
    works(earlier, later, 2)
    later.answer([Done("door", "a", 0)])
    answers(earlier, later)
    again = ends.once_more(later)
    (restart,) = answers(earlier, again)
    assert isinstance(restart, Restart) and (restart.camera, restart.attempt) == ("door", "a")
    earlier.send([frame(1), begin("b"), frame(0, "b")])  # the first is of an attempt that is over
    got = works(earlier, again, 2)
    assert got[0] == begin("b") and got[1].attempt == "b"


def test_works_that_were_lost_begin_again(ends: Ends) -> None:
    """A gap in the numbers stands for a connection that broke with works under way."""
    later = ends.later("tcp://127.0.0.1:*")
    earlier = ends.earlier(later.endpoint)
    earlier.send([begin("a"), frame(0)])
    works(earlier, later, 2)
    earlier._number += 1
    earlier.send([frame(2)])
    assert [type(up) for up in answers(earlier, later)] == [Restart]
    earlier.send([begin("b"), frame(0, "b")])
    assert len(works(earlier, later, 2)) == 2


def test_answers_that_were_lost_begin_again_even_the_last(ends: Ends) -> None:
    later = ends.later("tcp://127.0.0.1:*")
    earlier = ends.earlier(later.endpoint)
    earlier.send([begin("a"), frame(0)])
    works(earlier, later, 2)
    (peer,) = later._peers.values()
    peer.number += 1  # as if an answer had gone with a connection; only a ping can tell
    assert [type(up) for up in answers(earlier, later)] == [Restart]


def test_a_camera_that_is_over_does_not_begin_again(ends: Ends, tmp_path: object) -> None:
    address = endpoints(tmp_path)["ipc"]
    later = ends.later(address)
    earlier = ends.earlier(address)
    earlier.send([begin("a"), frame(0), finish(1), begin("b", "yard")])
    works(earlier, later, 4)
    later.answer([Done("door", "a", 1)])
    answers(earlier, later)
    (restart,) = answers(earlier, ends.once_more(later))
    assert restart.camera == "yard"


def test_a_newer_attempt_ends_the_older_one(ends: Ends) -> None:
    later = ends.later("tcp://127.0.0.1:*")
    earlier = ends.earlier(later.endpoint)
    earlier.send([begin("a"), frame(0), begin("b"), frame(1, "a"), frame(0, "b")])
    got = works(earlier, later, 2)
    assert got[-1].attempt == "b" and [w for w in got if w.attempt == "a"] in ([], got[:2])
    later.answer([Done("door", "a", 0), Done("door", "b", 0)])
    assert answers(earlier, later) == [Done("door", "b", 0)]


# --- room ---


def test_frames_wait_for_room_in_shared_memory(ends: Ends, tmp_path: object) -> None:
    later = ends.later(endpoints(tmp_path)["ipc"], pixels=RingReader)
    earlier = ends.earlier(later.endpoint, pixels=RingWriter(2))
    earlier.send([begin("a"), *(frame(n) for n in range(6))])
    seen: list[int] = []
    deadline = time.monotonic() + PATIENCE
    while len(seen) < 6:
        assert time.monotonic() < deadline
        got = [down for down in later.receive(0.01) if isinstance(down, Work)]
        assert len(got) <= 2
        seen += [int(work.item.image[0, 0, 0]) for work in got]
        earlier.send([])
    assert seen == list(range(6))


def test_an_attempt_that_is_over_gives_its_room_back(ends: Ends, tmp_path: object) -> None:
    later = ends.later(endpoints(tmp_path)["ipc"], pixels=RingReader)
    earlier = ends.earlier(later.endpoint, pixels=RingWriter(2))
    earlier.send([begin("a"), *(frame(n) for n in range(6))])
    earlier.send([begin("b"), frame(0, "b")])
    got = works(earlier, later, 2)
    while got[-1].attempt != "b" or isinstance(got[-1], Begin):
        got += works(earlier, later, 1)
    assert got[-1].item.image[0, 0, 0] == 0
    assert not later.refusals.counts


def test_works_wait_for_room_in_the_table_of_references(ends: Ends) -> None:
    table = ByReference(2)
    later = ends.later("inproc://later", pixels=lambda: table)
    earlier = ends.earlier("inproc://later", pixels=table)
    earlier.send([begin("a"), *(frame(n) for n in range(6))])
    assert len(works(earlier, later, 7)) == 7


# --- what does not fit together ---


def test_another_version_is_refused_in_words(
    ends: Ends, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Both ends of other versions are told apart by the first number of every message."""
    with context.socket(zmq.ROUTER) as newer:
        newer.linger = 0
        port = newer.bind_to_random_port("tcp://127.0.0.1")
        earlier = ends.earlier(f"tcp://127.0.0.1:{port}")
        earlier.send([begin("a")])
        route, *_ = newer.recv_multipart()
        newer.send_multipart([route, msgspec.msgpack.encode([HOP_VERSION + 1, {"new": 1}])])
        assert earlier.socket.poll(PATIENCE * 1000)
        (refuse,) = earlier.collect()
        assert isinstance(refuse, Refuse)
        assert "expected version 1 of the protocol between nodes, got 2: install" in refuse.why
        earlier.send([begin("b")])
        assert [type(up) for up in earlier.collect()] == [Refuse]


def test_other_models_are_refused_in_words(ends: Ends) -> None:
    later = ends.later("tcp://127.0.0.1:*", models="pack omz")
    earlier = ends.earlier(later.endpoint, models="pack open")
    earlier.send([begin("a")])
    (refuse,) = answers(earlier, later)
    assert isinstance(refuse, Refuse)
    assert "node later at tcp://127.0.0.1" in refuse.why
    assert "runs pack omz, this one pack open: give all nodes" in refuse.why


def test_a_work_that_cannot_be_read_is_refused_and_not_asked_for_again(ends: Ends) -> None:
    later = ends.later("tcp://127.0.0.1:*")
    earlier = ends.earlier(later.endpoint)
    earlier.send([begin("a")])
    works(earlier, later, 1)
    earlier._transmit("item", [b"\xc1"])
    (refuse,) = answers(earlier, later)
    assert isinstance(refuse, Refuse) and refuse.why.startswith("later: expected a node's message")


# --- what is no message ---

PING = [envelope("x", "ping", 0), msgspec.msgpack.encode(Hello("n", "m"))]
HOSTILE = {
    "empty": [b""],
    "garbage": [b"\xc1\x00\xff"],
    "no array": [msgspec.msgpack.encode("hello")],
    "truncated": [PING[0][:-3], PING[1]],
    "no body": PING[:1],
    "two bodies": [*PING, PING[1]],
    "unknown kind": [msgspec.msgpack.encode([HOP_VERSION, "x", "shout", 0])],
    "negative number": [msgspec.msgpack.encode([HOP_VERSION, "x", "item", -1])],
    "long name": [msgspec.msgpack.encode([HOP_VERSION, "x" * 65, "ping", 0]), PING[1]],
    "an answer": [envelope("x", "item", 0), *(pack(Done("door", "a", 9), InMessage()) or [])],
    "only up": [envelope("x", "lost", 0)],
    "deep": [b"\x91" * 100_000],
    "another's work": [envelope("x", "item", 0), *(pack(frame(5), InMessage()) or [])],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_message_is_counted_and_changes_nothing(
    ends: Ends,
    context: zmq.Context[zmq.Socket[bytes]],
    what: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    later = ends.later("tcp://127.0.0.1:*")
    earlier = ends.earlier(later.endpoint)
    earlier.send([begin("a"), frame(0)])
    works(earlier, later, 2)
    with context.socket(zmq.DEALER) as hostile:
        hostile.linger = 0
        hostile.connect(later.endpoint)
        for _ in range(3):
            hostile.send_multipart(HOSTILE[what])
        hostile.send_multipart(PING)
        deadline = time.monotonic() + PATIENCE
        while not hostile.poll(0):  # the answer to the ping tells that all was read
            assert later.receive(0.01) == []
            assert time.monotonic() < deadline
        earlier.send([frame(1)])
        (work,) = works(earlier, later, 1)
    assert work.position == 1
    later.answer([Done("door", "a", 1)])
    assert answers(earlier, later) == [Done("door", "a", 1)]
    if what != "another's work":  # well made, of an attempt that its sender never began
        assert later.refusals.counts.total() >= 3
        assert sum("refused" in line for line in caplog.messages) == 1


def test_a_message_that_claims_to_be_huge_ends_its_connection_alone(
    ends: Ends, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    later = ends.later("tcp://127.0.0.1:*")
    earlier = ends.earlier(later.endpoint)
    earlier.send([begin("a")])
    works(earlier, later, 1)
    with context.socket(zmq.DEALER) as hostile:
        hostile.linger = 0
        hostile.connect(later.endpoint)
        hostile.send(bytes(65 * 2**20))
        earlier.send([frame(0)])
        works(earlier, later, 1)


def test_an_attempt_that_was_over_before_it_began_is_forgotten(
    ends: Ends, tmp_path: object
) -> None:
    later = ends.later(endpoints(tmp_path)["ipc"])
    earlier = ends.earlier(later.endpoint)
    earlier.send([begin("a"), begin("a", "yard")])
    works(earlier, later, 2)
    later.answer([Resume("door", "a", "epoch", "", 1, over=True)])
    answers(earlier, later)
    (restart,) = answers(earlier, ends.once_more(later))
    assert restart.camera == "yard"
