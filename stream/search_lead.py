"""The process that leads a sharded search: it has the rows on disk, and actors that search them.

One actor a node. An actor holds parts of the gallery, each a `SearchIndex` over a range of rows.
Where an actor is lost, nodes without one get a new one, and the ranges that were lost are cut and
given to whoever holds least.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import ConfigError, FacestreamError, GalleryError, __version__
from ..models.fusion import Doubles, Floats
from ..models.ida import DensityModel
from ..models.search import Hit, SearchIndex
from ..models.search_rows import Precision, blocks_of
from .ray_cluster import unreachable

OPTION = "match.cluster"
MOST_LOSSES = 5
"""How often one search is done again: what kills every actor must end."""
ANSWER_SECONDS = 60.0
"""An actor that needs longer for a search or a piece of rows counts as lost."""
EMPTY_SECONDS = 60.0
"""How long the cluster may be without any node that computes."""

_SENT = 1 << 24  # numbers sent to an actor at once: 64 MiB


class Order(NamedTuple):
    """What a leader is started with.

    folder: of vectors.npy (G, C) float32, owners.npy (G,) and densities.npy (G,); the leader
    deletes it once they are open, so that nothing is left of them whatever happens.
    """

    address: str
    folder: Path
    anchors: DensityModel | None
    precision: Precision


class Search(NamedTuple):
    """What an actor is asked: unit probes (Q, C), their densities (Q,), k and the score."""

    probes: Floats
    densities: Doubles | None
    k: int
    by: Literal["ida", "cosine"]


class Piece(NamedTuple):
    """Some rows of a part."""

    vectors: Floats
    owners: Any
    densities: Doubles


class Shard:
    """The actor: parts of a gallery on one node."""

    def __init__(self, anchors: DensityModel | None, precision: Precision) -> None:
        """As of `SearchIndex`."""
        self._anchors = anchors
        self._precision: Precision = precision
        self._pieces: list[Piece] = []
        self._parts: list[SearchIndex] = []

    def version(self) -> str:
        """Of facestream, on this node."""
        return __version__

    def add(self, piece: Piece) -> None:
        """Take rows of the next part."""
        # What Ray hands over lies in its shared memory, which is to be free again.
        self._pieces.append(Piece(*map(np.array, piece)))

    def build(self) -> None:
        """Make a part of the rows that came."""
        vectors, owners, densities = map(np.concatenate, zip(*self._pieces, strict=True))
        self._pieces.clear()
        part = SearchIndex(
            vectors,
            owners,
            anchors=self._anchors,
            densities=densities,
            precision=self._precision,
        )
        self._parts.append(part)

    def search(self, question: Search) -> list[tuple[Hit, ...]]:
        """The k best of all parts."""
        probes, densities, k, by = question
        found = [part.search(probes, k, by=by, densities=densities) for part in self._parts]
        return merge_hits(found, len(probes), k)


def merge_hits(found: list[list[tuple[Hit, ...]]], probes: int, k: int) -> list[tuple[Hit, ...]]:
    """The k best of each probe from the k best of each part; ties to the smaller identity.

    An identity that has rows in several parts counts with its best.
    """
    merged = []
    for at in range(probes):
        hits = sorted(
            (hit for part in found for hit in part[at]), key=lambda hit: (-hit.score, hit.identity)
        )
        first: dict[int, Hit] = {}
        for hit in hits:
            first.setdefault(hit.identity, hit)
        merged.append(tuple(first.values())[:k])
    return merged


def lead(link: Connection, order: Order) -> None:
    """Join the cluster, send None, place the rows, send None; then answer what is asked.

    A `Search` is answered by hits, None by how many rows lie on which node.
    Errors of this project are sent as they are. Ends when the link does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the link when interrupted
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    # First of all, as Ray takes seconds to import, and whoever is killed deletes nothing.
    files = [order.folder / f"{name}.npy" for name in Piece._fields]
    rows = Piece(*(np.load(file, mmap_mode="r") for file in files))
    shutil.rmtree(order.folder)  # the mappings stay
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # else a warning per actor
    import ray

    try:
        try:
            ray.init(address=order.address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise unreachable(OPTION, order.address, " ".join(str(error).split())) from None
        link.send(None)
        leader = Leader(rows, order)
        leader.mend()
        link.send(None)
        while True:
            question = link.recv()
            link.send(leader.placement() if question is None else leader.search(question))
    except FacestreamError as error:
        link.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has ended: so does this
    finally:
        ray.shutdown()


class _Actor(NamedTuple):
    """One actor: its handle, and the ranges of rows that it holds."""

    handle: Any
    ranges: list[range]

    @property
    def rows(self) -> int:
        return sum(map(len, self.ranges))


class Leader:
    """Knows which actor holds which rows."""

    def __init__(self, rows: Piece, order: Order) -> None:
        """rows: arrays of all rows, on disk."""
        import ray

        self._rows = rows
        self._order = order
        self._actors: dict[str, _Actor] = {}  # by the node's number in Ray
        self._homeless = [range(len(rows.vectors))]
        self._lost: tuple[type[Exception], ...] = (
            ray.exceptions.RayActorError,
            ray.exceptions.ActorUnschedulableError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.GetTimeoutError,
            ray.exceptions.ObjectLostError,
            ray.exceptions.OutOfMemoryError,
        )

    def placement(self) -> dict[str, int]:
        """Rows by node."""
        return {node: actor.rows for node, actor in self._actors.items()}

    def search(self, question: Search) -> list[tuple[Hit, ...]]:
        """The k best of all rows."""
        import ray

        for _ in range(MOST_LOSSES):
            self.mend()
            asked = ray.put(question)
            answers = {
                node: actor.handle.search.remote(asked) for node, actor in self._actors.items()
            }
            found = [self._get(node, answer) for node, answer in answers.items()]
            if not self._homeless:
                there = [hits for hits in found if hits is not None]
                return merge_hits(there, len(question.probes), question.k)
        raise GalleryError(
            f"actors that hold the gallery were lost {MOST_LOSSES} times during one search: look "
            "at the memory of the cluster's nodes"
        )

    def mend(self) -> None:
        """Give every node an actor and every row an actor."""
        until = time.monotonic() + EMPTY_SECONDS
        while self._homeless:
            for node in self._free_nodes():
                self._start(node)
            if self._actors:
                self._place()
            elif time.monotonic() > until:
                raise GalleryError(
                    "the Ray cluster has no node that computes and has this facestream: start some "
                    f"(ray start --address={self._order.address} --num-cpus=N)"
                )
            else:
                time.sleep(0.5)

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
        shard: Any = ray.remote(Shard)
        made = shard.options(num_cpus=0, max_restarts=0, scheduling_strategy=there)
        handle = made.remote(self._order.anchors, self._order.precision)
        self._actors[node] = _Actor(handle, [])
        version = self._get(node, handle.version.remote())
        if version not in (None, __version__):
            raise ConfigError(
                f"a node of the Ray cluster has facestream {version}, this machine has "
                f"{__version__}: install the same version on every node"
            )

    def _place(self) -> None:
        """Cut what has no actor, and give each piece to whoever holds least."""
        total = sum(map(len, self._homeless))
        size = -(-total // len(self._actors))
        cut = [
            some[start : start + size]
            for some in self._homeless
            for start in range(0, len(some), max(1, size))
        ]
        self._homeless = []
        for some in cut:
            if not self._actors:
                self._homeless.append(some)
                continue
            node = min(self._actors, key=lambda name: self._actors[name].rows)
            actor = self._actors[node]
            actor.ranges.append(some)  # before it is sent: if the actor is lost, so are they
            self._send(node, actor, some)

    def _send(self, node: str, actor: _Actor, some: range) -> None:
        width = self._rows.vectors.shape[1]
        for block in blocks_of(len(some), width, _SENT):
            at = slice(some[block.start], some[block.start] + (block.stop - block.start))
            piece = Piece(*(np.array(array[at]) for array in self._rows))
            self._get(node, actor.handle.add.remote(piece))
            if self._actors.get(node) is not actor:
                return
        self._get(node, actor.handle.build.remote())

    def _get(self, node: str, answer: Any) -> Any:
        """What an actor answers; None where it is lost, and its rows are homeless then."""
        import ray

        try:
            return ray.get(answer, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FacestreamError):
                raise error.cause from None
            raise GalleryError(f"a node could not search: {error.cause}") from None
        except self._lost:
            actor = self._actors.pop(node, None)
            if actor is not None:
                self._homeless += actor.ranges
                ray.kill(actor.handle)
            return None
