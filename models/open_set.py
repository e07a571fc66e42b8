"""How high strangers score: the tail of per-track maxima, and thresholds for a promised FPIR.

A track is decided many times, and it is a false alert when one of these decisions names somebody.
So what counts of a stranger's track is M, its best score over all of its decisions and the whole
gallery, and FPIR(t) = P(M >= t). The upper tail of M is fitted as peaks over a bar u: the share p
of tracks reach it, and what they exceed it by is generalised Pareto,

    FPIR(t) = p (1 + xi (t - u) / sigma)^(-1 / xi)   for t >= u,

which is the limit for maxima of anything (Pickands 1975). Below the bar it is the share of tracks
themselves. sigma and xi come from probability-weighted moments (Hosking and Wallis 1987): in closed
form, so that resamples cost nothing, and steadier than likelihood for a hundred exceedances.

Tracks of one person are alike, so uncertainty comes from resampling people, never tracks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .. import ConfigError
from .fusion import Doubles
from .scores import Interval, Labels, check_labels, check_scores, identity_weights

if TYPE_CHECKING:
    from .open_set_evidence import EvidenceGap

TAIL = 0.2
"""Share of tracks above the bar."""
SHAPES = (-0.2, 0.1)
"""Between which xi is kept: outside, moments of a hundred exceedances are noise. Of laws that were
tried on known tails (0.1 to 0.3 above the bar, xi free or 0) this one promises best: at 1 % the
rate found is 1.0 %, and at 0.1 % it is 0.13 to 0.17 %, where a free xi finds 0.3 %."""
EDGES = (0.01, 0.99)
"""Of resamples, for intervals of 95 %. On known tails these hold the truth 19 times of 20, where
percentiles of 2.5 and 97.5 hold it 9 times of 10: so few people make percentiles too narrow."""
FENCE = 8.0
"""Of the packs here, strangers are hardly ever beyond it, and enrolled people are."""
ALIKE = 0.25
"""Tracks of one picture are much more alike than another picture of the person is to them."""
LEAST_PEOPLE = 20
LEAST_TRACKS = 50
RESAMPLES = 200
LEAST_SEEN = 200
"""Unknown tracks of a place that say more about it than what a pack carries."""
MOST_STRETCH = 1.5
"""By how much the spread of maxima is changed at the most by what was seen."""


@dataclass(frozen=True, eq=False)
class OpenSetFit:
    """Fitted maxima of strangers' tracks against one gallery."""

    maxima: Doubles
    """(N,) descending: the best score of each track."""
    identities: int
    """How many people the gallery has, > 0."""
    people: int
    """Of how many people the tracks are."""
    bar: float
    """u: where the fitted tail begins."""
    tails: Doubles
    """(1 + B, 3): p, sigma and xi of the fit and of each resample."""
    reached: Doubles
    """(1 + B, N + 1): share of tracks among the first n, of the sample and of each resample."""
    power: float = 1.0
    """The maxima are over this many times as many people as was measured."""
    seen: int = 0
    """Unknown tracks of this place that the maxima were moved to; 0 where none were."""
    gap: EvidenceGap | None = None
    """By how much decisions on few and on many faces differ; None where they do not."""

    @property
    def words(self) -> str:
        """What it rests on, for people."""
        of = f"{len(self.maxima):,} pseudo-tracks of {self.people:,} people kept for calibration"
        if self.seen:
            of += f", moved to {self.seen:,} unknown tracks seen here,"
        if self.power == 1.0:
            return f"{of} against this gallery of {self.identities:,}"
        return f"{of}, scaled to this gallery of {self.identities:,} until it is fitted itself"

    def fpir(self, score: float) -> float:
        """Share of strangers' tracks, 0..1, that reach a score."""
        return float(self._survival(score)[0])

    def fpir_interval(self, score: float) -> Interval:
        """The 95 % interval of that share, by resamples of the people."""
        return _edges(self._survival(score))

    def threshold(self, target: float) -> float:
        """The score that the share `target` of strangers' tracks reach.

        Raises ConfigError unless 0 < target < 1.
        """
        return float(self._quantile(target)[0])

    def threshold_interval(self, target: float) -> Interval:
        """The 95 % interval of that score, by resamples of the people."""
        return _edges(self._quantile(target))

    def scaled(self, identities: int) -> OpenSetFit:
        """The same for a gallery of another size, as if its people were independent tries.

        They are not quite: docs/benchmarks/thresholds.md says how wrong that goes. Good enough
        until the fit for that gallery is there.
        """
        power = self.power * identities / self.identities
        return replace(self, identities=identities, power=power)

    def moved(self, shares: Doubles) -> OpenSetFit:
        """The same, moved to unknown tracks that were seen where it is used.

        shares (K,): what this fit says of the best score of each, `fpir`; were it right for them,
        these would spread evenly over 0..1. Median and lower quartile of the maxima are brought to
        theirs, and the form of the tail stays: the upper half of unknown tracks is not to be
        trusted, since people are in it who are enrolled and were missed, and strangers who were
        named are not. Fewer than LEAST_SEEN tracks move nothing.
        """
        if len(shares) < LEAST_SEEN:
            return self
        kept = np.clip(np.quantile(shares, (0.75, 0.5)), 1e-6, 1.0 - 1e-6)
        low, middle = (self.threshold(float(share)) for share in kept)
        # Its own by `threshold` too: the maxima themselves are not yet those of a scaled gallery.
        own_low, own_middle = self.threshold(0.75), self.threshold(0.5)
        spread = (middle - low) / max(own_middle - own_low, 1e-9)
        factor = float(np.clip(spread, 1.0 / MOST_STRETCH, MOST_STRETCH))
        shift = middle - factor * own_middle
        return replace(
            self,
            maxima=shift + factor * self.maxima,
            bar=shift + factor * self.bar,
            tails=self.tails * np.array([1.0, factor, 1.0]),
            seen=len(shares),
        )

    def _survival(self, score: float) -> Doubles:
        """P(M >= score) by the fit and by each resample (1 + B,)."""
        if score >= self.bar:
            share, scale, shape = self.tails.T
            at = share * _pareto_survival((score - self.bar) / scale, shape)
        else:
            at = self.reached[:, int(np.searchsorted(-self.maxima, -score, side="right"))]
        return _raise_share(at, self.power)

    def _quantile(self, target: float) -> Doubles:
        if not 0.0 < target < 1.0:
            raise ConfigError(f"a target FPIR must be above 0 and below 1, got {target:g}")
        base = float(_raise_share(np.array(target), 1.0 / self.power))
        share, scale, shape = self.tails.T
        ratio = np.minimum(base / np.maximum(share, 1e-12), 1.0)
        tail = self.bar + scale * _pareto_quantile(ratio, shape)
        # Below the bar: the smallest of the first tracks that are no more than the share.
        place = (self.reached <= base).sum(axis=1) - 1
        body = np.nextafter(self.maxima[np.minimum(place, len(self.maxima) - 1)], np.inf)
        return np.asarray(np.where(base <= share, tail, np.minimum(body, self.bar)))


