"""The key store: files, rights, names, and who may read which file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import zmq.auth
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, PublishError
from facestream.stream.events import KINDS
from facestream.stream.keys import Key, KeyStore, load_pair
from facestream.stream.rights import covers, parse_right


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys")


def new(store: KeyStore, name: str, *topics: str, role: str = "subscriber") -> tuple[Key, Path]:
    return store.create(name, role, topics, store.folder.parent)  # type: ignore[arg-type]


def test_one_file_is_all_that_a_client_needs(store: KeyStore) -> None:
    key, file = new(store, "wall", "match/door", "*/hall")
    pair, server = load_pair(file), store.server()
    assert server is not None
    assert (pair.name, pair.public, pair.server) == ("wall", key.public, server.public)
    assert pair.secret not in repr(pair)
    # The form is pyzmq's own.
    assert zmq.auth.load_certificate(file) == (pair.public.encode(), pair.secret.encode())
    assert zmq.auth.load_certificate(store.folder / "server.key")[0] == server.public.encode()


def test_the_store_keeps_the_public_half_with_its_rights(store: KeyStore) -> None:
    _, file = new(store, "wall", "match/door", "facestream/v1/unknown/", "match/door")
    new(store, "box", role="node")
    keys, damaged = store.allowed()
    assert damaged == {}
    assert keys["wall"].topics == ("match/door", "unknown/*")
    assert (keys["box"].role, keys["box"].topics) == ("node", ())
    secret = load_pair(file).secret
    assert not any(secret in path.read_text() for path in store.folder.rglob("*.key*"))


def test_secrets_are_for_their_owner_alone(store: KeyStore) -> None:
    before = os.umask(0)
    try:
        _, file = new(store, "wall")
    finally:
        os.umask(before)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    for path in (file, *store.folder.rglob("*.key*")):
        assert path.stat().st_mode & 0o777 == 0o600, path
    file.chmod(0o640)
    with pytest.raises(PublishError, match=r"can be read by other users .* chmod 600 it"):
        load_pair(file)
    (store.folder / "server.key_secret").chmod(0o604)
    with pytest.raises(PublishError, match=r"server\.key_secret can be read by other users"):
        store.server()


def test_a_folder_that_others_can_write_to_lets_nobody_in(store: KeyStore) -> None:
    new(store, "wall")
    (store.folder / "allowed").chmod(0o770)
    for act in (store.allowed, store.server, lambda: store.revoke("wall")):
        with pytest.raises(PublishError, match="could let themselves in: chmod 700"):
            act()


def test_a_name_is_one_keys_until_that_is_revoked(store: KeyStore) -> None:
    first, file = new(store, "wall")
    with pytest.raises(ConfigError, match="a key called wall already: revoke it first"):
        new(store, "wall")
    store.revoke("wall")
    assert store.allowed()[0] == {}
    with pytest.raises(ConfigError, match=r"wall\.key_secret is there already: move it away"):
        new(store, "wall")
    assert store.allowed()[0] == {}  # nothing half made
    file.unlink()
    second, _ = new(store, "wall")
    assert second.public != first.public
    with pytest.raises(ConfigError, match="no key called wal; did you mean 'wall'"):
        store.revoke("wal")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "-x", "a b", "a\n", "local", "x" * 65]
)
def test_names_are_checked(store: KeyStore, name: str) -> None:
    with pytest.raises(ConfigError, match="the name of a key has"):
        new(store, name)
    assert not store.folder.exists()
    with pytest.raises(ConfigError, match="there is no key called"):
        store.revoke(name)


def test_a_node_reads_no_events(store: KeyStore) -> None:
    with pytest.raises(ConfigError, match="--topic is for --role subscriber"):
        new(store, "box", "match", role="node")


def test_keys_made_at_once_share_one_server(store: KeyStore) -> None:
    threads = [threading.Thread(target=new, args=(store, f"key{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(store.allowed()[0]) == 8
    pairs = [load_pair(store.folder.parent / f"key{n}.key_secret") for n in range(8)]
    server = store.server()
    assert server is not None and {pair.server for pair in pairs} == {server.public}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00garbage",
        b'metadata\n    role = admin\ncurve\n    public-key = "' + b"x" * 40 + b'"',
        b'metadata\n    role = node\ncurve\n    public-key = "short"',
        b'metadata\n    role = node\n    created-at = soon\ncurve\n    public-key = "'
        + b"x" * 40
        + b'"',
        b'metadata\n    role = subscriber\n    topics = nonsense/x\ncurve\n    public-key = "'
        + b"x" * 40
        + b'"',
    ],
)
def test_a_damaged_file_lets_nobody_in_and_changes_nothing_for_others(
    store: KeyStore, content: bytes
) -> None:
    new(store, "wall")
    (store.folder / "allowed" / "odd.key").write_bytes(content)
    keys, damaged = store.allowed()
    assert list(keys) == ["wall"] and list(damaged) == ["odd"]
    store.revoke("odd")
    assert store.allowed()[1] == {}


def test_this_machines_own_pair_is_made_anew_with_the_next_key(store: KeyStore) -> None:
    new(store, "door")
    server, first = store.server(), store.own()
    assert server is not None and first is not None
    (store.folder / "local.key_secret").unlink()
    new(store, "hall")
    second = store.own()
    assert second is not None and second.public != first.public
    assert (second.server, store.server()) == (server.public, server)


def test_a_key_that_others_can_write_to_lets_nobody_in(store: KeyStore) -> None:
    for name in ("door", "hall", "wall"):
        new(store, name)
    for name, mode in (("door", 0o620), ("hall", 0o602)):
        (store.folder / "allowed" / f"{name}.key").chmod(mode)
    keys, damaged = store.allowed()
    assert list(keys) == ["wall"] and list(damaged) == ["door", "hall"]
    assert "then chmod 600 it" in damaged["door"]


def test_a_folder_of_keys_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match="file cannot be read: Not a directory; set"):
        KeyStore(tmp_path / "file").stamp()


def test_a_link_to_nothing_hides_no_change_of_another_key(store: KeyStore) -> None:
    for name in ("door", "hall", "wall"):
        new(store, name)
    (store.folder / "allowed" / "odd.key").symlink_to(store.folder / "nowhere")
    for name in ("door", "hall", "wall"):
        before = store.stamp()
        store.revoke(name)
        assert store.stamp() != before


def test_a_key_that_cannot_be_carried_away_turns_no_keys_on(
    store: KeyStore, tmp_path: Path
) -> None:
    for out in (tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(PublishError, match="is no folder that can be written to"):
            store.create("wall", "subscriber", (), out)
    (tmp_path / "wall.key_secret").touch()
    with pytest.raises(ConfigError, match="is there already"):
        store.create("wall", "subscriber", (), tmp_path)
    assert store.server() is None


def test_what_is_no_secret_key_is_refused_in_words(store: KeyStore, tmp_path: Path) -> None:
    new(store, "wall")
    with pytest.raises(PublishError, match="is no secret key of facestream"):
        load_pair(store.folder / "allowed" / "wall.key")
    with pytest.raises(PublishError, match="cannot be read: No such file"):
        load_pair(tmp_path / "nobody.key_secret")


def test_a_key_for_another_machine_is_found_by_its_address(tmp_path: Path) -> None:
    there, here = KeyStore(tmp_path / "there"), KeyStore(tmp_path / "here")
    _, file = there.create("box", "node", (), tmp_path)
    assert here.peer("machine2", "6000") is None
    here.add_peer(file, "machine2")
    assert here.peer("machine2", "6000") == load_pair(file)
    _, other = there.create("box2", "node", (), tmp_path)
    here.add_peer(other, "machine2:6001")
    here.add_peer(other, "[::1]:6001")
    assert here.peer("machine2", "6001") == load_pair(other) == here.peer("[::1]", "6001")
    assert here.peers() == ["[::1]:6001", "machine2", "machine2:6001"]
    assert here.server() is None  # having somebody else's key turns no keys on here
    for address in ("", "tcp://machine2:1", "a/b", "../x", "a:b"):
        with pytest.raises(ConfigError, match="expected HOST or HOST:PORT"):
            here.add_peer(file, address)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("*", "*"),
        ("*/*", "*"),
        ("facestream/v1/", "*"),
        ("match", "match/*"),
        ("match/", "match/*"),
        ("match.revised/*", "match.revised/*"),
        ("facestream/v1/match/door", "match/door"),
        ("*/door-2", "*/door-2"),
        ("match/door*", "match/door*"),
    ],
)
def test_the_spellings_of_a_right(text: str, right: str) -> None:
    assert parse_right(text) == right


@pytest.mark.parametrize("text", ["mach/door", "heartbeat/match", "match/a/b", "match/*d", "m *"])
def test_what_is_no_right(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--topic {text.replace('*', '.')}: "):
        parse_right(text)


@pytest.mark.parametrize(
    ("right", "topic", "inside"),
    [
        ("*", "", True),
        ("match/*", "facestream/v1/match/", True),
        ("match/*", "facestream/v1/heartbeat/match/", True),
        ("match/*", "facestream/v1/match", False),  # would let match.revised through
        ("match/*", "facestream/v1/", False),
        ("match/*", "", False),
        ("match/door", "facestream/v1/match/door", True),
        ("match/door", "facestream/v1/match/door-2", False),
        ("match/door*", "facestream/v1/match/door-2", True),
        ("match/door*", "facestream/v1/match/door", True),
        ("match/door*", "facestream/v1/match/doo", False),
        ("match/door*", "facestream/v1/heartbeat/match/door", True),
        ("match/door", "facestream/v1/match/doo", False),
        ("match/door", "facestream/v1/heartbeat/match/door", True),
        ("match/door", "facestream/v1/heartbeat/", False),
        ("*/door", "facestream/v1/unknown/door", True),
        ("*/door", "facestream/v1/heartbeat/unknown/door", True),
        ("*/door", "facestream/v1/heartbeat/door", False),
        ("*/door", "facestream/v2/match/door", False),
    ],
)
def test_what_a_right_covers(right: str, topic: str, inside: bool) -> None:
    assert covers(right, topic) == inside


names = st.sampled_from(["door", "door-2", "hall", "d"])
kinds = st.sampled_from(sorted(KINDS))
topics = st.builds(
    "facestream/v1/{}{}/{}".format, st.sampled_from(["", "heartbeat/"]), kinds, names
)


rights_to = st.one_of(names, names.map("{}*".format), st.just("*"))


@given(st.one_of(kinds, st.just("*")), rights_to, topics, st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_a_subscription_lets_nothing_through_that_the_right_does_not_cover(
    kind: str, camera: str, topic: str, cut: int
) -> None:
    right = parse_right(f"{kind}/{camera}")
    if covers(right, topic[:cut]):  # the subscription, which lets the topic through
        of_kind, of_camera = topic.split("/")[-2:]
        assert kind in ("*", of_kind)
        assert of_camera.startswith(camera.removesuffix("*"))
        if topic[:cut] == topic:
            assert camera.endswith("*") or of_camera == camera
