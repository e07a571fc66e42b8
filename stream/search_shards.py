"""A gallery searched on several machines: its rows lie in actors of a Ray cluster, merged exactly.

Ray lives in a process of its own (stream/search_lead), a child of this one: Ray ends the process it
is in when the cluster's head is lost, takes over signals and writes to the terminal.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from .. import FacestreamError, GalleryError, RecordError
from ..models.fusion import Doubles, Floats
from ..models.ida import DensityModel, Integers, check_unit_rows
from ..models.search import Hit, SearchIndex, check_gallery
from ..models.search_kernels import Device
from ..models.search_rows import Precision, blocks_of
from ..models.search_versions import RowNumbers
from .ray_cluster import require_listener, require_ray, unreachable
from .search_actor import Piece, Search
from .search_lead import OPTION, Change, Order, Question, Step, lead

CONNECT_SECONDS = 60.0
"""How long a cluster may take to answer."""
END_SECONDS = 10.0
"""How long the child may take to leave the cluster."""

_SENT = 1 << 22  # numbers handed to the child at once: 16 MiB

_Job = tuple[tuple[int, ...], Question, "Future[Any]"]


class Talk:
    """Questions to the child, one after the other; any thread may ask.

    One thread asks and listens, which no signal interrupts: whoever is interrupted while waiting
    leaves, and the answer that comes then is nobody else's.
    """

    def __init__(self, link: Connection, child: BaseProcess) -> None:
        """The child has started, and answers every question once."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._gone: deque[int] = deque()
        self._asking = threading.Lock()
        self.child = child
        work = threading.Thread(
            target=_talk, args=(link, child, self._jobs), name="gallery-cluster", daemon=True
        )
        work.start()
        # Whoever lets go of a gallery that nobody closed does not wait for the child, which ends
        # when the link does.
        self._end = weakref.finalize(self, self._jobs.put, None)

    def ask(self, question: Question) -> Any:
        """The answer. Raises what the child says, and GalleryError when it is lost."""
        gone: list[int] = []
        with suppress(IndexError):
            while True:
                gone.append(self._gone.popleft())
        answer: Future[Any] = Future()
        with self._asking:
            if not self._end.alive:
                raise _lost("it was closed")
            self._jobs.put((tuple(gone), question, answer))
        return answer.result()

    def forget(self, version: int) -> None:
        """Let the child drop a version with the next question; waits for nothing."""
        self._gone.append(version)

    def close(self) -> None:
        """End the child; whoever asks after that is told so."""
        with self._asking:
            self._end()
        self.child.join(END_SECONDS)
        self.child.kill()  # does nothing where it has ended
        self.child.join()


def _talk(link: Connection, child: BaseProcess, jobs: SimpleQueue[_Job | None]) -> None:
    """Ask what is asked until None comes."""
    with link:
        while (job := jobs.get()) is not None:
            gone, question, answer = job
            try:
                link.send((gone, question))
                said = link.recv()
            except (EOFError, OSError):
                child.join(END_SECONDS)
                answer.set_exception(_lost(f"exit code {child.exitcode}"))
                continue
            if isinstance(said, FacestreamError):
                answer.set_exception(said)
            else:
                answer.set_result(said)


class ShardedIndex(SearchIndex):
    """One version of a gallery whose rows lie on the nodes of a Ray cluster.

    Every node finds its own k best, with float64 scores, so that the best of those are the k best
    of all. The rows of an actor that dies, or whose node does, go to the others, and the search
    that met it is done again. Safe to share between threads, which then take turns.
    """

    def __init__(
        self,
        talk: Talk,
        version: int,
        owners: npt.NDArray[np.integer],
        dimension: int,
        *,
        anchors: DensityModel | None,
        precision: Precision,
        device: Device,
    ) -> None:
        """The nodes have made the version; owners (G,) of its rows."""
        # What `SearchIndex` itself would keep lies in the shards.
        self.dimension = dimension
        self.anchors = anchors
        self.precision = precision
        self.device = device
        self._identities = len(np.unique(owners))
        self._talk = talk
        self._version = version
        weakref.finalize(self, talk.forget, version)

    @property
    def identities(self) -> int:
        """How many identities have at least one vector."""
        return self._identities

    @property
    def nbytes(self) -> int:
        """Bytes of this machine's memory: none, unless it searches, too."""
        return 0

    def search(
        self,
        probes: Floats,
        k: int,
        *,
        by: Literal["ida", "cosine"] = "ida",
        densities: Doubles | None = None,
    ) -> list[tuple[Hit, ...]]:
        """As `SearchIndex.search`; raises GalleryError when the cluster is lost."""
        if probes.ndim != 2 or probes.shape[1] != self.dimension or k < 1:
            raise RecordError(
                f"probes must be (Q, {self.dimension}) and k >= 1, got {probes.shape} and k = {k}"
            )
        check_unit_rows("probes", probes)
        if not self.identities or not len(probes):
            return [()] * len(probes)
        if self.anchors is not None and by == "ida" and densities is None:
            densities = self.anchors.density(probes)  # once, so that all nodes have the same
        question = Search(self._version, probes, densities, k, by)
        found: list[tuple[Hit, ...]] = self._talk.ask(question)
        return found

    def placement(self) -> Mapping[str, int]:
        """How many rows lie on each node, by the node's name in Ray; of all versions in use."""
        placed: Mapping[str, int] = self._talk.ask(None)
        return placed

    @property
    def method(self) -> str:
        """How it is searched, in words."""
        placed = self.placement()
        rows = ", ".join(f"{count:,}" for count in placed.values())
        return f"exact, on {len(placed)} nodes of a Ray cluster ({rows} vectors)"


