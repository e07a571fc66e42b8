"""Work spread over the nodes of a Ray cluster: what `--cluster ADDRESS` does.

Ray lives in a process of its own, a child of the command: Ray ends the process it is in when the
cluster's head is lost, takes over signals and writes to the terminal. The child hands work out as
tasks, few under way at a time, and hands it out again where a node or a worker was lost; results
come back over a pipe. Everything on the nodes ends with the child, the child with the command.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .. import ConfigError, FacestreamError, __version__
from ..stream.ray_cluster import require_listener, require_ray, unreachable

Given = TypeVar("Given")
Work = TypeVar("Work")
Result = TypeVar("Result")

OPTION = "--cluster"
CONNECT_SECONDS = 30.0
"""How long a cluster may take to answer."""
CHECK_SECONDS = 300.0
"""How long a node may take to open what the work needs, a large model pack among others."""
EMPTY_SECONDS = 60.0
"""How long the cluster may be without any CPU before the run ends with an error."""
END_SECONDS = 10.0
"""How long the child may take to leave the cluster."""
MOST_LOSSES = 3
"""How often a piece of work is handed out again: what kills every worker must end."""
KEPT = "what is done so far is kept; run the command again"


def spread_over_cluster(
    address: str,
    start: Callable[[], Callable[[Work], Result]],
    prepare: Callable[[Given], Work],
    todo: Mapping[int, Given],
    *,
    patience: float = CONNECT_SECONDS,
) -> Generator[tuple[int, Result], None, None]:
    """The result of every piece of work with its number, once, as they come.

    address: HOST:PORT of the cluster's head; this machine must be one of its nodes. start: called
    once per worker process on a node and, before anything is handed out, once on every node.
    prepare: makes the work to send out of what is given, on this machine. All must be picklable.
    patience: seconds in which the cluster must answer.
    Raises ConfigError when ray is not installed, the address is none, no cluster answers, it has no
    CPU or a node has another version of facestream; FacestreamError when the cluster is lost, is
    left without CPUs, or work was lost too often; and what `start` or the work raised, with the
    node's name.
    """
    require_ray(OPTION)
    require_listener(OPTION, address, patience)
    context = get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="facestream-") as folder:
        log = Path(folder) / "log"
        arguments = (there, log, address, start, prepare, todo)
        child = context.Process(target=_lead, args=arguments, daemon=True)
        child.start()
        there.close()
        try:
            if not here.poll(patience):
                child.kill()
                raise unreachable(OPTION, address, f"nothing answered within {patience:g} s")
            _receive(here, child, log)  # connected
            for _ in todo:
                yield _receive(here, child, log)
        finally:
            here.close()
            child.join(END_SECONDS)
            child.kill()  # does nothing where it has ended
            child.join()


def _receive(link: Connection, child: BaseProcess, log: Path) -> Any:
    """What the child sends next; raises what it sends as an error."""
    try:
        message = link.recv()
    except (EOFError, ConnectionResetError):
        child.join(END_SECONDS)
        lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        raise FacestreamError(
            f"the connection to the Ray cluster was lost (exit code {child.exitcode}; it said "
            f"last: {last[:300]}): {KEPT}"
        ) from None
    if isinstance(message, FacestreamError):
        raise message
    return message


def _lead(
    link: Connection,
    log: Path,
    address: str,
    start: Callable[[], Callable[[Any], Any]],
    prepare: Callable[[Any], Any],
    todo: Mapping[int, Any],
) -> None:
    """The child: joins the cluster, sends None, then numbers with results, or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command closes the link when interrupted
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # else a warning per task
    import ray

    try:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise unreachable(OPTION, address, " ".join(str(error).split())) from None
        link.send(None)
        opener = pickle.dumps(start)
        _check_nodes(opener)
        for done in _hand_out(link, opener, prepare, todo):
            link.send(done)
    except FacestreamError as error:
        link.send(error)
    except BrokenPipeError:
        pass  # the command has ended: so does this
    finally:
        ray.shutdown()


def _check_nodes(opener: bytes) -> None:
    """Raise unless every node that computes has this version and can start the work."""
    nodes = {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in _nodes()
        if node["Resources"].get("CPU", 0) >= 1
    }
    if not nodes:
        raise ConfigError(
            "the Ray cluster has no CPU: start nodes that compute (ray start --num-cpus=N)"
        )
    package = __version__, __name__.partition(".")[0]

    def version() -> str | None:
        # Ray sends an inner function as code: it must run where this file is not, or is another.
        try:
            return str(import_module(package[1]).__version__)
        except ImportError:
            return None

    for name, found in _on_nodes(nodes, version):
        if found != package[0]:
            has = f"facestream {found}" if found else "no facestream"
            raise ConfigError(
                f"node {name} has {has}, this machine has {package[0]}: install the same version "
                "on every node"
            )
    for _ in _on_nodes(nodes, _start_here, opener):
        pass


