"""The process that leads a sharded search: it has the rows on disk, and actors that search them.

One actor a node, of which each holds some rows of every version of the gallery that is in use. What
a version needs is done in small steps, between which other versions are searched: rows that nobody
has go to whoever has least, and actors are told which of their rows a version has, and whose they
are. Only when all have done so is it searched. Rows of an actor that is lost are again rows that
nobody has.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from .. import ConfigError, FacestreamError, GalleryError, __version__
from ..models.ida import DensityModel, Integers
from ..models.search import Hit
from ..models.search_kernels import Device
from ..models.search_rows import Precision
from .ray_cluster import unreachable
from .search_actor import Piece, Search, Shard, merge_hits
from .search_file import RowFile

OPTION = "match.cluster"
MOST_LOSSES = 5
"""How often one search is done again, or one version: what kills every actor must end."""
ANSWER_SECONDS = 60.0
"""An actor that needs longer for a search or a piece of rows counts as lost."""
LEAST_SPEED = 20_000
"""So many rows a second are to be made a version, beside ANSWER_SECONDS, or the actor is lost."""
START_SECONDS = 180.0
"""An actor that needs longer to start counts as lost: a busy node takes long to import."""
EMPTY_SECONDS = 60.0
"""How long the cluster may be without any node that computes."""

_SENT = 1 << 22  # numbers sent to an actor at once: 16 MiB
_STEP_SECONDS = 0.02  # others may ask again so often while actors work


class Order(NamedTuple):
    """What a leader is started with; dimension: of the rows."""

    address: str
    anchors: DensityModel | None
    dimension: int
    precision: Precision
    device: Device


class Change(NamedTuple):
    """A version: the numbers (N,) of its rows, and their owners (N,)."""

    version: int
    numbers: Integers
    owners: Integers


class Step(NamedTuple):
    """Do a little for a version; answered by whether nothing is left to do."""

    version: int


Question = Piece | Change | Step | Search | None
Asked = tuple[tuple[int, ...], Question]
"""Versions that are not needed any more, and what is asked."""


def lead(link: Connection, order: Order) -> None:
    """Join the cluster and send None; then answer each question.

    A `Search` is answered by hits, a `Step` by a bool, None by how many rows lie on which node.
    Errors of this project are answers, too. Ends when the link does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the link when interrupted
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # else a warning per actor
    import ray

    try:
        try:
            ray.init(address=order.address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())
            link.send(unreachable(OPTION, order.address, why))
            return
        try:
            leader = Leader(order)
        except FacestreamError as error:
            link.send(error)
            return
        link.send(None)
        while True:
            try:
                link.send(leader.answer(link.recv()))
            except FacestreamError as error:
                link.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has ended: so does this
    finally:
        ray.shutdown()


class _Waiting(NamedTuple):
    """Rows without an actor, and the first version that has them; 0 where any may."""

    numbers: Integers
    since: int


class _Work(NamedTuple):
    """A version that an actor makes, of the rows that it was given then. until: of the clock."""

    answer: Any
    version: int
    given: int
    until: float


@dataclass
class _Actor:
    """One actor: its handle, the numbers of its rows, and the versions it is done with."""

    handle: Any
    numbers: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    versions: set[int] = field(default_factory=set)
    work: _Work | None = None
    given: int = 0  # how often it was given rows


