"""Who is given which name: one identity to at most one track, by the largest total.

A gain is what a name adds to the total: the score above the threshold, and more where the track
has the name already. Tracks are rows; what a row may not be given is left out of its options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

Options = Mapping[str, float]
"""Gain of each identity that a track may be given, best first."""

# What leaving a track unnamed costs: less than any real difference of scores, so that a score equal
# to the threshold still names.
_UNNAMED = -1e-12
_IMPOSSIBLE = -1e6

_NOWHERE: Options = {}


class Standing(NamedTuple):
    """What a track brings along when it is decided anew.

    held: the identity that it was given; doubts: the others that it was told to be as much like;
    barred: those that it cannot be, since a track that was seen beside it has or had them;
    elsewhere: those held by tracks that cannot be of the same person, with what they gain there:
    one has to be outdone.
    """

    held: str | None = None
    doubts: frozenset[str] = frozenset()
    barred: frozenset[str] = frozenset()
    elsewhere: Options = _NOWHERE


NEW = Standing()


def assign(rows: Sequence[Options]) -> list[str | None]:
    """The identity of each row, None for nobody: the assignment whose gains sum to the most."""
    columns = {name: at for at, name in enumerate(dict.fromkeys(n for row in rows for n in row))}
    gains = np.full((len(rows), len(columns) + len(rows)), _IMPOSSIBLE)
    gains[:, len(columns) :] = _UNNAMED  # one "nobody" per row
    for row, options in enumerate(rows):
        for name, gain in options.items():
            gains[row, columns[name]] = gain
    names = [*columns, *[None] * len(rows)]
    given: list[str | None] = [None] * len(rows)
    for at, column in zip(*linear_sum_assignment(gains, maximize=True), strict=True):
        given[at] = names[column]
    return given


def find_doubts(
    rows: Sequence[Options],
    given: Sequence[str | None],
    standings: Sequence[Standing],
    margin: float,
) -> list[tuple[str, ...]]:
    """Per row, the identities that it might as well be: the one given first, then best first.

    Those are the options that score less than the margin below the one given, and with which the
    whole assignment comes out less than that worse: who is surely somebody beside is not in doubt.
    A doubt that was told stays until it is twice the margin away. rows: gains without any advantage
    of names that are held. Empty where there is no doubt.
    """
    total = _sum(rows, given)
    found: list[tuple[str, ...]] = []
    for at, (row, name, standing) in enumerate(zip(rows, given, standings, strict=True)):
        alike: list[str] = []
        for other, gain in row.items():
            reach = 2.0 * margin if other in standing.doubts else margin
            if name is None or other == name or row[name] - gain >= reach:
                continue
            beside = [o for n, o in enumerate(rows) if n != at]
            others = [{n: g for n, g in o.items() if n != other} for o in beside]
            if total - gain - _sum(others, assign(others)) < reach:
                alike.append(other)
        found.append((name, *alike) if name is not None and alike else ())
    return found


def _sum(rows: Sequence[Options], given: Sequence[str | None]) -> float:
    return sum(row[name] for row, name in zip(rows, given, strict=True) if name is not None)
