"""Whoever was away, slow or late, and whose publisher was killed: all have the same events."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from facestream import ConfigError
from facestream.configs.schema import PublishConfig
from facestream.stream import broker, client_sockets
from facestream.stream.client import Subscription, asubscribe, subscribe
from facestream.stream.client_errors import EventsLost
from facestream.stream.cursor import WRITE_EVERY, Cursor, CursorFile
from facestream.stream.journal import Journal
from facestream.stream.publish import Publisher

from .wire import repeating, sighting

PATIENCE = 60.0

PUBLISHER = """
import sys, time
from facestream.configs.schema import PublishConfig
from facestream.stream.journal import Journal
from facestream.stream.publish import Publisher
from facestream.stream.events import SightingStarted
from datetime import UTC, datetime

endpoint, path, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
now = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
with Journal.open(path) as journal, Publisher(
    journal, PublishConfig(endpoint, heartbeat_seconds=0.2)
) as publisher:
    print("ready", flush=True)
    for first in range(journal.newest, last, 5):
        events = [
            SightingStarted(id=f"e-{n}", camera=f"cam{n % 3}", decided_at=now, track=n, frame=n,
                            pts=n / 25, captured_at=now)
            for n in range(first + 1, min(first + 5, last) + 1)
        ]
        publisher.publish_many(events)
        time.sleep(0.005)
    print("done", flush=True)
    sys.stdin.read()
"""

SUBSCRIBER = """
import sys, time
from facestream.stream.client import subscribe

