"""`facestream node`: one node of a topology in the foreground, for machines of their own."""

from __future__ import annotations

import difflib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .. import ConfigError
from ..configs.load import check, load, override
from ..configs.schema import Config, NodeConfig
from ..configs.topology import nodes_of, processes_of
from .run import INTERRUPTED, interruptible


def node(
    name: Annotated[str, typer.Argument(help="Which of topology.nodes to run.")],
    config: Annotated[Path, typer.Argument(help="Configuration file (YAML), as on all machines.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, as in --set publish.journal=here.db."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Where it decides: print totals at the end, no table.")
    ] = False,
) -> None:
    """Run one node of a topology until its cameras have ended, or Ctrl-C.

    A node without cameras runs until it is stopped: others come and go.

    Example: facestream node faces several-machines.yaml
    """
    chosen = load(config)
    for setting in settings or []:
        chosen = override(chosen, setting)
    check(chosen)
    members = together(chosen, name)
    from ..stream.totals import describe
    from .child import name_log_lines
    from .members import Members
    from .pack_in_use import with_gallery_pack
    from .topology import has_nodes

    chosen = with_gallery_pack(chosen)
    name_log_lines(tuple(member.name for member in members))
    if not has_nodes(chosen):
        raise ConfigError(f"node {name} is all there is: start it with `facestream run`")
    # A source goes on while other nodes are started again: its cameras come to their end once.
    running = Members(
        chosen, members, nodes_of(chosen), quiet=as_json, session=secrets.token_hex(8)
    )
    with interruptible(running):
        totals = running.run()
    if as_json and totals is not None:
        typer.echo(json.dumps(describe(totals), indent=2))
    if running.interrupted:
        raise typer.Exit(INTERRUPTED)


def together(config: Config, name: str) -> Sequence[NodeConfig]:
    """The nodes that run in one process with the node of this name.

    Raises ConfigError where there is no such node, or nobody can know where it listens.
    """
    if not config.topology.nodes:
        raise ConfigError(
            "topology.nodes names no nodes: those of topology.transport are started together, by "
            "`facestream run`"
        )
    for process in processes_of(nodes_of(config)):
        if name in (member.name for member in process):
            return process
    names = [member.name for member in config.topology.nodes]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    raise ConfigError(f"no node of topology.nodes is called {name[:40]!r}, {hint}")
