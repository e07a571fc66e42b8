"""Who may connect: sockets are bound and connected here, with CURVE keys once there are any."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakKeyDictionary

import zmq

from .. import PublishError
from ..configs.paths import keys_folder
from ..configs.schema import AccessConfig
from .endpoints import (
    check_bind,
    check_connect,
    in_use,
    is_loopback,
    is_this_machine,
    split_tcp,
)
from .handshakes import Handshakes
from .keys import OWN, Key, KeyStore, Pair, Role
from .refusals import Refusals
from .rights import EVERYTHING

log = logging.getLogger(__name__)

LARGEST: dict[Role, int] = {"subscriber": 64 * 1024, "node": 64 * 1024 * 1024}
"""Bytes of one received frame, at most: subscribers send questions, nodes send crops."""
HANDSHAKE_SECONDS = 10.0
LOOK_SECONDS = 1.0
# libzmq closes a listener some time after its socket: to bind it again takes several tries.
REBIND_SECONDS = 10.0
REBIND_PAUSE = 0.02
TO_ADDRESS = "the address of a node"

_umask_guard = threading.Lock()


class Access:
    """Binds and connects sockets as the keys say, and follows them. Safe to share by threads.

    Keys are looked at at every handshake and every second: a new key works at once. One that is
    gone, or lost a right, is refused, and `revoked` tells the owners of bound sockets.
    """

    def __init__(self, config: AccessConfig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """The context stays yours. Close your sockets first, then this, then the context.

        Of one context, one Access may bind tcp sockets. Raises PublishError where the keys cannot
        be read, or others could read or change them.
        """
        self.refusals = Refusals("access")
        """Who was turned away at the handshake of a tcp socket."""
        self._config = config
        self.context = context
        self._store = KeyStore(Path(config.keys).expanduser() if config.keys else keys_folder())
        self._guard = threading.RLock()
        self._handshakes: Handshakes | None = None
        self._bound: WeakKeyDictionary[zmq.Socket[bytes], int] = WeakKeyDictionary()
        self._endpoints: set[str] = set()
        self._stamp = self._store.stamp()
        self._server = self._store.server()
        self._by_public: dict[str, Key] = {}
        self._revision = 0  # counts revocations
        self._looked_at = time.monotonic()
        self._trouble = ""
        self._take(self._read_allowed())

    @property
    def secured(self) -> bool:
        """Whether tcp sockets ask for a key."""
        with self._guard:
            return self._server is not None

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
        socket.maxmsgsize = LARGEST[role] if largest is None else largest
        with self._guard:
            beyond = self._server is not None or self._config.listen_without_keys
            address = check_bind(endpoint, setting, beyond)
            if address.startswith("tcp://"):
                self._guard_tcp(socket, address, endpoint, setting, role)
                self._bound[socket] = self._revision
            patience = REBIND_SECONDS if address in self._endpoints else 0.0
        deadline = time.monotonic() + patience
        while True:
            try:
                _bind_private(socket, address)
                break
            except zmq.ZMQError as error:
                if error.errno != errno.EADDRINUSE:
                    raise PublishError(
                        f"{setting} {endpoint} cannot be bound: {error.strerror}; choose another"
                    ) from error
                if time.monotonic() >= deadline:
                    raise in_use(endpoint, setting) from error
            time.sleep(REBIND_PAUSE)
        real = socket.get_string(zmq.LAST_ENDPOINT)
        with self._guard:
            self._endpoints.add(real)
        return real

    def connect(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Connect a new socket of a node to the node after it, with a key where it asks for one.

        To another machine: with the key that was imported for its HOST:PORT, else for its HOST.
        Raises PublishError when the endpoint is malformed, or there is no key for it.
        """
        address = check_connect(endpoint, TO_ADDRESS)
        socket.maxmsgsize = LARGEST["node"]
        if address.startswith("tcp://"):
            host, port = split_tcp(address, TO_ADDRESS)
            socket.ipv6 = host.startswith("[")
            pair = self._store.peer(host, port) or self._for_host(host, endpoint)
            if pair is not None:
                socket.curve_publickey = pair.public.encode()
                socket.curve_secretkey = pair.secret.encode()
                socket.curve_serverkey = pair.server.encode()
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise PublishError(f"{endpoint} cannot be connected to: {error.strerror}") from error

    def may_read(self, user: str, topic: str) -> bool:
        """Whether a peer may read a topic, or subscribe to it, as `rights.covers` says.

        user: what a received frame's get("User-Id") says; "" where it has none: the connection is
        of this machine (tcp without keys, ipc, inproc) and may read everything.
        """
        if not user:
            return True
        with self._guard:
            key = self._by_public.get(user.partition("/")[2])
        return key is not None and key.may_read(topic)

    def revoked(self, socket: zmq.Socket[bytes]) -> bool:
        """Whether a key was revoked since this socket was bound: its owner is to ask once a second.

        Then the owner closes the socket, which is all that ends live connections, and binds a new
        one to the same endpoint. Peers whose keys are good come back by themselves.
        """
        with self._guard:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._look()
            return self._bound.get(socket, self._revision) != self._revision

    def close(self) -> None:
        """Let nobody in any more. Twice is no error."""
        with self._guard:
            handshakes, self._handshakes = self._handshakes, None
        if handshakes is not None:
            handshakes.close()

    def __enter__(self) -> Access:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _guard_tcp(
        self, socket: zmq.Socket[bytes], address: str, endpoint: str, setting: str, role: Role
    ) -> None:
        """What a tcp socket needs before it is bound: limits, keys, and somebody at the door."""
        socket.handshake_ivl = int(HANDSHAKE_SECONDS * 1000)
        socket.ipv6 = address.startswith("tcp://[")
        if self._handshakes is None:
            self._handshakes = Handshakes(
                self.context, self._admit, self.refusals, HANDSHAKE_SECONDS
            )
        if self._server is not None:
            try:
                self._handshakes.answer()
            except zmq.ZMQError as error:
                raise PublishError(
                    f"{setting} {endpoint}: keys are checked by another Access of this process; "
                    "share it, or take another ZeroMQ context"
                ) from error
            socket.curve_server = True
            socket.curve_secretkey = self._server.secret.encode()
            socket.zap_domain = role.encode()
            # Without this libzmq lets everybody in while nobody answers its questions.
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        elif not is_loopback(split_tcp(address, setting)[0]):
            log.warning(
                "%s %s listens beyond this machine without keys: everybody who reaches the port "
                "can read who was seen; `facestream keys new NAME` makes the first key",
                setting,
                endpoint,
            )
        self._handshakes.watch(socket)

    def _for_host(self, host: str, endpoint: str) -> Pair | None:
        """The pair for a host that no key was imported for."""
        if is_loopback(host) or (self.secured and is_this_machine(host)):
            return self._store.own() if self.secured else None
        if self._config.listen_without_keys and not self.secured:
            return None
        raise PublishError(
            f"there is no key for {endpoint}: on that machine run `facestream keys new NAME --role "
            f"node`, bring NAME.key_secret here and run `facestream keys import NAME.key_secret "
            f"{host}`"
        )

    def _admit(self, domain: str, public: str, address: str) -> str | None:
        """Answers as `handshakes.Decide` says, in the thread of handshakes."""
        with self._guard:
            self._look()
            key = self._by_public.get(public)
            trouble = self._trouble
        if trouble:
            self.refusals.count(address, "keys unreadable", trouble)
            return None
        if key is None:
            self.refusals.count(address, "unknown key", f"no key here begins {public[:8]}")
            return ""
        if domain != key.role and key.name != OWN:
            detail = f"its role is {key.role}, and this socket is for the role {domain}"
            self.refusals.count(f"{address}, key {key.name}", "wrong role", detail)
            return ""
        return f"{key.name}/{public}"

    def _look(self) -> None:
        """Take over what changed in the folder. Keep the guard."""
        self._looked_at = time.monotonic()
        try:
            stamp = self._store.stamp()
            if stamp == self._stamp and not self._trouble:
                return
            server = self._store.server()
            allowed = self._read_allowed()
            self._trouble = ""
        except (PublishError, OSError) as error:
            # Nobody gets in while the folder cannot be trusted; who is in stays.
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("no key is let in: %s", error)
            return
        self._stamp = stamp
        if server is None and self._server is not None:
            log.error("the server key of %s is gone: the one in use stays", self._store.folder)
        elif server != self._server:
            self._server = server
            self._revision += 1
        self._take(allowed)

    def _read_allowed(self) -> dict[str, Key]:
        """Keys that may connect, this machine's own among them, by their public half."""
        keys, damaged = self._store.allowed()
        for name, error in damaged.items():
            self.refusals.count(f"file {name}.key", "damaged key", error)
        by_public = {key.public: key for key in keys.values()}
        own = self._store.own()
        if own is not None:
            by_public[own.public] = Key(OWN, "node", (EVERYTHING,), datetime.now(UTC), own.public)
        return by_public

    def _take(self, allowed: dict[str, Key]) -> None:
        """Change to new keys, and count a revocation where one lost anything."""
        for public, old in self._by_public.items():
            new = allowed.get(public)
            if new is None or new.role != old.role or not set(old.topics) <= set(new.topics):
                self._revision += 1
                log.info("the key %s was revoked or lost a right", old.name)
        self._by_public = allowed


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
