"""What travels beside events: heartbeats, and the replay of what a subscriber missed.

Replay is a DEALER (subscriber) talking to a ROUTER (publisher). Every message is one msgpack frame.
The subscriber asks with `ReplayRequest` and hands out credit; the publisher sends `ReplayEvents`,
never more events than it has credit for, and closes with `ReplayDone` or `ReplayRefused`. A
subscriber may have one request open at a time: a new one takes the place of the one before it.

This module needs msgspec alone.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .events import TOPIC_ROOT

PROTOCOL_VERSION = 1
HEARTBEAT_ROOT = f"{TOPIC_ROOT}/heartbeat"
"""The heartbeat of the topic facestream/v1/KIND/CAMERA is sent on HEARTBEAT_ROOT/KIND/CAMERA."""


def replay_of(endpoint: str) -> str:
    """Where the replay socket of a publisher is, unless its configuration names another place.

    endpoint: of the subscription socket. tcp takes the next port; ipc and inproc add "-replay".
    """
    if not endpoint.startswith("tcp://"):
        return f"{endpoint}-replay"
    host, _, port = endpoint.rpartition(":")
    # "*" stays: a publisher then takes two free ports that follow each other.
    return f"{host}:{int(port) + 1}" if port.isdecimal() else endpoint


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="heartbeat"):
    """Says how far a topic has come. Not an event: neither stored nor numbered.

    Sent for every topic with an event that the journal held when the publisher started, or took
    since, every `interval` seconds, in the encoding of the events. By `newest` a subscriber tells
    that it lost the last event of its topic, which no later event's `previous` could tell it yet.
    """

    version: int = PROTOCOL_VERSION
    """Version of this protocol."""
    epoch: str
    """The publisher's epoch."""
    topic: str
    """Which topic of events."""
    newest: int
    """Sequence of the newest event on that topic."""
    head: int
    """Sequence of the newest event of the epoch, on whatever topic."""
    oldest: int
    """Sequence of the oldest event that the journal still holds; head + 1 when it holds none."""
    interval: float
    """Seconds until the next heartbeat of this topic."""


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="request"):
    """Send me the events after a point, in order."""

    version: int = PROTOCOL_VERSION
    """Version of this protocol."""
    number: int
    """Chosen by the subscriber; comes back in every answer."""
    epoch: str
    """Epoch that `after` counts in; "" means whatever the journal's is."""
    after: int
    """Sequence of the last event that the subscriber has; 0 asks for all that the journal holds."""
    topics: tuple[str, ...] = ()
    """Prefixes of topics, as in a subscription; none asks for all."""
    credit: int
    """How many events may be sent before more credit comes."""


class ReplayCredit(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="credit"):
    """You may send so many events more."""

    number: int
    """The request's."""
    credit: int
    """Events, added to what is left."""


class ReplayCancel(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="cancel"):
    """Send no more."""

    number: int
    """The request's."""


class ReplayEvents(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="events"):
    """Some of the events asked for, in order."""

    number: int
    """The request's."""
    payloads: tuple[bytes, ...]
    """Events in msgpack, whatever form the publisher's subscription socket uses. Now and then there
    are none: so a publisher finds out whether a subscriber without credit is still there."""


class ReplayDone(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="done"):
    """Everything asked for up to `head` was sent; what follows comes over the subscription."""

    number: int
    """The request's."""
    epoch: str
    """The journal's epoch."""
    head: int
    """Newest sequence of the journal when the last page was read."""


Refusal = Literal["epoch", "expired", "version", "malformed", "busy", "not allowed"]


class ReplayRefused(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="refused"):
    """No answer, or no more of it; the request is over."""

    number: int
    """The request's; -1 where the question could not be read."""
    reason: Refusal
    """epoch: the journal is another one, or an older copy of it that ends before `after`; numbering
    started over. expired: retention has dropped events after `after`, perhaps some that were asked
    for. version: the question is newer than the publisher. malformed: it is no question. busy: too
    many requests are open. not allowed: the key has no right to a topic asked for."""
    detail: str
    """One line for people."""
    epoch: str
    """The journal's epoch."""
    oldest: int
    """Sequence of the oldest event still held: with `after` = oldest - 1 it can be had."""


Question = ReplayRequest | ReplayCredit | ReplayCancel
Answer = ReplayEvents | ReplayDone | ReplayRefused
