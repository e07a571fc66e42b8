"""QMagFace: a comparison score that trusts pairs of low quality differently from good ones.

Terhoerst, Ihlefeld, Huber, Damer, Kirchbuchner, Raja, Kuijper, "QMagFace: Simple and Accurate
Quality-Aware Face Recognition", WACV 2023:

    score = s + min(0, beta s - alpha) * min(q1, q2)

s is the cosine of both embeddings, q the quality of each face, for MagFace the norm. From
s = alpha / beta on the score is s. Below, it falls the faster the better both faces are: two good
faces that are not alike are two people, two bad ones may be the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles
from .scores import check_flags, check_scores
from .verification import count_errors, operating_point

LARGEST_SHARE = 0.5
"""Weights are tried up to this share of a score, at the best quality."""


@dataclass(frozen=True)
class QMagFace:
    """The score, with the line that gives its quality weight."""

    alpha: float
    beta: float

    def score(
        self, similarities: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike
    ) -> Doubles:
        """Cosines (N,) and qualities (N,) of both faces -> scores (N,) float64, at most the cosine.

        Rises with the cosine where beta >= 0 and qualities are not negative. Raises RecordError
        unless all are (N,) of finite numbers.
        """
        wide, quality = _check_pairs(similarities, first, second)
        return wide + np.minimum(0.0, self.beta * wide - self.alpha) * quality


PUBLISHED = QMagFace(alpha=0.077428, beta=0.125926)
"""The authors' fit for MagFace's IResNet-100, whose qualities are norms of about 10 to 40."""


def fit_qmagface(
    similarities: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    same: npt.ArrayLike,
    *,
    weights: int = 21,
    rates: int = 50,
    least_fmr: float = 1e-5,
    most_fmr: float = 1e-2,
) -> QMagFace:
    """The line through the best quality weights at the thresholds of many false match rates.

    similarities (N,) cosines, first and second (N,) qualities, same (N,) 0 or 1. For each of
    `rates` FMRs, evenly spaced in their logarithm from least_fmr to most_fmr: the one of `weights`
    w, evenly spaced within +-0.5 / max(quality), for which s + w min(q1, q2) has the lowest FNMR
    (the smallest |w| of equal ones), and its threshold t. The line is the least-squares fit of w on
    t; beta is its slope, alpha its negative intercept. A beta of 0 or less says that the pairs do
    not show the effect: keep the cosine.
    The released code fits on the sigmoid of thresholds though the score puts the cosine in, takes
    the most negative of equally good weights, and its 20 weights leave out 0.

    Raises RecordError on shapes that do not fit or numbers that are not finite; ConfigError for
    fewer than two weights or rates, rates outside 0..1, qualities of which none is positive, pairs
    of one kind only, or when all rates have one threshold, as pairs without errors have.
    """
    if weights < 2 or rates < 2 or not 0 < least_fmr < most_fmr <= 1:
        raise ConfigError(
            "fitting needs 2 or more weights and rates and 0 < least_fmr < most_fmr <= 1, got "
            f"{weights}, {rates} and {least_fmr:g}..{most_fmr:g}"
        )
    wide, quality = _check_pairs(similarities, first, second)
    flags = check_flags("same", same, len(wide))
    if not len(quality) or not quality.max() > 0:
        raise ConfigError("qualities must be above 0 somewhere: give norms, or scores from 0 up")
    most = LARGEST_SHARE / quality.max()
    tried = np.linspace(-most, most, weights)
    tried = tried[np.argsort(np.abs(tried), kind="stable")]
    targets = np.geomspace(least_fmr, most_fmr, rates)
    points = []
    for weight in tried:
        roc = count_errors(wide + weight * quality, flags)
        points.append([operating_point(roc, float(target)) for target in targets])
    missed = np.array([[point.fnmr for point in row] for row in points])  # (weights, rates)
    best = missed.argmin(axis=0)
    thresholds = np.array([points[row][column].threshold for column, row in enumerate(best)])
    return _fit_line(thresholds, tried[best])


def _fit_line(thresholds: Doubles, weights: Doubles) -> QMagFace:
    usable = np.isfinite(thresholds)  # infinite where no genuine pair can be accepted
    x, y = thresholds[usable], weights[usable]
    if len(np.unique(x)) < 2:
        raise ConfigError(
            f"a line needs two thresholds, got {len(np.unique(x))}: give more and harder pairs, or "
            "higher false match rates"
        )
    centred = x - x.mean()
    beta = float(centred @ y / (centred @ centred))
    return QMagFace(alpha=float(beta * x.mean() - y.mean()), beta=beta)


def _check_pairs(
    similarities: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike
) -> tuple[Doubles, Doubles]:
    """Cosines and the lower qualities, (N,) each."""
    wide = check_scores("similarities", similarities)
    one, other = check_scores("qualities", first), check_scores("qualities", second)
    if not len(wide) == len(one) == len(other):
        raise RecordError(
            "a pair has one similarity and two qualities, got "
            f"{len(wide)}, {len(one)} and {len(other)}"
        )
    return wide, np.minimum(one, other)
