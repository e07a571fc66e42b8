"""What a node of a sharded search does: it keeps some rows of every version, and finds its best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from .. import GalleryError, __version__
from ..models.fusion import Doubles, Floats
from ..models.ida import DensityModel, Integers
from ..models.search import Hit
from ..models.search_gpu import require_gpu
from ..models.search_kernels import Device
from ..models.search_layers import LayeredIndex, Layers, Rows, find_numbers
from ..models.search_rows import Precision


class Piece(NamedTuple):
    """Some rows: their numbers (n,), vectors (n, C) float32 and densities (n,) float64."""

    numbers: Integers
    vectors: Floats
    densities: Doubles


class Search(NamedTuple):
    """What is asked of one version: unit probes (Q, C), their densities (Q,), k and the score."""

    version: int
    probes: Floats
    densities: Doubles | None
    k: int
    by: Literal["ida", "cosine"]


class Shard:
    """The actor of one node. Versions share the rows that stay; one is made while others answer."""

    def __init__(
        self, anchors: DensityModel | None, dimension: int, precision: Precision, device: Device
    ) -> None:
        """As of `SearchIndex`; dimension: C of all rows."""
        self._anchors = anchors
        self._precision: Precision = precision
        self._device: Device = device
        self._pieces: list[Piece] = []
        tau = anchors.tau if anchors else 1.0
        self._empty = Layers(dimension, tau=tau, precision=precision, device=device)
        self._layers: dict[int, Layers] = {}
        self._indexes: dict[int, LayeredIndex] = {}

    def version(self) -> str:
        """Of facestream, on this node. Raises ConfigError where a GPU is asked for and missing."""
        if self._device == "cuda":
            require_gpu()
        return __version__

    def add(self, piece: Piece) -> None:
        """Take rows for the versions that are made next."""
        # What Ray hands over lies in its shared memory, which is to be free again.
        self._pieces.append(Piece(*map(np.array, piece)))

    def hold(self, version: int, numbers: Integers, owners: Integers, live: Sequence[int]) -> int:
        """Make a version of the rows of these numbers (n,), owned by these people (n,).

        live: all versions that may be asked for from now on, this one too. Gives the version.
        """
        self.keep(live)
        # Of the versions that are here, the one before it has most of its rows.
        before = max((v for v in self._layers if v <= version), default=None)
        layers = self._empty if before is None else self._layers[before]
        layers = layers.changed(np.array(numbers), self._fetch)
        self._indexes[version] = LayeredIndex(
            layers,
            np.array(numbers),
            np.array(owners),
            anchors=self._anchors,
            precision=self._precision,
            device=self._device,
        )
        self._layers[version] = layers
        if version == max(live):
            self._pieces.clear()
        return version

    def keep(self, live: Sequence[int]) -> None:
        """Drop every other version."""
        for version in set(self._layers) - set(live):
            self._indexes.pop(version, None)
            self._layers.pop(version, None)

    def search(self, question: Search) -> list[tuple[Hit, ...]]:
        """The k best of this node's rows of the version."""
        version, probes, densities, k, by = question
        return self._indexes[version].search(probes, k, by=by, densities=densities)

    def _fetch(self, numbers: Integers) -> Rows:
        """Rows that came, or that another version has."""
        vectors = np.empty((len(numbers), self._empty.dimension), np.float32)
        densities = np.empty(len(numbers))
        left = np.ones(len(numbers), bool)
        for piece in self._pieces:
            at = np.flatnonzero(left & np.isin(numbers, piece.numbers))
            places = find_numbers(piece.numbers, numbers[at])
            vectors[at], densities[at] = piece.vectors[places], piece.densities[places]
            left[at] = False
        for layers in self._layers.values():
            at = np.flatnonzero(left & np.isin(numbers, layers.numbers))
            rows = layers.rows(numbers[at])
            vectors[at], densities[at] = rows.vectors, rows.densities
            left[at] = False
        if left.any():
            raise GalleryError(f"a node lacks {left.sum()} rows of the gallery: this is a bug")
        return Rows(vectors, np.arange(len(numbers)), densities)


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
