"""A process of a topology: `python -m facestream.tools.child FD NAMES`, started by the supervisor.

FD is the number of an inherited socket: the task comes over it, and what is to be told goes back.
NAMES is for people who look at a list of processes.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from .. import FacestreamError
from ..stream.totals import describe
from .members import Members
from .orders import TO_PROCESS, Ended, Failed, Opened, Order, Task, error_of, lines_of, say

BROKEN = 1


def main() -> None:
    """Run the nodes of a task, and tell how it went."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # whoever stops the run tells the supervisor
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    channel = socket.socket(fileno=int(sys.argv[1]))
    lines = lines_of(channel)
    task = TO_PROCESS.decode(next(lines))
    assert isinstance(task, Task)
    name_log_lines(task.nodes)
    members = Members(
        task.config,
        [node for node in task.topology if node.name in task.nodes],
        task.topology,
        quiet=task.quiet,
        note=task.note,
        session=task.session,
        opened=lambda endpoint: say(channel, Opened(endpoint)),
    )
    threading.Thread(target=obey, args=[members, lines, task.folder], daemon=True).start()
    sys.exit(run(members, channel))


def run(members: Members, channel: socket.socket) -> int:
    """Run nodes and tell the supervisor how it went; returns the exit code."""
    try:
        totals = members.run()
    except FacestreamError as error:
        failed = Failed(type(error).__name__, str(error), error.exit_code, members.given_up)
        say(channel, failed)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        say(channel, Failed("OSError", f"{where}{error.strerror or error}", BROKEN, False))
        return BROKEN
    say(channel, Ended(None if totals is None else describe(totals)))
    return 0


def obey(members: Members, lines: Iterator[bytes], folder: str) -> None:
    """Follow the supervisor's orders; where it has died, so does this process."""
    for line in lines:
        order = TO_PROCESS.decode(line)
        assert isinstance(order, Order)
        if order.what == "end":
            members.end()
        elif order.what == "stop":
            members.stop()
        else:
            members.fail(error_of(order.error, f"another node has failed: {order.error}"))
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(BROKEN)


def name_log_lines(nodes: tuple[str, ...]) -> None:
    """Begin every line of the log with the names of the nodes."""
    logging.basicConfig(format=f"facestream {'+'.join(nodes)}: %(message)s", level=logging.WARNING)


if __name__ == "__main__":
    main()