endpoint, cursor, last, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
with subscribe(endpoint, after="oldest", cursor=cursor or None, timeout=60) as events:
    for event in events:
        print(event.sequence, flush=True)
        time.sleep(pause)
        if event.sequence == last:
            break
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a script as a process; what is left at the end is killed."""
    with ExitStack() as stack:

        def run(script: str, *arguments: object) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield run


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip() == word, line


def numbers(process: subprocess.Popen[str]) -> list[int]:
    """All that a subscriber prints until it ends."""
    assert process.stdout is not None
    return [int(line) for line in process.stdout]


def test_killed_publishers_and_subscribers_end_with_the_same_events(
    start: Start, tmp_path: Path
) -> None:
    endpoint, path, last = f"ipc://{tmp_path}/events", tmp_path / "journal.db", 1500
    cursor = tmp_path / "away.cursor"
    publisher = start(PUBLISHER, endpoint, path, last)
    wait_for(publisher, "ready")
    steady = start(SUBSCRIBER, endpoint, "", last, 0)
    slow = start(SUBSCRIBER, endpoint, "", last, 0.002)
    away = start(SUBSCRIBER, endpoint, cursor, last, 0)
    seen: list[int] = []

    def read(count: int) -> None:
        assert away.stdout is not None
        for _ in range(count):
            seen.append(int(away.stdout.readline()))

    read(300)
    away.send_signal(signal.SIGKILL)
    seen += numbers(away)
    publisher.send_signal(signal.SIGKILL)
    publisher.wait(PATIENCE)
    publisher = start(PUBLISHER, endpoint, path, last)
    wait_for(publisher, "ready")
    away = start(SUBSCRIBER, endpoint, cursor, last, 0)
    read(10)
    publisher.send_signal(signal.SIGKILL)
    publisher.wait(PATIENCE)
    publisher = start(PUBLISHER, endpoint, path, last)
    wait_for(publisher, "ready")
    wait_for(publisher, "done")
    late = start(SUBSCRIBER, endpoint, "", last, 0)
    everything = list(range(1, last + 1))
    assert numbers(steady) == everything
    assert numbers(slow) == everything
    assert numbers(late) == everything
    seen += numbers(away)
    assert sorted(set(seen)) == everything  # with a few twice: the cursor is half a second old


@pytest.fixture
def config(tmp_path: Path) -> PublishConfig:
    return PublishConfig(f"ipc://{tmp_path}/events", heartbeat_seconds=0.1)


def take(events: Subscription, count: int) -> list[int]:
    return [next(events).sequence for _ in range(count)]


def test_a_slow_subscriber_loses_nothing_however_small_the_queues(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "SEND_QUEUE", 10)
    monkeypatch.setattr(client_sockets, "RECEIVE_QUEUE", 10)
    large = "x" * 20_000  # so that the kernel's buffers hold few of them

    def send(publisher: Publisher, first: int, last: int) -> None:
        for number in range(first, last + 1):
            event = sighting(number, "hall" if number % 10 else "door")
            publisher.publish(msgspec.structs.replace(event, id=f"{number}-{large}"))

    config = PublishConfig(f"ipc://{tmp_path}/events", heartbeat_seconds=0.1)
    with Publisher(journal, config) as publisher, ExitStack() as stack:
        both = [
            stack.enter_context(
                subscribe(config.endpoint, cameras=cameras, after="oldest", timeout=PATIENCE)
            )
            for cameras in (None, ["door"])
        ]
        send(publisher, 1, 10)
        assert take(both[0], 10) == list(range(1, 11)) and take(both[1], 1) == [10]
        send(publisher, 11, 1000)
        assert take(both[0], 990) == list(range(11, 1001))
        assert take(both[1], 99) == list(range(20, 1001, 10))
        for events in both:
            assert events._catchup._number > 1, "some were lost and asked for again"
            assert not events.skipped


def test_what_was_published_while_the_publisher_was_restarted_comes(
    journal: Journal, config: PublishConfig
) -> None:
    with subscribe(config.endpoint, after="oldest", timeout=PATIENCE) as events:
        for number in range(1, 4):
            journal.append(sighting(2 * number))  # nobody is told
            with Publisher(journal, config) as publisher:
                publisher.publish(sighting(2 * number + 1))
                assert take(events, 2) == [2 * number - 1, 2 * number]


def test_a_subscriber_may_come_before_the_publisher(
    journal: Journal, config: PublishConfig
) -> None:
    numbers = itertools.count(1)
    with (
        subscribe(config.endpoint, timeout=PATIENCE) as events,
        Publisher(journal, config) as publisher,
        repeating(lambda: publisher.publish(sighting(next(numbers)))),
    ):
        first = next(events).sequence
        assert take(events, 5) == list(range(first + 1, first + 6))


def test_asyncio_catches_up_too(journal: Journal, config: PublishConfig) -> None:
    journal.append_many([sighting(number) for number in range(1, 601)])

    async def work() -> list[int]:
        async with asubscribe(config.endpoint, after="oldest", timeout=PATIENCE) as events:
            seen = [(await anext(events)).sequence for _ in range(600)]
            publisher.publish(sighting(601))
            return [*seen, (await anext(events)).sequence]

    with Publisher(journal, config) as publisher:
        assert asyncio.run(work()) == list(range(1, 602))


@pytest.fixture
def expired(journal: Journal) -> Journal:
    """A journal whose older half retention has dropped."""
    journal.append_many([sighting(number) for number in range(1, 31)])
    journal.expire(datetime.now(UTC), keep_days=None, keep_bytes=4000)
    assert 3 < journal.oldest < 28
    return journal


def test_retention_is_told_with_its_range_and_iteration_goes_on(
    expired: Journal, config: PublishConfig
) -> None:
    after = Cursor(expired.epoch, 2)
    with (
        Publisher(expired, config) as publisher,
        subscribe(publisher.endpoint, after=after, timeout=PATIENCE) as events,
    ):
        with pytest.raises(EventsLost) as caught:
            next(events)
        assert (caught.value.first, caught.value.last) == (3, expired.oldest - 1)
        assert events.cursor == after, "not behind the gap before more is asked for"
        assert take(events, 2) == [expired.oldest, expired.oldest + 1]


def test_the_oldest_is_where_the_journal_begins(expired: Journal, config: PublishConfig) -> None:
    with (
        Publisher(expired, config) as publisher,
        subscribe(publisher.endpoint, after="oldest", timeout=PATIENCE) as events,
    ):
        assert take(events, 2) == [expired.oldest, expired.oldest + 1]


def test_a_new_journal_is_told_and_read_from_its_start(
    tmp_path: Path, config: PublishConfig
) -> None:
    with subscribe(config.endpoint, after="oldest", timeout=PATIENCE) as events:
        for name in ("first", "second"):
            with Journal.open(tmp_path / name) as journal, Publisher(journal, config) as publisher:
                publisher.publish_many([sighting(1), sighting(2)])
                if name == "second":
                    with pytest.raises(EventsLost) as caught:
                        next(events)
                    assert caught.value.reason == "epoch"
                assert take(events, 2) == [1, 2]
                assert events.skipped == {}


# --- cursor files ---


def test_an_event_is_handled_once_the_next_is_asked_for(
    journal: Journal, config: PublishConfig, tmp_path: Path
) -> None:
    path = tmp_path / "me.cursor"
    with Publisher(journal, config) as publisher:
        publisher.publish_many([sighting(number) for number in range(1, 6)])
        options = {"after": "oldest", "cursor": path, "timeout": PATIENCE}
        with subscribe(config.endpoint, **options) as events:
            assert take(events, 3) == [1, 2, 3]
        assert CursorFile(path).read() == Cursor(journal.epoch, 2)
        with subscribe(config.endpoint, **options) as events:
            assert take(events, 2) == [3, 4]
            events.handled()
        with subscribe(config.endpoint, **options) as events:
            assert take(events, 1) == [5]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir() if "cursor" in file.name] == ["me.cursor"]


def test_a_cursor_is_there_before_the_first_event(
    journal: Journal, config: PublishConfig, tmp_path: Path
) -> None:
    path = tmp_path / "me.cursor"
    journal.append(sighting(1))
    with Publisher(journal, config) as publisher:
        while not path.exists():  # the first heartbeat tells where "now" is
            assert list(subscribe(config.endpoint, cursor=path, timeout=0.5)) == []
        publisher.publish(sighting(2))
        with subscribe(config.endpoint, cursor=path, timeout=PATIENCE) as events:
            assert take(events, 1) == [2]


def test_a_cursor_is_written_at_most_twice_a_second(tmp_path: Path) -> None:
    file = CursorFile(tmp_path / "me.cursor")
    assert file.due(0.0)
    file.write(Cursor("e", 1), 0.0)
    assert not file.due(WRITE_EVERY / 2) and file.due(WRITE_EVERY)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"facestream_cursor":1,"epoch":"e"}',
        b'{"facestream_cursor":1,"epoch":"","sequence":1,"topics":{}}',
        b'{"facestream_cursor":1,"epoch":"e","sequence":-1,"topics":{}}',
        b'{"facestream_cursor":1,"epoch":"e","sequence":1,"topics":{"t":-1}}',
    ],
)
def test_a_damaged_cursor_is_refused_with_advice(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "me.cursor").write_bytes(content)
    with pytest.raises(ConfigError, match=r"delete (this one|it) to begin anew"):
        subscribe("tcp://127.0.0.1:9", cursor=tmp_path / "me.cursor")


def test_a_cursor_of_a_later_version_is_refused(tmp_path: Path) -> None:
    content = b'{"facestream_cursor":2,"epoch":"e","sequence":1,"topics":{},"more":1}'
    (tmp_path / "me.cursor").write_bytes(content)
    with pytest.raises(ConfigError, match="of version 2, this facestream reads 1"):
        subscribe("tcp://127.0.0.1:9", cursor=tmp_path / "me.cursor")


def test_a_cursor_that_cannot_be_written_is_told(
    journal: Journal, config: PublishConfig, tmp_path: Path
) -> None:
    path = tmp_path / "nowhere" / "me.cursor"
    with Publisher(journal, config) as publisher:
        publisher.publish_many([sighting(1), sighting(2)])
        subscription = subscribe(config.endpoint, after="oldest", cursor=path, timeout=PATIENCE)
        with pytest.raises(ConfigError, match="make its folder writable"):
            take(subscription, 2)


def test_after_is_none_oldest_or_a_cursor() -> None:
    with pytest.raises(ConfigError, match="got 'newest'"):
        subscribe("tcp://127.0.0.1:9", after="newest")  # type: ignore[arg-type]
