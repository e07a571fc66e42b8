"""A publisher and a subscriber without sockets, for tests of what a subscriber missed."""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from facestream.stream.arrival import Filter, Skipped, read_event
from facestream.stream.catchup import Catchup
from facestream.stream.client_errors import EventsLost
from facestream.stream.cursor import Cursor, Position
from facestream.stream.events import AnyEvent, encode
from facestream.stream.protocol import (
    Answer,
    Heartbeat,
    Question,
    ReplayCredit,
    ReplayDone,
    ReplayEvents,
    ReplayRefused,
    ReplayRequest,
)

from .wire import sighting

EPOCH = "first"


class Publisher:
    """A journal, a wire that loses what it is told to, and a replay server of two events a page."""

    def __init__(self, epoch: str = EPOCH) -> None:
        self.epoch = epoch
        self.journal: list[AnyEvent] = []
        self.oldest = 1
        self.newest: Counter[str] = Counter()
        self.wire: list[AnyEvent | Heartbeat] = []
        self.answers: list[Answer] = []
        self.request: ReplayRequest | None = None
        self.position = self.credit = 0
        self.requests: list[ReplayRequest] = []
        self.up = True

    def publish(self, camera: str = "door", *, lost: bool = False) -> AnyEvent:
        sequence = len(self.journal) + 1
        event = sighting(sequence, camera)
        event = replace(
            event,
            epoch=self.epoch,
            sequence=sequence,
            previous=self.newest[event.topic] or None,
        )
        self.journal.append(event)
        self.newest[event.topic] = sequence
        if not lost:
            self.wire.append(event)
        return event

    def beat(self) -> None:
        for topic, newest in self.newest.items():
            self.wire.append(
                Heartbeat(
                    epoch=self.epoch,
                    topic=topic,
                    newest=newest,
                    head=len(self.journal),
                    oldest=self.oldest,
                    interval=1.0,
                )
            )

    def hear(self, question: Question) -> bool:
        if not self.up:
            return False
        if isinstance(question, ReplayRequest):
            self.request, self.position = question, question.after
            self.credit = question.credit
            self.requests.append(question)
        elif isinstance(question, ReplayCredit):
            self.credit += question.credit
        return True

    def serve(self) -> bool:
        """Answer a page; False where there is nothing to answer."""
        request = self.request
        if request is None or not self.up:
            return False
        if request.epoch not in ("", self.epoch) or request.after > len(self.journal):
            self.refuse("epoch")
            return True
        if self.position and self.position + 1 < self.oldest:
            self.refuse("expired")
            return True
        rest = [
            event
            for event in self.journal[max(self.position, self.oldest - 1) :]
            if not request.topics or event.topic.startswith(request.topics)
        ]
        page = rest[: min(2, self.credit)]
        if page:
            self.position = page[-1].sequence
            self.credit -= len(page)
            payloads = tuple(encode(event) for event in page)
            self.answers.append(ReplayEvents(number=request.number, payloads=payloads))
        elif not rest:
            self.request = None
            head = len(self.journal)
            self.answers.append(ReplayDone(number=request.number, epoch=self.epoch, head=head))
        return bool(page or not rest)

    def refuse(self, reason: str) -> None:
        assert self.request is not None
        self.answers.append(
            ReplayRefused(
                number=self.request.number,
                reason=reason,  # type: ignore[arg-type]
                detail="as told",
                epoch=self.epoch,
                oldest=self.oldest,
            )
        )
        self.request = None


class Subscriber:
    """A catch-up and what came out of it."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        after: Cursor | str | None = "oldest",
        cameras: list[str] | None = None,
        patience: float = 10.0,
    ) -> None:
        self.publisher = publisher
        self.skipped = Skipped("test")
        self.catchup = Catchup(
            Filter(None, cameras),
            after,  # type: ignore[arg-type]
            self.skipped,
            replay="tcp://127.0.0.1:2",
            patience=patience,
        )
        self.handled = Position(after if isinstance(after, Cursor) else None)
        self.now = 0.0
        self.seen: list[AnyEvent] = []
        self.errors: list[EventsLost] = []

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.seen]

    def hear(self, most: int = 1_000_000) -> None:
        """Read so much of the wire."""
        for message in self.publisher.wire[:most]:
            if isinstance(message, Heartbeat):
                self.catchup.beat(message, self.now)
            else:
                arrival = read_event(encode(message), self.skipped)
                assert arrival is not None
                self.catchup.arrive(arrival, self.now)
        del self.publisher.wire[:most]
        self.turn()

    def turn(self, seconds: float = 0.2) -> None:
        """Time passes; ask, and take what is ready."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.5, end)
            self.catchup.tick(self.now)
            self.catchup.ask(self.now, self.publisher.hear)
        while self.catchup.ready:
            step = self.catchup.ready.popleft()
            self.handled.apply(step)
            if step.event is not None:
                self.seen.append(step.event)
            if isinstance(step.error, EventsLost):
                self.errors.append(step.error)

    def answer(self) -> None:
        """Read one answer of the replay socket."""
        self.publisher.serve()
        if self.publisher.answers:
            self.catchup.answer(self.publisher.answers.pop(0), self.now)
        self.turn()

    def reconnect(self, publisher: Publisher | None = None) -> None:
        """The connections break: what is on them is lost."""
        self.publisher.wire.clear()
        self.publisher.answers.clear()
        self.publisher.request = None
        self.publisher = publisher or self.publisher
        self.catchup.connected()
        self.catchup.replay_connected(self.now)
        self.turn()

    def settle(self) -> None:
        """Everything comes through from now on, until nothing more is to come."""
        for _ in range(3):
            self.publisher.beat()
            self.hear()
            for _ in range(len(self.publisher.journal) + 40):
                self.answer()


def start(publisher: Publisher, **options: object) -> Subscriber:
    """A subscriber that has caught up."""
    subscriber = Subscriber(publisher, **options)  # type: ignore[arg-type]
    subscriber.turn()
    for _ in range(len(publisher.journal) + 5):
        subscriber.answer()
    return subscriber
