"""Who is named: mates and strangers of `facestream bench thresholds` in one gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..models.fusion import Doubles
from ..models.ida import Anchors
from ..models.open_set_tracks import StrangerTracks
from ..models.scores import Interval, Labels
from ..stream.thresholds_fit import fit_to
from .bench_thresholds_held import By, Held, index_of, share_of

if TYPE_CHECKING:
    from ..models.card import Card

MIXED = (0, 300, 700)
"""Others among whom the London people are enrolled; some of the 800 may have no usable face."""


class Named(NamedTuple):
    """Mates named rightly and strangers named at all, by a threshold."""

    tracks: str
    score: By
    people: int
    rule: str
    threshold: float
    tpir: float
    tpir_interval: Interval
    fpir: float


def name_mates(
    held: Held,
    name: str,
    mates: StrangerTracks,
    by: By,
    strangers: StrangerTracks,
    anchors: Anchors | None,
    card: Card,
) -> list[Named]:
    """Half of the London people enrolled among others: who is named, by each threshold.

    mates: tracks of the London people, by number; name: of that set.
    """
    if by == "ida" and anchors is None:
        return []
    own = None
    if card.decision is not None:
        own = card.decision.threshold if by == "ida" else card.decision.cosine_threshold
    rows = []
    for fill in [size for size in MIXED if size <= len(held.others)]:
        halves = [
            _name_half(held, mates, by, strangers, anchors, half, fill, own) for half in (0, 1)
        ]
        for rule in halves[0]:
            both = [found[rule] for found in halves]
            tpir, interval = share_of(
                np.concatenate([one.named for one in both]),
                mates._replace(people=np.concatenate([one.mates for one in both])),
            )
            wrong = np.concatenate([one.wrong for one in both])
            bar = float(np.mean([one.bar for one in both]))
            size = len(held.people) // 2 + fill
            rows.append(Named(name, by, size, rule, bar, tpir, interval, float(wrong.mean())))
    return rows


class _Half(NamedTuple):
    """Where one half is enrolled: mates named rightly, whose tracks these are, strangers named."""

    bar: float
    named: Doubles
    mates: Labels
    wrong: Doubles


def _name_half(
    held: Held,
    mates: StrangerTracks,
    by: By,
    strangers: StrangerTracks,
    anchors: Anchors | None,
    half: int,
    fill: int,
    own: float | None,
) -> dict[str, _Half]:
    enrolled = np.arange(half, len(held.people), 2)
    gallery = np.concatenate([held.people[enrolled], held.others[:fill]])
    index = index_of(gallery, anchors if by == "ida" else None)
    hits = [one[0] for one in index.search(mates.vectors, 1, by=by)]
    scores = np.array([hit.score for hit in hits])
    whose = np.array([enrolled[h.identity] if h.identity < len(enrolled) else -1 for h in hits])
    right = whose == mates.people[mates.tracks]
    is_mate = np.isin(mates.people, enrolled)
    mated = mates.maxima(np.where(right, scores, -np.inf))[is_mate]
    others = mates.maxima(scores)[~is_mate]
    bars = {"fitted, FPIR 1 %": fit_to(index, strangers, by).threshold(0.01)}
    if own is not None:
        bars["the pack's own"] = own
    return {
        rule: _Half(
            bar,
            (mated >= bar).astype(np.float64),
            mates.people[is_mate],
            (others >= bar).astype(np.float64),
        )
        for rule, bar in bars.items()
    }
