"""Exact top-k by the IDA score from indexes that only know inner products.

A gallery may lie in an index of another maker (FAISS, a vector database), which gives the m rows
nearest by cosine. The aligned score (models/ida) is the cosine plus a term that falls as the
density r_g of the row grows. So of rows whose densities are at least r_low, none beyond the m-th
nearest can score above

    c_m + aligned_score(0, r_q, r_low).

When the k-th best score found exceeds that, nothing unseen can be among the k best; until then m is
doubled. With one index over the whole gallery r_low is that of its least crowded row, and thousands
of rows may be looked at; some dozen indexes, each over rows of like density, bound tightly.
`SearchIndex` (models/search), which scans a gallery in memory, does not need this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .. import RecordError
from .fusion import Doubles, Floats
from .ida import Integers, aligned_score

_ROUNDING = 1e-12  # float64, of scores in [-2, 2]


class Nearest(Protocol):
    """An index by inner product over some rows of a gallery."""

    def __call__(self, probe: Floats, m: int, /) -> tuple[Integers, npt.NDArray[np.floating]]:
        """Gallery rows (m,) nearest to a unit probe (C,), and their cosines (m,), nearest first."""
        ...


class Bucket(NamedTuple):
    """Rows of like density: their index, how many they are, and the least r among them."""

    nearest: Nearest
    size: int
    lowest: float


class Found(NamedTuple):
    """rows (k,) int64 by falling score, scores (k,), and how many rows were looked at."""

    rows: Integers
    scores: Doubles
    looked_at: int


def make_buckets(
    densities: Doubles, count: int, index: Callable[[Integers], Nearest]
) -> list[Bucket]:
    """Cut a gallery into `count` buckets of about equal size by density (G,), fewer if G is small.

    index: makes the index over the given rows (n,). Raises RecordError unless count >= 1.
    """
    if count < 1:
        raise RecordError(f"count of buckets must be at least 1, got {count}")
    parts = np.array_split(np.argsort(densities, kind="stable"), min(count, len(densities)) or 1)
    return [
        Bucket(index(np.sort(rows)), len(rows), float(densities[rows].min()))
        for rows in parts
        if len(rows)
    ]


def search_buckets(
    buckets: Sequence[Bucket],
    probe: Floats,
    density: float,
    densities: Doubles,
    k: int,
    *,
    tau: float,
) -> Found:
    """The k rows of best aligned score to a unit probe (C,) of this density; fewer if G is small.

    densities (G,): r of all gallery rows, of the same anchors as the probe's. The answer is that of
    exhaustive search by the cosines the indexes give; ties go to the smaller row.
    Raises RecordError unless k >= 1.
    """
    if k < 1:
        raise RecordError(f"k must be at least 1, got {k}")
    rows: list[Integers] = [np.zeros(0, np.int64)] * len(buckets)
    scores = [np.zeros(0)] * len(buckets)
    sizes = [min(-(-k // len(buckets)), bucket.size) for bucket in buckets]
    bar, open_buckets = -np.inf, set(range(len(buckets)))
    while open_buckets:
        bounds = {}
        for at in open_buckets:
            bucket = buckets[at]
            rows[at], cosines = bucket.nearest(probe, sizes[at])
            scores[at] = aligned_score(cosines, density, densities[rows[at]], tau=tau)
            if sizes[at] < bucket.size:
                unseen = aligned_score(cosines[-1], density, bucket.lowest, tau=tau)
                bounds[at] = float(unseen) + _ROUNDING
            sizes[at] = min(2 * sizes[at], bucket.size)
        found = np.concatenate(scores)
        if len(found) >= k:
            bar = float(np.partition(found, -k)[-k])
        open_buckets = {at for at, bound in bounds.items() if bound >= bar}
    if not buckets:
        return Found(np.zeros(0, np.int64), np.zeros(0), 0)
    seen, found = np.concatenate(rows), np.concatenate(scores)
    best = np.lexsort((seen, -found))[:k]
    return Found(seen[best], found[best], len(seen))
