"""Who may connect: sockets are bound and connected here."""

from __future__ import annotations

import errno
import os
import threading
from typing import Literal

import zmq

from .. import PublishError
from ..configs.schema import AccessConfig
from .endpoints import check_bind, check_connect, in_use

Role = Literal["subscriber", "node"]

LARGEST = {"subscriber": 64 * 1024, "node": 64 * 1024 * 1024}
"""Bytes of one received frame, at most: subscribers send questions, nodes send crops."""
HANDSHAKE_MS = 10_000

_umask_guard = threading.Lock()


class Access:
    """Binds and connects sockets as the access settings say. Safe to share by threads."""

    def __init__(self, config: AccessConfig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """The context stays yours. Close your sockets first, then this, then the context."""
        self._config = config
        self._context = context

    @property
    def secured(self) -> bool:
        """Whether tcp sockets ask for a key."""
        return False

    def bind(
        self,
        socket: zmq.Socket[bytes],
        endpoint: str,
        setting: str,
        role: Role,
        largest: int | None = None,
    ) -> str:
        """Bind a new socket; returns where, with the port that was really taken.

        setting: the key of the configuration that holds the endpoint, for messages. role: of whom
        may connect. largest: bytes of one received frame, at most; None takes the role's LARGEST.
        Raises PublishError when the endpoint is malformed, in use, or beyond loopback without keys.
        """
        address = check_bind(endpoint, setting, False)
        socket.maxmsgsize = LARGEST[role] if largest is None else largest
        if address.startswith("tcp://"):
            socket.handshake_ivl = HANDSHAKE_MS
            socket.ipv6 = address.startswith("tcp://[")
        try:
            _bind_private(socket, address)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                raise in_use(endpoint, setting) from error
            raise PublishError(
                f"{setting} {endpoint} cannot be bound: {error.strerror}; choose another"
            ) from error
        return socket.get_string(zmq.LAST_ENDPOINT)

    def connect(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Connect a node's socket to the node after it. Raises PublishError as `bind`."""
        socket.connect(check_connect(endpoint, "the address of a node"))

    def may_read(self, user: str, topic: str) -> bool:
        """Whether a peer may subscribe to every topic that begins with `topic`.

        user: what the frame's get("User-Id") says; "" where it is no connection with a key.
        """
        return True

    def revoked(self, socket: zmq.Socket[bytes]) -> bool:
        """Whether a key was revoked since this socket was bound: its owner is to ask once a second.

        Then the owner closes the socket, which is all that ends live connections, and binds a new
        one to the same endpoint. Peers whose keys are good come back by themselves.
        """
        return False

    def close(self) -> None:
        """Stop answering handshakes. Twice is no error."""

    def __enter__(self) -> Access:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _bind_private(socket: zmq.Socket[bytes], address: str) -> None:
    """Bind; the socket file of an ipc endpoint is for this user alone, as events name people."""
    if not address.startswith("ipc://"):
        socket.bind(address)
        return
    with _umask_guard:  # the mask is the process's
        before = os.umask(0o077)
        try:
            socket.bind(address)
        finally:
            os.umask(before)
