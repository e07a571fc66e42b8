"""Error versus discard: what throwing away the worst faces does to FNMR.

Two definitions, never to be mixed in one table; a curve carries its own.

"reestimate" (the FIQA papers): the worst share of ALL pairs is discarded, and the threshold is set
anew on the impostors that remain. "fixed" (the biometric standard's EDC, ISO/IEC 29794-1): the
threshold is set once on all pairs, and the worst share of the GENUINE pairs is discarded, equal
qualities together, so the curve is a staircase.

Public scripts differ further. MagFace's loop (copied by many) takes the threshold at index
(n - 1) // 1000, whose FMR is not 1e-3 (0.00067 for n = 3000), and for n <= 100 appends no value, so
that all later points of the curve shift. CR-FIQA takes the FMR nearest to the target. SDD-FIQA's
AOC is 1 - AUC.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles
from .scores import check_flags, check_rate, check_scores, need_both
from .verification import count_errors, operating_point

DISCARD_SHARES = tuple(step / 20 for step in range(20))
"""0, 0.05 .. 0.95, as in the FIQA papers."""

Ties = Literal["together", "order"]


class DiscardCurve(NamedTuple):
    """FNMR against the share discarded.

    definition: "reestimate" or "fixed". fmr: the target FMR. shares (R,) float64 ascending from 0:
    the abscissa, of all pairs or of genuine pairs. discarded (R,): the share that did go, smaller
    where a group of equal quality could not. fnmr (R,) 0..1, NaN where no genuine or no impostor
    pair is left to measure it. thresholds (R,). genuine, impostor (R,): pairs left; where
    impostor * fmr < 1 the threshold lies above every impostor that is left.
    """

    definition: Literal["reestimate", "fixed"]
    fmr: float
    shares: Doubles
    discarded: Doubles
    fnmr: Doubles
    thresholds: Doubles
    genuine: npt.NDArray[np.int64]
    impostor: npt.NDArray[np.int64]


def pair_quality(first: npt.ArrayLike, second: npt.ArrayLike) -> Doubles:
    """Quality of pairs (N,): the smaller of the two faces'. Any unit, higher is better."""
    a, b = check_scores("first qualities", first), check_scores("second qualities", second)
    if len(a) != len(b):
        raise RecordError(f"a pair has two qualities, got {len(a)} first and {len(b)} second ones")
    return np.minimum(a, b)


def discard_reestimate(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    qualities: npt.ArrayLike,
    fmr: float,
    *,
    shares: npt.ArrayLike = DISCARD_SHARES,
    ties: Ties = "together",
) -> DiscardCurve:
    """The curve of the FIQA papers: scores, same, qualities (N,) of pairs; fmr the target.

    At each share x the int(x * N) pairs of lowest quality go, genuine or not; FNMR is measured at
    FMR <= fmr on the rest. ties "together": a group of equal quality stays until all of it can
    go, so fewer may go than x says. "order": exactly int(x * N) go,
    equal ones in the order given, as in public code; the order of a pair list then decides,
    and lists put genuine pairs first.
    Raises ConfigError without genuine or impostor pairs, for shares outside [0, 1), RecordError
    for shapes or NaN.
    """
    wide, flags, quality = _check_pairs(scores, same, qualities, fmr)
    wanted = check_scores("shares", shares)
    if not len(wanted) or wanted[0] != 0 or wanted[-1] >= 1 or (np.diff(wanted) <= 0).any():
        raise ConfigError(f"shares must ascend from 0 to below 1, got {wanted.tolist()}")
    order = np.argsort(quality, kind="stable")
    ranked, count = quality[order], len(order)
    # The tolerance keeps 0.15 * 20 = 3.0000000000000004 and 0.29 * 100 = 28.999... in place.
    cuts = np.floor(wanted * count + 1e-9).astype(np.int64)
    if ties == "together":
        cuts = np.searchsorted(ranked, ranked[cuts], "left")
    elif ties != "order":
        raise ConfigError(f"ties must be together or order, got {ties}")
    rows = [_measure(wide[order[cut:]], flags[order[cut:]], fmr) for cut in cuts]
    fnmr, thresholds, genuine, impostor = (np.array(column) for column in zip(*rows, strict=True))
    gone = cuts / count
    return DiscardCurve("reestimate", fmr, wanted, gone, fnmr, thresholds, genuine, impostor)


