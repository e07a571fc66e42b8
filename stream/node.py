"""A node: the loop that joins an inlet, workers and an outlet in one thread.

The whole pipeline is one node; in a topology every node has some of the parts, and sockets at the
ends where it has no source or does not decide. Parts are plain objects: only this loop calls them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from .. import JournalError
from .flow import Down, Resume, Up

IDLE_SECONDS = 0.2
DRAIN_SECONDS = 10.0
"""At the end a node waits this long for an answer from below before it gives up."""

log = logging.getLogger(__name__)


class Inlet(Protocol):
    """Where works come from: `Reading`, or the hop from the nodes before."""

    @property
    def finished(self) -> bool:
        """Nothing will come any more, and nothing that came is still under way."""
        ...

    def start(self) -> None:
        """Begin; raises what makes it pointless to go on."""
        ...

    def receive(self, wait: float) -> list[Down]:
        """What has come; waits up to `wait` seconds for the first of it.

        Returns early, with nothing, where only an answer from below could bring more: answers are
        collected between two calls.
        """
        ...

    def answer(self, ups: Sequence[Up]) -> None:
        """Send answers up."""
        ...

    def stop(self, how: str) -> None:
        """Give nothing more but what closes the cameras: how, for people. Twice is no error."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Worker(Protocol):
    """A part in the middle. What it makes of a work keeps its position; the order of a camera's
    works is kept, works of an older attempt than the newest `Begin`'s are dropped silently."""

    def take(self, downs: Sequence[Down]) -> list[Down]:
        """Work on what came; returns what is ready, which may be of earlier calls."""
        ...

    def idle(self) -> list[Down]:
        """Nothing came: return what was held back."""
        ...

    def resume(self, resume: Resume) -> None:
        """The answer to a `Begin` passes on its way up, before any work of that attempt."""
        ...


class Outlet(Protocol):
    """Where works go: `Deciding`, or the hop to the next node."""

    def start(self) -> None:
        """Begin; called before the inlet's."""
        ...

    def send(self, downs: Sequence[Down]) -> None:
        """Hand works on; called in every turn of the loop, also with none."""
        ...

    def collect(self) -> list[Up]:
        """The answers that have come, without waiting."""
        ...

    def stop(self, how: str) -> None:
        """The last work was sent: how it ended, for people. Left out after a JournalError."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Node:
    """Runs its parts in the caller's thread."""

    def __init__(
        self,
        inlet: Inlet,
        workers: Sequence[Worker],
        outlet: Outlet,
        *,
        patience: float = IDLE_SECONDS,
    ) -> None:
        """patience: seconds without anything coming after which workers give what they hold."""
        self.inlet = inlet
        self.workers = tuple(workers)
        self.outlet = outlet
        self.interrupted = False
        self._patience = min(patience, IDLE_SECONDS)
        self._busy = False
        self._moved_at = 0.0

    def run(self) -> None:
        """Go on until the inlet has finished or `stop` is called, then end in good order.

        Raises what a part raised first; cameras are closed nevertheless, unless the journal failed.
        """
        error: BaseException | None = None
        try:
            self.outlet.start()
            self.inlet.start()
            while not self.interrupted and not self.inlet.finished:
                self.step()
        except BaseException as failure:
            error = failure
        how = "sources ended" if error is None else type(error).__name__
        how = "interrupted" if self.interrupted else how
        steps: list[Callable[[], None]] = [partial(self.inlet.stop, how)]
        if not isinstance(error, JournalError):
            steps.append(partial(self._drain, how))
        error = take_all([*steps, self.inlet.close, self.outlet.close], error)
        if error is not None:
            raise error

    def stop(self) -> None:
        """Ask `run` to end after the work in hand; safe from a signal handler."""
        self.interrupted = True

    def step(self) -> None:
        """One turn: what came goes down through the parts, answers go up."""
        downs = self.inlet.receive(self._patience if self._busy else IDLE_SECONDS)
        self._busy = bool(downs)
        flow = downs
        for worker in self.workers:
            passed = worker.take(flow) if flow else []
            flow = passed if downs else passed + worker.idle()
        self.outlet.send(flow)
        ups = self.outlet.collect()
        for up in ups:
            if isinstance(up, Resume):
                for worker in self.workers:
                    worker.resume(up)
        if ups:
            self.inlet.answer(ups)
        if downs or ups:
            self._moved_at = time.monotonic()

    def _drain(self, how: str) -> None:
        """Take the last works through, then tell the outlet that these were all."""
        self._moved_at = time.monotonic()
        while not self.inlet.finished:
            self.step()
            if time.monotonic() - self._moved_at > DRAIN_SECONDS:
                log.warning("no answer from the next node for %g s: ending", DRAIN_SECONDS)
                break
        self.outlet.stop(how)


def take_all(
    steps: Sequence[Callable[[], None]], error: BaseException | None = None
) -> BaseException | None:
    """Take every step, whatever becomes of the others.

    Returns the first error, which `error` is if given: those that follow must not hide it, and are
    logged.
    """
    for step in steps:
        try:
            step()
        except BaseException as later:
            if error is None:
                error = later
            else:
                log.error("while ending after an error: %s", later)
    return error
