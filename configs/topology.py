"""Which stage runs where: the nodes that a configuration asks for, checked and joined up."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from .. import ConfigError
from .schema import Config, NodeConfig

STAGES = ("source", "detect", "embed", "decide")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ENDPOINT = re.compile(r"inproc://.+|ipc://.+|tcp://(\[[^\]]+\]|[^:\[\]]+):[0-9]{1,5}")
_EVERYWHERE = ("0.0.0.0", "[::]", "*")  # hosts to listen on, which nobody can connect to

_STANDARD: Mapping[str, tuple[NodeConfig, ...]] = {
    "none": (),
    "inproc": (
        NodeConfig("source", ("source",), to="detect"),
        NodeConfig("detect", ("detect",), endpoint="inproc://detect", to="embed"),
        NodeConfig("embed", ("embed",), endpoint="inproc://embed", to="decide"),
        NodeConfig("decide", ("decide",), endpoint="inproc://decide"),
    ),
    "ipc": (
        NodeConfig("source", ("source",), to="detect"),
        NodeConfig("detect", ("detect",), to="embed"),
        NodeConfig("embed", ("embed",), to="decide"),
        NodeConfig("decide", ("decide",)),
    ),
    "tcp": (
        NodeConfig("source-detect", ("source", "detect"), to="embed"),
        NodeConfig("embed", ("embed",), to="decide"),
        NodeConfig("decide", ("decide",)),
    ),
}


def nodes_of(config: Config) -> tuple[NodeConfig, ...]:
    """The nodes of a checked configuration, in the order given; none where one thread does it all.

    `to` and `cameras` are filled in where the file left them out. The standard nodes of the
    transports ipc and tcp have no endpoints: whoever starts them chooses where they listen.
    """
    nodes = config.topology.nodes or _STANDARD[config.topology.transport]
    everything = tuple(camera.name for camera in config.cameras)
    return tuple(
        dataclasses.replace(
            node,
            to=node.to or _after(node, nodes),
            cameras=(node.cameras or everything) if "source" in node.stages else (),
        )
        for node in nodes
    )


def processes_of(nodes: Sequence[NodeConfig]) -> list[tuple[NodeConfig, ...]]:
    """The nodes by process: those that an inproc endpoint joins share one."""
    process = {node.name: node.name for node in nodes}
    endpoints = {node.name: node.endpoint for node in nodes}
    for node in nodes:
        if endpoints.get(node.to, "").startswith("inproc://"):
            old, new = process[node.name], process[node.to]
            process = {name: new if where == old else where for name, where in process.items()}
    together: dict[str, list[NodeConfig]] = {}
    for node in nodes:
        together.setdefault(process[node.name], []).append(node)
    return [tuple(members) for members in together.values()]


def address_of(node: NodeConfig) -> str:
    """What the nodes before this one connect to."""
    return node.address or node.endpoint


def check_topology(config: Config) -> None:
    """Raise ConfigError, naming the key, unless the nodes make one chain for every camera."""
    if config.topology.nodes:
        _check_given(config)
    if config.output.video and len(nodes_of(config)) > 1:
        raise ConfigError(
            "output.video needs the frames where events are decided, and they stay where they are "
            "decoded: give one node all four stages, or set topology.transport=none without nodes"
        )


def _check_given(config: Config) -> None:
    given = config.topology.nodes
    if config.topology.transport != "none":
        raise ConfigError(
            f"topology.transport is {config.topology.transport}, and topology.nodes are given too: "
            "leave one of them out"
        )
    for index, node in enumerate(given):
        _check_node(f"topology.nodes[{index}]", node)
    _check_unique("name", [node.name for node in given])
    _check_unique("endpoint", [node.endpoint for node in given])
    _check_deciding(given)
    nodes = nodes_of(config)
    for index, node in enumerate(nodes):
        _check_next(f"topology.nodes[{index}]", node, nodes)
    fed = {node.to for node in nodes}
    for index, node in enumerate(nodes):
        if "source" not in node.stages and node.name not in fed:
            raise ConfigError(
                f"topology.nodes[{index}]: no node comes before {node.name}; name it in the `to` "
                f"of one that ends with {_stage_before(node)}, or leave it out"
            )
    _check_cameras(config, nodes)


def _check_node(key: str, node: NodeConfig) -> None:
    if not NODE_NAME.fullmatch(node.name):
        raise ConfigError(
            f"{key}.name must be letters, digits, dot, dash and underscore, starting with a letter "
            f"or digit, got {node.name[:40]!r}"
        )
    stages = " ".join(node.stages)
    if not stages or stages not in " ".join(STAGES):
        raise ConfigError(
            f"{key}.stages must be some of {', '.join(STAGES)} that follow each other, "
            f"got {', '.join(node.stages) or 'none'}"
        )
    if node.stages[0] == "source":
        for name in ("endpoint", "address"):
            if getattr(node, name):
                raise ConfigError(
                    f"{key}.{name}: nothing comes before node {node.name}, which has the source "
                    "stage: leave it out"
                )
        return
    if node.cameras:
        raise ConfigError(f"{key}.cameras: node {node.name} has no source stage: leave them out")
    for name in ("endpoint", "address"):
        value = getattr(node, name)
        if not _ENDPOINT.fullmatch(value) and (value or name == "endpoint"):
            raise ConfigError(
                f"{key}.{name} must be inproc://NAME, ipc://PATH or tcp://HOST:PORT, "
                f"got {value[:60]!r}"
            )
    host = address_of(node).removeprefix("tcp://").rpartition(":")[0]
    if host in _EVERYWHERE:
        raise ConfigError(
            f"{key}.address is needed: {address_of(node)} listens everywhere, say which machine "
            "the nodes before it are to connect to, as in tcp://MACHINE:PORT"
        )


def _check_unique(name: str, values: Sequence[str]) -> None:
    for value, count in Counter(filter(None, values)).items():
        if count > 1:
            first, second = [i for i, other in enumerate(values) if other == value][:2]
            raise ConfigError(
                f"topology.nodes[{second}].{name} is {value!r} like topology.nodes[{first}].{name}:"
                " give each node its own"
            )


def _check_deciding(nodes: Sequence[NodeConfig]) -> None:
    deciding = [node.name for node in nodes if "decide" in node.stages]
    if len(deciding) != 1:
        raise ConfigError(
            "topology.nodes must have exactly one node with the decide stage, "
            f"got {' and '.join(deciding) or 'none'}"
        )


def _check_next(key: str, node: NodeConfig, nodes: Sequence[NodeConfig]) -> None:
    """Check where a node's work goes; `to` is filled in where one node only can be meant."""
    if "decide" in node.stages:
        if node.to:
            raise ConfigError(f"{key}.to: nothing comes after node {node.name}, which decides")
        return
    wanted = STAGES[STAGES.index(node.stages[-1]) + 1]
    fitting = [other.name for other in nodes if other.stages[0] == wanted]
    if not node.to:
        found = " and ".join(fitting) or "none"
        raise ConfigError(
            f"{key}.to is needed: the node after {node.name} begins with {wanted}, got {found}"
        )
    if node.to not in fitting:
        near = difflib.get_close_matches(node.to, fitting, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"{key}.to must be a node that begins with {wanted} ({', '.join(fitting) or 'none'}), "
            f"got {node.to[:40]!r}{hint}"
        )
    (after,) = (other for other in nodes if other.name == node.to)
    if wanted == "detect" and after.endpoint.startswith("tcp://"):
        raise ConfigError(
            f"{key}.to: frames do not travel over tcp, and node {after.name} listens on "
            f"{after.endpoint}: put source and detect in one node, or use ipc:// or inproc://"
        )


