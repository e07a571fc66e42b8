"""The thread that sends: heartbeats, rights, revocation, retention, hostile peers, its end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import zmq

from facestream import JournalError, PublishError
from facestream.configs.schema import AccessConfig, PublishConfig
from facestream.stream.access import Access
from facestream.stream.events import AnyEvent, System, decode, encode
from facestream.stream.journal import EXPIRE_PAGE, Journal
from facestream.stream.keys import KeyStore, load_pair
from facestream.stream.protocol import (
    Answer,
    Heartbeat,
    ReplayCredit,
    ReplayDone,
    ReplayEvents,
    ReplayRefused,
    ReplayRequest,
    replay_of,
)
from facestream.stream.publish import Publisher
from facestream.stream.subscriptions import Subscriptions

from .wire import NOW, sighting

CONFIG = PublishConfig("tcp://127.0.0.1:*")
Socket = zmq.Socket[bytes]


def system(number: int, detail: str = "") -> System:
    return System(id=f"s-{number}", camera="-", decided_at=NOW, state="started", detail=detail)


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.01)


class Peer:
    """A subscriber as bare as can be; an XSUB socket, which sends whatever it is told."""

    def __init__(self, context: zmq.Context[Socket], endpoint: str, key: Path | None = None):
        self.socket = self._socket(context, zmq.XSUB, key)
        self.socket.connect(endpoint)
        self.asking = self._socket(context, zmq.DEALER, key)
        self.asking.connect(replay_of(endpoint))

    def _socket(self, context: zmq.Context[Socket], kind: int, key: Path | None) -> Socket:
        made = context.socket(kind)
        made.linger, made.sndhwm, made.reconnect_ivl = 0, 0, 20
        if key is not None:
            pair = load_pair(key)
            made.curve_publickey = pair.public.encode()
            made.curve_secretkey = pair.secret.encode()
            made.curve_serverkey = pair.server.encode()
        return made

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.asking.close()

    def subscribe(self, *topics: str | bytes) -> None:
        for topic in topics:
            self.socket.send(b"\x01" + (topic.encode() if isinstance(topic, str) else topic))

    def next(self) -> tuple[str, bytes]:
        assert self.socket.poll(30_000), "nothing came"
        topic, payload = self.socket.recv_multipart()
        return topic.decode(), payload

    def event(self) -> AnyEvent:
        """The next message that is no heartbeat."""
        while True:
            topic, payload = self.next()
            if not topic.startswith("facestream/v1/heartbeat/"):
                return decode(payload)

    def waiting(self, milliseconds: int) -> set[str]:
        """Ids of the events that are there, or come by then."""
        found = set[str]()
        while self.socket.poll(0 if found else milliseconds):
            topic, payload = self.next()
            if not topic.startswith("facestream/v1/heartbeat/"):
                found.add(decode(payload).id)
        return found

    def until(self, identifier: str) -> list[str]:
        """Ids of events up to the one named."""
        found = [self.event().id]
        while found[-1] != identifier:
            found.append(self.event().id)
        return found

    def ask(self, *topics: str) -> Answer:
        question = ReplayRequest(number=1, epoch="", after=0, credit=100, topics=topics)
        self.asking.send(msgspec.msgpack.encode(question))
        return self.answer()

    def answer(self) -> Answer:
        assert self.asking.poll(30_000), "no answer came"
        answer: Answer = msgspec.msgpack.decode(self.asking.recv(), type=Answer)
        return answer


@contextmanager
def by_hand(endpoint: str) -> Iterator[socket.socket]:
    """A connection after the handshake of ZMTP 3.0, for what no ZeroMQ socket would send."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32))
        ready = b"\x05READY\x0bSocket-Type" + (3).to_bytes(4, "big") + b"SUB"
        raw.sendall(b"\x04" + bytes([len(ready)]) + ready)
        yield raw


def joined(peer: Peer, publisher: Publisher, camera: str = "-") -> None:
    """Publish until the peer hears it, and nothing more is under way to it.

    What it heard before does not count: it may be connecting again.
    """
    number, sent = 10_000_000, set[str]()
    while not sent & peer.waiting(20):
        number += 1
        sent.add(publisher.publish(sighting(number, camera)).id)
        assert number < 10_003_000, "the peer never heard the publisher"
    last = publisher.publish(sighting(number + 1, camera)).id
    peer.until(last)


EVENTS = "facestream/v1/sighting.started/"
BEATS = "facestream/v1/heartbeat/sighting.started/"