def _measure(
    scores: Doubles, same: npt.NDArray[np.bool_], fmr: float
) -> tuple[float, float, int, int]:
    """FNMR, threshold and how many genuine and impostor pairs; NaN where either kind is gone."""
    genuine = int(same.sum())
    impostor = len(same) - genuine
    if not (genuine and impostor):
        return float("nan"), float("nan"), genuine, impostor
    point = operating_point(count_errors(scores, same), fmr)
    return point.fnmr, point.threshold, genuine, impostor


def discard_fixed(
    scores: npt.ArrayLike, same: npt.ArrayLike, qualities: npt.ArrayLike, fmr: float
) -> DiscardCurve:
    """The EDC of the biometric standard: scores, same, qualities (N,) of pairs; fmr the target.

    The threshold comes from all pairs. One point per distinct quality of a genuine pair: all
    pairs below it discarded; between points the last one holds. Impostors stay.
    Raises as `discard_reestimate` does.
    """
    wide, flags, quality = _check_pairs(scores, same, qualities, fmr)
    threshold = operating_point(count_errors(wide, flags), fmr).threshold
    rejected = wide[flags] < threshold
    levels, places = np.unique(quality[flags], return_inverse=True)
    pairs = np.bincount(places)
    errors = np.bincount(places, rejected, minlength=len(levels))
    left = np.cumsum(pairs[::-1])[::-1]
    errors_left = np.cumsum(errors[::-1])[::-1]
    shares = 1.0 - left / left[0]
    return DiscardCurve(
        "fixed",
        fmr,
        shares,
        shares,
        errors_left / left,
        np.full(len(levels), threshold),
        left,
        np.full(len(levels), int((~flags).sum())),
    )


def area_under_discard(curve: DiscardCurve, limit: float | None = None) -> float:
    """Area under a curve from 0 to `limit`, not divided by it; lower is better.

    "reestimate": by trapezoids through the points, by default to the last (0.95 in the papers);
    a limit between two points is met on the line between them. "fixed": exact, of the staircase,
    by default to 1; partial areas to 0.2 or 0.3 are usual.
    Raises ConfigError when the limit lies outside the curve or FNMR is undefined before it.
    """
    steps = curve.definition == "fixed"
    end = 1.0 if steps else float(curve.shares[-1])
    limit = check_rate("limit", end if limit is None else limit, high=end)
    inside = curve.shares < limit
    if np.isnan(curve.fnmr[inside]).any() or (not steps and np.isnan(_height(curve, limit))):
        first = float(curve.shares[np.isnan(curve.fnmr)][0])
        raise ConfigError(
            f"the area to {limit:g} needs FNMR up to there, but from {first:g} no genuine or no "
            f"impostor pair is left: take a limit below {first:g}, or more pairs"
        )
    x = np.append(curve.shares[inside], limit)
    if steps:
        return float((curve.fnmr[inside] * np.diff(x)).sum())
    return float(np.trapezoid(np.append(curve.fnmr[inside], _height(curve, limit)), x))


def _height(curve: DiscardCurve, share: float) -> float:
    """FNMR at a share, on the line between the points around it."""
    after = int(np.searchsorted(curve.shares, share))
    if curve.shares[after] == share:
        return float(curve.fnmr[after])
    around = slice(after - 1, after + 1)
    return float(np.interp(share, curve.shares[around], curve.fnmr[around]))


def best_discard_area(fnmr: float, limit: float) -> float:
    """Area to `limit` of the best curve possible, max(0, fnmr - x), from FNMR without discard.

    An optimal quality measure discards all errors first; subtract this from the area of a "fixed"
    curve to compare systems of different FNMR. (It is the bound the standard uses; the exact best
    curve, (fnmr - x) / (1 - x), lies above it.)
    """
    reach = min(check_rate("limit", limit), check_rate("fnmr", fnmr))
    return fnmr * reach - reach**2 / 2


def _check_pairs(
    scores: npt.ArrayLike, same: npt.ArrayLike, qualities: npt.ArrayLike, fmr: float
) -> tuple[Doubles, npt.NDArray[np.bool_], Doubles]:
    wide = check_scores("scores", scores)
    flags = check_flags("same", same, len(wide))
    quality = check_scores("qualities", qualities)
    if len(quality) != len(wide):
        raise RecordError(f"qualities must be ({len(wide)},), one per pair, got {quality.shape}")
    check_rate("fmr", fmr)
    need_both(int(flags.sum()), int((~flags).sum()))
    return wide, flags, quality
