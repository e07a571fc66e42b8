"""What both ends of a hop between nodes say to each other.

The later node binds a ROUTER (`hop_in`), each earlier node connects a DEALER (`hop_out`). A message
is an envelope, then what its kind says: the parts of a record (see packing), or one msgpack frame.

ZeroMQ neither loses nor reorders messages between two ends that live and stay connected. What is
lost with a connection, or with a process, is told by the envelopes: every end has an instance id of
its own, and numbers what it sends. An end that meets a new instance, or misses a number, has the
camera streams that went through begin again (flow.Restart), which recorded cameras do from their
newest mark. A ping in every second of silence makes the loss of a last message known too.
"""

from __future__ import annotations

import secrets
from typing import Literal, TypeVar

import msgspec

from .carriers import WireError
from .packing import Buffer

HOP_VERSION = 1
"""Of all that travels between nodes: raise it when flow, records, packing or hops change."""
PING_SECONDS = 1.0

Kind = Literal["item", "release", "ping", "lost", "refuse"]
"""item: a record follows. release: tokens of pixels that are no longer used. ping: Hello; the later
end answers with its own. lost: messages are missing, so begin again. refuse: why nothing of this
will ever be taken."""

Body = TypeVar("Body")


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    """The first frame of every message. The version comes first in every version."""

    version: int
    instance: str
    """Drawn at random by the end that sends."""
    kind: Kind
    number: int
    """How many messages this end sent to that one before; pings are not counted."""


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """Who an end is. models: what has to be the same in all nodes, as one text."""

    node: str
    models: str


class _Version(msgspec.Struct, array_like=True):
    version: int


class VersionMismatch(WireError):
    """The other end speaks another version."""

    def __init__(self, version: int) -> None:
        """version: the other end's."""
        super().__init__(
            f"expected version {HOP_VERSION} of the protocol between nodes, got {version}: install "
            "the same facestream on all machines",
            "newer version",
        )


def draw_instance() -> str:
    """A new instance id."""
    return secrets.token_hex(8)


def envelope(instance: str, kind: Kind, number: int) -> bytes:
    """The first frame of a message of this version."""
    return msgspec.msgpack.encode(Envelope(HOP_VERSION, instance, kind, number))


def open_envelope(frame: Buffer) -> Envelope:
    """Read a first frame. Raises VersionMismatch, or WireError for what is no envelope."""
    version = _decode(frame, _Version).version
    if version != HOP_VERSION:
        raise VersionMismatch(version)
    opened = _decode(frame, Envelope)
    if not 0 < len(opened.instance) <= 64 or not 0 <= opened.number < 2**63:
        raise WireError("expected an instance id and a number from 0")
    return opened


def read_body(frames: list[Buffer], kind: type[Body]) -> Body:
    """What follows an envelope where it is no record. Raises WireError."""
    if len(frames) != 1:
        raise WireError(f"expected one frame behind the envelope, got {len(frames)}")
    return _decode(frames[0], kind)


def _decode(frame: Buffer, kind: type[Body]) -> Body:
    try:
        return msgspec.msgpack.decode(frame, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"expected {kind.__name__.strip('_')}: {error}") from None
