"""Endpoints as people write them: what may be listened on, what connected to, and the messages."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from facestream import PublishError
from facestream.stream.endpoints import (
    check_bind,
    check_connect,
    is_loopback,
    is_this_machine,
    split_tcp,
)


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("tcp://127.0.0.2:1", "tcp://127.0.0.2:1"),
        ("tcp://[::1]:9", "tcp://[::1]:9"),
        ("tcp://localhost:0", "tcp://127.0.0.1:*"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("inproc://events", "inproc://events"),
    ],
)
def test_local_endpoints_are_taken(endpoint: str, address: str) -> None:
    assert check_bind(endpoint, "publish.endpoint", beyond_loopback=False) == address


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:5555",
        "tcp://0.0.0.0:5555",
        "tcp://[::]:5555",
        "tcp://192.0.2.1:5555",
        "tcp://eth0:5555",
        "tcp://example.com:5555",
    ],
)
def test_beyond_loopback_takes_keys_and_the_message_says_how(endpoint: str) -> None:
    with pytest.raises(PublishError, match=r"^publish\.endpoint .*`facestream keys new NAME`"):
        check_bind(endpoint, "publish.endpoint", beyond_loopback=False)
    assert check_bind(endpoint, "publish.endpoint", beyond_loopback=True) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5555",
        "127.0.0.1:5555",
        "http://127.0.0.1:5555",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://::1:5555",
        "tcp://a b:5555",
        "tcp://127.0.0.1:5555\n",
        "ipc://",
        "ipc://a\0b",
        "inproc://",
    ],
)
def test_malformed_endpoints_are_named_with_their_setting(endpoint: str) -> None:
    with pytest.raises(PublishError, match=r"^x\.y must be .*, got '"):
        check_bind(endpoint, "x.y", beyond_loopback=True)
    with pytest.raises(PublishError, match=r"^x\.y must be .*, got '"):
        check_connect(endpoint, "x.y")


def test_an_ipc_path_must_be_free_or_a_dead_socket(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("keep me")
    with pytest.raises(PublishError, match="is no socket; choose another path"):
        check_bind(f"ipc://{file}", "publish.endpoint", False)
    assert file.read_text() == "keep me"

    path = tmp_path / "events"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(PublishError, match="events is in use; stop the program that has it"):
            check_bind(f"ipc://{path}", "publish.endpoint", False)
    assert check_bind(f"ipc://{path}", "publish.endpoint", False)  # what a crash left behind

    with pytest.raises(PublishError, match="at most 107 bytes"):
        check_bind(f"ipc://{tmp_path / ('x' * 107)}", "publish.endpoint", False)


@pytest.mark.parametrize("endpoint", ["tcp://*:1", "tcp://0.0.0.0:1", "tcp://door:*", "tcp://a:0"])
def test_a_place_to_listen_is_no_place_to_connect_to(endpoint: str) -> None:
    with pytest.raises(PublishError, match="can be listened on, but not connected to"):
        check_connect(endpoint, "topology.nodes")


def test_which_machine_a_host_is() -> None:
    assert split_tcp("tcp://[::1]:9", "x") == ("[::1]", "9")
    assert is_loopback("127.3.2.1") and is_loopback("[::1]")
    assert not is_loopback("*") and not is_loopback("[::]") and not is_loopback("192.0.2.1")
    assert is_this_machine("127.0.0.1")
    assert not is_this_machine("192.0.2.1")  # kept for documents: nobody's
    assert not is_this_machine("no-such-machine.invalid")
