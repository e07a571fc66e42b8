"""What `facestream bench embedder` measures of students, their seeds, and the packs beside them.

Numbers are means over seeds; intervals are over people, each resample being measured with every
seed; the spread over seeds is told beside them. Differences are paired, resample by resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from ..models.discard import area_under_discard, discard_fixed
from ..models.fusion import Doubles, Floats
from ..models.pooling import unit_rows
from ..models.scores import Flags, Labels, identity_weights, pair_weights
from ..models.verification import count_errors, operating_point, resample_roc
from ..train.face_validation import order_of
from .eval_verification import Bootstrap
from .report_record import Draws, Number, Unit, measured

IMPOSTORS = 20
"""Pictures of others that each probe is compared with, where not all are."""
LIMIT = 0.3
FMR = 1e-2


class Pairs(NamedTuple):
    """Rows of two lists of faces (P,), whose they are (P,), and whether one person's (P,)."""

    first: Labels
    second: Labels
    owner: Labels
    other: Labels

    @property
    def same(self) -> Flags:
        """(P,)"""
        return np.asarray(self.owner == self.other)


class Measured(NamedTuple):
    """One number of S seeds: their values (S,), and bootstrap draws of their mean (B,)."""

    seeds: Doubles
    draws: Draws
    unit: Unit = "share"

    @property
    def number(self) -> Number:
        """The mean over seeds and its interval; the spread is the deviation over seeds."""
        spread = float(self.seeds.std(ddof=1)) if len(self.seeds) > 1 else None
        return measured(float(self.seeds.mean()), self.draws, unit=self.unit, spread=spread)

    def minus(self, other: Measured) -> Measured:
        """The difference, seed by seed where there are as many, and resample by resample."""
        theirs = other.seeds if len(other.seeds) == len(self.seeds) else other.seeds.mean()
        unit: Unit = "points" if self.unit == "share" else self.unit
        return Measured(self.seeds - theirs, self.draws - other.draws, unit)


def all_pairs(owners: Labels, turns: Labels) -> Pairs:
    """Every picture but the first of its person with everybody's first."""
    first, second = np.flatnonzero(turns > 0), np.flatnonzero(turns == 0)
    a, b = (x.ravel() for x in np.meshgrid(first, second, indexing="ij"))
    return Pairs(a, b, owners[a], owners[b])


def some_pairs(probes: Labels, gallery: Labels, impostors: int, seed: int) -> Pairs:
    """Every probe with every picture of its person, and with `impostors` of others.

    probes, gallery: whose each is; rows of a pair are rows of these.
    """
    draw = np.random.default_rng(seed)
    first, second = [], []
    for row, owner in enumerate(probes.tolist()):
        mates, others = np.flatnonzero(gallery == owner), np.flatnonzero(gallery != owner)
        chosen = draw.choice(others, min(impostors, len(others)), replace=False)
        first += [row] * (len(mates) + len(chosen))
        second += [*mates.tolist(), *chosen.tolist()]
    a, b = np.array(first), np.array(second)
    return Pairs(a, b, probes[a], gallery[b])


def cosines(pairs: Pairs, probes: Floats, gallery: Floats) -> Doubles:
    """Of each pair (P,), from raw embeddings of probes (N, C) and gallery (M, C)."""
    a, b = unit_rows(probes), unit_rows(gallery)
    scores = np.einsum("pc,pc->p", a[pairs.first], b[pairs.second])
    return np.asarray(scores, np.float64)


def tars(
    pairs: Pairs, scores: Sequence[Doubles], fmrs: Sequence[float], bootstrap: Bootstrap
) -> list[Measured]:
    """TAR at each false-match rate, of the scores (P,) that each seed gives the pairs."""
    values: list[list[list[float]]] = [[] for _ in fmrs]
    for one in scores:
        resampled = resample_roc(
            one,
            pairs.same,
            pairs.owner,
            pairs.other,
            resamples=bootstrap.resamples,
            seed=bootstrap.seed,
        )
        rocs = [count_errors(one, pairs.same), *resampled]
        for fmr, rows in zip(fmrs, values, strict=True):
            rows.append([operating_point(roc, fmr).tar for roc in rocs])
    return [_over_seeds(rows) for rows in values]


