"""ZeroMQ endpoints as people write them: what may be listened on, and what connected to."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from pathlib import Path

from .. import PublishError

SUN_PATH_MOST = 107
_TCP = re.compile(r"(?P<host>\[[^\]]+\]|[^:/\s\[\]]+):(?P<port>\*|[0-9]{1,5})")


def check_bind(endpoint: str, setting: str, beyond_loopback: bool) -> str:
    """The address to bind for an endpoint: localhost becomes 127.0.0.1, port 0 becomes *.

    Accepted: tcp://HOST:PORT (PORT may be *), ipc://PATH where nothing else lies, inproc://NAME.
    setting: the key of the configuration that holds the endpoint, for messages.
    Raises PublishError where it is malformed, in use, or beyond loopback without leave.
    """
    scheme, rest = _split(endpoint, setting)
    if scheme == "ipc":
        _check_socket_file(rest, endpoint, setting)
    if scheme != "tcp":
        return endpoint
    host, port = split_tcp(endpoint, setting)
    if not beyond_loopback and not is_loopback(host):
        raise PublishError(
            f"{setting} {endpoint} would listen beyond this machine, where anybody could read who "
            "was seen: use 127.0.0.1 or [::1], or make keys first (`facestream keys new NAME`)"
        )
    return f"tcp://{host}:{'*' if port == '0' else port}"


def check_connect(endpoint: str, setting: str) -> str:
    """The endpoint as it is to be connected to. Raises PublishError where it is malformed."""
    scheme, _ = _split(endpoint, setting)
    if scheme != "tcp":
        return endpoint
    host, port = split_tcp(endpoint, setting)
    if port in ("*", "0") or host in ("*", "0.0.0.0", "[::]"):
        raise PublishError(
            f"{setting} {endpoint} can be listened on, but not connected to: give the machine's "
            "name or address and its port"
        )
    return f"tcp://{host}:{port}"


def split_tcp(endpoint: str, setting: str) -> tuple[str, str]:
    """Host (an IPv6 address in its brackets, localhost as 127.0.0.1) and port of a tcp endpoint."""
    parts = _TCP.fullmatch(endpoint.removeprefix("tcp://"))
    if parts is None or (parts["port"] != "*" and int(parts["port"]) > 65535):
        raise PublishError(
            f"{setting} must be tcp://HOST:PORT with a port of 0 to 65535 or *, got {endpoint!r}"
        )
    return "127.0.0.1" if parts["host"] == "localhost" else parts["host"], parts["port"]


def is_loopback(host: str) -> bool:
    """Whether a host, as `split_tcp` gives it, is an address of the loopback interface."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_this_machine(host: str) -> bool:
    """Whether a host, as `split_tcp` gives it, names this machine: one can bind what it means."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False  # unknown here: somewhere else, if anywhere
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False


def in_use(endpoint: str, setting: str) -> PublishError:
    """The error for an endpoint that another program has."""
    scheme, rest = _split(endpoint, setting)
    what = f"port {rest.rpartition(':')[2]}" if scheme == "tcp" else Path(rest).name
    other = " (--endpoint)" if setting == "publish.endpoint" else ""
    return PublishError(
        f"{setting} {endpoint}: {what} is in use; stop the program that has it, or choose another "
        f"endpoint{other}; tcp://127.0.0.1:* takes any free port"
    )


def _split(endpoint: str, setting: str) -> tuple[str, str]:
    scheme, found, rest = endpoint.partition("://")
    if not found or scheme not in ("tcp", "ipc", "inproc") or not rest or "\0" in rest:
        raise PublishError(
            f"{setting} must be tcp://HOST:PORT, ipc://PATH or inproc://NAME, got {endpoint!r}"
        )
    return scheme, rest


def _check_socket_file(name: str, endpoint: str, setting: str) -> None:
    """Refuse an ipc path that something else uses: ZeroMQ would delete whatever lies there."""
    if len(os.fsencode(name)) > SUN_PATH_MOST:
        raise PublishError(
            f"{setting} {endpoint}: an ipc path has at most {SUN_PATH_MOST} bytes, choose a "
            "shorter one"
        )
    path = Path(name)
    if name.startswith("@") or not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise PublishError(
            f"{setting} {endpoint}: there is a file at {path} that is no socket; choose another "
            "path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(name) == 0:
            raise in_use(endpoint, setting)