class Leader:
    """Knows which actor holds which rows of which version."""

    def __init__(self, order: Order) -> None:
        """The cluster has been joined."""
        import ray

        self._order = order
        self._rows = RowFile(order.dimension)
        self._versions: dict[int, Change] = {}
        self._actors: dict[str, _Actor] = {}  # by the node's number in Ray
        self._waiting: list[_Waiting] = []
        self._losses = 0  # since a version was ready
        self._empty_since: float | None = None
        self._lost: tuple[type[Exception], ...] = (
            ray.exceptions.RayActorError,
            ray.exceptions.ActorUnschedulableError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.GetTimeoutError,
            ray.exceptions.ObjectLostError,
            ray.exceptions.OutOfMemoryError,
        )

    def answer(self, asked: Asked) -> object:
        """Do what is asked."""
        gone, question = asked
        self.forget(gone)
        match question:
            case Piece():
                self._rows.add(question)
            case Change():
                self.change(question)
            case Step():
                return self.is_ready(question.version) or self.step()
            case Search():
                return self.search(question)
            case None:
                return {node: len(actor.numbers) for node, actor in self._actors.items()}
        return None

    def change(self, change: Change) -> None:
        """Take a version, of rows that have come; it is made by steps."""
        held = [actor.numbers for actor in self._actors.values()]
        held += [some.numbers for some in self._waiting]
        new = np.setdiff1d(change.numbers, np.concatenate([np.empty(0, np.int64), *held]))
        self._versions[change.version] = change
        if len(new):
            self._waiting.append(_Waiting(new, change.version))
        self._losses = 0

    def forget(self, versions: tuple[int, ...]) -> None:
        """Drop versions, and the rows that no other one has."""
        if not set(versions) & set(self._versions):
            return
        for version in versions:
            self._versions.pop(version, None)
        live = [change.numbers for change in self._versions.values()]
        needed = np.unique(np.concatenate([np.empty(0, np.int64), *live]))
        for actor in self._actors.values():
            actor.versions -= set(versions)
            actor.numbers = actor.numbers[np.isin(actor.numbers, needed)]
            actor.handle.keep.remote(sorted(self._versions))  # if it is lost, the next one tells
        left = [
            some._replace(numbers=np.intersect1d(some.numbers, needed)) for some in self._waiting
        ]
        self._waiting = [some for some in left if len(some.numbers)]
        self._rows.forget(needed)

    def is_ready(self, version: int) -> bool:
        """Whether actors hold all rows of a version."""
        return all(some.since > version for some in self._waiting) and all(
            version in actor.versions for actor in self._actors.values()
        )

    def search(self, question: Search) -> list[tuple[Hit, ...]]:
        """The k best of all rows of its version."""
        import ray

        self._losses = 0
        while True:
            while not self.is_ready(question.version) or not self._actors:
                self.step()
            asked = ray.put(question)
            answers = {
                node: actor.handle.search.options(concurrency_group="search").remote(asked)
                for node, actor in self._actors.items()
            }
            found = [self._get(node, answer) for node, answer in answers.items()]
            there = [hits for hits in found if hits is not None]
            if len(there) == len(found):
                return merge_hits(there, len(question.probes), question.k)

    def step(self) -> bool:
        """Do a little of what versions need; False, as something may be left."""
        if self._waiting or not self._actors:
            for node in self._free_nodes():
                self._start(node)
            if not self._actors:
                self._wait_for_nodes()
            elif self._waiting:
                self._place()
            return False
        self._empty_since = None
        for node, actor in list(self._actors.items()):
            missing = self._versions.keys() - actor.versions
            if missing and actor.work is None:
                self._work(actor, min(missing))
            elif actor.work is not None and time.monotonic() > actor.work.until:
                self._lose(node)
        self._collect()
        return False

    def _wait_for_nodes(self) -> None:
        now = time.monotonic()
        if self._empty_since is None:
            self._empty_since = now
        if now - self._empty_since > EMPTY_SECONDS:
            raise GalleryError(
                "the Ray cluster has no node that computes and has this facestream: start some "
                f"(ray start --address={self._order.address} --num-cpus=N)"
            )
        time.sleep(0.2)

    def _free_nodes(self) -> Iterator[str]:
        import ray

        for node in ray.nodes():  # type: ignore[no-untyped-call]
            computes = node["Alive"] and node["Resources"].get("CPU", 0) >= 1
            if computes and node["NodeID"] not in self._actors:
                yield node["NodeID"]

    def _start(self, node: str) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        # A version is made while another one is searched.
        remote: Any = ray.remote
        shard = remote(concurrency_groups={"search": 1})(Shard)
        made = shard.options(num_cpus=0, max_restarts=0, scheduling_strategy=there)
        anchors, dimension, precision, device = self._order[1:]
        handle = made.remote(anchors, dimension, precision, device)
        self._actors[node] = _Actor(handle)
        try:
            version = self._get(node, handle.version.remote(), START_SECONDS)
            if version not in (None, __version__):
                raise ConfigError(
                    f"a node of the Ray cluster has facestream {version}, this machine has "
                    f"{__version__}: install the same version on every node"
                )
        except FacestreamError:
            del self._actors[node]
            ray.kill(handle)
            raise

    def _place(self) -> None:
        """Send some of the rows that have no actor to whoever has least."""
        held = sum(len(actor.numbers) for actor in self._actors.values())
        total = held + sum(len(some.numbers) for some in self._waiting)
        share = -(-total // len(self._actors))
        node = min(self._actors, key=lambda name: len(self._actors[name].numbers))
        actor, some = self._actors[node], self._waiting[0]
        most = max(1, _SENT // self._order.dimension)
        count = min(share - len(actor.numbers), most)
        now, later = some.numbers[:count], some.numbers[count:]
        self._waiting[0] = some._replace(numbers=later)
        if not len(later):
            self._waiting.pop(0)
        # Before they are sent: if the actor is lost, so are they.
        actor.numbers = np.concatenate([actor.numbers, now])
        actor.versions = {version for version in actor.versions if version < some.since}
        actor.given += 1
        self._get(node, actor.handle.add.remote(self._rows.take(now)))

    def _work(self, actor: _Actor, version: int) -> None:
        """Let an actor make a version of its rows."""
        _, numbers, owners = self._versions[version]
        own = np.isin(numbers, actor.numbers)
        live = sorted(self._versions)
        answer = actor.handle.hold.remote(version, numbers[own], owners[own], live)
        until = time.monotonic() + ANSWER_SECONDS + int(own.sum()) / LEAST_SPEED
        actor.work = _Work(answer, version, actor.given, until)

    def _collect(self) -> None:
        """Note what actors have done within a moment."""
        import ray

        busy = {node: actor.work for node, actor in self._actors.items() if actor.work is not None}
        if not busy:
            return
        answers = [work.answer for work in busy.values()]
        done, _ = ray.wait(answers, num_returns=len(answers), timeout=_STEP_SECONDS)
        for node, work in busy.items():
            if work.answer not in done:
                continue
            actor = self._actors[node]
            actor.work = None
            made = self._get(node, work.answer)
            if made in self._versions and work.given == actor.given:
                actor.versions.add(work.version)

    def _get(self, node: str, answer: Any, seconds: float | None = None) -> Any:
        """What an actor answers; None where it is lost, and its rows have no actor then."""
        import ray

        try:
            return ray.get(answer, timeout=ANSWER_SECONDS if seconds is None else seconds)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FacestreamError):
                raise error.cause from None
            raise GalleryError(f"a node could not search: {error.cause}") from None
        except self._lost:
            self._lose(node)
            return None

    def _lose(self, node: str) -> None:
        """Give up an actor."""
        import ray

        actor = self._actors.pop(node, None)
        if actor is None:
            return
        if len(actor.numbers):
            self._waiting.insert(0, _Waiting(actor.numbers, 0))
        ray.kill(actor.handle)
        self._losses += 1
        if self._losses > MOST_LOSSES:
            raise GalleryError(
                f"actors that hold the gallery were lost {self._losses} times in a row: look at "
                "the memory of the cluster's nodes"
            )
