"""Keeps the processes of a topology running: starts them, starts again what dies, ends them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import FacestreamError
from ..configs.schema import Config, NodeConfig
from ..configs.topology import processes_of
from ..stream.totals import Totals
from .orders import TO_SUPERVISOR, Ended, Failed, Opened, Order, Task, error_of, say

DEATHS_MOST = 5
DEATHS_SECONDS = 60.0
"""A process that dies more often than so many times within this time is given up."""
PAUSE_FIRST = 0.1
LOOK_SECONDS = 0.2
GRACE_SECONDS = 15.0
"""After an error the other processes have this long to end what they do."""

log = logging.getLogger(__name__)


class _Process:
    """One process: its nodes, and what is known of it."""

    def __init__(self, nodes: Sequence[NodeConfig]) -> None:
        self.nodes = tuple(nodes)
        self.name = "+".join(node.name for node in nodes)
        self.stages = {stage for node in nodes for stage in node.stages}
        self.popen: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.heard = b""
        self.ended: Ended | Failed | None = None
        self.deaths: deque[float] = deque()
        self.start_at: float | None = 0.0  # None: it runs, or is over

    @property
    def over(self) -> bool:
        """Whether it has ended and will not be started again."""
        return self.popen is None and self.start_at is None

    def tell(self, order: Task | Order) -> None:
        """Say something; a process that has just died is found out elsewhere."""
        if self.channel is not None:
            with contextlib.suppress(OSError):
                say(self.channel, order)

    def kill(self) -> None:
        """End it at once."""
        self.start_at = None
        if self.popen is not None:
            self.popen.kill()


class Supervisor:
    """Runs the nodes of a configuration as processes of this machine, until its sources end."""

    def __init__(
        self,
        config: Config,
        nodes: Sequence[NodeConfig],
        folder: Path,
        *,
        quiet: bool = False,
        note: str = "",
    ) -> None:
        """nodes: all, with endpoints. folder: for sockets. quiet, note: as in run.execute."""
        self._config = config
        self._nodes = tuple(nodes)
        self._folder = folder
        self._quiet, self._note = quiet, note
        self._session = secrets.token_hex(8)
        self._processes = [_Process(members) for members in processes_of(nodes)]
        self._selector = selectors.DefaultSelector()
        self._error: FacestreamError | None = None
        self._given_up: list[FacestreamError] = []
        self._decided: Totals | None = None
        self._stopping = self._told_stop = self._ending = False
        self._deadline: float | None = None

    def run(self) -> Totals:
        """Start the processes and watch them until all have ended.

        Raises the error that one of them ended with, and FacestreamError where one dies again and
        again.
        """
        started = time.perf_counter()
        try:
            while not all(process.over for process in self._processes):
                self._step()
        finally:
            self._kill_all()
            self._selector.close()
        if self._error is not None:
            raise self._error
        if self._decided is None:
            raise RuntimeError("the process that decides ends with its totals")
        self._decided.seconds = time.perf_counter() - started
        return self._decided

    def stop(self) -> None:
        """End after the work in hand; safe from a signal handler."""
        self._stopping = True

    def _step(self) -> None:
        now = time.monotonic()
        for process in self._processes:
            if process.start_at is not None and now >= process.start_at:
                self._start(process)
        for key, _ in self._selector.select(LOOK_SECONDS):
            self._hear(key.data)
        if self._stopping and not self._told_stop:
            self._told_stop = True
            self._order(self._sources(), Order("stop"))
        if not self._ending and all(process.over for process in self._sources()):
            self._end()
        if self._deadline is not None and now > self._deadline:
            self._kill_all()

    def _start(self, process: _Process) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "facestream.tools.child", str(theirs.fileno())]
        with theirs:
            process.popen = subprocess.Popen(
                [*command, process.name],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C reaches the supervisor alone
            )
        process.channel, process.heard, process.start_at = ours, b"", None
        self._selector.register(ours, selectors.EVENT_READ, process)
        names = tuple(node.name for node in process.nodes)
        task = Task(
            self._config,
            names,
            self._nodes,
            str(self._folder),
            self._quiet,
            self._note,
            self._session,
        )
        process.tell(task)
        if self._told_stop and "source" in process.stages:
            process.tell(Order("stop"))
        if self._ending:
            process.tell(self._last_order())

    def _hear(self, process: _Process) -> None:
        """Take what a process says; where it says nothing any more, see how it ended."""
        if process.channel is None:
            return
        try:
            data = process.channel.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self._bury(process)
            return
        process.heard += data
        *lines, process.heard = process.heard.split(b"\n")
        for line in lines:
            told = TO_SUPERVISOR.decode(line)
            if isinstance(told, Opened):
                self._keep_endpoint(told.endpoint)
            else:
                process.ended = told

    def _keep_endpoint(self, endpoint: str) -> None:
        """Subscribers find the publisher where it was, also when it is started again."""
        publish = dataclasses.replace(self._config.publish, endpoint=endpoint)
        self._config = dataclasses.replace(self._config, publish=publish)

    def _bury(self, process: _Process) -> None:
        """A process has ended: what it said last, or the signal that it died of, says why."""
        if process.channel is None or process.popen is None:
            return
        self._selector.unregister(process.channel)
        process.channel.close()
        code = process.popen.wait()
        process.channel = process.popen = None
        ended, process.ended = process.ended, None
        if isinstance(ended, Ended):
            if ended.totals is not None:
                counted = {"rejected": Counter(ended.totals["rejected"])}
                self._decided = Totals(**{**ended.totals, **counted})
        elif isinstance(ended, Failed):
            self._failed(process, ended)
        elif self._error is not None or self._deadline is not None:
            return
        elif code < 0:
            self._died(process, -code)
        else:
            self._end_with(_error(f"node {process.name} has failed, as told above", 1))

    def _died(self, process: _Process, number: int) -> None:
        """Start again what a signal killed, later each time."""
        now = time.monotonic()
        process.deaths.append(now)
        while process.deaths[0] < now - DEATHS_SECONDS:
            process.deaths.popleft()
        deaths = len(process.deaths)
        how = _name_of(number)
        if deaths > DEATHS_MOST:
            self._end_with(
                _error(
                    f"node {process.name} was killed by {how}, {deaths} times within "
                    f"{DEATHS_SECONDS:g} s: the run is given up; recorded cameras go on where they "
                    "were when it is started again",
                    1,
                )
            )
            return
        log.warning("node %s was killed by %s and is started again", process.name, how)
        process.start_at = now + PAUSE_FIRST * 2.0 ** (deaths - 1)

    def _failed(self, process: _Process, failed: Failed) -> None:
        error = _error(failed.message, failed.code, failed.kind)
        if failed.given_up:
            # As in one process: the run goes on while there are other cameras.
            self._given_up.append(error)
        else:
            self._end_with(error)

    def _end_with(self, error: FacestreamError) -> None:
        """End the run because of an error: what was decided is closed, the rest is left."""
        if self._error is not None:
            return
        self._error = error
        self._deadline = time.monotonic() + GRACE_SECONDS
        self._ending = True
        for process in self._processes:
            if "decide" in process.stages:
                process.tell(self._last_order())
            else:
                process.kill()

    def _end(self) -> None:
        """The sources have ended, and all they gave is decided."""
        self._ending = True
        if len(self._given_up) == len(self._sources()):
            self._error = self._given_up[0]
        self._order((p for p in self._processes if not p.over), self._last_order())

    def _last_order(self) -> Order:
        if self._error is not None:
            return Order("fail", type(self._error).__name__)
        return Order("stop" if self._stopping else "end")

    def _order(self, processes: Iterable[_Process], order: Order) -> None:
        for process in processes:
            process.tell(order)

    def _sources(self) -> list[_Process]:
        return [process for process in self._processes if "source" in process.stages]

    def _kill_all(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            if process.popen is not None:
                process.popen.wait()
            if process.channel is not None:
                process.channel.close()
            process.popen = process.channel = None


def _error(message: str, code: int, kind: str = "FacestreamError") -> FacestreamError:
    """The error of a process, as one of this process."""
    error = error_of(kind, message)
    error.exit_code = code
    return error


def _name_of(number: int) -> str:
    """A signal's name, where it has one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
