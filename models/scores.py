"""What the metrics share: checks of their input, counting errors, resampling identities.

A metric is a pure function of arrays. Every similarity score here is "higher is more alike";
callers with distances negate them. Input that is malformed raises RecordError; input that is well
formed but cannot answer the question (no impostor pair, a rate above 1) raises ConfigError.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles

Labels = npt.NDArray[np.integer]
"""Subjects, templates, media or clusters as integers."""
Flags = npt.NDArray[np.bool_]


class Interval(NamedTuple):
    """A confidence interval, ends included."""

    low: float
    high: float


def check_scores(name: str, scores: npt.ArrayLike) -> Doubles:
    """Scores as (N,) float64. Raises RecordError unless they are one axis of finite numbers."""
    array = np.asarray(scores, np.float64)
    if array.ndim != 1:
        raise RecordError(f"{name} must be (N,), got {array.shape}: pass one number per item")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise RecordError(
            f"{name} must be finite, got {array[bad[0]]} at {bad[0]} ({len(bad)} such of "
            f"{len(array)}): leave these items out, or give them the lowest score"
        )
    return array


def check_labels(name: str, labels: npt.ArrayLike, count: int) -> Labels:
    """Labels as (count,) integers. Raises RecordError on another shape or dtype."""
    array = np.asarray(labels)
    if not count and array.shape == (0,):
        return array.astype(np.int64)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        raise RecordError(
            f"{name} must be ({count},) integers, got {array.shape} {array.dtype}: "
            "number the names first, for example with numpy.unique(return_inverse=True)"
        )
    return array


def check_flags(name: str, flags: npt.ArrayLike, count: int) -> Flags:
    """Flags as (count,) bool. Raises RecordError on another shape, or on values not 0 or 1."""
    array = np.asarray(flags)
    if array.shape != (count,) or not np.isin(array, (0, 1)).all():
        raise RecordError(
            f"{name} must be ({count},) of 0 and 1, got {array.shape} {array.dtype}: "
            "1 stands for the same person, 0 for different people"
        )
    return array.astype(np.bool_)


def check_rate(name: str, rate: float, *, low: float = 0.0, high: float = 1.0) -> float:
    """The rate. Raises ConfigError unless low <= rate <= high."""
    if not low <= rate <= high:
        raise ConfigError(
            f"{name} must be a share from {low:g} to {high:g}, got {rate:g}: 1 % is written 0.01"
        )
    return float(rate)


def split_pairs(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    """Genuine (G,) and impostor (I,) scores of pairs: scores (N,), same (N,) 0 or 1.

    Raises ConfigError when either kind is missing: no error rate is defined then.
    """
    wide = check_scores("scores", scores)
    flags = check_flags("same", same, len(wide))
    genuine, impostor = wide[flags], wide[~flags]
    need_both(len(genuine), len(impostor))
    return genuine, impostor


def need_both(genuine: float, impostor: float) -> None:
    """Raise ConfigError unless there are pairs of both kinds."""
    if not (genuine > 0 and impostor > 0):
        raise ConfigError(
            f"error rates need genuine and impostor pairs, got {genuine:g} genuine and "
            f"{impostor:g} impostor: check the labels of the pair list"
        )


def allowed_errors(total: int, rate: float) -> int:
    """The largest k <= total with k / total <= rate, free of the rounding of total * rate.

    `int(100 * 0.29)` is 28; here it is 29.
    """
    errors = min(total, int(total * rate) + 1)
    while errors / total > rate:
        errors -= 1
    return errors


def identity_weights(identities: int, resamples: int, *, seed: int = 0) -> npt.NDArray[np.uint16]:
    """How often each identity is drawn in each bootstrap resample: (resamples, identities).

    Each row is one draw of `identities` with replacement. The same seed gives the same rows, so
    two systems measured on the same pairs can be compared resample by resample.
    Raises ConfigError unless there are two identities and one resample at least.
    """
    if identities < 2 or resamples < 1:
        raise ConfigError(
            "a bootstrap needs 2 identities and 1 resample at least, got "
            f"{identities} and {resamples}: report the number without an interval"
        )
    draw = np.random.default_rng(seed)
    weights = np.empty((resamples, identities), np.uint16)
    for row in weights:
        row[:] = np.bincount(draw.integers(0, identities, identities), minlength=identities)
    return weights


def pair_weights(weights: npt.NDArray[np.number], first: Labels, second: Labels) -> Doubles:
    """Weights (N,) float64 of pairs, from weights (S,) of identities.

    A pair of two identities counts w_a * w_b times (Owen 2007, the pigeonhole bootstrap), one of
    a single identity w_a times (Bolle, Ratha and Pankanti 2004, the subsets bootstrap). Pairs
    share faces, so resampling pairs as if they were independent gives intervals that are too
    narrow. Where a set comes without identities (.bin files), give each pair one of its own: that
    is the bootstrap over pairs, and a report must say so.
    """
    wide = weights.astype(np.float64)
    return np.where(first == second, wide[first], wide[first] * wide[second])


def percentile_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """The central interval that holds `level` of resampled values (B,), by linear percentiles.

    Raises RecordError for NaN, ConfigError for no values or a level outside 0..1.
    """
    sample = check_scores("resampled values", values)
    check_rate("level", level)
    if not len(sample):
        raise ConfigError("an interval needs resampled values, got none: draw more resamples")
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
