"""The plain and the quality-weighted mean of unit embeddings.

template = unit(sum_i w_i f_i / ||f_i||), with w_i = 1 or w_i = quality_i. Sums run in float64
in the track's own order, one observation after the other, so that batches change nothing, not even
the last bit.
"""

from __future__ import annotations

import numpy as np

from .fusion import (
    Doubles,
    Floats,
    FusionState,
    Members,
    Reading,
    check_members,
    no_members,
    normalise_rows,
    unit_template,
    usable_members,
)


class Mean:
    """Every observation counts the same, whatever the length of its embedding."""

    name = "mean"

    def __init__(self, dimension: int) -> None:
        """dimension: C, the length of the embeddings."""
        self.dimension = dimension

    def weigh(self, members: Members) -> Doubles:
        """Rows (N, 1) of ones."""
        return np.ones((len(members.norms), 1))

    def empty(self) -> FusionState:
        """No observation yet."""
        rows = self.weigh(no_members(self.dimension)).shape[1]
        return FusionState(
            np.zeros((rows, self.dimension)),
            np.zeros((rows, 0)),
            np.zeros(rows),
            0,
            no_members(self.dimension),
        )

    def update(self, state: FusionState, members: Members) -> FusionState:
        """The sums after N more observations, added one by one in float64."""
        check_members(members, self.dimension)
        members = members.take(usable_members(members))
        values, mass = state.values.copy(), state.mass.copy()
        rows = self.weigh(members)
        for row, unit in zip(rows, normalise_rows(members.embeddings), strict=True):
            values += row[:, None] * unit
            mass += row
        return state._replace(values=values, mass=mass, summed=state.summed + len(rows))

    def merge(self, first: FusionState, second: FusionState) -> FusionState:
        """Sum of the sums."""
        return first._replace(
            values=first.values + second.values,
            mass=first.mass + second.mass,
            summed=first.summed + second.summed,
        )

    def gain(self, state: FusionState) -> Doubles:
        """(1,): one over the number of observations."""
        return 1.0 / np.maximum(state.mass, 1.0)

    def inspect(self, state: FusionState) -> Reading:
        """The template, the gain and no open chunk."""
        gain = self.gain(state)
        return Reading(unit_template(gain @ state.values), gain, np.zeros((0, len(gain))))

    def read(self, state: FusionState) -> Floats:
        """The template (C,) float32."""
        return self.inspect(state).embedding


class QualityMean(Mean):
    """Better observations count more: w = max(quality, 0).

    Any source whose numbers are non-negative and grow with what a face is worth fits as it is:
    0..1 scores (LightQNet, the training-free score) and embedding norms alike, since only ratios
    matter. A source that goes below zero must be shifted by its pack; a negative number weighs
    nothing. Powers of the quality from .5 to 1.5 read alike on degraded faces, and beyond 3 good
    frames are thrown away, so there is none to choose. When no observation of a track has any
    weight, the plain mean is read instead.
    """

    name = "quality"

    def weigh(self, members: Members) -> Doubles:
        """Rows (N, 2): the weight by quality, and 1 for the plain mean to fall back on."""
        weights = np.maximum(members.qualities.astype(np.float64), 0.0)
        return np.stack([weights, np.ones_like(weights)], axis=1)

    def gain(self, state: FusionState) -> Doubles:
        """(2,): one over the sum of weights, or the plain mean's where that sum is zero."""
        weight, count = state.mass
        weighted = weight > np.finfo(np.float64).tiny  # below it, one over the sum overflows
        return np.array([1.0 / weight, 0.0] if weighted else [0.0, 1.0 / max(count, 1.0)])
