"""A subscriber and keys: the right one, none, another's, one without rights, a revoked one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from facestream import PublishError
from facestream.configs.schema import AccessConfig, PublishConfig
from facestream.stream.access import Access
from facestream.stream.client import asubscribe, subscribe
from facestream.stream.client_errors import KeyRefused, NotAllowed
from facestream.stream.journal import Journal
from facestream.stream.keys import KeyStore
from facestream.stream.publish import Publisher

from .wire import sighting

PATIENCE = 60.0


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys")


def make(store: KeyStore, name: str, *topics: str) -> Path:
    """A new key; the file that its owner carries away."""
    store.folder.parent.mkdir(exist_ok=True)
    _, carried = store.create(name, "subscriber", topics, store.folder.parent)
    return carried


@pytest.fixture
def me(store: KeyStore) -> Path:
    """A key that may read everything."""
    return make(store, "me")


@pytest.fixture
def publisher(store: KeyStore, me: Path, tmp_path: Path) -> Iterator[Publisher]:
    """A publisher with keys that has published one event of each of two cameras."""
    with (
        zmq.Context() as context,
        Access(AccessConfig(str(store.folder)), context) as access,
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, PublishConfig("tcp://127.0.0.1:*"), context, access) as opened,
    ):
        opened.publish_many([sighting(1, "door"), sighting(2, "hall")])
        yield opened


def test_the_right_key_reads_both_sockets(publisher: Publisher, me: Path) -> None:
    with subscribe(publisher.endpoint, key=me, after="oldest", timeout=PATIENCE) as events:
        assert [next(events).sequence for _ in range(2)] == [1, 2]
        publisher.publish(sighting(3))
        assert next(events).sequence == 3


def test_without_a_key_it_says_that_one_is_needed(publisher: Publisher) -> None:
    events = subscribe(publisher.endpoint, timeout=PATIENCE)
    with pytest.raises(KeyRefused, match=r"asks for a key.* name your key file"):
        next(events)
    assert list(events) == [], "it is over"


def test_a_key_that_is_not_on_the_list_is_refused(
    publisher: Publisher, store: KeyStore, me: Path
) -> None:
    store.revoke("me")
    with pytest.raises(KeyRefused, match="refuses the key 'me': it was revoked"):
        next(subscribe(publisher.endpoint, key=me, timeout=PATIENCE))


def test_a_key_for_another_publisher_is_told(publisher: Publisher, tmp_path: Path) -> None:
    other = make(KeyStore(tmp_path / "elsewhere" / "keys"), "stranger")
    with pytest.raises(KeyRefused, match="breaks off every handshake: the key 'stranger' was made"):
        next(subscribe(publisher.endpoint, key=other, timeout=PATIENCE))


def test_a_key_that_nobody_asked_for_is_told(me: Path, tmp_path: Path) -> None:
    open_to_all = PublishConfig("tcp://127.0.0.1:*")
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, open_to_all) as publisher,
        pytest.raises(KeyRefused, match="asks for no key"),
    ):
        next(subscribe(publisher.endpoint, key=me, timeout=PATIENCE))


def test_rights_to_some_topics_are_enough_for_these(publisher: Publisher, store: KeyStore) -> None:
    key = make(store, "doorman", "sighting.started/door")
    options = {"key": key, "after": "oldest", "timeout": PATIENCE}
    with subscribe(
        publisher.endpoint, kinds="sighting.started", cameras="door", **options
    ) as events:
        assert next(events).camera == "door"
        publisher.publish(sighting(3, "door"))
        assert next(events).sequence == 3
    with pytest.raises(NotAllowed, match="ask for fewer kinds or cameras"):
        next(subscribe(publisher.endpoint, **options))


def test_a_subscriber_from_now_on_is_told_too(publisher: Publisher, store: KeyStore) -> None:
    key = make(store, "doorman", "sighting.started/door")

    async def work() -> None:
        async with asubscribe(publisher.endpoint, key=key, timeout=PATIENCE) as events:
            await anext(events)

    with pytest.raises(NotAllowed):
        asyncio.run(work())


def test_a_key_that_is_revoked_meanwhile_ends_the_subscription(
    publisher: Publisher, store: KeyStore, me: Path
) -> None:
    with subscribe(publisher.endpoint, key=me, after="oldest", timeout=PATIENCE) as events:
        assert next(events).sequence == 1
        store.revoke("me")
        with pytest.raises(KeyRefused):
            for _ in events:
                pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no secret key of facestream"),
        ('curve\n    public-key = "short"\n', "the public-key in"),
        ("\0\n", "is no secret key of facestream"),
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "me.key_secret"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(PublishError, match=re.escape(message)):
        subscribe("tcp://127.0.0.1:9", key=path)


def test_ipc_needs_no_key(me: Path, tmp_path: Path) -> None:
    config = PublishConfig(f"ipc://{tmp_path}/events")
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, config) as publisher,
        subscribe(config.endpoint, key=me, after="oldest", timeout=PATIENCE) as events,
    ):
        publisher.publish(sighting(1))
        assert next(events).sequence == 1