@pytest.mark.parametrize("form", ["msgpack", "json"])
def test_heartbeats_say_how_far_each_topic_has_come(
    journal: Journal, context: zmq.Context[Socket], form: str
) -> None:
    journal.append_many([sighting(1), sighting(2), sighting(1, "hall")])  # of an earlier run
    config = replace(CONFIG, heartbeat_seconds=0.05, format=form)  # type: ignore[arg-type]
    with Publisher(journal, config) as publisher, Peer(context, publisher.endpoint) as peer:
        peer.subscribe("facestream/v1/heartbeat/")
        publisher.publish(system(1))
        decoder = msgspec.json if form == "json" else msgspec.msgpack
        found: dict[str, Heartbeat] = {}
        while len(found) < 3:
            topic, payload = peer.next()
            found[topic] = decoder.decode(payload, type=Heartbeat)
        publisher.publish(sighting(3))
        door = "facestream/v1/heartbeat/sighting.started/door"
        while found[door].newest == 2:
            topic, payload = peer.next()
            found[topic] = decoder.decode(payload, type=Heartbeat)
        assert found[door] == Heartbeat(
            epoch=journal.epoch,
            topic="facestream/v1/sighting.started/door",
            newest=5,
            head=5,
            oldest=1,
            interval=0.05,
        )
        assert found["facestream/v1/heartbeat/sighting.started/hall"].newest == 3
        assert found["facestream/v1/heartbeat/system/-"].newest == 4


def test_a_topic_that_nothing_is_left_of_has_no_heartbeat_and_its_events_still_count(
    journal: Journal, context: zmq.Context[Socket]
) -> None:
    journal.append_many([sighting(1, f"clip-{number}") for number in range(50)])
    journal.expire(datetime.now(UTC) + timedelta(days=2), keep_days=1, keep_bytes=None)
    journal.append(sighting(1))
    config = replace(CONFIG, heartbeat_seconds=0.05)
    with Publisher(journal, config) as publisher, Peer(context, publisher.endpoint) as peer:
        peer.subscribe("facestream/v1/heartbeat/")
        beats = [msgspec.msgpack.decode(peer.next()[1], type=Heartbeat) for _ in range(3)]
        assert {beat.topic for beat in beats} == {"facestream/v1/sighting.started/door"}
        assert {(beat.newest, beat.head, beat.oldest) for beat in beats} == {(51, 51, 51)}


def test_a_heartbeat_never_tells_of_an_event_that_was_not_sent_before(
    journal: Journal, context: zmq.Context[Socket]
) -> None:
    config = replace(CONFIG, heartbeat_seconds=0.001)
    with Publisher(journal, config) as publisher, Peer(context, publisher.endpoint) as peer:
        peer.subscribe("facestream/v1/")
        joined(peer, publisher)
        writing = threading.Thread(
            target=lambda: [publisher.publish(sighting(n)) for n in range(100)]
        )
        newest = journal.newest
        beats = 0
        writing.start()
        while newest < publisher.journal.newest or writing.is_alive() or not beats:
            topic, payload = peer.next()
            if topic.startswith("facestream/v1/heartbeat/"):
                beats += 1
                head = msgspec.msgpack.decode(payload, type=Heartbeat).head
                assert head <= newest
            else:
                newest = max(newest, decode(payload).sequence)
        writing.join(30)
        assert beats


def test_any_port_means_two_ports_that_follow_each_other(journal: Journal) -> None:
    with Publisher(journal, CONFIG) as publisher:
        assert publisher.replay_endpoint == replay_of(publisher.endpoint)


def test_the_replay_endpoint_can_be_chosen(journal: Journal, tmp_path: Path) -> None:
    with Publisher(journal, replace(CONFIG, replay=f"ipc://{tmp_path}/r")) as publisher:
        assert publisher.replay_endpoint == f"ipc://{tmp_path}/r"


def test_a_replay_port_in_use_is_named_with_its_setting(journal: Journal) -> None:
    with Publisher(journal, CONFIG) as free:
        endpoint, port = free.endpoint, int(free.replay_endpoint.rpartition(":")[2])
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(PublishError, match=rf"publish.replay .*: port {port} is in use"),
    ):
        Publisher(journal, PublishConfig(endpoint))
    Publisher(journal, PublishConfig(endpoint)).close()  # the first port was let go


