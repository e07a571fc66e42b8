"""What a supervisor and the processes of its nodes say to each other: lines of JSON on a socket."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from .. import FacestreamError
from ..configs.schema import Config, NodeConfig


class Task(msgspec.Struct, frozen=True, tag=True):
    """The first line to a process: what to run. nodes: names of its own; topology: all there are.

    The configuration travels here, and not on a command line or in the environment, which other
    users may read: addresses of cameras carry passwords. folder: where sockets lie; it is removed
    where the supervisor has died. session: as in flow.Begin.
    """

    config: Config
    nodes: tuple[str, ...]
    topology: tuple[NodeConfig, ...]
    folder: str
    quiet: bool
    note: str
    session: str


class Order(msgspec.Struct, frozen=True, tag=True):
    """Later lines to a process. end: nothing more will come. stop: end what is read here.

    fail: another process has failed; `error` is the type of its error.
    """

    what: Literal["end", "stop", "fail"]
    error: str = ""


class Opened(msgspec.Struct, frozen=True, tag=True):
    """From the process that decides: where events are published."""

    endpoint: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The last line of a process that ended well. totals: as totals.describe, of the one that
    decides."""

    totals: dict[str, Any] | None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The last line of a process that failed. kind: the type of the error; code: the exit code.

    given_up: its cameras had been opened, and were given up in the end.
    """

    kind: str
    message: str
    code: int
    given_up: bool


Told = Opened | Ended | Failed
_ENCODER = msgspec.json.Encoder()
TO_PROCESS = msgspec.json.Decoder(Task | Order)
TO_SUPERVISOR = msgspec.json.Decoder(Told)


def error_of(kind: str, message: str) -> FacestreamError:
    """An error of the type of this name, which another process has told."""
    found = getattr(sys.modules[FacestreamError.__module__], kind, None)
    if isinstance(found, type) and issubclass(found, FacestreamError):
        return found(message)
    return FacestreamError(message)


def say(channel: socket.socket, line: Task | Order | Told) -> None:
    """Send a line. Raises OSError where nobody listens any more."""
    channel.sendall(_ENCODER.encode(line) + b"\n")


def lines_of(channel: socket.socket) -> Iterator[bytes]:
    """The lines that come, until the other side closes."""
    with channel.makefile("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield line
