"""Gallery rows that are kept from version to version: what changes is added, the rest stays.

Every row has a number that no other row ever has. A version lies in layers, each of them the scan
of some rows (models/search_scan): a new version shares the layers of the one before it, in which
rows that it has no more are passed over, and has a small one for the rows that are new. Each layer
has several times the rows of all smaller ones; where it would not, they are made one. So a row is
copied, or sent to a GPU, a few times in its life, and not with every change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .fusion import Doubles, Floats
from .ida import DensityModel, Integers
from .search import SearchIndex
from .search_kernels import UNMEASURED, Device
from .search_rows import Precision
from .search_scan import Candidates, ExactScan, Found, join_found, no_bars

RATIO = 4
"""How many times the rows of all smaller layers, and of those that are gone from it, a layer has at
least."""
SMALL = 4096
"""Galleries of up to so many rows lie in one layer."""


class Rows(NamedTuple):
    """Rows to be kept: row i is vectors[order[i]], of the density densities[i].

    vectors (M, C) float32; order (n,); densities (n,) float64.
    """

    vectors: Floats
    order: Integers
    densities: Doubles


class Layer(NamedTuple):
    """Some rows: their numbers (n,) and densities (n,) in the order of the scan.

    gone: the places (m,) of those that this version has no more, ascending.
    """

    numbers: Integers
    densities: Doubles
    scan: ExactScan
    gone: Integers


class Layers:
    """The rows of one version, a `Finder`; immutable, safe to share between threads.

    Rows go by their places, layer after layer, those that are gone included.
    """

    def __init__(
        self,
        dimension: int,
        *,
        tau: float,
        precision: Precision,
        device: Device = "auto",
        layers: tuple[Layer, ...] = (),
    ) -> None:
        """dimension: C. tau: of the densities."""
        self.dimension = dimension
        self._tau = tau
        self._precision: Precision = precision
        self._device: Device = device
        self.layers = layers
        self._starts = np.cumsum([0, *(len(layer.numbers) for layer in layers)])

    @property
    def numbers(self) -> Integers:
        """Of all rows, by place; -1 of those that are gone."""
        found = [np.empty(0, np.int64)]
        for layer in self.layers:
            numbers = layer.numbers.copy()
            numbers[layer.gone] = -1
            found.append(numbers)
        return np.concatenate(found)

    @property
    def densities(self) -> Doubles:
        """Of all rows, by place."""
        return np.concatenate([np.empty(0), *(layer.densities for layer in self.layers)])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the rows take; other versions may share them."""
        arrays = [a for la in self.layers for a in (la.numbers, la.densities, la.gone)]
        return sum(one.nbytes for one in (*arrays, *(layer.scan for layer in self.layers)))

    def __str__(self) -> str:
        """In words, of the largest layer."""
        return str(
            self.layers[0].scan if self.layers else f"exact, {self._precision}: {UNMEASURED}"
        )

    def find(self, probes: Floats, own: Doubles | None, need: int) -> Candidates:
        """As of `ExactScan`."""
        bars = no_bars(len(probes), need)
        every: list[Found] = []
        for start, layer in zip(self._starts, self.layers, strict=False):
            found, bars = layer.scan.scan(probes, own, bars)
            every.append(found._replace(rows=found.rows + start))
        return join_found(every).reaching(bars)

    def true_rows(self, rows: Integers) -> Floats:
        """The rows (n, C) float32 at these places (n,)."""
        vectors = np.empty((len(rows), self.dimension), np.float32)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for at, layer in enumerate(self.layers):
            here = np.flatnonzero(which == at)
            vectors[here] = layer.scan.true_rows(rows[here] - self._starts[at])
        return vectors

    def rows(self, numbers: Integers) -> Rows:
        """Copies of the rows of these numbers (n,), which must be here."""
        places = find_numbers(self.numbers, numbers)
        return Rows(self.true_rows(places), np.arange(len(places)), self.densities[places])

    def changed(self, numbers: Integers, fetch: Callable[[Integers], Rows]) -> Layers:
        """The version with exactly the rows of these numbers (N,), each of them once.

        fetch: gives the rows of some of them: new ones, and such as have to be copied.
        Raises GalleryError where a temporary file does not fit.
        """
        kept = [np.isin(layer.numbers, numbers) for layer in self.layers]
        gone = [np.flatnonzero(~keep) for keep in kept]
        new = numbers[~np.isin(numbers, self.numbers)]
        first = self._first_to_copy([len(places) for places in gone], len(new))
        layers = [
            layer if len(places) == len(layer.gone) else _pass_over(layer, places)
            for layer, places in zip(self.layers[:first], gone[:first], strict=True)
        ]
        some = zip(self.layers[first:], kept[first:], strict=True)
        rest = np.concatenate([*(layer.numbers[keep] for layer, keep in some), new])
        if len(rest):
            layers.append(self._make_layer(rest, fetch(rest)))
        return Layers(
            self.dimension,
            tau=self._tau,
            precision=self._precision,
            device=self._device,
            layers=tuple(layers),
        )

    def _first_to_copy(self, gone: list[int], new: int) -> int:
        """From which layer on all rows, of which so many are gone, are copied with the new ones."""
        first, after = len(self.layers), new
        for at in reversed(range(len(self.layers))):
            left = len(self.layers[at].numbers) - gone[at]
            if left < RATIO * max(after, gone[at]):
                first = at
            after += left
        is_changed = new or first < len(gone) or sum(gone) > sum(len(la.gone) for la in self.layers)
        return 0 if is_changed and after <= SMALL else first

    def _make_layer(self, numbers: Integers, rows: Rows) -> Layer:
        order = np.argsort(rows.densities, kind="stable")
        densities = rows.densities[order]
        scan = ExactScan(
            rows.vectors,
            rows.order[order],
            densities,
            tau=self._tau,
            precision=self._precision,
            device=self._device,
        )
        return Layer(numbers[order], densities, scan, np.empty(0, np.int64))


class LayeredIndex(SearchIndex):
    """A `SearchIndex` of the rows of `Layers`."""

    _finder: Layers

    def __init__(
        self,
        layers: Layers,
        numbers: Integers,
        owners: Integers,
        *,
        anchors: DensityModel | None,
        precision: Precision,
        device: Device,
    ) -> None:
        """numbers (N,): of all rows of the layers; owners (N,): whose they are, from 0 on."""
        self.dimension = layers.dimension
        self.anchors = anchors
        self.precision = precision
        self.device = device
        places = layers.numbers
        whose = np.full(len(places), -1, np.int64)
        whose[find_numbers(places, numbers)] = owners
        self._keep(whose, layers.densities)
        self._finder = layers


def _pass_over(layer: Layer, gone: Integers) -> Layer:
    return layer._replace(scan=layer.scan.without(gone), gone=gone)


def find_numbers(among: Integers, wanted: Integers) -> Integers:
    """Where each of the wanted numbers (n,) is among others (N,), which hold all of them."""
    order = np.argsort(among, kind="stable")
    return np.asarray(order[np.searchsorted(among, wanted, sorter=order)])