class Order(NamedTuple):
    """How magnitudes follow damage: within each face, and over all faces together."""

    within: Measured
    pooled: Measured


def orders(norms: Sequence[Doubles], owners: Labels, bootstrap: Bootstrap) -> Order:
    """Spearman's correlation of magnitude and what a camera left.

    norms: of each seed (V, N), views from best to worst; owners (N,). within: `order_of`, averaged
    over faces; pooled: over all views of all faces, where faces differ as well.
    """
    weights = identity_weights(
        int(owners.max()) + 1, bootstrap.resamples, seed=bootstrap.seed
    ).astype(np.int64)
    rows = [np.repeat(np.arange(len(owners)), row[owners]) for row in weights]
    within, pooled = [], []
    for one in norms:
        each = np.array([order_of(one[:, [face]]) for face in range(one.shape[1])])
        within.append([each.mean(), *(each[chosen].mean() for chosen in rows)])
        pooled.append([_spearman(one), *(_spearman(one[:, chosen]) for chosen in rows)])
    return Order(_over_seeds(within), _over_seeds(pooled))


def _spearman(norms: Doubles) -> float:
    """Of norms (V, N) and the place of the view, the first being the best."""
    place = np.broadcast_to(-np.arange(len(norms))[:, None], norms.shape)
    return float(np.corrcoef(rankdata(norms), rankdata(place))[0, 1])


def areas(
    pairs: Pairs,
    scores: Sequence[Doubles],
    qualities: Sequence[Doubles],
    bootstrap: Bootstrap,
) -> Measured:
    """Area under FNMR at FMR against the share discarded, to LIMIT; lower is better.

    scores and qualities (P,) of the pairs, for each seed.
    """
    chosen = _resampled(pairs, bootstrap)
    values = [
        [_area(s, pairs.same, q), *(_area(s[r], pairs.same[r], q[r]) for r in chosen)]
        for s, q in zip(scores, qualities, strict=True)
    ]
    return _over_seeds(values, "area")


def chance_areas(pairs: Pairs, scores: Sequence[Doubles], bootstrap: Bootstrap) -> Measured:
    """What discarding at random comes to on average: FNMR stays, so the area is LIMIT of it."""
    chosen = _resampled(pairs, bootstrap)
    values = [
        [_chance(s, pairs.same), *(_chance(s[r], pairs.same[r]) for r in chosen)] for s in scores
    ]
    return _over_seeds(values, "area")


def _over_seeds(values: Sequence[Sequence[float]], unit: Unit = "share") -> Measured:
    """values: of each seed, the number itself and then its draws."""
    table = np.array(values, np.float64)
    return Measured(table[:, 0], table[:, 1:].mean(axis=0), unit)


def _resampled(pairs: Pairs, bootstrap: Bootstrap) -> list[Labels]:
    """Pairs of each resample of people, repeated as often as they count."""
    count = int(max(pairs.owner.max(), pairs.other.max())) + 1
    found: list[Labels] = []
    for row in identity_weights(count, bootstrap.resamples, seed=bootstrap.seed):
        counts = pair_weights(row, pairs.owner, pairs.other).astype(np.int64)
        found.append(np.repeat(np.arange(len(counts)), counts))
    return found


def _area(scores: Doubles, same: Flags, quality: Doubles) -> float:
    return area_under_discard(discard_fixed(scores, same, quality, FMR), LIMIT)


def _chance(scores: Doubles, same: Flags) -> float:
    return LIMIT * (1 - operating_point(count_errors(scores, same), FMR).tar)
