"""What a subscriber missed, and how it gets it: gaps, replay, repeats. No sockets, no clock.

Everything that comes is put in here with the time it came; `ready` fills with what the caller is
to be given, once each and in order; `ask` says what to send to the replay socket.

What counts as had is a `Position`: everything up to a floor, and single topics beyond it. A gap is
an event whose `previous` is beyond that (where every event is asked for, a hole in the numbers), a
heartbeat whose `newest` is, or a new connection. Then all that comes waits, the newest of it in a
bounded buffer, until a replay from the floor has caught up; what it brought is dropped from the
buffer, and what the buffer lost shows as the next gap.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Literal

from .. import PublishError
from .arrival import LARGEST_SEQUENCE, Arrival, Filter, Skipped, read_event
from .client_errors import EventsLost, Loss, NotAllowed, VersionTooNew
from .cursor import TOPICS_MOST, Cursor, Position, Rounds, Step
from .events import AnyEvent
from .protocol import (
    PROTOCOL_VERSION,
    Answer,
    Heartbeat,
    Question,
    ReplayCredit,
    ReplayDone,
    ReplayEvents,
    ReplayRefused,
    ReplayRequest,
)

log = logging.getLogger(__name__)

CREDIT = 256
WAITING_MOST = 1000
FIRST_PAUSE, FRUITLESS_PAUSE, LONGEST_PAUSE = 0.1, 1.0, 10.0
FIRST_SILENCE, LONGEST_SILENCE = 5.0, 60.0
AWAY = 2.0


class Catchup:
    """Orders what comes over both sockets into one stream without gaps and repeats."""

    def __init__(
        self,
        wanted: Filter,
        after: Cursor | Literal["oldest"] | None,
        skipped: Skipped,
        *,
        replay: str,
        patience: float,
    ) -> None:
        """Begin.

        after: None begins with what comes from now on. skipped: where to count what cannot be used.
        replay: the replay endpoint, for messages. patience: seconds that events wait for a replay
        socket that does not answer, before they are passed on with a gap.
        """
        self.ready: deque[Step] = deque()
        """What the caller is to be given, in order; a step without event or error just counts."""
        self.position = Position(after if isinstance(after, Cursor) else None)
        self._wanted = wanted
        self._skipped = skipped
        self._replay = replay
        self._patience = patience
        self._from_now = after is None
        self._start = 0  # up to here events that come are no repeats: they were on their way
        self._needed = True
        self._answered = False  # the replay socket, ever
        self._deaf = False  # it does not answer, so gaps are passed over
        self._asked: ReplayRequest | None = None
        self._number = 0
        self._progress = 0.0  # when the open question was sent or last answered
        self._received = 0  # events since credit was last given
        self._brought = False  # whether the open question brought anything new
        self._not_before = 0.0
        self._pause = FIRST_PAUSE
        self._waiting: deque[tuple[int, Arrival]] = deque(maxlen=WAITING_MOST)
        self._held_since: float | None = None
        self._heard = self._ticked = 0.0
        self._silence = FIRST_SILENCE
        self._rounds = Rounds()

    # --- what comes ---

    def connected(self) -> None:
        """The subscription stands again: what was sent meanwhile is lost."""
        if self.position.epoch:
            self._need()

    def replay_connected(self, now: float) -> None:
        """The replay socket stands (again): a question that was open is forgotten there."""
        if self._deaf:
            self._deaf, self._needed = False, True
        if self._asked is not None:
            self._asked, self._needed = None, True
        self._not_before = now + FIRST_PAUSE if self._not_before > now else now

    def arrive(self, arrival: Arrival, now: float) -> None:
        """An event came over the subscription."""
        self._heard, self._silence = now, FIRST_SILENCE
        if not self._wanted.wants(arrival.topic):
            return
        if not self.position.epoch and (self._from_now or self._deaf):
            self._begin(arrival.epoch, arrival.sequence - 1)
        if self._holding() or arrival.epoch != self.position.epoch:
            self._hold(arrival, now)
        else:
            self._accept(arrival, now)

    def beat(self, beat: Heartbeat, now: float) -> None:
        """A heartbeat came. Raises VersionTooNew."""
        self._heard, self._silence = now, max(FIRST_SILENCE, min(3 * beat.interval, 60.0))
        if beat.version > PROTOCOL_VERSION:
            raise VersionTooNew(
                f"the publisher speaks version {beat.version} of the protocol, this client "
                f"{PROTOCOL_VERSION}: update facestream here"
            )
        if not self._wanted.wants(beat.topic):
            return
        if not self.position.epoch and self._from_now:
            self._begin(beat.epoch, beat.head)
        if self._holding():
            return
        if beat.epoch != self.position.epoch:
            self._need()
        elif beat.newest > self.position.newest(beat.topic):
            self._need()
            if self._deaf:
                self._pass_over(self._done_to(beat.epoch, beat.topic, beat.newest))
        elif not self._wanted.everything:
            complete = self._rounds.beat(beat.topic, beat.head)
            if complete > self.position.floor:
                self._step(Step(beat.epoch, settled=complete))

    def answer(self, answer: Answer, now: float) -> None:
        """Something came from the replay socket. Raises NotAllowed and VersionTooNew."""
        asked = self._asked
        if isinstance(answer, ReplayRefused) and answer.number == -1:
            self._skipped.add("refused", f"the replay socket could not read us: {answer.detail}")
            return
        if asked is None or answer.number != asked.number:
            return  # to a question that was given up
        self._answered = True
        if isinstance(answer, ReplayEvents):
            self._take(answer, now)
        elif isinstance(answer, ReplayDone):
            self._finish(asked, answer, now)
        else:
            self._refused(asked, answer, now)

    # --- what to do ---

    def ask(self, now: float, send: Callable[[Question], bool]) -> None:
        """Send what there is to be asked; `send` returns False where nobody is connected."""
        if self._asked is not None:
            if self._received >= CREDIT // 2:
                credit = ReplayCredit(number=self._asked.number, credit=self._received)
                self._received = 0 if send(credit) else self._received
            if now - self._progress <= max(1.0, self._patience / 2):
                return
            self._asked, self._needed = None, True
        if not self._needed or now < self._not_before:
            return
        latest = not self.position.epoch and self._from_now
        question = ReplayRequest(
            number=self._number + 1,
            epoch=self.position.epoch,
            after=LARGEST_SEQUENCE if latest else self.position.floor,
            topics=self._wanted.replay_prefixes(),
            credit=CREDIT,
        )
        if send(question):
            self._number, self._asked, self._needed = question.number, question, False
            self._progress, self._received, self._brought = now, 0, False

    def tick(self, now: float) -> None:
        """Time has passed: give up waiting for a replay, or wonder about a long silence.

        To be called every second. If it was not, the caller was busy: nobody was listening.
        """
        away, self._ticked = now - self._ticked, now
        if away > AWAY:
            self._heard, self._progress = self._heard + away, self._progress + away
            if self._held_since is not None:
                self._held_since += away
        if self._held_since is not None and now - self._held_since > self._patience:
            self._give_up(now)
        if self.position.epoch and now - self._heard > self._silence:
            self._heard, self._silence = now, min(2 * self._silence, LONGEST_SILENCE)
            self._need()

    def busy(self) -> bool:
        """Whether something is under way, so that `tick` and `ask` are to be called soon again."""
        return self._asked is not None or self._needed or bool(self._waiting)

    # --- events over the subscription ---

    def _need(self) -> None:
        """Ask for a replay; where nobody answers one, go on without."""
        self._rounds.clear()
        if not self._deaf:
            self._needed = True

    def _holding(self) -> bool:
        """Whether what comes has to wait for a replay."""
        begun = self.position.epoch or not self._from_now
        return bool(begun and not self._deaf and (self._needed or self._asked is not None))

    def _begin(self, epoch: str, floor: int) -> None:
        self._step(Step(epoch, floor, restart=True))
        self._start = floor
        self._needed, self._asked = False, None

    def _done_to(
        self, epoch: str, topic: str, sequence: int, event: AnyEvent | None = None
    ) -> Step:
        """The step to this event of a topic, when nothing before it is missing."""
        if self._wanted.everything:
            return Step(epoch, settled=sequence, event=event)
        return Step(epoch, topic=topic, sequence=sequence, event=event)

    def _hold(self, arrival: Arrival, now: float) -> None:
        if self._deaf:
            self._start_over(arrival.epoch, arrival.sequence - 1)
            self._accept(arrival, now)
            return
        if self._asked is None:
            self._need()
        self._waiting.append((self._number, arrival))
        if self._held_since is None:
            self._held_since = now

    def _accept(self, arrival: Arrival, now: float) -> None:
        """Pass an event on, unless it is a repeat or shows a gap."""
        topic, epoch, sequence, previous, event = arrival
        position = self.position
        if sequence <= position.floor:
            if position.heads.get(topic, 0) < sequence <= self._start:
                self._step(Step(epoch, topic=topic, sequence=sequence, event=event))
            return
        if self._wanted.everything:
            gap = sequence > position.floor + 1
        else:
            newest = position.newest(topic)
            if sequence <= newest:
                return
            gap = previous is not None and previous > newest
            if topic not in position.heads and len(position.heads) >= TOPICS_MOST:
                self._skipped.add("too many topics", f"expected at most {TOPICS_MOST} topics")
                return
        if gap and not self._deaf:
            self._hold(arrival, now)
        elif gap:
            self._pass_over(self._done_to(epoch, topic, sequence, event))
        else:
            self._step(self._done_to(epoch, topic, sequence, event))

    def _step(self, step: Step) -> None:
        if step.settled or step.sequence > self._start:
            self._start = 0
        self.position.apply(step)
        self.ready.append(step)

    def _pass_over(self, step: Step) -> None:
        self._skipped.add(
            "gap", f"events were lost, and nobody answers at {self._replay} to send them again"
        )
        self._step(step)

    # --- replay ---

    def _take(self, answer: ReplayEvents, now: float) -> None:
        self._progress, self._received = now, self._received + len(answer.payloads)
        for payload in answer.payloads:
            arrival = read_event(payload, self._skipped)
            if arrival is None or not self._wanted.wants(arrival.topic):
                continue
            if not self.position.epoch:
                self._step(Step(arrival.epoch, restart=True))
            position = self.position
            if arrival.epoch != position.epoch or arrival.sequence <= position.floor:
                self._skipped.add("out of order", "a replay sent an event that was not asked for")
                continue
            known = arrival.sequence <= position.newest(arrival.topic)
            event = None if known else arrival.event
            # A replay is complete: all that was asked for up to this event is had.
            self._step(Step(arrival.epoch, settled=arrival.sequence, event=event))
            self._brought = self._brought or not known
            if not known and self._held_since is not None:
                self._held_since = now

    def _finish(self, asked: ReplayRequest, done: ReplayDone, now: float) -> None:
        self._asked = None
        if not done.epoch or not 0 <= done.head <= LARGEST_SEQUENCE:
            self._retry(now, "done without an epoch")
            return
        if not self.position.epoch:
            self._begin(done.epoch, done.head)
        elif done.epoch != self.position.epoch:
            self._start_over(done.epoch, 0)
            return
        elif done.head > self.position.floor:
            self._step(Step(done.epoch, settled=done.head))
        self._held_since = None
        if self._brought:
            self._pause = FIRST_PAUSE
        else:
            self._delay(now, FRUITLESS_PAUSE)
        held, self._waiting = self._waiting, deque(maxlen=WAITING_MOST)
        for number, arrival in held:
            strange = arrival.epoch != done.epoch or arrival.sequence > done.head
            if strange and number < asked.number:
                # It came before the question was asked, so the journal would hold it.
                self._skipped.add("not in the journal", f"event {arrival.sequence} is none of it")
            elif self._waiting or arrival.epoch != self.position.epoch:
                self._hold(arrival, now)
            else:
                self._accept(arrival, now)

    def _refused(self, asked: ReplayRequest, refused: ReplayRefused, now: float) -> None:
        self._asked = None
        position = self.position
        if refused.reason == "not allowed":
            raise NotAllowed(
                f"{self._replay}: the key has no right to what was asked for ({refused.detail}): "
                "ask for fewer kinds or cameras, or for a key with more rights"
            )
        if refused.reason == "version":
            raise VersionTooNew(
                f"{self._replay}: the publisher does not know version {PROTOCOL_VERSION} of the "
                f"protocol ({refused.detail}): update facestream there"
            )
        if refused.reason == "epoch" and not position.epoch and self._from_now:
            return  # what is newest is told by the first heartbeat or event
        if refused.reason == "epoch" and position.epoch and refused.epoch:
            self._start_over(refused.epoch, 0)
        elif refused.reason == "expired" and refused.oldest - 1 > position.floor:
            last = min(refused.oldest, LARGEST_SEQUENCE) - 1
            error: PublishError | None = None
            if position.epoch:
                error = self._lost("expired", last, "the journal no longer holds them")
            epoch = position.epoch or refused.epoch
            self._step(Step(epoch, last, restart=not position.epoch, error=error))
            self._needed = True
        else:
            self._retry(now, f"{refused.reason}: {refused.detail}")

    def _retry(self, now: float, why: str) -> None:
        self._skipped.add("refused", f"the replay socket {self._replay} refuses ({why[:200]})")
        self._needed = True
        self._delay(now, LONGEST_PAUSE)

    def _delay(self, now: float, longest: float) -> None:
        """Put off the next question, each time for longer."""
        self._not_before = now + min(self._pause, longest)
        self._pause = min(2 * self._pause, longest)

    # --- what is lost ---

    def _start_over(self, epoch: str, floor: int) -> None:
        """The publisher has another journal: all that it holds is new."""
        error = self._lost("epoch", None, "the publisher has a new journal, numbers start over")
        self._step(Step(epoch, floor, restart=True, error=error))
        held = (held for held in self._waiting if held[1].epoch == epoch)
        self._waiting = deque(held, WAITING_MOST)
        self._held_since = None
        self._need()

    def _give_up(self, now: float) -> None:
        """Nobody fills the gap: pass on what waits behind it."""
        held, self._waiting = self._waiting, deque(maxlen=WAITING_MOST)
        first = held[0][1] if held else None
        if not self._answered:
            self._deaf = True
            log.warning(
                "nobody answers at %s: events that are lost on the way cannot be asked for again",
                self._replay,
            )
        elif first is not None and not self.position.epoch:
            self._begin(first.epoch, first.sequence - 1)
        elif first is not None and first.epoch != self.position.epoch:
            self._start_over(first.epoch, first.sequence - 1)
        elif first is not None and first.sequence - 1 > self.position.floor:
            last = first.sequence - 1
            error = self._lost("no answer", last, f"nobody answers at {self._replay}")
            self._step(Step(first.epoch, last, error=error))
        self._held_since, self._asked, self._needed = None, None, False
        for _, arrival in held:
            self.arrive(arrival, now)

    def _lost(self, reason: Loss, last: int | None, why: str) -> EventsLost:
        position = self.position
        return EventsLost(why, reason, position.epoch, position.floor + 1, last)