def fit_open_set(
    maxima: npt.ArrayLike,
    owners: Labels,
    identities: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> OpenSetFit:
    """Fit maxima (N,) of strangers' tracks, of people numbered 0.. by owners (N,).

    identities: size of the gallery that they are maxima over. Raises ConfigError for too few people
    or tracks, and RecordError for arrays that do not fit.
    """
    scores = check_scores("maxima", maxima)
    owners = check_labels("owners", owners, len(scores))
    numbers = np.unique(owners, return_inverse=True)[1]
    people = int(numbers.max(initial=-1)) + 1
    if people < LEAST_PEOPLE or len(scores) < LEAST_TRACKS or identities < 1:
        raise ConfigError(
            f"a threshold is fitted to {LEAST_TRACKS} tracks of {LEAST_PEOPLE} strangers at least "
            f"and a gallery of 1, got {len(scores)} tracks of {people} and {identities}: set "
            "match.threshold instead"
        )
    order = np.argsort(-scores, kind="stable")
    scores, numbers = scores[order], numbers[order]
    drawn = identity_weights(people, resamples, seed=seed)
    weights = np.concatenate([np.ones((1, people)), drawn])[:, numbers]  # (1 + B, N)
    weights /= weights.sum(axis=1, keepdims=True)
    above = int(np.ceil(TAIL * len(scores)))
    bar = float(scores[above])  # the first that does not exceed it
    exceeding = scores > bar
    peaks = scores[exceeding] - bar
    share = weights[:, exceeding].sum(axis=1)
    scale, shape = fit_pareto(peaks, weights[:, exceeding])
    reached = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights, axis=1)], axis=1)
    return OpenSetFit(
        scores,
        identities,
        people,
        bar,
        np.stack([share, scale, shape], axis=1),
        np.minimum(reached, 1.0),
    )


