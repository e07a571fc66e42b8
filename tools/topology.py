"""Running a configuration's nodes: as threads of this process, or as supervised processes."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..configs.schema import Config, NodeConfig
from ..configs.topology import nodes_of, processes_of
from ..models.pack import Pack
from ..stream.totals import Totals


def has_nodes(config: Config) -> bool:
    """Whether a configuration asks for more than one thread."""
    return len(nodes_of(config)) > 1


def run_nodes(
    config: Config, *, quiet: bool = False, note: str = "", pack: Pack | None = None
) -> Totals:
    """Run all nodes of a configuration on this machine until its sources end.

    One Ctrl-C or SIGTERM ends it cleanly, a second one at once. quiet, note, pack: as in
    `run.execute`; processes open packs of their own. Raises as `Pipeline.run`, and FacestreamError
    where a process dies again and again.
    """
    from .members import Members
    from .run import interruptible
    from .supervise import Supervisor

    folder = Path(tempfile.mkdtemp(prefix="facestream-"))  # for this user alone
    try:
        nodes = place(nodes_of(config), config.topology.transport, folder)
        processes = processes_of(nodes)
        if len(processes) > 1:
            supervisor = Supervisor(config, nodes, folder, quiet=quiet, note=note)
            with interruptible(supervisor):
                return supervisor.run()
        members = Members(config, nodes, nodes, quiet=quiet, note=note, pack=pack)
        with interruptible(members):
            totals = members.run()
        if totals is None:
            raise RuntimeError("one of all nodes decides")
        return totals
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(nodes: Sequence[NodeConfig], transport: str, folder: Path) -> tuple[NodeConfig, ...]:
    """The nodes with endpoints: standard nodes of ipc in `folder`, of tcp on free ports."""
    ports = iter(free_ports(len(nodes)) if transport == "tcp" else [])
    placed = []
    for node in nodes:
        if "source" in node.stages or node.endpoint:
            placed.append(node)
            continue
        where = (
            f"tcp://127.0.0.1:{next(ports)}"
            if transport == "tcp"
            else f"ipc://{folder}/{node.name}"
        )
        placed.append(dataclasses.replace(node, endpoint=where))
    return tuple(placed)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
