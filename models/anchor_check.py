"""Anchors that must not be: the same face twice, or faces of one person.

A support set is meant to hold the k nearest *other* people (models/ida, equation 3: j != y_i).
Copies of one face take several of the k places, and somebody's own face among the anchors takes the
nearest, which pushes that person's scores down.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from .. import RecordError
from .card import Card
from .fusion import Floats
from .ida import Anchors, Integers

CHANCE = 0.01
"""How likely somebody is taken for one of the anchors who is none of them."""

DUPLICATE = 1.0 - 1e-4
"""Cosine from which two vectors are of the same picture."""

_ROWS = 1024


class AlikeRows(NamedTuple):
    """A row that is left out, the row that it looks like, and their cosine."""

    row: int
    like: int
    cosine: float


def alike_bar(centre: float, spread: float, pairs: int) -> float:
    """The cosine that faces of different people are expected to reach less than once in so many.

    centre, spread: of the normal whose upper tail is that of cosines of different people, as a
    card's `decision` has it. At most DUPLICATE. Raises RecordError unless spread > 0.
    """
    if not spread > 0.0:
        raise RecordError(f"spread must be positive, got {spread}")
    if pairs < 2:
        return DUPLICATE
    return min(DUPLICATE, centre + spread * float(-ndtri(1.0 / pairs)))


def own_bar(centre: float, spread: float, anchors: int) -> float:
    """The cosine from which an anchor is taken for the enrolled person (`Anchors.own`).

    Of so many anchors, none of them theirs, the nearest reaches it with the probability CHANCE;
    centre and spread as in `alike_bar`. It depends on no other person, so that a density that is
    kept stays true whoever comes and goes. At most DUPLICATE.
    """
    if not spread > 0.0:
        raise RecordError(f"spread must be positive, got {spread}")
    alone = -np.expm1(np.log1p(-CHANCE) / anchors)  # of one anchor
    return min(DUPLICATE, centre + spread * float(-ndtri(alone)))


def card_anchors(card: Card, vectors: Floats) -> Anchors:
    """The anchors (A, C) of a card as decisions use them. The card must have `ida`."""
    ida, numbers = card.ida, card.decision
    assert ida is not None
    own = DUPLICATE
    if numbers is not None:
        centre, spread = numbers.impostor_cosine_centre, numbers.impostor_cosine_spread
        own = own_bar(centre, spread, len(vectors))
    return Anchors(vectors, version=ida.anchor_version, k=ida.k, tau=ida.tau, own=own)


def leave_out_alike(vectors: Floats, bar: float) -> tuple[Integers, list[AlikeRows]]:
    """Rows (K,) int64 of unit vectors (N, C) that stay, and those that do not, in their order.

    A row goes when its cosine with one that stays before it is at least `bar`.
    """
    kept: list[int] = []
    alike: list[AlikeRows] = []
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS]
        likes, cosines = nearest_rows(block, vectors[kept])  # (B,) each
        within = block @ block.T  # (B, B)
        chosen: list[int] = []
        for at in range(len(block)):
            like, cosine = int(likes[at]), float(cosines[at])
            if chosen and (best := float(within[at, chosen].max())) > cosine:
                like = len(kept) + int(within[at, chosen].argmax())
                cosine = best
            if cosine >= bar:
                first = kept[like] if like < len(kept) else start + chosen[like - len(kept)]
                alike.append(AlikeRows(start + at, first, cosine))
            else:
                chosen.append(at)
        kept += [start + at for at in chosen]
    return np.array(kept, np.int64), alike


def nearest_rows(vectors: Floats, others: Floats) -> tuple[Integers, Floats]:
    """The nearest of unit `others` (M, C) to each of unit `vectors` (N, C).

    Returns rows (N,) and cosines (N,); row 0 and a cosine of -1 where there are no others.
    """
    rows, cosines = np.zeros(len(vectors), np.int64), np.full(len(vectors), -1.0, np.float32)
    for start in range(0, len(others), 8 * _ROWS):
        found = vectors @ others[start : start + 8 * _ROWS].T  # (N, block)
        best = found.argmax(axis=1)
        values = found[np.arange(len(vectors)), best]
        nearer = values > cosines
        rows[nearer], cosines[nearer] = best[nearer] + start, values[nearer]
    return rows, cosines
