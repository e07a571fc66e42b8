"""The later end of a hop: takes works from the nodes before."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import zmq

from .access import Access
from .carriers import InMessage, WireError
from .flow import Begin, Done, Down, Finish, Refuse, Resume, Up, Work
from .hop import (
    Envelope,
    Hello,
    Kind,
    VersionMismatch,
    draw_instance,
    envelope,
    open_envelope,
    read_body,
)
from .hop_out import HopOut
from .packing import Buffer, Receiving, pack, unpack
from .refusals import Refusals
from .ring import RingReader

MOST_PEERS = 256
REVOKED_SECONDS = 1.0
STALE_MOST = 3
"""Frames in a row that are no longer there: some are normal where a node was killed."""

log = logging.getLogger(__name__)


@dataclass
class _Peer:
    """A node before this one. route: where the ROUTER finds it."""

    route: bytes
    pixels: Receiving
    number: int = 0
    expected: int = 0
    stale: int = 0


@dataclass
class _Camera:
    """A camera's newest attempt. finish: position of its last work, once that was seen."""

    attempt: str
    peer: str
    finish: int | None = field(default=None)


class HopIn:
    """An inlet of a node (see node.Inlet). To be used by one thread, from `start` on.

    What cannot be read is counted in `refusals` by reason, and changes nothing else.
    """

    def __init__(
        self,
        access: Access,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        *,
        node: str,
        models: str,
        pixels: Callable[[], Receiving],
        most: int,
        beside: HopOut | None = None,
    ) -> None:
        """endpoint: where to listen. node: the own name. models: as in hop.Hello.

        pixels: makes what gets the pixels of one earlier node's frames. most: works that `receive`
        returns at once. beside: the node's own outlet, for `receive` to return when it has answers.
        """
        self.endpoint = endpoint
        """Where this listens; from `start` on with the port that was really taken."""
        self.refusals = Refusals(f"node {node}")
        self._access = access
        self._context = context
        self._node = node
        self._hello = msgspec.msgpack.encode(Hello(node, models))
        self._make_pixels = pixels
        self._most = most
        self._beside = beside
        self._plain = InMessage()
        self._instance = draw_instance()
        self._socket: zmq.Socket[bytes] | None = None
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._cameras: dict[str, _Camera] = {}
        self._asked_at = 0.0
        self._over = False
        self._error: BaseException | None = None

    @property
    def finished(self) -> bool:
        """Whether `stop` or `end` was called: nodes before this one may always come back."""
        return self._over

    def start(self) -> None:
        """Listen. Raises PublishError as Access.bind."""
        self._bind()
        self._asked_at = time.monotonic()

    def receive(self, wait: float) -> list[Down]:
        """What has come; waits up to `wait` seconds for it, or for answers of the next node.

        Pixels of frames may be read until the next call only: then the node before may write there.
        """
        if self._error is not None:
            raise self._error
        self._give_back()
        self._follow_revocation()
        poller = zmq.Poller()
        poller.register(self._bound, zmq.POLLIN)
        if self._beside is not None:
            poller.register(self._beside.socket, zmq.POLLIN)
        poller.poll(int(wait * 1000))
        downs: list[Down] = []
        for _ in range(4 * self._most):  # messages; not all of them are works
            try:
                frames = self._bound.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                break
            down = self._take(frames)
            if down is not None:
                downs.append(down)
            if len(downs) >= self._most:
                break
        return downs

    def answer(self, ups: Sequence[Up]) -> None:
        """Send answers to the node that the camera comes from, unless its attempt is over."""
        for up in ups:
            camera = self._cameras.get(up.camera)
            if camera is None or camera.attempt != up.attempt:
                continue
            frames = pack(up, self._plain)
            if frames is None:
                raise RuntimeError("only works can be without room")
            self._send(self._peers[camera.peer], "item", frames)
            over = isinstance(up, Refuse) or (isinstance(up, Resume) and up.over)
            if isinstance(up, Done) and camera.finish is not None:
                over = up.position >= camera.finish
            if over:
                del self._cameras[up.camera]
                if camera.peer not in {c.peer for c in self._cameras.values()}:
                    # That node may end now, and the memory it shares is to end with it.
                    self._peers[camera.peer].pixels.close()

    def end(self) -> None:
        """All there was has come; safe from another thread or a signal handler."""
        self._over = True

    def fail(self, error: BaseException) -> None:
        """A node of this process has failed: the next `receive` raises this. As safe as `end`."""
        self._error = error

    def stop(self, how: str) -> None:
        """Nothing of this node's needs closing: cameras are closed where they are read."""
        self._over = True

    def close(self) -> None:
        """Send the last answers, and free the endpoint."""
        if self._socket is not None:
            self._socket.close(linger=1000)
            self._socket = None

    @property
    def _bound(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            raise RuntimeError("a hop is used between start and close")
        return self._socket

    def _bind(self) -> None:
        socket = self._context.socket(zmq.ROUTER)
        try:
            socket.router_mandatory = True  # an answer that cannot be sent is told, not swallowed
            socket.heartbeat_ivl = 2000
            socket.heartbeat_timeout = 10_000
            setting = f"endpoint of node {self._node}"
            self.endpoint = self._access.bind(socket, self.endpoint, setting, "node")
        except BaseException:
            socket.close(linger=0)
            raise
        self._socket = socket

    def _take(self, received: Sequence[zmq.Frame]) -> Down | None:
        """The work in a message, if it has one for the node."""
        route, *rest = received
        frames: list[Buffer] = [frame.buffer for frame in rest]
        try:
            if not frames:
                raise WireError("expected an envelope, got a message without frames")
            opened = open_envelope(frames[0])
            peer = self._meet(opened, route.bytes)
            if opened.kind == "ping":
                read_body(frames[1:], Hello)
                self._send(peer, "ping", [self._hello])
                return None
            if opened.kind != "item":
                raise WireError("expected a work or a ping, got what only travels up")
            return self._read(opened, peer, frames[1:])
        except VersionMismatch as mismatch:
            self._tell_version(route.bytes)
            self._count(route, mismatch)
        except WireError as error:
            self._count(route, error)
        return None

    def _meet(self, opened: Envelope, route: bytes) -> _Peer:
        """Who sent this; where something is missing before it, its streams begin again."""
        peer = self._peers.get(opened.instance)
        if peer is None:
            peer = self._peers[opened.instance] = _Peer(route, self._make_pixels())
            if len(self._peers) > MOST_PEERS:
                self._let_go(next(iter(self._peers)))
        self._peers.move_to_end(opened.instance)
        peer.route = route
        if opened.number != peer.expected:
            self._lose(opened.instance, peer)
        peer.expected = opened.number + (opened.kind != "ping")
        return peer

    def _read(self, opened: Envelope, peer: _Peer, frames: list[Buffer]) -> Down | None:
        try:
            item = unpack(frames, peer.pixels)
        except WireError as error:
            if error.reason != "stale":
                # Messages are not damaged on the way: the next attempt would bring the same.
                self._send(peer, "refuse", [msgspec.msgpack.encode(f"{self._node}: {error}")])
                raise
            peer.stale += 1
            if peer.stale < STALE_MOST:
                return None
            if isinstance(peer.pixels, RingReader) and not peer.pixels.opened:
                # None of its frames can be had here. A node that has died does not hear this.
                self._send(peer, "refuse", [msgspec.msgpack.encode(f"{self._node}: {error}")])
            raise
        peer.stale = 0
        if isinstance(item, Begin):
            self._begin(item, opened.instance)
            return item
        if not isinstance(item, Work):
            raise WireError("expected a work, got what only travels up")
        camera = self._cameras.get(item.camera)
        if camera is None or (camera.attempt, camera.peer) != (item.attempt, opened.instance):
            return None  # of an attempt that is over
        if isinstance(item.item, Finish):
            camera.finish = item.position
        return item

    def _begin(self, begin: Begin, instance: str) -> None:
        """A camera may come from another process than before, which is forgotten then."""
        before = self._cameras.get(begin.camera)
        self._cameras[begin.camera] = _Camera(begin.attempt, instance)
        if before is not None and before.peer not in {c.peer for c in self._cameras.values()}:
            self._let_go(before.peer)

    def _lose(self, instance: str, peer: _Peer) -> None:
        """Messages of this node are missing: it is told, and its attempts are over here."""
        self._forget_cameras(instance)
        self._send(peer, "lost", [])

    def _forget_cameras(self, instance: str) -> None:
        self._cameras = {n: c for n, c in self._cameras.items() if c.peer != instance}

    def _let_go(self, instance: str) -> None:
        """Forget a node, and with it the memory it shares."""
        self._forget_cameras(instance)
        del self._peers[instance]

    def _give_back(self) -> None:
        """Frames of the last turn were read: the nodes before may write there again."""
        for peer in self._peers.values():
            spent = peer.pixels.spent()
            if spent:
                self._send(peer, "release", [msgspec.msgpack.encode(spent)])

    def _send(self, peer: _Peer, kind: Kind, frames: Sequence[Buffer]) -> None:
        """Send to an earlier node; what cannot be sent leaves a gap in the numbers it sees."""
        number, peer.number = peer.number, peer.number + (kind != "ping")
        message = [peer.route, envelope(self._instance, kind, number), *frames]
        self._try_to_send(message)

    def _try_to_send(self, message: Sequence[Buffer]) -> None:
        try:
            self._bound.send_multipart(message, flags=zmq.DONTWAIT)
        except zmq.Again:
            log.debug("node %s: an earlier node does not take its answers", self._node)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            log.debug("node %s: an earlier node has gone", self._node)

    def _tell_version(self, route: bytes) -> None:
        """Answer a node of another version, which sees by this envelope that it is one."""
        self._try_to_send([route, envelope(self._instance, "ping", 0), self._hello])

    def _count(self, route: zmq.Frame, error: WireError) -> None:
        self.refusals.count(_name_of(route), error.reason, str(error))

    def _follow_revocation(self) -> None:
        """Bind a new socket once a key was revoked, which ends the connections of that key."""
        now = time.monotonic()
        if now - self._asked_at < REVOKED_SECONDS:
            return
        self._asked_at = now
        if self._access.revoked(self._bound):
            self._bound.close(linger=0)
            self._socket = None
            self._bind()


def _name_of(route: zmq.Frame) -> str:
    """Whom to name as the source of a message: its key, its address, or its connection."""
    for name in ("User-Id", "Peer-Address"):
        try:
            value = route.get(name)
        except zmq.ZMQError:
            continue
        if value:
            return str(value)
    return route.bytes.hex()
