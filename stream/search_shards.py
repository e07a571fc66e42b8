"""A gallery searched on several machines: its rows lie in actors of a Ray cluster, merged exactly.

Ray lives in a process of its own (stream/search_lead), a child of this one: Ray ends the process it
is in when the cluster's head is lost, takes over signals and writes to the terminal.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import FacestreamError, GalleryError, RecordError
from ..models.fusion import Doubles, Floats
from ..models.ida import DensityModel, check_unit_rows
from ..models.search import Hit, SearchIndex
from ..models.search_rows import Precision
from .ray_cluster import require_listener, require_ray, unreachable
from .search_lead import OPTION, Order, Piece, Search, lead

CONNECT_SECONDS = 60.0
"""How long a cluster may take to answer."""
END_SECONDS = 10.0
"""How long the child may take to leave the cluster."""


class ShardedIndex(SearchIndex):
    """As `SearchIndex`, its rows spread over the nodes of a Ray cluster; close it when done.

    Every node finds its own k best, with float64 scores, so that the best of those are the k best
    of all. The rows of an actor that dies, or whose node does, go to the others, and the search
    that met it is done again. Safe to share between threads, which then take turns.
    """

    def __init__(
        self,
        vectors: Floats,
        owners: npt.NDArray[np.integer],
        *,
        address: str,
        anchors: DensityModel | None = None,
        densities: npt.NDArray[np.floating] | None = None,
        precision: Precision = "float32",
        patience: float = CONNECT_SECONDS,
    ) -> None:
        """Arguments as of `SearchIndex`. address: HOST:PORT of the cluster's head.

        This machine must be a node of the cluster, and every node have this version of facestream.
        The rows stay on this machine too, in a temporary file without a name.
        patience: seconds in which the cluster must answer.
        Raises RecordError for wrong arrays; ConfigError when ray is not installed, no cluster
        answers there or a node has another version; GalleryError when the cluster is lost or
        the rows do not fit on this machine's disk.
        """
        if vectors.ndim != 2 or vectors.dtype != np.float32 or owners.shape != (len(vectors),):
            raise RecordError(
                "vectors must be (G, C) float32 and owners (G,), "
                f"got {vectors.shape} {vectors.dtype} and {owners.shape}"
            )
        check_unit_rows("gallery vectors", vectors)
        require_ray(OPTION)
        require_listener(OPTION, address, patience)
        if densities is None and anchors is not None:
            densities = anchors.template_density(vectors)
        # What `SearchIndex` itself would keep lies in the shards.
        self.dimension = vectors.shape[1]
        self.anchors = anchors
        self.precision: Precision = precision
        self._identities = len(np.unique(owners))
        self._lock = threading.Lock()
        measured = np.zeros(len(vectors)) if densities is None else densities
        context = get_context("spawn")
        self._link, there = context.Pipe()
        folder = _save(Piece(vectors, owners, measured.astype(np.float64)))
        # Whoever lets go of an index that nobody closed does not wait for its child, which ends
        # when the link does.
        self._end = weakref.finalize(self, _let_go, self._link, folder)
        order = Order(address, folder, anchors, precision)
        self._child = context.Process(
            target=lead, args=(there, order), name="facestream-search", daemon=True
        )
        self._child.start()
        there.close()
        try:
            if not self._link.poll(patience):
                raise unreachable(OPTION, address, f"nothing answered within {patience:g} s")
            self._receive()  # connected
            self._receive()  # the rows are where they belong
        except BaseException:
            self.close()
            raise

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
        found: list[tuple[Hit, ...]] = self._ask(Search(probes, densities, k, by))
        return found

    def placement(self) -> Mapping[str, int]:
        """How many rows lie on each node, by the node's name in Ray."""
        placed: Mapping[str, int] = self._ask(None)
        return placed

    @property
    def method(self) -> str:
        """How it is searched, in words."""
        placed = self.placement()
        rows = ", ".join(f"{count:,}" for count in placed.values())
        return f"exact, on {len(placed)} nodes of a Ray cluster ({rows} vectors)"

    def close(self) -> None:
        """End the actors and the child."""
        self._end()
        self._child.join(END_SECONDS)
        self._child.kill()  # does nothing where it has ended
        self._child.join()

    def _ask(self, question: Search | None) -> Any:
        with self._lock:
            try:
                self._link.send(question)
            except OSError as error:
                raise _lost(self._child, str(error)) from None
            return self._receive()

    def _receive(self) -> Any:
        try:
            answer = self._link.recv()
        except (EOFError, OSError):
            self._child.join(END_SECONDS)
            raise _lost(self._child, f"exit code {self._child.exitcode}") from None
        if isinstance(answer, FacestreamError):
            raise answer
        return answer


def _save(rows: Piece) -> Path:
    """A folder for this user alone, with a file per array."""
    folder = Path(tempfile.mkdtemp(prefix="facestream-"))
    try:
        for name, array in rows._asdict().items():
            np.save(folder / f"{name}.npy", array)
    except BaseException as error:  # an interrupt leaves nothing, either
        shutil.rmtree(folder)
        if not isinstance(error, OSError):
            raise
        raise GalleryError(
            f"match.cluster needs {rows.vectors.nbytes / 1e6:,.0f} MB for temporary files in "
            f"{folder.parent}, got: {error}; free some space, or set TMPDIR to another folder"
        ) from error
    return folder


def _let_go(link: Connection, folder: Path) -> None:
    link.close()
    shutil.rmtree(folder, ignore_errors=True)  # the child has deleted it, if it came so far


def _lost(child: BaseProcess, why: str) -> GalleryError:
    return GalleryError(
        f"the connection to the Ray cluster that holds the gallery was lost ({why}): look at its "
        "nodes (ray status) and start again, or leave match.cluster empty to search here"
    )
