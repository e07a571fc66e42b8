"""A thread that answers who may connect (ZAP, ZeroMQ RFC 27) and counts who failed to."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from .refusals import Refusals

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
FAILED_AUTH = zmq.EVENT_HANDSHAKE_FAILED_AUTH
FAILED_PROTOCOL = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
FAILED_OTHERWISE = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
WATCHED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | FAILED_AUTH
    | FAILED_PROTOCOL
    | FAILED_OTHERWISE
    | zmq.EVENT_MONITOR_STOPPED
)
_REASONS: dict[int, tuple[str, str]] = {
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: (
        "wrong server key",
        "somebody connects with another server's key: give them the key file of this one",
    ),
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: (
        "no key",
        "somebody connects without a key, or with one where none is asked for",
    ),
}

_BROKEN = ("broken handshake", "it broke off, or it is no ZeroMQ peer of protocol 3.0 or up")

Decide = Callable[[str, str, str], str | None]
"""(domain, public key in Z85, address) -> user id, "" for no, None for not now; counts refusals.

libzmq gives a connection up after a no, and tries again after a not now."""

_numbers = itertools.count()


class Handshakes:
    """Watches bound sockets and, once told to, answers the ZAP requests of their context."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        decide: Decide,
        refusals: Refusals,
        handshake_seconds: float,
    ) -> None:
        """handshake_seconds: within this time libzmq ends a handshake that gets nowhere."""
        self._context = context
        self._decide = decide
        self._refusals = refusals
        self._patience = handshake_seconds
        self._guard = threading.Lock()
        self._zap: zmq.Socket[bytes] | None = None
        # The thread reads what _wake is sent: an endpoint to watch, or nothing for the end.
        self._wake, self._woken = (context.socket(zmq.PAIR) for _ in range(2))
        self._wake.linger = self._woken.linger = 0
        self._wake.bind(f"inproc://facestream-handshakes-{next(_numbers)}")
        self._woken.connect(self._wake.get_string(zmq.LAST_ENDPOINT))
        self._thread = threading.Thread(target=self._run, name="handshakes", daemon=True)
        self._thread.start()

    def answer(self) -> None:
        """Answer ZAP requests from now on; asked again, nothing changes.

        Raises ZMQError (EADDRINUSE) where somebody else answers those of the context.
        """
        with self._guard:
            if self._zap is None:
                zap = self._context.socket(zmq.REP)
                try:
                    zap.linger = 0
                    zap.bind(ZAP_ENDPOINT)
                except zmq.ZMQError:
                    zap.close()
                    raise
                self._zap = zap  # the thread's, once it reads of it
                self._wake.send_string(ZAP_ENDPOINT)

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Count the connections that fail on a socket that is about to be bound."""
        monitor = f"inproc://facestream-monitor-{next(_numbers)}"
        socket.monitor(monitor, WATCHED)
        with self._guard:
            self._wake.send_string(monitor)

    def close(self) -> None:
        """Answer no more; without answers nobody gets in. Twice is no error.

        Where watched sockets are still open, the thread goes on to read what they tell until they
        are closed: a monitor that nobody reads holds up its socket.
        """
        with self._guard:
            if not self._wake.closed:
                self._wake.send(b"")
                self._thread.join(1.0)
                self._wake.close()

    def _run(self) -> None:
        watched: dict[zmq.Socket[bytes], _Connections] = {}
        poller = zmq.Poller()
        poller.register(self._woken, zmq.POLLIN)
        try:
            while watched or not self._woken.closed:
                unsure = any(connections.unsure for connections in watched.values())
                ready = dict(poller.poll(1000 if unsure else None))
                if self._woken in ready:
                    self._obey(poller, watched)
                if self._zap is not None and self._zap in ready and not self._zap.closed:
                    self._reply(self._zap)
                for monitor, connections in list(watched.items()):
                    if monitor in ready and not connections.read(monitor):
                        poller.unregister(monitor)
                        del watched[monitor]
                        monitor.close()
                    connections.settle()
        except zmq.ContextTerminated:
            pass  # the context went first: there is nothing left to answer
        finally:
            self._stop(poller)
            for monitor in watched:
                monitor.close()

    def _obey(self, poller: zmq.Poller, watched: dict[zmq.Socket[bytes], _Connections]) -> None:
        """Answer, watch one more socket, or answer no more."""
        endpoint = self._woken.recv_string()
        if not endpoint:
            self._stop(poller)
            return
        if endpoint == ZAP_ENDPOINT:
            poller.register(self._zap, zmq.POLLIN)
            return
        monitor = self._context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.connect(endpoint)
        poller.register(monitor, zmq.POLLIN)
        watched[monitor] = _Connections(self._refusals, self._patience)

    def _stop(self, poller: zmq.Poller) -> None:
        for socket in (self._zap, self._woken):
            if socket is not None and not socket.closed:
                if socket in poller:
                    poller.unregister(socket)
                socket.close()

    def _reply(self, zap: zmq.Socket[bytes]) -> None:
        """Answer one question: only a key that may come in gets a 200."""
        version, number, domain, address, _, mechanism, *credentials = zap.recv_multipart()
        user: str | None = ""
        if version == ZAP_VERSION and mechanism == b"CURVE" and len(credentials) == 1:
            public = z85.encode(credentials[0]).decode()
            user = self._decide(domain.decode(), public, address.decode())
        if user:
            status = (b"200", b"OK")
        else:
            status = (b"300", b"not now") if user is None else (b"400", b"not allowed")
        zap.send_multipart([ZAP_VERSION, number, *status, (user or "").encode(), b""])


class _Connections:
    """How connections to one socket fail, as far as libzmq tells.

    It does not say who it was, nor anything of a peer that does not speak ZeroMQ, which is only
    accepted and gone: those are the accepted ones that neither came through, failed nor still try.
    """

    def __init__(self, refusals: Refusals, patience: float) -> None:
        self._refusals = refusals
        self._patience = patience
        self._where = ""
        self._unexplained = 0  # accepted, and neither through nor failed
        self._trying: dict[int, float] = {}  # descriptor: when it was accepted

    @property
    def unsure(self) -> bool:
        """Whether time alone may explain something."""
        return bool(self._trying)

    def read(self, monitor: zmq.Socket[bytes]) -> bool:
        """Take in what the monitor has, a hundred events at most; False where it has stopped."""
        for _ in range(100):
            if not monitor.poll(0):
                break
            message = parse_monitor_message(monitor.recv_multipart())
            if message["event"] == zmq.EVENT_MONITOR_STOPPED:
                return False
            self._where = f"a client of {message['endpoint'].decode(errors='replace')}"
            self._take(message["event"], message["value"])
        return True

    def settle(self) -> None:
        """Count who was accepted and left without a handshake."""
        now = time.monotonic()
        while self._trying and next(iter(self._trying.values())) < now - 2 * self._patience:
            self._trying.pop(next(iter(self._trying)))  # came through long ago
        while self._unexplained > len(self._trying):
            self._unexplained -= 1
            self._refusals.count(self._where, "no handshake", "it does not speak ZeroMQ")

    def _take(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._unexplained += 1
            self._trying[value] = time.monotonic()
        elif event == zmq.EVENT_DISCONNECTED:
            self._trying.pop(value, None)
        else:  # the handshake succeeded, or failed
            self._unexplained -= 1
        if event in (FAILED_PROTOCOL, FAILED_OTHERWISE):  # FAILED_AUTH is counted with the key
            reason = _REASONS.get(value, _BROKEN) if event == FAILED_PROTOCOL else _BROKEN
            self._refusals.count(self._where, *reason)