class ShardedGallery:
    """Makes the index of each version of a gallery, on the nodes of a Ray cluster; close it.

    What two versions share stays on the nodes. A version is searched when all nodes have made it,
    and not before; older ones, as long as somebody has them, are searched as they were.
    """

    def __init__(
        self,
        address: str,
        *,
        precision: Precision = "float32",
        device: Device = "auto",
        patience: float = CONNECT_SECONDS,
    ) -> None:
        """address: HOST:PORT of the cluster's head, which is joined for the first version.

        This machine must be a node of the cluster, and every node have this version of facestream.
        The rows stay on this machine too, in a temporary file without a name. precision, device:
        as of `SearchIndex`, on every node. patience: seconds in which the cluster must answer.
        """
        self._address = address
        self._precision: Precision = precision
        self._device: Device = device
        self._patience = patience
        self._lock = threading.Lock()
        self._anchors: DensityModel | None = None
        self._talk: Talk | None = None
        self._held: Integers = np.empty(0, np.int64)  # numbers of the child's newest rows
        self._version = 0
        self._newest: ShardedIndex | None = None  # or else the child would drop its rows

    def __call__(
        self,
        vectors: Floats,
        owners: npt.NDArray[np.integer],
        /,
        *,
        anchors: DensityModel | None,
        densities: Doubles | None,
    ) -> ShardedIndex:
        """Arguments as of `SearchIndex`.

        Raises RecordError for wrong arrays; ConfigError when ray is not installed, no cluster
        answers there or a node has another version; GalleryError when the cluster is lost or
        the rows do not fit on this machine's disk.
        """
        densities = check_gallery(vectors, owners, anchors, densities)
        with self._lock:
            talk, dimension = self._talk, vectors.shape[1]
            is_other = self._anchors is not anchors or (
                self._newest is not None and self._newest.dimension != dimension
            )
            if talk is None or not talk.child.is_alive() or is_other:
                self._leave()
                talk = self._talk = self._join(anchors, dimension)
                self._anchors = anchors
                self._numbers, self._held = RowNumbers(dimension), np.empty(0, np.int64)
                self._version = 0
            numbers = self._numbers.give(vectors, densities)
            self._version += 1
            try:
                self._send(talk, vectors, densities, numbers)
                talk.ask(Change(self._version, numbers, owners.astype(np.int64)))
                while not talk.ask(Step(self._version)):
                    pass  # others search in between
            except BaseException:
                talk.forget(self._version)
                if self._newest is None:  # there is nothing to go on with
                    self._leave()
                raise
            self._held = numbers
            self._newest = ShardedIndex(
                talk,
                self._version,
                owners,
                dimension,
                anchors=anchors,
                precision=self._precision,
                device=self._device,
            )
            return self._newest

    def __enter__(self) -> Self:
        """Itself; leaving closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the actors and the child; its indexes cannot be searched any more."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        talk, self._talk, self._newest = self._talk, None, None
        if talk is not None:
            talk.close()

    def _send(self, talk: Talk, vectors: Floats, densities: Doubles, numbers: Integers) -> None:
        """Give the child the rows that the version before did not have."""
        new = np.flatnonzero(~np.isin(numbers, self._held))
        for block in blocks_of(len(new), vectors.shape[1], _SENT):
            at = new[block]
            talk.ask(Piece(numbers[at], vectors[at], densities[at]))

    def _join(self, anchors: DensityModel | None, dimension: int) -> Talk:
        """A child that has joined the cluster."""
        require_ray(OPTION)
        require_listener(OPTION, self._address, self._patience)
        context = get_context("spawn")
        link, there = context.Pipe()
        order = Order(self._address, anchors, dimension, self._precision, self._device)
        child = context.Process(
            target=lead, args=(there, order), name="facestream-search", daemon=True
        )
        try:
            child.start()
            there.close()
            if not link.poll(self._patience):
                why = f"nothing answered within {self._patience:g} s"
                raise unreachable(OPTION, self._address, why)
            try:
                said = link.recv()
            except (EOFError, OSError):
                child.join(END_SECONDS)
                raise _lost(f"exit code {child.exitcode}") from None
            if isinstance(said, FacestreamError):
                raise said
        except BaseException:
            link.close()
            if child.pid is not None:
                child.join(END_SECONDS)
                child.kill()
                child.join()
            raise
        return Talk(link, child)


def _lost(why: str) -> GalleryError:
    return GalleryError(
        f"the connection to the Ray cluster that holds the gallery was lost ({why}): look at its "
        "nodes (ray status) and start again, or leave match.cluster empty to search here"
    )
