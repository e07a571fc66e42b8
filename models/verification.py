"""1:1 verification: ROC and DET, TAR@FAR, FNMR@FMR, EER, accuracy over folds, with intervals.

FAR and FMR are used as one term here, as in the face literature, and so are TAR and 1 - FNMR:
there is no failure to enrol in these protocols. A pair is accepted when score >= threshold.

The true accept rate changes only at genuine scores. So the ROC is kept as counts at the distinct
genuine scores: that loses none of its corners, its area or its crossing with the diagonal, and
needs memory for the genuine pairs alone (models/pairs counts millions of impostors this way).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError
from .fusion import Doubles
from .scores import (
    Labels,
    check_flags,
    check_labels,
    check_rate,
    check_scores,
    identity_weights,
    need_both,
    pair_weights,
    split_pairs,
)

Integers = npt.NDArray[np.int64]
Rule = Literal["at_most", "nearest"]


class Roc(NamedTuple):
    """Counts of accepted pairs at the D distinct genuine scores; weights in place of counts too.

    thresholds (D,) float64, descending. matches (D,): genuine pairs with score >= threshold.
    false_above, false_matches (D,): impostor pairs with score > and >= threshold. All float64,
    none decreasing. genuine, impostor: all pairs of each kind; `genuine` may exceed the last of
    `matches` where some can be accepted at no threshold (open-set identification).
    """

    thresholds: Doubles
    matches: Doubles
    false_above: Doubles
    false_matches: Doubles
    genuine: float
    impostor: float


class OperatingPoint(NamedTuple):
    """One point of a ROC. threshold: accept when score >= it; inf accepts nothing.

    target: the FAR asked for; far and tar: what is measured at the threshold.
    """

    target: float
    threshold: float
    far: float
    tar: float

    @property
    def fnmr(self) -> float:
        """False non-match rate, 1 - TAR; `far` is the FMR."""
        return 1.0 - self.tar


class FoldAccuracy(NamedTuple):
    """Accuracy in cross-validation.

    accuracies, thresholds (F,) float64 of each fold; correct (N,) bool, of each pair in its fold.
    """

    accuracies: Doubles
    thresholds: Doubles
    correct: npt.NDArray[np.bool_]

    @property
    def mean(self) -> float:
        """Mean over folds."""
        return float(self.accuracies.mean())

    @property
    def std(self) -> float:
        """Standard deviation over folds, divided by F, as public evaluators print it."""
        return float(self.accuracies.std())

    @property
    def standard_error(self) -> float:
        """The LFW protocol's error of the mean: deviation with F - 1, divided by sqrt(F)."""
        return float(self.accuracies.std(ddof=1) / np.sqrt(len(self.accuracies)))


def distinct_scores(genuine: Doubles) -> tuple[Doubles, Integers]:
    """Distinct genuine scores (D,) ascending and how many pairs have each (D,)."""
    return np.unique(genuine, return_counts=True)


def place_impostors(distinct: Doubles, impostor: npt.NDArray[np.floating]) -> Integers:
    """Where impostor scores (N,) fall among the distinct genuine scores: (N,) in 0..2D.

    2i: below the i-th and above the one before it; 2i + 1: equal to the i-th.
    """
    left = np.searchsorted(distinct, impostor, "left")
    return np.asarray(left + np.searchsorted(distinct, impostor, "right"))


def build_roc(
    distinct: Doubles,
    genuine_counts: npt.NDArray[np.number],
    impostor_counts: npt.NDArray[np.number],
    *,
    genuine: float | None = None,
) -> Roc:
    """The ROC of counts: genuine (D,) at the distinct scores, impostor (2D + 1,) by their place.

    genuine: all genuine pairs, when there are more than have a score.
    """
    matches = np.cumsum(genuine_counts[::-1], dtype=np.float64)
    accepted = np.cumsum(impostor_counts[::-1], dtype=np.float64)  # from the highest place down
    total = float(genuine_counts.sum()) if genuine is None else float(genuine)
    # From the top, places alternate: above the score, equal to it, above the next one, ...
    return Roc(distinct[::-1], matches, accepted[:-1:2], accepted[1::2], total, float(accepted[-1]))


def count_errors(scores: npt.ArrayLike, same: npt.ArrayLike) -> Roc:
    """The exact ROC of pairs: scores (N,) any finite numbers, same (N,) 0 or 1.

    Raises ConfigError when there is no genuine or no impostor pair, RecordError for NaN or
    shapes that do not fit.
    """
    genuine, impostor = split_pairs(scores, same)
    distinct, counts = distinct_scores(genuine)
    places = place_impostors(distinct, impostor)
    return build_roc(distinct, counts, np.bincount(places, minlength=2 * len(distinct) + 1))


