"""The subscriber's side against a real publisher: filters, restarts, Ctrl-C, messages of others."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

import facestream
from facestream import ConfigError, PublishError
from facestream.configs.schema import PublishConfig
from facestream.stream.client import asubscribe, subscribe, topic_filters
from facestream.stream.events import AnyEvent, SightingStarted, System, encode
from facestream.stream.journal import Journal
from facestream.stream.publish import Publisher
from facestream.tools.docs import examples

from .wire import NOW, repeating, sighting

DOCUMENTED = "tcp://127.0.0.1:5555"


def system(number: int) -> System:
    return System(id=f"s-{number}", camera="-", decided_at=NOW, state="started", detail="")


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, PublishConfig("tcp://127.0.0.1:*")) as opened,
    ):
        yield opened


def a_round(publisher: Publisher) -> Callable[[], object]:
    """The same few events of two cameras and the publisher itself, sent again on every call."""
    events: list[AnyEvent] = [sighting(1, "door"), sighting(1, "door2"), system(1)]
    return lambda: publisher.publish_many(events)


def test_everything_arrives_typed(publisher: Publisher) -> None:
    with repeating(a_round(publisher)), subscribe(publisher.endpoint, timeout=30) as events:
        seen = [next(events) for _ in range(6)]
    assert {type(event) for event in seen} == {SightingStarted, System}
    assert all(event.epoch == publisher.journal.epoch for event in seen)


@pytest.mark.parametrize(
    ("kinds", "cameras", "expected"),
    [
        (["system"], None, {"s-1"}),
        ("system", None, {"s-1"}),
        (None, ["door"], {"door-1"}),
        (None, "door", {"door-1"}),
        (None, ["-", "door2"], {"s-1", "door2-1"}),
        (["sighting.started"], None, {"door-1", "door2-1"}),
        (["sighting.started", "match"], ["door", "hall"], {"door-1"}),
    ],
)
def test_filters_let_through_what_was_asked_for(
    publisher: Publisher,
    kinds: list[str] | str | None,
    cameras: list[str] | str | None,
    expected: set[str],
) -> None:
    with (
        repeating(a_round(publisher)),
        subscribe(publisher.endpoint, kinds=kinds, cameras=cameras, timeout=30) as events,
    ):
        assert {next(events).id for _ in range(8)} == expected


def test_a_kind_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'matches', did you mean 'match'\?"):
        subscribe("tcp://127.0.0.1:5555", kinds=["matches"])
    with pytest.raises(ConfigError, match=r"there are sighting.started, match,"):
        topic_filters(["party"], None)


def test_a_malformed_endpoint_is_told_what_was_expected() -> None:
    with pytest.raises(PublishError, match="expected an endpoint like tcp:"):
        subscribe("localhost")


def test_an_idle_subscription_ends_after_its_timeout() -> None:
    subscription = subscribe("tcp://127.0.0.1:9", timeout=0.1)
    assert list(subscription) == []
    assert list(subscription) == []  # it has closed itself
    subscription.close()


def test_a_busy_neighbour_does_not_keep_an_idle_subscription_from_ending(
    publisher: Publisher,
) -> None:
    silence = time.monotonic() + 20  # that long the neighbour talks

    def talk() -> None:
        if time.monotonic() < silence:
            publisher.publish(sighting(1, "door2"))

    async def listen() -> list[AnyEvent]:
        async with asubscribe(publisher.endpoint, cameras=["door"], timeout=0.5) as events:
            return [event async for event in events]

    with repeating(talk):
        with (
            subscribe(publisher.endpoint, cameras=["door2"], timeout=30) as heard,
            subscribe(publisher.endpoint, cameras=["door"], timeout=0.5) as idle,
        ):
            assert next(heard).camera == "door2"  # the timeout is many times its pace
            assert list(idle) == []
        assert asyncio.run(listen()) == []
    assert time.monotonic() < silence


def test_a_subscriber_may_come_first_and_stays_through_a_restart(tmp_path: Path) -> None:
    config = PublishConfig(f"ipc://{tmp_path}/events")
    with (
        subscribe(config.endpoint, timeout=30) as events,
        Journal.open(tmp_path / "journal.db") as journal,
    ):
        for number in (1, 2):
            with Publisher(journal, config) as publisher:

                def send(number: int = number, publisher: Publisher = publisher) -> object:
                    return publisher.publish(sighting(number))

                with repeating(send):
                    while next(events).id != f"door-{number}":
                        pass


def test_messages_that_it_cannot_read_are_counted_and_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = [b"facestream/v1/system/-", encode(system(1))]
    strange = [
        [b"facestream/v1/party/door", b'{"kind":"party"}'],
        [b"facestream/v1/system/-", b'{"kind":"system","version":2}'],
        [b"facestream/v1/system/-", b"garbage"],
        [b"facestream/v1/system/-"],
        [b"facestream/v1/"],
        [b"facestream/v1/system/-", b"", b""],
    ]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.PUB) as other:
        other.linger = 0
        port = other.bind_to_random_port("tcp://127.0.0.1")

        def send() -> None:
            for frames in [*strange, good]:
                other.send_multipart(frames)

        with (
            caplog.at_level(logging.WARNING),
            subscribe(f"tcp://127.0.0.1:{port}", timeout=30) as events,
            repeating(send),
        ):
            assert [next(events).id for _ in range(3)] == ["s-1"] * 3
            assert set(events.skipped) == {"unknown kind", "newer version", "unreadable"}
            assert events.skipped["unreadable"] >= 2 * 4
    assert len(caplog.records) == 3, "each reason is logged once"


def test_asyncio_iterates_filters_and_ends_like_the_rest(publisher: Publisher) -> None:
    async def work() -> list[str]:
        async with asubscribe(publisher.endpoint, cameras=["door"], timeout=30) as events:
            seen = [(await anext(events)).id for _ in range(3)]
        assert [event async for event in events] == []
        async with asubscribe("tcp://127.0.0.1:9", timeout=0.05) as idle:
            assert [event async for event in idle] == []
            assert [event async for event in idle] == []
        return seen

    with repeating(a_round(publisher)):
        assert asyncio.run(asyncio.wait_for(work(), 30)) == ["door-1"] * 3


def test_a_cancelled_wait_leaves_the_asyncio_subscription_open(publisher: Publisher) -> None:
    async def work() -> str:
        async with asubscribe(publisher.endpoint, timeout=30) as events:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.2)
            with repeating(a_round(publisher)):
                return (await anext(events)).id

    assert asyncio.run(asyncio.wait_for(work(), 30)) in {"door-1", "door2-1", "s-1"}


SUBSCRIBER = """
import sys
from facestream.stream.client import subscribe

