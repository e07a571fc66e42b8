"""What subscribers ask an XPUB socket for, checked against the rights of their keys.

Without keys libzmq applies subscriptions by itself and they are only watched. With keys the socket
is in manual mode: a subscription has effect only once it is applied here. libzmq 4.3 applies it to
the connection at the head of a queue of its own, beside that of the frames, and a frame that is
neither subscription nor cancellation has no entry there. Behind such a frame the two queues are
shifted, and a subscription would be applied to another connection than the one whose rights were
checked. They agree again once both are empty. Until then nothing is applied.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from .events import TOPIC_ROOT
from .peers import sender
from .refusals import Refusals

TOPIC_LONGEST = 1000
FRAMES_MOST = 1000


class Subscriptions:
    """Reads the subscriptions of one XPUB socket."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        may_subscribe: Callable[[str, str], bool] | None,
        refusals: Refusals,
    ) -> None:
        """may_subscribe: whether the user of a key may have all that a subscription brings; asked
        again when there is a new camera. None where everybody may read everything."""
        self._socket = socket
        self._may_subscribe = may_subscribe
        self._granted: set[tuple[str, str]] = set()
        self._refusals = refusals
        self._shifted_by: set[str] = set()
        self.lost = False
        """Whether a subscription could not be applied for another peer's fault: its owner does not
        know, and a new socket, which everybody connects to again, is the only way to tell."""
        if may_subscribe is not None:
            socket.setsockopt(zmq.XPUB_MANUAL, 1)

    def receive(self) -> None:
        """Read what has come in."""
        for _ in range(FRAMES_MOST):
            try:
                frame = self._socket.recv(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                self._shifted_by.clear()
                return
            self._take(frame)

    def outgrown(self) -> bool:
        """Whether one that was granted would bring more than its key may have now.

        It does once a camera comes whose name begins with that of another, to which there is a
        right: ZeroMQ subscribes to how a topic begins, and cannot tell them apart.
        """
        if self._may_subscribe is None:
            return False
        return not all(self._may_subscribe(user, topic) for user, topic in self._granted)

    def _take(self, frame: zmq.Frame) -> None:
        user, source = sender(frame)
        content = frame.bytes
        if content[:1] not in (b"\x00", b"\x01"):
            self._refusals.count(source, "no subscription", "expected a subscription")
            if self._may_subscribe is not None:
                self._shifted_by.add(user)
        elif self._shifted_by:
            self.lost = self.lost or (content[0] == 1 and user not in self._shifted_by)
        elif content[0] == 1:
            self._subscribe(content[1:], user, source)
        elif self._may_subscribe is not None:
            self._socket.setsockopt(zmq.UNSUBSCRIBE, content[1:])

    def _subscribe(self, topic: bytes, user: str, source: str) -> None:
        text = topic.decode("utf-8", "replace")
        if len(topic) > TOPIC_LONGEST:
            self._refusals.count(source, "oversized", f"a topic of {len(topic)} bytes")
        elif not _may_exist(text):
            self._refusals.count(source, "unknown topic", f"expected {TOPIC_ROOT}/KIND/CAMERA")
        elif self._may_subscribe is None:
            pass
        elif self._may_subscribe(user, text):
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
            if not self._may_subscribe(user, f"{text}/"):  # what no camera is called
                self._granted.add((user, text))
        else:
            detail = "the key has no right to all that begins with the topic"
            self._refusals.count(source, "not allowed", detail)


def _may_exist(topic: str) -> bool:
    root = f"{TOPIC_ROOT}/"
    return topic.startswith(root) or root.startswith(topic)
