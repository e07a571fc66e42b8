"""The index of every version of a gallery, made of what changed: rows are known again by content.

Whoever reads a gallery gets all of its vectors, in an order that changes with every name. So each
row has a fingerprint of 64 bits, sums of its words times secret random numbers, by which the rows
of one version are found in the next. Two different rows have the same one with a probability of
less than 2^-60, whatever they are: the numbers are drawn anew in every process.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from .fusion import Doubles, Floats
from .ida import DensityModel, Integers
from .search import check_gallery
from .search_kernels import Device
from .search_layers import LayeredIndex, Layers, Rows, find_numbers
from .search_rows import Precision, blocks_of

Fingerprints = npt.NDArray[np.uint64]

_WORDS = 1 << 20  # words of rows that are summed at once: 8 MiB


class RowNumbers:
    """Gives the rows of a gallery numbers that they keep from version to version."""

    def __init__(self, dimension: int) -> None:
        """dimension: C of the rows."""
        draw = np.random.default_rng()  # from the system's entropy
        self._factors = draw.integers(0, 1 << 64, (2, dimension + 2), np.uint64)
        self._prints: Fingerprints = np.empty(0, np.uint64)
        self._numbers: Integers = np.empty(0, np.int64)
        self._next = 0

    def give(self, vectors: Floats, densities: Doubles) -> Integers:
        """The numbers (G,) of rows (G, C) float32 with these densities (G,).

        A row that is in the version before, bit for bit and with its density, has its number from
        there; every other one a number that none ever had, ascending. Rows that are alike have
        different ones.
        """
        prints = self._prints_of(vectors, densities)
        found = match_prints(self._prints, prints)
        numbers = np.empty(len(prints), np.int64)
        is_new = found < 0
        numbers[~is_new] = self._numbers[found[~is_new]]
        count = int(is_new.sum())
        numbers[is_new] = np.arange(self._next, self._next + count)
        self._next += count
        self._prints, self._numbers = prints, numbers
        return numbers

    def _prints_of(self, vectors: Floats, densities: Doubles) -> Fingerprints:
        """Two sums of products modulo 2^64, and of each the upper half (G,)."""
        count, dimension = vectors.shape
        prints = np.empty(count, np.uint64)
        for block in blocks_of(count, dimension + 2, _WORDS):
            some = np.ascontiguousarray(vectors[block])
            words = np.empty((len(some), dimension + 2), np.uint64)
            words[:, :dimension] = some.view(np.uint32)
            words[:, dimension:] = densities[block].view(np.uint32).reshape(-1, 2)
            # einsum multiplies integers quicker than products of matrices do.
            one, other = (np.einsum("ij,j->i", words, part) for part in self._factors)
            prints[block] = (one & np.uint64(0xFFFFFFFF00000000)) | (other >> np.uint64(32))
        return prints


def match_prints(old: Fingerprints, new: Fingerprints) -> Integers:
    """For each of the new ones (B,) the place of its like among the old ones (A,); -1 without.

    Each old one is used once: of several alike the first goes to the first.
    """
    old_order, new_order = np.argsort(old, kind="stable"), np.argsort(new, kind="stable")
    old_sorted, new_sorted = old[old_order], new[new_order]
    nth = np.arange(len(new)) - np.searchsorted(new_sorted, new_sorted)
    places = np.searchsorted(old_sorted, new_sorted) + nth
    is_there = places < np.searchsorted(old_sorted, new_sorted, side="right")
    found = np.full(len(new), -1, np.int64)
    found[new_order[is_there]] = old_order[places[is_there]]
    return found


class IndexVersions:
    """Makes the index of each version of a gallery; the versions share rows that stay.

    Searching one version while another is made is safe; making takes turns.
    """

    def __init__(self, precision: Precision = "float32", device: Device = "auto") -> None:
        """As of `SearchIndex`."""
        self._precision: Precision = precision
        self._device: Device = device
        self._lock = threading.Lock()
        self._anchors: DensityModel | None = None
        self._numbers: RowNumbers | None = None
        self._layers: Layers | None = None

    def __call__(
        self,
        vectors: Floats,
        owners: npt.NDArray[np.integer],
        /,
        *,
        anchors: DensityModel | None,
        densities: Doubles | None,
    ) -> LayeredIndex:
        """Arguments and errors as of `SearchIndex`; densities are best given."""
        densities = check_gallery(vectors, owners, anchors, densities)
        with self._lock:
            if (
                self._layers is None
                or self._numbers is None
                or self._anchors is not anchors
                or self._layers.dimension != vectors.shape[1]
            ):
                self._anchors = anchors
                self._numbers = RowNumbers(vectors.shape[1])
                self._layers = Layers(
                    vectors.shape[1],
                    tau=anchors.tau if anchors else 1.0,
                    precision=self._precision,
                    device=self._device,
                )
            numbers = self._numbers.give(vectors, densities)

            def fetch(some: Integers) -> Rows:
                order = find_numbers(numbers, some)
                return Rows(vectors, order, densities[order])

            self._layers = self._layers.changed(numbers, fetch)
            return LayeredIndex(
                self._layers,
                numbers,
                owners.astype(np.int64),
                anchors=anchors,
                precision=self._precision,
                device=self._device,
            )
