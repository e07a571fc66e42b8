"""Who sent a message, as far as the connection tells."""

from __future__ import annotations

import zmq


def sender(frame: zmq.Frame) -> tuple[str, str]:
    """The ZAP user id of the frame's connection ("" without a key), and its source for the log."""
    user, address = _property(frame, "User-Id"), _property(frame, "Peer-Address")
    name = user.partition("/")[0]  # what follows is the key itself
    return user, f"key {name}" if name else address or "a local peer"


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:  # the connection has none
        return ""
