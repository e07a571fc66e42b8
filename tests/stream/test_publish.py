"""The publisher on real sockets: journal first, loopback only, endpoints that are taken."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import zmq

from facestream import DiskFull, PublishError
from facestream.configs.schema import PublishConfig
from facestream.stream.client import subscribe
from facestream.stream.events import AnyEvent, decode
from facestream.stream.journal import Journal
from facestream.stream.publish import Publisher

from .wire import heard, repeating, sighting

ANY_PORT = "tcp://127.0.0.1:*"


@pytest.mark.parametrize("form", ["msgpack", "json"])
def test_what_is_sent_is_what_the_journal_holds(
    journal: Journal, context: zmq.Context[zmq.Socket[bytes]], form: str
) -> None:
    config = PublishConfig(ANY_PORT, format=form)  # type: ignore[arg-type]
    with Publisher(journal, config) as publisher, heard(publisher, context) as subscriber:
        stored = publisher.publish_many([sighting(n) for n in range(1, 4)])
        for event in stored:
            topic, payload = subscriber.recv_multipart()
            assert topic == b"facestream/v1/sighting.started/door"
            assert (payload[:1] == b"{") == (form == "json")
            assert decode(payload) == event
        assert list(journal.read(stored[0].sequence - 1)) == stored


@pytest.mark.parametrize("endpoint", ["inproc://events", "ipc://{folder}/events"])
def test_inproc_and_ipc_work_like_tcp(
    journal: Journal, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, endpoint: str
) -> None:
    config = PublishConfig(endpoint.format(folder=tmp_path))
    with (
        Publisher(journal, config, context) as publisher,
        subscribe(publisher.endpoint, timeout=30, context=context) as events,
        repeating(lambda: publisher.publish(sighting(1))),
    ):
        assert next(events).id == "door-1"


def test_a_repeat_is_sent_again_as_it_was_stored(
    journal: Journal, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with (
        Publisher(journal, PublishConfig(ANY_PORT)) as publisher,
        heard(publisher, context) as subscriber,
    ):
        first = publisher.publish(sighting(1))
        publisher.publish(sighting(2))
        assert publisher.publish(sighting(1)) == first
        sent = [decode(subscriber.recv_multipart()[1]) for _ in range(3)]
        assert [e.id for e in sent] == ["door-1", "door-2", "door-1"]
        assert sent[2] == first


def test_nothing_is_sent_that_the_journal_did_not_take(
    journal: Journal, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with (
        Publisher(journal, PublishConfig(ANY_PORT)) as publisher,
        heard(publisher, context) as subscriber,
    ):
        (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFull):
            publisher.publish_many([sighting(n) for n in range(200)])
        assert not subscriber.poll(200)


def test_threads_may_share_a_publisher_and_the_wire_keeps_the_journals_order(
    journal: Journal,
    context: zmq.Context[zmq.Socket[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append, pauses = journal.append_many, itertools.cycle([0.003, 0.0, 0.001])

    def dawdle(events: Sequence[AnyEvent], *checkpoints: object) -> list[AnyEvent]:
        stored = append(events)
        time.sleep(next(pauses))  # room for another thread to come between storing and sending
        return stored

    monkeypatch.setattr(journal, "append_many", dawdle)
    with (
        Publisher(journal, PublishConfig(ANY_PORT)) as publisher,
        heard(publisher, context) as subscriber,
    ):

        def work(camera: str) -> None:
            for number in range(20):
                publisher.publish(sighting(number, camera))

        threads = [threading.Thread(target=work, args=(camera,)) for camera in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        sequences = [decode(subscriber.recv_multipart()[1]).sequence for _ in range(60)]
        assert sequences == list(range(sequences[0], sequences[0] + 60))


def test_an_empty_endpoint_only_journals(journal: Journal) -> None:
    with Publisher(journal, PublishConfig("")) as publisher:
        assert publisher.endpoint == ""
        assert publisher.publish(sighting(1)).sequence == 1
    assert len(list(journal.read())) == 1


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:*", "tcp://127.0.0.1:0", "tcp://localhost:*"]
)
def test_any_free_port_can_be_asked_for(journal: Journal, endpoint: str) -> None:
    with Publisher(journal, PublishConfig(endpoint)) as publisher:
        assert publisher.endpoint.startswith("tcp://127.0.0.1:")
        assert int(publisher.endpoint.rpartition(":")[2]) > 0


def test_a_port_in_use_is_named(journal: Journal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PublishError, match=f"port {port} is in use; stop the program"):
            Publisher(journal, PublishConfig(f"tcp://127.0.0.1:{port}"))


def test_an_ipc_path_in_use_is_not_taken_away_from_its_owner(
    journal: Journal, tmp_path: Path
) -> None:
    config = PublishConfig(f"ipc://{tmp_path}/events")
    with Publisher(journal, config):
        with pytest.raises(PublishError, match="events is in use"):
            Publisher(journal, config)
        assert (tmp_path / "events").is_socket()
    Publisher(journal, config).close()


def test_an_ipc_path_left_by_a_killed_process_is_taken_over(
    journal: Journal, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "events"))
    Publisher(journal, PublishConfig(f"ipc://{tmp_path}/events")).close()


def test_an_ipc_endpoint_never_deletes_a_file(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    with pytest.raises(PublishError, match=r"a file .* that is no socket"):
        Publisher(journal, PublishConfig(f"ipc://{tmp_path}/precious"))
    assert (tmp_path / "precious").read_text() == "text"


def test_an_ipc_path_that_cannot_be_is_refused(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="cannot be bound"):
        Publisher(journal, PublishConfig(f"ipc://{tmp_path}/no/such/folder"))
    with pytest.raises(PublishError, match="at most 107 bytes"):
        Publisher(journal, PublishConfig(f"ipc:///{'long' * 30}"))


def test_closing_frees_the_port_in_time_even_with_a_subscriber_that_does_not_read(
    journal: Journal, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    publisher = Publisher(journal, PublishConfig(ANY_PORT))
    with context.socket(zmq.SUB) as subscriber:
        subscriber.rcvhwm = 1
        subscriber.subscribe("")
        subscriber.connect(publisher.endpoint)
        with repeating(lambda: publisher.publish(sighting(1))):
            assert subscriber.poll(30_000)
        publisher.publish_many([sighting(n) for n in range(500)])
        closing = threading.Thread(target=publisher.close, daemon=True)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
    publisher.close()
    Publisher(journal, PublishConfig(publisher.endpoint)).close()