def outlying_people(cosines: Doubles, owners: Labels, own: Doubles) -> Labels:
    """Numbers of people who are kept apart for calibration and enrolled after all.

    cosines (N,): the best of each track in the gallery; own (N,): what tracks of the same person
    have among themselves. Two mates among 200 strangers would set the threshold for FPIR 1 %. A
    mate's tracks are high as a rule, a stranger's once in a while, so what counts is the median m
    of a person's tracks, as -log(1 - m), in which packs are alike. It must be ALIKE of the person's
    own at least, and far out: FENCE times the distance of people's median from their lower quartile
    above it (the lower half, since a quarter of the people may be enrolled).
    """
    people = np.unique(owners)
    heights, alike = (
        -np.log(np.maximum(1.0 - _middles(values, owners, people), 1e-6))
        for values in (cosines, own)
    )
    lower, middle = np.quantile(heights, (0.25, 0.5))
    far = heights > middle + FENCE * (middle - lower)
    return np.asarray(people[far & (heights > ALIKE * alike)])


def _middles(values: Doubles, owners: Labels, people: Labels) -> Doubles:
    return np.array([np.median(values[owners == person]) for person in people])


def fit_pareto(peaks: Doubles, weights: Doubles) -> tuple[Doubles, Doubles]:
    """sigma > 0 and xi of a generalised Pareto law, (B,) each, by probability-weighted moments.

    peaks (K,) > 0, descending; weights (B, K) >= 0 of B resamples. With a0 = E[x] and
    a1 = E[x (1 - F(x))]: xi = 2 - a0 / (a0 - 2 a1) and sigma = 2 a0 a1 / (a0 - 2 a1); where xi is
    outside SHAPES it is kept inside and sigma set to give the same mean, a0 (1 - xi).
    """
    total = weights.sum(axis=1, keepdims=True)
    usable = total[:, 0] > 0
    safe = weights / np.where(total > 0, total, 1.0)
    # 1 - F at a peak: the weight of those above it and half of its own.
    above = np.cumsum(safe, axis=1) - 0.5 * safe
    a0 = safe @ peaks
    a1 = (safe * above) @ peaks
    gap = np.where(a0 - 2 * a1 > 1e-12, a0 - 2 * a1, 1e-12)
    shape = np.clip(np.where(usable, 2.0 - a0 / gap, 0.0), *SHAPES)
    scale = np.maximum(a0 * (1.0 - shape), 1e-9)
    return scale, shape


def _edges(found: Doubles) -> Interval:
    """The interval of the resamples (1 + B,) behind the first."""
    low, high = np.quantile(found[1:], EDGES)
    return Interval(float(low), float(high))


def _pareto_survival(excess: Doubles, shape: Doubles) -> Doubles:
    """P(X >= sigma * excess): 0 beyond the end of the support."""
    flat = np.abs(shape) < 1e-9
    safe = np.where(flat, 1.0, shape)
    base = np.maximum(1.0 + safe * excess, 0.0)
    with np.errstate(divide="ignore"):
        curved = np.where(base > 0, np.power(base, -1.0 / safe), 0.0)
    return np.where(flat, np.exp(-excess), curved)


def _pareto_quantile(share: Doubles, shape: Doubles) -> Doubles:
    """x / sigma that the share in (0, 1] exceeds."""
    flat = np.abs(shape) < 1e-9
    safe = np.where(flat, 1.0, shape)
    return np.where(flat, -np.log(share), (np.power(share, -safe) - 1.0) / safe)


def _raise_share(share: Doubles, power: float) -> Doubles:
    """1 - (1 - share)^power: of `power` independent tries in place of one."""
    if power == 1.0:
        return share
    return np.asarray(-np.expm1(power * np.log1p(-np.minimum(share, 1.0 - 1e-15))))