def test_retention_is_applied_at_start_and_publishing_goes_on_meanwhile(journal: Journal) -> None:
    count = 6 * EXPIRE_PAGE
    journal.append_many([system(n) for n in range(count)])
    with Publisher(journal, replace(CONFIG, keep_megabytes=1e-6)) as publisher:
        between = 0
        while publisher.journal.oldest <= count:
            between += 1
            publisher.publish(sighting(between))
        assert between > 1


def test_retention_by_age_is_applied_where_nothing_is_published(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = msgspec.structs.replace(
        system(1), sequence=1, epoch=journal.epoch, published_at=NOW - timedelta(days=400)
    )
    journal.append(system(1))
    journal._db.execute("UPDATE events SET payload = ?", (encode(old),))
    with Publisher(journal, PublishConfig("", keep_days=300.0)) as publisher:
        assert journal.oldest == 2
        publisher.publish(system(2))
        journal._db.execute("UPDATE events SET payload = ?", (encode(old),))
        publisher.publish(system(3))
        assert journal.oldest == 2  # it was looked at just now
        monkeypatch.setattr("facestream.stream.publish.RETENTION_SECONDS", 0.0)
        publisher._retention = 0.0
        publisher.publish(system(4))
        assert journal.oldest == 3


def test_what_ends_the_thread_is_raised_by_the_next_publish(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr("facestream.stream.broker.Broker._expire", broken)
    with Publisher(journal, CONFIG) as publisher:
        with pytest.raises(PublishError, match=r"publishing stopped .*broken on purpose"):
            for number in range(100_000):
                publisher.publish(sighting(number))
        newest = journal.newest
        with pytest.raises(PublishError, match="start again"):
            publisher.publish(sighting(-1))
        assert journal.newest == newest  # nor is it stored
    Publisher(journal, PublishConfig("")).close()


def test_a_journal_that_fails_in_the_thread_is_raised_as_such(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    with Publisher(journal, CONFIG) as publisher:
        journal.close()
        with pytest.raises(JournalError, match="closed"):
            publisher.publish(sighting(1))


def test_hostile_subscribers_are_counted_and_change_nothing_for_a_good_one(
    journal: Journal, context: zmq.Context[Socket]
) -> None:
    with (
        Publisher(journal, CONFIG) as publisher,
        Peer(context, publisher.endpoint) as good,
        Peer(context, publisher.endpoint) as hostile,
    ):
        good.subscribe(EVENTS)
        joined(good, publisher, "door")
        hostile.subscribe("facestream/v2/match/", b"\xff\xfe\x00", "x" * 30_000, "")
        hostile.subscribe(*(os.urandom(40) for _ in range(3000)))
        for content in (b"", b"hello", b"\x07" * 1000, b"\x00never", b"\x00" * 5000):
            hostile.socket.send(content)
        hostile.socket.send_multipart([b"a", b"\x01b", b"\x00c", b""])
        stored = publisher.publish_many([sighting(n) for n in range(500)])
        assert good.until(stored[-1].id) == [event.id for event in stored]
        counts = publisher.refused["publish.endpoint"]
        wait_until(lambda: publisher.refused["publish.endpoint"].get("no subscription", 0) >= 5)
        counts = publisher.refused["publish.endpoint"]
        assert counts["oversized"] == 1 and counts["unknown topic"] >= 3002
        with by_hand(publisher.endpoint) as too_large:
            too_large.sendall(b"\x02" + (1_000_000).to_bytes(8, "big") + b"\x01")
            too_large.settimeout(30)
            while too_large.recv(4096):  # until the publisher ends the connection
                pass
        stored = publisher.publish_many([sighting(n) for n in range(500, 600)])
        assert good.until(stored[-1].id) == [event.id for event in stored]


def test_garbage_on_the_ports_themselves_changes_nothing(
    journal: Journal, context: zmq.Context[Socket]
) -> None:
    with Publisher(journal, CONFIG) as publisher, Peer(context, publisher.endpoint) as good:
        good.subscribe(EVENTS)
        joined(good, publisher, "door")
        for endpoint in (publisher.endpoint, publisher.replay_endpoint):
            port = int(endpoint.rpartition(":")[2])
            for content in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70, os.urandom(5000)):
                with socket.create_connection(("127.0.0.1", port)) as raw:
                    raw.sendall(content)
        stored = publisher.publish_many([sighting(n) for n in range(50)])
        assert good.until(stored[-1].id) == [event.id for event in stored]
        assert isinstance(good.ask(), ReplayEvents)


class Keyed(NamedTuple):
    """A publisher that asks for keys, two keys, and the store to revoke them in."""

    publisher: Publisher
    store: KeyStore
    keys: dict[str, Path]


@contextmanager
def keyed(
    journal: Journal, context: zmq.Context[Socket], folder: Path, **rights: tuple[str, ...]
) -> Iterator[Keyed]:
    store = KeyStore(folder / "keys")
    (folder / "carried").mkdir()
    keys = {
        name: store.create(name, "subscriber", topics, folder / "carried")[1]
        for name, topics in rights.items()
    }
    config = replace(CONFIG, heartbeat_seconds=0.1)
    with (
        Access(AccessConfig(str(folder / "keys")), context) as access,
        Publisher(journal, config, context, access) as publisher,
    ):
        yield Keyed(publisher, store, keys)


def test_a_key_reads_what_it_has_a_right_to(
    journal: Journal, context: zmq.Context[Socket], tmp_path: Path
) -> None:
    rights = {"whole": ("*",), "hall": ("sighting.started/hall",)}
    with (
        keyed(journal, context, tmp_path, **rights) as (publisher, _, keys),
        Peer(context, publisher.endpoint, keys["whole"]) as whole,
        Peer(context, publisher.endpoint, keys["hall"]) as hall,
    ):
        whole.subscribe("facestream/v1/")
        hall.subscribe("", "facestream/v1/", EVENTS, f"{EVENTS}door", "facestream/v1/heartbeat/")
        hall.subscribe(f"{EVENTS}hall", "facestream/v1/heartbeat/sighting.started/hall")
        joined(whole, publisher, "door")
        joined(hall, publisher, "hall")
        assert publisher.refused["publish.endpoint"] == {"not allowed": 5}
        publisher.publish_many([sighting(1, "door"), sighting(1, "hall"), system(1)])
        assert [whole.until("s-1")[-3:], hall.event().id] == [
            ["door-1", "hall-1", "s-1"],
            "hall-1",
        ]
        for _ in range(3):
            assert hall.next()[0] == "facestream/v1/heartbeat/sighting.started/hall"

        refused = hall.ask()
        assert isinstance(refused, ReplayRefused) and refused.reason == "not allowed"
        refused = hall.ask(f"{EVENTS}hall", EVENTS)
        assert isinstance(refused, ReplayRefused) and refused.reason == "not allowed"
        allowed = hall.ask(f"{EVENTS}hall")
        assert isinstance(allowed, ReplayEvents)
        assert {decode(payload).camera for payload in allowed.payloads} == {"hall"}
        assert isinstance(whole.ask(), ReplayEvents)


def test_a_right_to_one_camera_is_none_to_another_whose_name_begins_so(
    journal: Journal, context: zmq.Context[Socket], tmp_path: Path
) -> None:
    rights = {
        "door": ("sighting.started/door",),
        "doors": ("sighting.started/door*",),
        "hall": ("sighting.started/hall",),
    }
    with (
        keyed(journal, context, tmp_path, **rights) as (publisher, _, keys),
        Peer(context, publisher.endpoint, keys["door"]) as door,
        Peer(context, publisher.endpoint, keys["doors"]) as doors,
        Peer(context, publisher.endpoint, keys["hall"]) as hall,
    ):
        for peer, camera in ((door, "door"), (doors, "door"), (hall, "hall")):
            peer.subscribe(f"{EVENTS}{camera}", f"{BEATS}{camera}")
            joined(peer, publisher, camera)
        assert publisher.refused["publish.endpoint"] == {}
        question = ReplayRequest(number=1, epoch="", after=0, credit=0, topics=(f"{EVENTS}door",))
        door.asking.send(msgspec.msgpack.encode(question))
        # From here on "door" means two cameras to ZeroMQ, and the key may have but one of them.
        publisher.publish_many([sighting(1, "door-2"), sighting(1, "hall"), sighting(2, "door")])
        joined(hall, publisher, "hall")
        joined(doors, publisher, "door-2")
        heard = []  # up to the end of its subscriptions, which it makes again while it listens
        while publisher.refused["publish.endpoint"].get("not allowed", 0) < 2 or door.socket.poll(
            0
        ):
            if door.socket.poll(50):
                heard.append(door.next()[0])
        assert set(heard) <= {f"{EVENTS}door", f"{BEATS}door"}

        more = ReplayCredit(number=1, credit=1000)
        door.asking.send(msgspec.msgpack.encode(more))
        read: list[AnyEvent] = []
        while not isinstance(answer := door.answer(), ReplayDone):
            assert isinstance(answer, ReplayEvents)
            read += map(decode, answer.payloads)
        assert {event.camera for event in read} == {"door"} and read[-1].frame == 2
        assert not door.socket.poll(300)
        answer = door.ask(f"{EVENTS}door")
        assert isinstance(answer, ReplayRefused) and answer.reason == "not allowed"
        allowed = doors.ask(f"{EVENTS}door")
        assert isinstance(allowed, ReplayEvents)
        assert {decode(payload).camera for payload in allowed.payloads} == {"door", "door-2"}


def test_what_was_unsubscribed_is_not_sent(
    journal: Journal, context: zmq.Context[Socket], tmp_path: Path
) -> None:
    with (
        keyed(journal, context, tmp_path, whole=("*",)) as (publisher, _, keys),
        Peer(context, publisher.endpoint, keys["whole"]) as peer,
    ):
        peer.subscribe(f"{EVENTS}door", f"{EVENTS}hall")
        joined(peer, publisher, "door")
        peer.socket.send(b"\x00" + f"{EVENTS}hall".encode())
        peer.subscribe(f"{EVENTS}attic")
        joined(peer, publisher, "attic")
        publisher.publish_many([sighting(1, "hall"), sighting(1, "door")])
        assert peer.event().id == "door-1"


def test_a_message_that_is_no_subscription_lends_nobody_the_rights_of_another(
    journal: Journal,
    context: zmq.Context[Socket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All that two peers send before it is read lies in one queue, in the order sent.
    reading = threading.Event()
    reading.set()
    receive = Subscriptions.receive

    def held_back(self: Subscriptions) -> None:
        if reading.is_set():
            receive(self)

    monkeypatch.setattr(Subscriptions, "receive", held_back)
    rights = {"whole": ("*",), "hall": ("sighting.started/hall",)}
    with (
        keyed(journal, context, tmp_path, **rights) as (publisher, _, keys),
        Peer(context, publisher.endpoint, keys["whole"]) as whole,
        Peer(context, publisher.endpoint, keys["hall"]) as hostile,
    ):
        hostile.subscribe(f"{EVENTS}hall")
        joined(hostile, publisher, "hall")
        reading.clear()
        pause = threading.Event()
        hostile.socket.send(b"no subscription")
        pause.wait(0.2)
        whole.subscribe(f"{EVENTS}door")
        pause.wait(0.2)
        hostile.subscribe("facestream/v1/nothing")
        pause.wait(0.2)
        reading.set()
        # What was lost to the hostile peer comes back by itself: everybody connects again.
        joined(whole, publisher, "door")
        joined(hostile, publisher, "hall")
        publisher.publish_many([sighting(1, "door"), sighting(1, "hall")])
        assert whole.until("door-1")[-1] == "door-1"
        assert hostile.event().id == "hall-1"
        assert publisher.refused["publish.endpoint"]["no subscription"] == 1


def test_revoking_a_key_ends_its_connections_and_no_others_for_long(
    journal: Journal, context: zmq.Context[Socket], tmp_path: Path
) -> None:
    with (
        keyed(journal, context, tmp_path, good=("*",), gone=("*",)) as (publisher, store, keys),
        Peer(context, publisher.endpoint, keys["good"]) as good,
        Peer(context, publisher.endpoint, keys["gone"]) as gone,
    ):
        for peer in (good, gone):
            peer.subscribe(EVENTS)
            joined(peer, publisher, "door")
        endpoints = publisher.endpoint, publisher.replay_endpoint
        store.revoke("gone")
        deadline, number = time.monotonic() + 60, 0
        publisher.publish(sighting(number))
        while gone.socket.poll(1000):  # until it hears nothing more
            assert time.monotonic() < deadline, "the revoked key is still served"
            gone.socket.recv_multipart()
            number += 1
            last = publisher.publish(sighting(number)).id
        joined(good, publisher, "door")
        assert not gone.socket.poll(100)
        assert isinstance(good.ask(), ReplayEvents)
        with suppress(zmq.Again):  # libzmq has given the connection up, or still tries
            gone.asking.send(b"anybody?", zmq.DONTWAIT)
        assert not gone.asking.poll(300)
        assert (publisher.endpoint, publisher.replay_endpoint) == endpoints
        assert last in {event.id for event in journal.read()}