with subscribe(sys.argv[1]) as events:
    for event in events:
        print(event.id, flush=True)
"""


def test_ctrl_c_ends_a_subscriber_at_once(publisher: Publisher) -> None:
    command = [sys.executable, "-c", SUBSCRIBER, publisher.endpoint]
    with (
        repeating(a_round(publisher)),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run,
    ):
        assert run.stdout is not None
        assert run.stdout.readline().strip() in {"door-1", "door2-1", "s-1"}
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_while_nothing_comes_ends_a_subscriber_too() -> None:
    command = [sys.executable, "-X", "dev", "-c", SUBSCRIBER, "tcp://127.0.0.1:9"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        time.sleep(1.0)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGINT
    assert "ResourceWarning" not in errors


ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {"zmq", "msgspec", "facestream"} | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from facestream.stream.client import subscribe
print(next(subscribe(sys.argv[1], timeout=30)).id)
"""


def test_the_client_runs_where_only_msgspec_and_pyzmq_are_installed(publisher: Publisher) -> None:
    with repeating(a_round(publisher)):
        command = [sys.executable, "-c", ALONE, publisher.endpoint]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() in {"door-1", "door2-1", "s-1"}, done.stderr


@pytest.mark.parametrize("which", [0, 2], ids=["client", "bare ZeroMQ"])
def test_the_ten_lines_of_the_documentation_work(tmp_path: Path, which: int) -> None:
    docs = (Path(facestream.__file__).parent / "docs" / "events.md").read_text()
    script = re.findall(r"```python\n(.*?)```", docs, re.DOTALL)[which]
    assert len(script.strip().splitlines()) <= 10
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, PublishConfig("tcp://127.0.0.1:*", "json")) as publisher,
        repeating(lambda: publisher.publish_many(examples())),
        subprocess.Popen(
            [sys.executable, "-u", "-c", script.replace(DOCUMENTED, publisher.endpoint)],
            stdout=subprocess.PIPE,
            text=True,
        ) as run,
    ):
        assert run.stdout is not None
        line = run.stdout.readline()
        run.kill()
    assert "entrance ada 0.47" in line or "entrance grace 0.58" in line