def _nodes() -> list[dict[str, Any]]:
    """The nodes that are alive, as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _on_nodes(
    nodes: Mapping[str, str], function: Callable[..., Result], *arguments: Any
) -> Iterator[tuple[str, Result]]:
    """Each node's name and what the function returns there; busy nodes do it too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = []
    for node, name in nodes.items():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked.append((name, task.options(scheduling_strategy=there).remote(*arguments)))
    for name, answer in asked:
        try:
            yield name, ray.get(answer, timeout=CHECK_SECONDS)
        except ray.exceptions.RayTaskError as error:
            raise _told(error) from None
        except ray.exceptions.GetTimeoutError:
            raise FacestreamError(
                f"node {name} did not start its work within {CHECK_SECONDS:g} s: take it out of "
                "the cluster"
            ) from None
        except ray.exceptions.RayError:
            continue  # the node has gone; if it is back it can still refuse the work itself


class _Budget(NamedTuple):
    """What may be under way: pieces of work, and bytes in this machine's object store."""

    pieces: int
    size: int


def _budget() -> _Budget:
    """Two pieces per CPU that the cluster has now, a quarter of what fits before Ray spills."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    has = {node["NodeID"]: node["Resources"] for node in _nodes()}
    pieces = 2 * sum(int(one.get("CPU", 0)) for one in has.values())
    return _Budget(pieces, int(has[own]["object_store_memory"]) // 4)


def _hand_out(
    link: Connection, opener: bytes, prepare: Callable[[Any], Any], todo: Mapping[int, Any]
) -> Iterator[tuple[int, Any]]:
    """Numbers and results as they come, until all came or the command has ended."""
    import ray

    lost = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.LocalRayletDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    )
    # Ray's own retries are off: a loss is counted here, and each number has one task at a time.
    task = ray.remote(num_cpus=1, max_retries=0)(_work_here)
    queue, losses = deque(todo), Counter[int]()
    waiting: dict[Any, tuple[int, int]] = {}  # task: number, bytes
    alive = time.monotonic()
    while (queue or waiting) and not link.poll():
        budget = _budget()
        alive = time.monotonic() if budget.pieces else alive
        if time.monotonic() - alive > EMPTY_SECONDS:
            raise FacestreamError(f"the Ray cluster has no CPU left: {KEPT} when nodes are back")
        while queue and len(waiting) < budget.pieces:
            if waiting and sum(size for _, size in waiting.values()) > budget.size:
                break
            number = queue.popleft()
            work = pickle.dumps(prepare(todo[number]))
            waiting[task.remote(__version__, opener, work)] = number, len(work)
        if not waiting:
            time.sleep(1.0)
            continue
        for done in ray.wait(list(waiting), timeout=1.0)[0]:
            number, _ = waiting.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise _told(error) from None
            except lost as error:
                losses[number] += 1
                if losses[number] > MOST_LOSSES:
                    raise FacestreamError(
                        f"the worker of a piece of work was lost {losses[number]} times (killed, "
                        f"out of memory, or its node went: {type(error).__name__}): {KEPT}, with "
                        "more memory per CPU if it is short"
                    ) from None
                queue.appendleft(number)
            else:
                yield number, result


def _told(error: Any) -> FacestreamError:
    """What a task raised, without Ray's wrapping."""
    if isinstance(error.cause, FacestreamError):
        return error.cause
    return FacestreamError(f"a node could not begin: {type(error.cause).__name__}: {error.cause}")


@contextmanager
def _naming_the_node() -> Iterator[None]:
    """Errors get the node's name; the project's own keep their type."""
    try:
        yield
    except FacestreamError as error:
        raise type(error)(f"node {socket.gethostname()}: {error}") from error
    except Exception as error:
        raise FacestreamError(
            f"node {socket.gethostname()}: {type(error).__name__}: {error}"
        ) from error


@lru_cache(maxsize=1)
def _started(opener: bytes) -> Any:
    """What does the work in this worker process, opened once."""
    return pickle.loads(opener)()


def _start_here(opener: bytes) -> None:
    with _naming_the_node():
        _started(opener)


def _work_here(version: str, opener: bytes, work: bytes) -> Any:
    with _naming_the_node():
        if version != __version__:  # a node that came after the check
            raise ConfigError(
                f"facestream {__version__} is installed, the command runs {version}: install the "
                "same version on every node"
            )
        return _started(opener)(pickle.loads(work))
