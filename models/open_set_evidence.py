"""Whether strangers reach a score more often when more of them was seen.

One threshold for all evidence is fair while they do not. Some aggregators draw long tracks towards
what degraded faces have in common, and then long tracks have more false alerts than short ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .fusion import Doubles
from .open_set import EDGES, RESAMPLES
from .scores import Flags, Labels, identity_weights

FEW, MANY = 3, 8
"""Decisions on so many faces or fewer are compared with those on more than the other."""
TRACKS = 0.05
"""Compared at the score that this share of strangers' tracks reach: enough of them to compare."""


class EvidenceGap(NamedTuple):
    """Shares of decisions, on FEW faces and on more than MANY, that reach the same score."""

    few: float
    many: float

    @property
    def words(self) -> str:
        """What follows from it, for people."""
        which = "more" if self.many > self.few else "fewer"
        return (
            f"strangers seen in more than {MANY} faces have {which} false alerts than those seen "
            f"in {FEW} or fewer: {100 * self.many:.2g} % and {100 * self.few:.2g} % of decisions "
            f"at FPIR {100 * TRACKS:g} %"
        )


def find_gap(reached: Flags, frames: Labels, owners: Labels) -> EvidenceGap | None:
    """The gap that decisions (T,) show beyond chance; None where they show none.

    reached: whether each reaches the score; frames: faces it rests on; owners: whose it is. Beyond
    chance: 98 % of resamples of the people have a difference of one sign.
    """
    people = np.unique(owners, return_inverse=True)[1]
    count = int(people.max(initial=-1)) + 1
    few, many = frames <= FEW, frames > MANY
    if not few.any() or not many.any():
        return None
    weights = np.concatenate([np.ones((1, count)), identity_weights(count, RESAMPLES, seed=0)])
    shares = [_shares(weights[:, people[rows]], reached[rows]) for rows in (few, many)]
    low, high = np.quantile((shares[1] - shares[0])[1:], EDGES)
    if low <= 0.0 <= high:
        return None
    return EvidenceGap(float(shares[0][0]), float(shares[1][0]))


def _shares(weights: Doubles, reached: Flags) -> Doubles:
    """The weighted share (B,) of those that reach it, by weights (B, K)."""
    total = weights.sum(axis=1)
    return np.asarray(weights @ reached.astype(np.float64) / np.where(total > 0, total, 1.0))