def resample_roc(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Iterator[Roc]:
    """ROCs of bootstrap resamples over identities, for `scores.percentile_interval`.

    first, second (N,): the identity of each side of a pair, 0 <= identity; weights as in
    `scores.pair_weights`. Resamples that happen to lack either kind of pair are left out, so
    fewer than `resamples` may come. The same seed gives the same resamples: take differences one
    by one to compare two systems. Raises as `count_errors` and `scores.identity_weights` do.
    """
    genuine, impostor = split_pairs(scores, same)
    flags = np.asarray(same).astype(np.bool_)
    sides = (check_labels("first", first, len(flags)), check_labels("second", second, len(flags)))
    known, numbered = np.unique(np.concatenate(sides), return_inverse=True)
    a, b = numbered[: len(flags)], numbered[len(flags) :]
    distinct, genuine_places = np.unique(genuine, return_inverse=True)
    places = place_impostors(distinct, impostor)
    weights_of_all = identity_weights(len(known), resamples, seed=seed)

    def draw() -> Iterator[Roc]:
        for row in weights_of_all:
            weights = pair_weights(row, a, b)
            counts = np.bincount(genuine_places, weights[flags], minlength=len(distinct))
            false = np.bincount(places, weights[~flags], minlength=2 * len(distinct) + 1)
            if counts.any() and false.any():
                yield build_roc(distinct, counts, false)

    return draw()


def resample_share(
    hits: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Doubles:
    """Share of hits in bootstrap resamples over identities: (B,) float64, B <= resamples.

    hits (N,) 0 or 1, such as `FoldAccuracy.correct`; first, second (N,) identities, S of them.
    Pairs of two identities count S / (S - 1) times what `pair_weights` gives them, which is 1 on
    average: genuine and impostor pairs are mixed here, and keep their parts. Resamples without any
    item are left out.
    """
    count = len(np.asarray(hits))
    flags = check_flags("hits", hits, count)
    sides = (check_labels("first", first, count), check_labels("second", second, count))
    known, numbered = np.unique(np.concatenate(sides), return_inverse=True)
    a, b = numbered[:count], numbered[count:]
    shares = []
    for row in identity_weights(len(known), resamples, seed=seed):
        weights = np.where(a == b, 1.0, len(known) / (len(known) - 1)) * pair_weights(row, a, b)
        if weights.any():
            shares.append(float(weights[flags].sum() / weights.sum()))
    return np.array(shares)


def roc_points(roc: Roc) -> tuple[Doubles, Doubles]:
    """The ROC as a polyline: FAR and TAR, each (2D + 2,), ascending from (0, 0).

    It ends at FAR 1 and, unless some genuine pairs can never be accepted, at TAR 1. A step that
    genuine and impostor pairs of equal score take together is one slanted segment.
    """
    need_both(roc.genuine, roc.impostor)
    before = np.concatenate([[0.0], roc.matches])[:-1]
    far = np.stack([roc.false_above, roc.false_matches], axis=1).ravel()
    tar = np.stack([before, roc.matches], axis=1).ravel()
    far = np.concatenate([[0.0], far, [roc.impostor]]) / roc.impostor
    last = roc.matches[-1] if len(roc.matches) else 0.0
    return far, np.concatenate([[0.0], tar, [last]]) / roc.genuine


def det_points(roc: Roc) -> tuple[Doubles, Doubles]:
    """The DET curve as a polyline: FMR ascending and FNMR descending, each (2D + 2,)."""
    far, tar = roc_points(roc)
    return far, 1.0 - tar


def operating_point(roc: Roc, far: float, rule: Rule = "at_most") -> OperatingPoint:
    """TAR@FAR, and FNMR@FMR. far: the target, 0..1.

    "at_most": the largest TAR among thresholds with FAR <= target. This is the definition; the
    FAR that is kept may be well below the target where impostor pairs are few.
    "nearest": the corner of the ROC whose FAR is nearest to the target, and among equally near
    ones the largest TAR. The public IJB scripts of InsightFace, AdaFace, CAFace and MagFace do
    this, on scikit-learn's `roc_curve`, which drops the points inside straight runs; so the FAR
    may exceed the target. They and this agree but where impostors tie with each other.
    """
    need_both(roc.genuine, roc.impostor)
    check_rate("far", far)
    if rule == "at_most":
        rates = roc.false_matches / roc.impostor
        last = int(np.searchsorted(rates, far, "right")) - 1
        if last < 0:
            return OperatingPoint(far, float("inf"), 0.0, 0.0)
        tar = roc.matches[last] / roc.genuine
        return OperatingPoint(far, float(roc.thresholds[last]), float(rates[last]), float(tar))
    if rule != "nearest":
        raise ConfigError(f"rule must be at_most or nearest, got {rule}")
    rates, tars = roc_points(roc)
    gaps = np.abs(rates - far)
    best = int(np.flatnonzero(gaps == gaps.min())[-1])
    return OperatingPoint(
        far, _threshold_of_corner(roc, best), float(rates[best]), float(tars[best])
    )


def _threshold_of_corner(roc: Roc, corner: int) -> float:
    """A threshold that gives this point of `roc_points`."""
    if corner == 0:
        return float("inf")
    if corner == 2 * len(roc.thresholds) + 1:
        return float("-inf")
    score = float(roc.thresholds[(corner - 1) // 2])
    return score if corner % 2 == 0 else float(np.nextafter(score, np.inf))


def equal_error_rate(roc: Roc) -> float:
    """Where the DET polyline crosses FMR = FNMR: 0..1.

    Public code often takes (FMR + FNMR)/2 at the threshold where they differ least, which depends
    on the grid; the two agree up to one step of the curve.
    """
    fmr, fnmr = det_points(roc)
    gap = fmr - fnmr  # ascending, from -1
    after = int(np.argmax(gap >= 0))
    before = after - 1
    share = -gap[before] / (gap[after] - gap[before])
    return float(fmr[before] + share * (fmr[after] - fmr[before]))


def area_under_roc(roc: Roc) -> float:
    """Probability that a genuine pair scores above an impostor pair, ties counted half: 0..1."""
    far, tar = roc_points(roc)
    return float(np.trapezoid(tar, far))


def consecutive_folds(pairs: int, folds: int = 10) -> Integers:
    """Fold of each pair, (pairs,) in 0..folds - 1: runs of equal length, the first ones longer.

    This is LFW's View 2 in file order and scikit-learn's KFold without shuffling.
    Raises ConfigError unless there are 2 folds and at least as many pairs as folds.
    """
    if folds < 2 or pairs < folds:
        raise ConfigError(
            f"{folds} folds need 2 folds and {max(folds, 2)} pairs at least, got {pairs} pairs: "
            "check that the pair list is complete"
        )
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def fold_accuracy(
    scores: npt.ArrayLike, same: npt.ArrayLike, folds: int | Labels = 10
) -> FoldAccuracy:
    """The accuracy protocol of LFW, CALFW, CPLFW, CFP-FP, AgeDB-30 and YTF.

    scores (N,), same (N,) 0 or 1; folds: how many runs of consecutive pairs, or (N,) the fold of
    each pair. A fold is judged at the threshold that is best on all other folds, chosen among all
    their scores; of several the highest, which accepts least. InsightFace searches squared
    distances 0..4 in steps of 0.01 and takes the first best (within about 0.02 points of this);
    MagFace has the same grid for angle / pi, which leaves it 100 useful thresholds.
    """
    wide = check_scores("scores", scores)
    flags = check_flags("same", same, len(wide))
    if isinstance(folds, int):
        fold_of: Labels = consecutive_folds(len(wide), folds)
    else:
        fold_of = check_labels("folds", folds, len(wide))
    names = np.unique(fold_of)
    if len(names) < 2:
        raise ConfigError(f"accuracy needs 2 folds at least, got {len(names)}")
    correct = np.zeros(len(wide), np.bool_)
    thresholds = np.empty(len(names))
    accuracies = np.empty(len(names))
    for place, name in enumerate(names):
        held_out = fold_of == name
        thresholds[place] = best_threshold(wide[~held_out], flags[~held_out])
        correct[held_out] = (wide[held_out] >= thresholds[place]) == flags[held_out]
        accuracies[place] = correct[held_out].mean()
    return FoldAccuracy(accuracies, thresholds, correct)


def best_threshold(scores: Doubles, same: npt.NDArray[np.bool_]) -> float:
    """The score (or inf) at which accepting score >= it makes fewest errors; the highest such."""
    levels, places = np.unique(scores, return_inverse=True)
    gain = np.bincount(places, np.where(same, 1.0, -1.0), minlength=len(levels))
    # Lowering the threshold to a level turns its genuine pairs right and its impostors wrong.
    right = np.concatenate([[0.0], np.cumsum(gain[::-1])])
    best = int(np.argmax(right))
    return float("inf") if best == 0 else float(levels[::-1][best - 1])
