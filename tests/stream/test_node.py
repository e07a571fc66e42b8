"""The loop of a node: in which order parts are called, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest

from facestream import JournalError, SourceError
from facestream.stream import node as node_module
from facestream.stream.flow import Begin, Done, Down, Finish, Mark, Resume, Up, Work
from facestream.stream.node import Node, take_all

BEGIN = Begin("door", "a1", live=False, fingerprint="f")
RESUME = Resume("door", "a1", "epoch", "1", 1)


def work(position: int) -> Work:
    return Work("door", "a1", position, Mark())


class Script:
    """An inlet that gives what is written, then nothing until `stop`; notes what it is told."""

    def __init__(self, log: list[str], *turns: list[Down] | Exception) -> None:
        self.log, self.turns = log, list(turns)
        self.waits: list[float] = []
        self.answers: list[Up] = []
        self.finished = False

    def start(self) -> None:
        self.log.append("inlet starts")

    def receive(self, wait: float) -> list[Down]:
        self.waits.append(wait)
        turn = self.turns.pop(0) if self.turns else []
        if isinstance(turn, Exception):
            raise turn
        return turn

    def answer(self, ups: Sequence[Up]) -> None:
        self.answers += ups
        done = any(isinstance(up, Done) and up.position == 9 for up in ups)
        self.finished = self.finished or done

    def stop(self, how: str) -> None:
        self.log.append(f"inlet stops: {how}")
        self.turns = [[Work("door", "a1", 9, Finish(how))]]

    def close(self) -> None:
        self.log.append("inlet closes")


class Holder:
    """A worker that holds works back until it is idle."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.held: list[Down] = []

    def take(self, downs: Sequence[Down]) -> list[Down]:
        self.held += downs
        return []

    def idle(self) -> list[Down]:
        held, self.held = self.held, []
        return held

    def resume(self, resume: Resume) -> None:
        self.log.append(f"worker resumes {resume.run}")


class Keeper:
    """An outlet that keeps what it is sent, and answers it."""

    def __init__(self, log: list[str], *, silent: bool = False) -> None:
        self.log, self.silent = log, silent
        self.sent: list[Down] = []
        self.ups: list[Up] = []
        self.on_send: Callable[[], None] = lambda: None

    def start(self) -> None:
        self.log.append("outlet starts")

    def send(self, downs: Sequence[Down]) -> None:
        self.sent += downs
        for down in downs:
            done = Done("door", "a1", down.position) if isinstance(down, Work) else RESUME
            self.ups += [] if self.silent else [done]
        self.on_send()

    def collect(self) -> list[Up]:
        ups, self.ups = self.ups, []
        return ups

    def stop(self, how: str) -> None:
        self.log.append(f"outlet stops: {how}")

    def close(self) -> None:
        self.log.append("outlet closes")


def test_works_go_down_answers_go_up_and_whoever_holds_works_back_is_told_of_quiet() -> None:
    log: list[str] = []
    inlet, worker, outlet = Script(log, [BEGIN], [], [work(0), work(1)]), Holder(log), Keeper(log)
    node = Node(inlet, [worker], outlet, patience=0.05)
    node.step()
    assert outlet.sent == [] and worker.held == [BEGIN]
    node.step()
    assert outlet.sent == [BEGIN]
    assert inlet.answers == [RESUME] and log == ["worker resumes 1"]
    node.step()
    node.step()
    assert inlet.answers[1:] == [Done("door", "a1", 0), Done("door", "a1", 1)]
    assert inlet.waits == [0.2, 0.05, 0.2, 0.05]  # who may hold something back is not kept waiting


def test_an_interrupt_ends_in_good_order_with_what_is_held() -> None:
    log: list[str] = []
    inlet, worker, outlet = Script(log, [BEGIN], [], [work(0)]), Holder(log), Keeper(log)
    node = Node(inlet, [worker], outlet)
    outlet.on_send = lambda: node.stop() if not inlet.turns else None
    node.run()
    positions = [down.position for down in outlet.sent if isinstance(down, Work)]
    assert positions[0] == 0 and positions[-1] == 9
    assert log == [
        *("outlet starts", "inlet starts", "worker resumes 1"),
        *("inlet stops: interrupted", "outlet stops: interrupted"),
        *("inlet closes", "outlet closes"),
    ]


def test_an_error_is_raised_after_everything_was_closed() -> None:
    log: list[str] = []
    inlet = Script(log, [BEGIN], SourceError("gone"))
    outlet = Keeper(log)
    with pytest.raises(SourceError, match="gone"):
        Node(inlet, [], outlet).run()
    assert log[-4:] == [
        *("inlet stops: SourceError", "outlet stops: SourceError"),
        *("inlet closes", "outlet closes"),
    ]


def test_a_journal_that_failed_is_not_asked_again() -> None:
    log: list[str] = []
    with pytest.raises(JournalError, match="no"):
        Node(Script(log, JournalError("no")), [], Keeper(log)).run()
    assert log[2:] == ["inlet stops: JournalError", "inlet closes", "outlet closes"]


def test_what_does_not_start_is_closed_too() -> None:
    log: list[str] = []
    inlet = Script(log)

    def start() -> None:
        inlet.finished = True
        raise SourceError("no such file")

    inlet.start = start  # type: ignore[method-assign]
    with pytest.raises(SourceError, match="no such file"):
        Node(inlet, [], Keeper(log)).run()
    assert log == [
        *("outlet starts", "inlet stops: SourceError", "outlet stops: SourceError"),
        *("inlet closes", "outlet closes"),
    ]


def test_a_next_node_that_never_answers_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node_module, "DRAIN_SECONDS", 0.05)
    log: list[str] = []
    inlet = Script(log, [BEGIN])
    outlet = Keeper(log, silent=True)
    node = Node(inlet, [], outlet)

    def receive(wait: float) -> list[Down]:
        node.stop()
        return []

    inlet.receive = receive  # type: ignore[method-assign]
    node.run()
    assert "no answer from the next node" in caplog.text
    assert log[-1] == "outlet closes"


def test_the_first_error_wins_and_the_others_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []

    def fail(number: int) -> Callable[[], None]:
        def step() -> None:
            taken.append(number)
            raise ValueError(f"error {number}")

        return step

    with caplog.at_level(logging.ERROR):
        error = take_all([fail(1), lambda: taken.append(2), fail(3)])
    assert taken == [1, 2, 3] and str(error) == "error 1"
    assert "error 3" in caplog.text and "error 1" not in caplog.text
    given = SourceError("before")
    assert take_all([fail(4)], given) is given and take_all([]) is None
