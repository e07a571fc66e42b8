"""Exact intervals of rare events: a bootstrap of none is none, which says more than is known."""

from __future__ import annotations

from scipy.special import betaincinv, gammaincinv

from .scores import Interval

LEVEL = 0.95


def share_interval(hits: int, total: int, level: float = LEVEL) -> Interval:
    """Clopper and Pearson's interval of a share, of `hits` in `total` independent tries.

    >>> low, high = share_interval(0, 100)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    tail, missed = (1 - level) / 2, total - hits
    low = float(betaincinv(hits, missed + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, missed, 1 - tail)) if missed else 1.0
    return Interval(low, high)


def count_interval(count: int, level: float = LEVEL) -> Interval:
    """Garwood's interval of the mean of a Poisson count that was seen once.

    >>> low, high = count_interval(0)
    >>> low, round(high, 2)
    (0.0, 3.69)
    """
    tail = (1 - level) / 2
    low = float(gammaincinv(count, tail)) if count else 0.0
    return Interval(low, float(gammaincinv(count + 1, 1 - tail)))
