"""The publisher's side of replay: what a subscriber missed, read from the journal on request.

Questions and answers are those of protocol.py. Requests take turns, a page each, so that neither
a long one nor many of them keep the others waiting; a peer that does not read holds up itself.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
import zmq

from .events import TOPIC_ROOT, UNDECODABLE
from .journal_reader import JournalReader, Page
from .peers import sender
from .protocol import (
    PROTOCOL_VERSION,
    Answer,
    Question,
    Refusal,
    ReplayCancel,
    ReplayCredit,
    ReplayDone,
    ReplayEvents,
    ReplayRefused,
    ReplayRequest,
)
from .refusals import Refusals

PAGE_EVENTS = 100
PAGE_BYTES = 256 * 1024
ROUND = 8
"""Requests served between two looks at everything else."""
QUESTIONS_MOST = 100
REQUESTS_MOST = 64
TOPICS_MOST = 1000
CREDIT_MOST = 2**31
SEQUENCE_MOST = 2**53
"""Whole numbers in messages stay below it; msgpack has some that SQLite cannot take."""
SEND_QUEUE = 8
"""Pages that wait for one peer."""
RETRY_FIRST, RETRY_MOST = 0.002, 0.1  # seconds
PROBE_SECONDS = 10.0


class _Request(msgspec.Struct):
    """An open request: where it has come to, and the answer that its peer had no room for."""

    number: int
    user: str
    topics: tuple[str, ...]
    position: int
    credit: int
    probed: float
    head: int | None = None
    unsent: bytes | None = None
    over: bool = False
    not_before: float = 0.0
    pause: float = RETRY_FIRST


class _Header(msgspec.Struct):
    """What a question of any later version still has."""

    version: int = PROTOCOL_VERSION
    number: int = -1


_DECODER = msgspec.msgpack.Decoder(Question)
_ENCODER = msgspec.msgpack.Encoder()


class ReplayServer:
    """Answers on a bound ROUTER socket; needs no thread and never waits."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        reader: JournalReader,
        may_subscribe: Callable[[str, str], bool],
        may_read: Callable[[str, str], bool],
        refusals: Refusals,
    ) -> None:
        """may_subscribe: whether the user of a key may have all topics with a prefix, as far as
        there are any; may_read: whether it may have a topic."""
        self._socket = socket
        self._reader = reader
        self._may_subscribe = may_subscribe
        self._may_read = may_read
        self._refusals = refusals
        self._open: OrderedDict[bytes, _Request] = OrderedDict()

    def receive(self) -> None:
        """Read the questions that have come."""
        for _ in range(QUESTIONS_MOST):
            try:
                peer, frame, parts = _receive(self._socket)
            except zmq.Again:
                return
            user, source = sender(frame)
            question = self._read(peer, frame.bytes, parts, source)
            if isinstance(question, ReplayRequest):
                self._begin(peer, question, user, source)
            elif question is not None:
                self._change(peer, question)

    def send(self) -> float:
        """Send a page to each of a few requests; seconds until there may be more to send."""
        now = time.monotonic()
        for peer in list(self._open)[:ROUND]:
            self._open.move_to_end(peer)
            request = self._open[peer]
            if request.unsent is not None and request.not_before <= now:
                self._send(peer, request, request.unsent)
            elif request.unsent is None:
                answer = self._next(request, now)
                if answer is not None:
                    self._send(peer, request, _ENCODER.encode(answer))
        return min((self._wait(request, now) for request in self._open.values()), default=math.inf)

    def _wait(self, request: _Request, now: float) -> float:
        if request.unsent is not None:
            return max(0.0, request.not_before - now)
        if request.credit or request.head is not None:
            return 0.0
        return max(0.0, request.probed + PROBE_SECONDS - now)

    def _read(self, peer: bytes, payload: bytes, parts: int, source: str) -> Question | None:
        """The question in a message; None where it is none, which the peer is told."""
        try:
            if parts != 2:
                raise msgspec.DecodeError(f"expected one frame, got {parts - 1}")
            question: Question = _DECODER.decode(payload)
        except UNDECODABLE as error:
            header = _header(payload)
            if parts == 2 and header.version > PROTOCOL_VERSION:
                self._too_new(peer, header.number, header.version, source)
            else:
                detail = f"expected a question in msgpack, got something else: {error}"
                self._refuse(peer, -1, "malformed", detail, source)
            return None
        if isinstance(question, ReplayRequest) and question.version > PROTOCOL_VERSION:
            self._too_new(peer, question.number, question.version, source)
            return None
        return question

    def _begin(self, peer: bytes, question: ReplayRequest, user: str, source: str) -> None:
        self._open.pop(peer, None)  # a new request takes the place of the one before it
        objection = _malformed(question) or self._no_right(question, user)
        if objection is not None:
            self._refuse(peer, question.number, *objection, source)
            return
        journal = self._reader.read(question.after, limit=0)
        refusal = self._cannot(question, journal)
        if refusal is not None:
            self._tell(peer, refusal)
            return
        self._open[peer] = _Request(
            number=question.number,
            user=user,
            topics=question.topics,
            position=question.after,
            credit=min(question.credit, CREDIT_MOST),
            probed=time.monotonic(),
            head=journal.newest if question.after == journal.newest else None,
        )

    def _no_right(self, question: ReplayRequest, user: str) -> tuple[Refusal, str] | None:
        for topic in question.topics or (f"{TOPIC_ROOT}/",):
            if not self._may_subscribe(user, topic):
                return "not allowed", "the key has no right to all that begins with the topics"
        return None

    def _cannot(self, question: ReplayRequest, journal: Page) -> ReplayRefused | None:
        """The answer to a good question that cannot be served now."""
        number, after = question.number, question.after
        if question.epoch not in ("", self._reader.epoch):
            detail = f"the journal is of epoch {self._reader.epoch}: numbering started over"
            return self._refusal(number, "epoch", detail, journal.oldest)
        if after > journal.newest:
            detail = f"the journal ends at {journal.newest}: it is an older copy, or another one"
            return self._refusal(number, "epoch", detail, journal.oldest)
        if after and after + 1 < journal.oldest:
            return self._expired(number, after, journal.oldest)
        if len(self._open) >= REQUESTS_MOST:
            detail = f"{REQUESTS_MOST} requests are open: ask again in a few seconds"
            return self._refusal(number, "busy", detail, journal.oldest)
        return None

    def _change(self, peer: bytes, question: ReplayCredit | ReplayCancel) -> None:
        request = self._open.get(peer)
        if request is None or request.number != question.number or request.over:
            return  # an answer and this crossed each other
        if isinstance(question, ReplayCancel):
            del self._open[peer]
        else:
            request.credit = min(request.credit + max(0, question.credit), CREDIT_MOST)

    def _next(self, request: _Request, now: float) -> Answer | None:
        """The next answer to a request; None while it must wait for credit."""
        if request.head is not None:
            request.over = True
            return ReplayDone(number=request.number, epoch=self._reader.epoch, head=request.head)
        if not request.credit:
            if now < request.probed + PROBE_SECONDS:
                return None
            request.probed = now
            return ReplayEvents(number=request.number, payloads=())
        limit = min(request.credit, PAGE_EVENTS)
        page = self._reader.read(request.position, request.topics, limit)
        # From 0 on means from the oldest there is.
        if request.position and request.position + 1 < page.oldest:
            request.over = True
            return self._expired(request.number, request.position, page.oldest)
        payloads: list[bytes] = []
        size, through = 0, page.through
        for event in page.events:
            if payloads and size + len(event.payload) > PAGE_BYTES:
                through = event.sequence - 1
                break
            if self._may_read(request.user, event.topic):  # its camera may be a new one
                payloads.append(event.payload)
                size += len(event.payload)
        request.position = through
        request.credit -= len(payloads)
        request.probed = now
        if through >= page.newest:
            request.head = page.newest
        if not payloads:
            return None  # none passed the filter so far, or Done is next
        return ReplayEvents(number=request.number, payloads=tuple(payloads))

    def _send(self, peer: bytes, request: _Request, payload: bytes) -> None:
        sent = self._try(peer, payload)
        if sent is False:
            request.unsent, request.not_before = payload, time.monotonic() + request.pause
            request.pause = min(2 * request.pause, RETRY_MOST)
            return
        request.unsent, request.pause = None, RETRY_FIRST
        if sent is None or request.over:
            del self._open[peer]

    def _try(self, peer: bytes, payload: bytes) -> bool | None:
        """Whether a peer's queue took an answer; None where the peer has gone."""
        try:
            self._socket.send_multipart([peer, payload], zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return None
        return True

    def _too_new(self, peer: bytes, number: int, version: int, source: str) -> None:
        detail = f"expected protocol version {PROTOCOL_VERSION}, got {version}: update facestream"
        self._refuse(peer, number, "version", detail, source)

    def _refuse(self, peer: bytes, number: int, reason: Refusal, detail: str, source: str) -> None:
        """Count what should not have been sent, and say so to its sender."""
        self._refusals.count(source, reason, detail)
        oldest = self._reader.read(limit=0).oldest
        self._tell(peer, self._refusal(number, reason, detail, oldest))

    def _tell(self, peer: bytes, refusal: ReplayRefused) -> None:
        """Send a refusal, later if need be; what is open for its peer stays."""
        if peer in self._open or len(self._open) >= 2 * REQUESTS_MOST:
            self._try(peer, _ENCODER.encode(refusal))
            return
        over = _Request(refusal.number, "", (), 0, 0, probed=time.monotonic(), over=True)
        self._open[peer] = over
        self._send(peer, over, _ENCODER.encode(refusal))

    def _expired(self, number: int, after: int, oldest: int) -> ReplayRefused:
        detail = f"events up to {oldest - 1} were deleted, and those after {after} were asked for"
        return self._refusal(number, "expired", detail, oldest)

    def _refusal(self, number: int, reason: Refusal, detail: str, oldest: int) -> ReplayRefused:
        return ReplayRefused(
            number=number, reason=reason, detail=detail, epoch=self._reader.epoch, oldest=oldest
        )


def _malformed(question: ReplayRequest) -> tuple[Refusal, str] | None:
    if not 0 <= question.after <= SEQUENCE_MOST or question.credit < 0:
        return "malformed", f"expected after of 0 to {SEQUENCE_MOST} and credit of 0 or more"
    if len(question.topics) > TOPICS_MOST:
        return "malformed", f"expected at most {TOPICS_MOST} topics"
    return None


def _receive(socket: zmq.Socket[bytes]) -> tuple[bytes, zmq.Frame, int]:
    """A message's peer, its first frame, and how many parts it had: more than two are dropped."""
    peer = socket.recv(zmq.DONTWAIT)
    frame = socket.recv(zmq.DONTWAIT, copy=False)
    parts, last = 2, frame
    while last.more:
        last = socket.recv(zmq.DONTWAIT, copy=False)
        parts += 1
    return peer, frame, parts


def _header(payload: bytes) -> _Header:
    try:
        return msgspec.msgpack.decode(payload, type=_Header)
    except UNDECODABLE:
        return _Header()
