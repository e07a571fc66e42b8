"""Magnitudes of embeddings as quality: their histogram by data set, and mean faces by magnitude.

The magnitude of a face is the norm of its raw embedding (MagFace, Meng et al., CVPR 2021, section
3.2). Its section 4.2 shows how sets differ in it (Fig. 5) and what faces look like from bin to bin
(Fig. 4: 8 groups of 100,000 aligned crops).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles

Counts = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]


class MagnitudeHistograms(NamedTuple):
    """Magnitudes of several sets in common bins.

    edges (n + 1,) ascending; counts {set: (n,) images}; means {set: mean magnitude}.
    """

    edges: Doubles
    counts: dict[str, Counts]
    means: dict[str, float]

    def shares(self, name: str) -> Doubles:
        """Share of a set's images in each bin (n,), summing to 1."""
        return np.asarray(self.counts[name] / self.counts[name].sum())


def spread_edges(magnitudes: npt.ArrayLike, bins: int, *, equal_counts: bool = False) -> Doubles:
    """Edges (bins + 1,) float64 from the least to the largest magnitude.

    magnitudes (N,) of all sets together. equal_counts: about as many faces in each bin, instead of
    bins of equal width; where many magnitudes are the same there may be fewer bins.
    Raises RecordError for magnitudes that are not finite, negative or all the same, ConfigError
    for bins < 1.
    """
    values = _check_magnitudes(magnitudes)
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    low, high = values.min(), values.max()
    if not low < high:
        raise RecordError(f"magnitudes must differ to be spread over bins, all are {low}")
    if equal_counts:
        return np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
    return np.linspace(low, high, bins + 1)


def find_bins(magnitudes: npt.ArrayLike, edges: npt.ArrayLike) -> Counts:
    """Bin of each magnitude (N,), 0 .. n - 1; a value on an edge belongs to the bin above it.

    edges (n + 1,) ascending. The first and the last bin also take what lies outside the edges.
    Raises RecordError for edges that do not ascend and for magnitudes as `spread_edges`.
    """
    values = _check_magnitudes(magnitudes)
    inner = _check_edges(edges)[1:-1]
    return np.searchsorted(inner, values, side="right").astype(np.int64)


def count_magnitudes(
    sets: Mapping[str, npt.ArrayLike], edges: npt.ArrayLike
) -> MagnitudeHistograms:
    """Histograms of sets {name: magnitudes (N,)} in common bins. Raises as `find_bins`."""
    bounds = _check_edges(edges)
    counts, means = {}, {}
    for name, magnitudes in sets.items():
        bins = find_bins(magnitudes, bounds)
        counts[name] = np.bincount(bins, minlength=len(bounds) - 1).astype(np.int64)
        means[name] = float(np.mean(np.asarray(magnitudes, np.float64)))
    return MagnitudeHistograms(bounds, counts, means)


class MeanFaces:
    """Mean aligned face of each magnitude bin, from any number of batches.

    Sums are whole numbers, so the result depends neither on the order of faces nor on batches.
    edges (n + 1,) as for `find_bins`; side: height and width of crops in pixels.
    """

    def __init__(self, edges: npt.ArrayLike, side: int = 112) -> None:
        """Raises RecordError for edges that do not ascend, ConfigError for side < 1."""
        if side < 1:
            raise ConfigError(f"side must be at least 1 pixel, got {side}")
        self.edges = _check_edges(edges)
        self.counts: Counts = np.zeros(len(self.edges) - 1, np.int64)
        self._sums = np.zeros((len(self.counts), side, side, 3), np.int64)

    def add(self, crops: Images, magnitudes: npt.ArrayLike) -> None:
        """Takes in aligned crops (B, side, side, 3) uint8 BGR with magnitudes (B,).

        Raises RecordError for other shapes or types.
        """
        bins = find_bins(magnitudes, self.edges)
        expected = (len(bins), *self._sums.shape[1:])
        if crops.shape != expected or crops.dtype != np.uint8:
            raise RecordError(
                f"crops must be {expected} uint8, one per magnitude, got {crops.shape} "
                f"{crops.dtype}: align them to the side of the mean faces"
            )
        for one in np.unique(bins):
            chosen = bins == one
            self._sums[one] += crops[chosen].sum(axis=0, dtype=np.int64)
            self.counts[one] += int(chosen.sum())

    def read(self) -> Images:
        """Mean faces (n, side, side, 3) uint8, rounded; black for bins without a face."""
        divisors = np.maximum(self.counts, 1)[:, None, None, None]
        rounded = (2 * self._sums + divisors) // (2 * divisors)
        return np.asarray(rounded, np.uint8)


def _check_magnitudes(magnitudes: npt.ArrayLike) -> Doubles:
    values = np.asarray(magnitudes, np.float64)
    if values.ndim != 1 or not len(values):
        raise RecordError(f"magnitudes must be (N,) with N > 0, got {values.shape}")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise RecordError("magnitudes must be finite and >= 0: leave such faces out")
    return values


def _check_edges(edges: npt.ArrayLike) -> Doubles:
    bounds = np.asarray(edges, np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all():
        raise RecordError(
            f"edges must be at least 2 ascending numbers, got shape {bounds.shape}: "
            "spread_edges makes them"
        )
    return bounds
