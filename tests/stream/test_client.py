"""The subscriber's side against a real publisher: filters, idle ends, Ctrl-C, asyncio.

What it does about lost events is in test_client_resume.py, about peers that misbehave in
test_client_hostile.py, about keys in test_client_keys.py.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import facestream
from facestream import ConfigError, PublishError
from facestream.configs.schema import PublishConfig
from facestream.stream.client import asubscribe, subscribe, topic_filters
from facestream.stream.events import AnyEvent, SightingStarted, System
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
    """On every call new events of two cameras and the publisher itself."""
    numbers = itertools.count(1)

    def send() -> None:
        number = next(numbers)
        publisher.publish_many(
            [sighting(number, "door"), sighting(number, "door2"), system(number)]
        )

    return send


def test_everything_arrives_typed(publisher: Publisher) -> None:
    with repeating(a_round(publisher)), subscribe(publisher.endpoint, timeout=30) as events:
        seen = [next(events) for _ in range(6)]
    assert {type(event) for event in seen} == {SightingStarted, System}
    assert all(event.epoch == publisher.journal.epoch for event in seen)
    first = seen[0].sequence
    assert [event.sequence for event in seen] == list(range(first, first + 6))


@pytest.mark.parametrize(
    ("kinds", "cameras", "expected"),
    [
        (["system"], None, {"s"}),
        ("system", None, {"s"}),
        (None, ["door"], {"door"}),
        (None, "door", {"door"}),
        (None, ["-", "door2"], {"s", "door2"}),
        (["sighting.started"], None, {"door", "door2"}),
        (["sighting.started", "match"], ["door", "hall"], {"door"}),
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
        assert {next(events).id.partition("-")[0] for _ in range(8)} == expected


def test_a_kind_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'matches', did you mean 'match'\?"):
        subscribe("tcp://127.0.0.1:5555", kinds=["matches"])
    with pytest.raises(ConfigError, match=r"there are sighting.started, match,"):
        topic_filters(["party"], None)


def test_a_malformed_endpoint_is_told_what_was_expected() -> None:
    with pytest.raises(PublishError, match="must be tcp://HOST:PORT"):
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
    numbers = itertools.count(1)

    def talk() -> None:
        if time.monotonic() < silence:
            publisher.publish(sighting(next(numbers), "door2"))

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


def test_asyncio_iterates_filters_and_ends_like_the_rest(publisher: Publisher) -> None:
    async def work() -> list[str]:
        async with asubscribe(publisher.endpoint, cameras=["door"], timeout=30) as events:
            seen = [(await anext(events)).camera for _ in range(3)]
        assert [event async for event in events] == []
        async with asubscribe("tcp://127.0.0.1:9", timeout=0.05) as idle:
            assert [event async for event in idle] == []
            assert [event async for event in idle] == []
        return seen

    with repeating(a_round(publisher)):
        assert asyncio.run(asyncio.wait_for(work(), 30)) == ["door"] * 3


def test_a_cancelled_wait_leaves_the_asyncio_subscription_open(publisher: Publisher) -> None:
    async def work() -> str:
        async with asubscribe(publisher.endpoint, timeout=30) as events:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.2)
            with repeating(a_round(publisher)):
                return (await anext(events)).kind

    assert asyncio.run(asyncio.wait_for(work(), 30)) in {"sighting.started", "system"}


def test_asyncio_does_not_keep_others_waiting_while_events_are_there(publisher: Publisher) -> None:
    publisher.publish_many([sighting(number) for number in range(200)])
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def work() -> int:
        task = asyncio.create_task(other())
        async with asubscribe(publisher.endpoint, after="oldest", timeout=30) as events:
            for _ in range(100):
                await anext(events)
            before = turns
            for _ in range(100):
                await anext(events)
        task.cancel()
        return turns - before

    assert asyncio.run(asyncio.wait_for(work(), 60)) >= 99


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
        assert run.stdout.readline().strip()
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


@pytest.mark.parametrize("which", [0, 2], ids=["client", "bare ZeroMQ"])
def test_the_ten_lines_of_the_documentation_work(tmp_path: Path, which: int) -> None:
    docs = (Path(facestream.__file__).parent / "docs" / "events.md").read_text()
    script = re.findall(r"```python\n(.*?)```", docs, re.DOTALL)[which]
    assert len(script.strip().splitlines()) <= 10
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, PublishConfig("tcp://127.0.0.1:*", format="json")) as publisher,
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
