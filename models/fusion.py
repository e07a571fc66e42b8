"""Fusing a track's observations into one template: one interface, three aggregators.

The state of a track is a value: sums in float64 plus the open chunk. It does not depend on how
observations were grouped into batches, two states of one track merge by addition, and its size
does not grow with the track.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

CHUNK = 16


class Members(NamedTuple):
    """N observations in the track's own order.

    embeddings (N, C) float32 not normalised; norms (N,); qualities (N,); styles (N, K, 2) float32.
    """

    embeddings: Floats
    norms: Floats
    qualities: Floats
    styles: Floats


class FusionState(NamedTuple):
    """The running sums of one track (recipes: CAFace, eq. 7-8 kept as numerators and weights).

    values: sum of A.V, (M, C) float64. styles: sum of A.S, (M, D) float64. mass: sum of A, (M,).
    count: observations inside the sums. pending: the open chunk, fewer than CHUNK observations,
    not yet in the sums (always empty for aggregators whose weights do not depend on company).
    """

    values: Doubles
    styles: Doubles
    mass: Doubles
    count: int
    pending: Members


class Aggregator(Protocol):
    """Turns observations into a template. Stateless itself: the state is handed in and out."""

    name: str

    def empty(self) -> FusionState:
        """The identity of `merge`."""
        ...

    def update(self, state: FusionState, members: Members) -> FusionState:
        """The state after N more observations; N may be 0. Grouping does not change the result."""
        ...

    def merge(self, first: FusionState, second: FusionState) -> FusionState:
        """Both tracks as one: commutative, associative, tails closed."""
        ...

    def read(self, state: FusionState) -> Floats:
        """The fused unit embedding (C,) float32, open chunk included."""
        ...

    def weigh(self, state: FusionState, members: Members) -> Floats:
        """Relative weight (N,) float32 >= 0 of observations, comparable within a track (evidence)."""
        ...