def _check_cameras(config: Config, nodes: Sequence[NodeConfig]) -> None:
    names = [camera.name for camera in config.cameras]
    readers: dict[str, list[str]] = {name: [] for name in names}
    for index, node in enumerate(nodes):
        for name in node.cameras:
            if name not in readers:
                near = difflib.get_close_matches(name, names, n=1)
                raise ConfigError(
                    f"topology.nodes[{index}].cameras names {name[:40]!r}, which is no camera"
                    + (f", did you mean {near[0]}?" if near else f"; there are {', '.join(names)}")
                )
            readers[name].append(node.name)
    for name, by in readers.items():
        if len(by) != 1:
            raise ConfigError(
                f"topology.nodes: camera {name} must be read by exactly one node with the source "
                f"stage, got {' and '.join(by) or 'none'}"
            )


def _after(node: NodeConfig, nodes: Sequence[NodeConfig]) -> str:
    """The only node that begins with the next stage; "" where there is none, or several."""
    if not node.stages or "decide" in node.stages:
        return ""
    wanted = STAGES[STAGES.index(node.stages[-1]) + 1]
    fitting = [other.name for other in nodes if other.stages and other.stages[0] == wanted]
    return fitting[0] if len(fitting) == 1 else ""


def _stage_before(node: NodeConfig) -> str:
    return STAGES[STAGES.index(node.stages[0]) - 1]
