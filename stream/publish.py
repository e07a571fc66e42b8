"""Publishing: an event goes to the journal, then to whoever listens on the ZeroMQ PUB socket."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import zmq

from .. import PublishError
from ..configs.schema import PublishConfig
from .events import AnyEvent, encode
from .journal import Checkpoint, Journal

# A subscriber that falls this far behind loses events (of 1-2 KB: 10-20 MB of memory each).
SEND_QUEUE = 10_000
LINGER_MS = 1000
SUN_PATH_MOST = 107


class Publisher:
    """Journals events and sends them. Safe to share by threads: the wire keeps the journal's order.

    A subscriber that is not connected, or too slow, does not hold up anything and misses events on
    the wire; they stay in the journal.
    """

    def __init__(
        self,
        journal: Journal,
        config: PublishConfig,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        """Bind `config.endpoint`; "" publishes nowhere and only journals. The journal stays yours.

        context: given to share inproc:// endpoints with subscribers of this process; else a private
        one. Raises PublishError when the endpoint is malformed, in use, or tcp beyond loopback.
        """
        self.journal = journal
        self.endpoint = ""
        """Where the socket is bound, with the port that was really taken; "" for nowhere."""
        self._format = config.format
        self._guard = threading.Lock()
        self._socket: zmq.Socket[bytes] | None = None
        self._own_context: zmq.Context[zmq.Socket[bytes]] | None = None
        if config.endpoint:
            address = check_endpoint(config.endpoint)
            if context is None:
                context = self._own_context = zmq.Context()
            try:
                self._socket, self.endpoint = _bind(context, address, config.endpoint)
            except BaseException:
                self.close()
                raise

    def publish(self, event: AnyEvent) -> AnyEvent:
        """Journal one event, then send it; returns it as stored. Raises as `Journal.append`."""
        return self.publish_many([event])[0]

    def publish_many(
        self, events: Sequence[AnyEvent], checkpoints: Mapping[str, Checkpoint | None] = {}
    ) -> list[AnyEvent]:
        """Journal events in one transaction, then send them in order; returns them as stored.

        An event that the journal knows already is sent again as it is stored there: nobody can tell
        whether it had left when an earlier run was cut off, and its id tells subscribers.
        checkpoints: as in `Journal.append_many`, in the same transaction.
        Raises DiskFull or JournalError; then nothing of this call was stored or sent.
        """
        with self._guard:
            stored = self.journal.append_many(events, checkpoints)
            if self._socket is not None:
                for event in stored:
                    frames = [event.topic.encode(), encode(event, self._format)]
                    self._socket.send_multipart(frames, flags=zmq.DONTWAIT)  # PUB never waits
        return stored

    def close(self) -> None:
        """Send what is queued, for a second at most, and free the endpoint. Twice is no error."""
        with self._guard:
            if self._socket is not None:
                self._socket.close(linger=LINGER_MS)
                self._socket = None
            if self._own_context is not None:
                self._own_context.term()
                self._own_context = None

    def __enter__(self) -> Publisher:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def check_endpoint(endpoint: str) -> str:
    """The address to bind for an endpoint. Raises PublishError unless it is local.

    Accepted: tcp://HOST:PORT with a loopback host (PORT may be *), ipc://PATH, inproc://NAME.
    """
    scheme, found, rest = endpoint.partition("://")
    if not found or scheme not in ("tcp", "ipc", "inproc") or not rest:
        raise PublishError(
            "publish.endpoint must be tcp://127.0.0.1:PORT, ipc://PATH or inproc://NAME, "
            f"got {endpoint!r}"
        )
    if scheme == "tcp":
        return f"tcp://{_loopback(rest, endpoint)}"
    if scheme == "ipc":
        _check_socket_file(rest, endpoint)
    return endpoint


def _loopback(address: str, endpoint: str) -> str:
    """HOST:PORT of a tcp endpoint, checked; localhost becomes its number, 0 becomes *."""
    parts = re.fullmatch(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>\*|[0-9]{1,5})", address)
    if parts is None or (parts["port"] != "*" and int(parts["port"]) > 65535):
        raise PublishError(
            "publish.endpoint must be tcp://HOST:PORT with a port of 0 to 65535 or *, "
            f"got {endpoint!r}"
        )
    host = "127.0.0.1" if parts["host"] == "localhost" else parts["host"]
    try:
        local = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        local = False
    if not local:
        raise PublishError(
            f"publish.endpoint {endpoint} would listen beyond this machine, where anybody could "
            "read who was seen: use 127.0.0.1 or [::1]; other addresses need CURVE keys first"
        )
    return f"{host}:{'*' if parts['port'] == '0' else parts['port']}"


def _check_socket_file(name: str, endpoint: str) -> None:
    """Refuse an ipc path that something else uses: ZeroMQ would delete whatever lies there."""
    if len(os.fsencode(name)) > SUN_PATH_MOST:
        raise PublishError(
            f"publish.endpoint {endpoint}: an ipc path has at most {SUN_PATH_MOST} bytes, choose a "
            "shorter one"
        )
    path = Path(name)
    if name.startswith("@") or not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise PublishError(
            f"publish.endpoint {endpoint}: there is a file at {path} that is no socket; choose "
            "another path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(name) == 0:
            raise _in_use(endpoint, path.name)


def _bind(
    context: zmq.Context[zmq.Socket[bytes]], address: str, endpoint: str
) -> tuple[zmq.Socket[bytes], str]:
    """A bound PUB socket and its real endpoint."""
    publisher = context.socket(zmq.PUB)
    try:
        publisher.sndhwm = SEND_QUEUE
        publisher.ipv6 = address.startswith("tcp://[")
        publisher.bind(address)
        real = publisher.get_string(zmq.LAST_ENDPOINT)
    except zmq.ZMQError as error:
        publisher.close(linger=0)
        if error.errno == errno.EADDRINUSE:
            raise _in_use(endpoint, f"port {address.rpartition(':')[2]}") from error
        raise PublishError(
            f"publish.endpoint {endpoint} cannot be bound: {error.strerror}; choose another"
        ) from error
    return publisher, real


def _in_use(endpoint: str, what: str) -> PublishError:
    return PublishError(
        f"publish.endpoint {endpoint}: {what} is in use; stop the program that has it, or give "
        "this run another endpoint (--endpoint; tcp://127.0.0.1:* takes any free port)"
    )
