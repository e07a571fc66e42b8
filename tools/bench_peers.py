"""Two processes that talk to each other while a third one measures, for `bench transport`.

Each side of a measurement is a function `side(control, peer, scratch)`: `control` leads to the
process that measures, `peer` to the other side. Both stay up for all repetitions, so that neither
their start nor a connection is measured, and wait without a busy loop while another pair runs. The
left side answers every round on `control` with the seconds that it took.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .. import PublishError

WAIT = 120.0
"""Seconds after which a side that does not answer is taken for broken."""

if TYPE_CHECKING:
    Link: TypeAlias = Connection[Any, Any]  # subscriptable in its stub alone
else:
    Link = Connection
Side = Callable[[Link, Link, str], None]


class Pair(NamedTuple):
    """The two sides of one way to carry something; threads: of one process."""

    left: Side
    right: Side
    threads: bool = False


class Peers:
    """A pair that is running."""

    def __init__(self, pair: Pair) -> None:
        """Start it, as processes that share nothing with this one."""
        spawn = multiprocessing.get_context("spawn")
        self._controls: list[Link] = []
        self._processes: list[BaseProcess] = []
        with ExitStack() as ours:
            scratch = ours.enter_context(tempfile.TemporaryDirectory())
            ends = spawn.Pipe()
            sides = [(pair.left, ends[0]), (pair.right, ends[1])]
            controls = [spawn.Pipe() for _ in sides]
            arguments = [
                (side, control[1], peer, scratch)
                for (side, peer), control in zip(sides, controls, strict=True)
            ]
            self._controls = [control[0] for control in controls]
            if pair.threads:
                self._processes = [spawn.Process(target=_run_threads, args=(arguments,))]
            else:
                self._processes = [spawn.Process(target=_run, args=given) for given in arguments]
            for process in self._processes:
                process.start()
            # Only the sides hold these from now on: a side that dies is an end of file to others.
            for end in (*ends, *(control[1] for control in controls)):
                end.close()
            self._scratch = ours.pop_all()

    def once(self, count: int) -> float:
        """One round of `count` items; seconds. Raises PublishError when a side fails."""
        try:
            for control in self._controls:
                control.send(count)
            if self._controls[0].poll(WAIT):
                return float(self._controls[0].recv())
        except (EOFError, OSError) as error:
            raise PublishError(
                "a process of the measurement ended: its error stands above"
            ) from error
        raise PublishError(f"no answer from a process of the measurement for {WAIT:.0f} seconds")

    def close(self) -> None:
        """End both sides."""
        for control in self._controls:
            control.close()
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
        self._scratch.close()

    def __enter__(self) -> Peers:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _run(side: Side, control: Link, peer: Link, scratch: str) -> None:
    side(control, peer, scratch)


def _run_threads(arguments: list[tuple[Side, Link, Link, str]]) -> None:
    threads = [threading.Thread(target=_run, args=given) for given in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rounds(control: Link) -> Iterator[int]:
    """How many items are asked for, round by round, until the measuring process hangs up."""
    while True:
        try:
            count = control.recv()
        except (EOFError, OSError):
            return
        yield count


def hear(peer: Link, count: int, items: Iterable[object], every: int) -> None:
    """Take `count` items, telling the other side how far it came after each `every` of them."""
    for number, _ in enumerate(islice(items, count), 1):
        if number % every == 0 or number == count:
            peer.send((number, time.perf_counter()))


class Window:
    """On the sending side: at most `most` items under way."""

    def __init__(self, peer: Link, most: int) -> None:
        """Begin a round."""
        self._peer, self._most = peer, most
        self._sent = self._heard = 0
        self._started = time.perf_counter()
        self._ended = self._started

    def sent(self, items: int) -> None:
        """Count what was sent; waits while too much is under way."""
        self._sent += items
        while self._sent - self._heard > self._most:
            self._take()

    def finish(self) -> float:
        """Wait until everything was heard; seconds since the beginning, until then."""
        while self._heard < self._sent:
            self._take()
        return self._ended - self._started

    def _take(self) -> None:
        # Both processes read one clock: CLOCK_MONOTONIC is the machine's.
        if not self._peer.poll(WAIT):
            raise PublishError(f"items were lost: {self._heard} of {self._sent} came")
        self._heard, self._ended = self._peer.recv()
