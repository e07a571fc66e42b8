"""The earlier end of a hop: hands works on to the next node."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import zmq

from .access import Access
from .carriers import InMessage, WireError
from .flow import Begin, Done, Down, Finish, Refuse, Restart, Resume, Up
from .hop import (
    PING_SECONDS,
    Envelope,
    Hello,
    Kind,
    VersionMismatch,
    draw_instance,
    envelope,
    open_envelope,
    read_body,
)
from .packing import Buffer, Sending, pack, unpack
from .refusals import Refusals

STALL_SECONDS = 0.2
"""A turn of the node's loop is held up this long where the next node has no room."""
LOOK_MS = 5
SILENCE_SECONDS = 30.0

log = logging.getLogger(__name__)


class HopOut:
    """An outlet of a node (see node.Outlet). To be used by one thread, from `start` on.

    Nothing is ever dropped for want of room: works wait here until the next node is connected and
    has room, and a camera has at most its window of works under way, so that they are few.
    """

    def __init__(
        self,
        access: Access,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        *,
        node: str,
        models: str,
        pixels: Sending,
    ) -> None:
        """address: of the next node. node: the own name. models: as in hop.Hello. pixels: how the
        pixels of frames travel; closed by whoever made it."""
        self._access = access
        self._context = context
        self._address = address
        self._hello = msgspec.msgpack.encode(Hello(node, models))
        self._models = models
        self._pixels = pixels
        self._plain = InMessage()
        self._instance = draw_instance()
        self._socket: zmq.Socket[bytes] | None = None
        self.refusals = Refusals(f"answers of {address}")
        self._number = 0
        self._attempts: dict[str, str] = {}
        self._finishing: dict[str, int] = {}  # position of the Finish by camera
        self._pending: deque[Down] = deque()
        self._packed: list[Buffer] | None = None  # of the first pending: the socket had no room
        self._ups: list[Up] = []
        self._below = ""  # instance id of the next node
        self._expected = 0
        self._refused = ""
        self._given_up = ""
        self._sent_at = self._heard_at = 0.0
        self._silent = False
        self._greeted = False  # nodes that do not fit together learn it before the first work

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """To wait for answers on."""
        if self._socket is None:
            raise RuntimeError("a hop is used between start and close")
        return self._socket

    def start(self) -> None:
        """Connect; the next node may come later. Raises PublishError for a wrong address."""
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.immediate = True  # what waits for a connection waits here, unpacked
        self._socket.heartbeat_ivl = 2000
        self._socket.heartbeat_timeout = 10_000
        self._access.connect(self._socket, self._address)
        self._heard_at = time.monotonic()

    def send(self, downs: Sequence[Down]) -> None:
        """Hand works on; waits a moment where the next node has no room."""
        for down in downs:
            if isinstance(down, Begin):
                self._begin(down)
            elif self._attempts.get(down.camera) == down.attempt:
                self._pending.append(down)
                if isinstance(down.item, Finish):
                    self._finishing[down.camera] = down.position
        self._flush()
        deadline = time.monotonic() + STALL_SECONDS
        while self._pending and time.monotonic() < deadline:
            self.socket.poll(LOOK_MS)
            self._hear()
            self._flush()
        self._ping()

    def collect(self) -> list[Up]:
        """The answers that have come, without waiting."""
        self._hear()
        if self._given_up:
            self._refuse_all(self._given_up)
        ups, self._ups = self._ups, []
        return ups

    def give_up(self, why: str) -> None:
        """Nothing will be taken any more, so refuse all; safe from another thread."""
        self._given_up = why

    def stop(self, how: str) -> None:
        """The cameras were closed by what was sent."""

    def close(self) -> None:
        """Disconnect; what was not handed on is lost, and will begin again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _begin(self, begin: Begin) -> None:
        old = self._attempts.get(begin.camera)
        if old is not None:
            self._forget(begin.camera, old)
        if self._refused:
            self._ups.append(Refuse(begin.camera, begin.attempt, self._refused))
            return
        self._attempts[begin.camera] = begin.attempt
        self._pending.append(begin)

    def _forget(self, camera: str, attempt: str) -> None:
        """An attempt is over: drop what waits of it."""
        self._attempts.pop(camera, None)
        self._finishing.pop(camera, None)
        if self._pending and self._pending[0].camera == camera:
            self._packed = None
        self._pending = deque(down for down in self._pending if down.camera != camera)
        self._pixels.reclaim(camera, attempt)

    def _flush(self) -> None:
        """Send what waits, as far as there is room."""
        if self._pending and not self._greeted:
            self._greeted = self._transmit("ping", [self._hello])
        while self._pending and self._greeted:
            if self._packed is None:
                self._packed = pack(self._pending[0], self._pixels)
            if self._packed is None or not self._transmit("item", self._packed):
                return
            self._packed = None
            self._pending.popleft()

    def _transmit(self, kind: Kind, frames: Sequence[Buffer]) -> bool:
        """Send a message; False where nobody is connected, or has no room."""
        try:
            first = envelope(self._instance, kind, self._number)
            self.socket.send_multipart([first, *frames], flags=zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        self._number += kind != "ping"
        self._sent_at = time.monotonic()
        return True

    def _ping(self) -> None:
        now = time.monotonic()
        if now - self._sent_at >= PING_SECONDS and not self._transmit("ping", [self._hello]):
            self._sent_at = now  # nobody is connected: not in every turn
        if now - self._heard_at > SILENCE_SECONDS and not self._silent:
            self._silent = True
            keys = ", and does it know this machine's key" if "tcp://" in self._address else ""
            log.warning(
                "the next node does not answer at %s: is it running%s?", self._address, keys
            )

    def _hear(self) -> None:
        """Take the answers from the socket."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            try:
                self._read([frame.buffer for frame in frames])
            except VersionMismatch as mismatch:
                self._refuse_all(f"the next node at {self._address}: {mismatch}")
            except WireError as error:
                self.refusals.count(self._address, error.reason, str(error))

    def _read(self, frames: list[Buffer]) -> None:
        opened = open_envelope(frames[0])
        self._heard_at = time.monotonic()
        if self._silent:
            self._silent = False
            log.warning("the next node at %s answers again", self._address)
        if opened.instance != self._below:
            self._meet(opened)
        if opened.number != self._expected:
            self._restart_all("answers of the next node were lost")
        self._expected = opened.number + (opened.kind != "ping")
        if opened.kind == "item":
            self._pass(unpack(frames[1:], self._plain))
        elif opened.kind == "release":
            self._pixels.release(read_body(frames[1:], list[int]))
        elif opened.kind == "lost":
            self._restart_all("works were lost on the way to the next node")
        elif opened.kind == "refuse":
            self._refuse_all(read_body(frames[1:], str))
        else:
            self._compare(read_body(frames[1:], Hello))

    def _meet(self, opened: Envelope) -> None:
        """The next node answers for the first time, or is another process than before."""
        if self._below:
            self._restart_all("the next node was started again")
            self._greeted = False
        self._below, self._expected, self._refused = opened.instance, 0, ""

    def _compare(self, hello: Hello) -> None:
        if hello.models != self._models:
            self._refuse_all(
                f"node {hello.node} at {self._address} runs {hello.models}, this one "
                f"{self._models}: give all nodes the same configuration"
            )

    def _pass(self, item: Up | Down) -> None:
        """An answer on its way up; those to attempts that are over are dropped."""
        if not isinstance(item, Resume | Done | Restart | Refuse):
            raise WireError("expected an answer, got what only travels down")
        if self._attempts.get(item.camera) != item.attempt:
            return
        self._ups.append(item)
        over = isinstance(item, Refuse) or (isinstance(item, Resume) and item.over)
        if isinstance(item, Done):
            over = item.position >= self._finishing.get(item.camera, item.position + 1)
        if over:
            self._forget(item.camera, item.attempt)

    def _restart_all(self, why: str) -> None:
        for camera, attempt in list(self._attempts.items()):
            self._forget(camera, attempt)
            self._ups.append(Restart(camera, attempt, why))

    def _refuse_all(self, why: str) -> None:
        self._refused = why
        for camera, attempt in list(self._attempts.items()):
            self._forget(camera, attempt)
            self._ups.append(Refuse(camera, attempt, why))
