"""Two reports on the same data: which differences are more than chance.

Both reports drew the same resamples of the same identities, so the difference of the two systems
is taken draw by draw: what makes a resample hard for both cancels. The p-value is two-sided, from
the share of draws on the other side of zero; Holm's step-down keeps the chance of any false alarm
among all numbers below 5 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.scores import percentile_interval
from .report_record import (
    LEVEL,
    Curve,
    Draws,
    Number,
    Plot,
    Report,
    Result,
    Row,
    Table,
    write_report,
)

ALPHA = 1 - LEVEL


class Difference(NamedTuple):
    """B - A of one number. p: two-sided; significant: after Holm's correction."""

    key: str
    first: Number
    second: Number
    difference: Number
    p: float | None
    significant: bool


def compare_reports(a: Result, b: Result) -> Result:
    """The report of B - A. Raises ConfigError when the two cannot be compared."""
    _check_same(a.report, b.report)
    differences = compare_numbers(a, b)
    names = [_model_name(one.report) for one in (a, b)]
    paired = a.report.pairing == b.report.pairing and any(d.p is not None for d in differences)
    variant = [f"A: {names[0]}", f"B: {names[1]}", "difference: B - A"]
    if paired:
        variant.append(
            "paired bootstrap: the same resamples for both; p two-sided; significant at 5 % after "
            "Holm's correction for all numbers of the table"
        )
    else:
        variant.append("no significance: the reports were not drawn with the same resamples")
    report = write_report(
        "comparison",
        f"{a.report.title}: B against A",
        variant=variant + _variants(a.report, b.report),
        data=a.report.data,
        model={"A": "; ".join(a.report.model.values()), "B": "; ".join(b.report.model.values())},
        tables=[
            Table(
                "Differences",
                "number",
                ["A", "B", "B - A", "p", "verdict"],
                [_row(one) for one in differences],
            )
        ],
        plots=_plots(a.report, b.report),
    )
    return Result(report, {}, [])


def compare_numbers(a: Result, b: Result) -> list[Difference]:
    """Differences of all numbers that both reports have and of which one way is better."""
    ours, theirs = a.report.numbers(), b.report.numbers()
    paired = a.report.pairing == b.report.pairing and a.report.pairing != ""
    rows: list[Difference] = []
    for key, first in ours.items():
        second = theirs.get(key)
        if second is None or "neither" in (first.better, second.better):
            continue
        if first.value is None and second.value is None:
            continue
        gap = low = high = p = None
        if first.value is not None and second.value is not None:
            gap = second.value - first.value
        if gap is not None and paired and key in a.draws and key in b.draws:
            draws = _gaps(key, a.draws[key], b.draws[key])
            if len(draws):
                low, high = percentile_interval(draws, LEVEL)
                p = two_sided_p(draws)
        unit = "points" if first.unit == "share" else first.unit
        number = Number(gap, unit, low, high, better=first.better)
        rows.append(Difference(key, first, second, number, p, False))
    if not rows:
        raise ConfigError("the two reports have no number in common: compare the same protocol")
    passed = holm([one.p for one in rows])
    return [one._replace(significant=yes) for one, yes in zip(rows, passed, strict=True)]


def two_sided_p(draws: Draws) -> float:
    """Chance of differences (B,) this far from zero, were there none: never below 2 / (B + 1)."""
    count = len(draws)
    below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (count + 1))


def holm(values: list[float | None], alpha: float = ALPHA) -> list[bool]:
    """Which p-values are significant after Holm's step-down; None never is.

    >>> holm([0.01, 0.04, None, 0.02])
    [True, True, False, True]
    >>> holm([0.02, 0.03, 0.2])
    [False, False, False]
    """
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    passed = [False] * len(values)
    for rank, (p, place) in enumerate(known):
        if p > alpha / (len(known) - rank):
            break
        passed[place] = True
    return passed


def _gaps(key: str, first: Draws, second: Draws) -> Draws:
    """B - A of every resample in which both have the number."""
    if first.shape != second.shape:
        raise ConfigError(f"{key}: {len(first)} and {len(second)} draws cannot be paired")
    gaps = second - first
    return np.asarray(gaps[~np.isnan(gaps)])


def _check_same(a: Report, b: Report) -> None:
    if "comparison" in (a.protocol, b.protocol):
        raise ConfigError(
            "a comparison cannot be compared again: name the reports that it was made of"
        )
    if a.protocol != b.protocol:
        raise ConfigError(
            f"reports must be of one protocol, got {a.protocol} and {b.protocol}: their numbers "
            "mean different things"
        )
    if a.data.fingerprint != b.data.fingerprint:
        raise ConfigError(
            f"reports must be on the same data, got fingerprints {a.data.fingerprint} "
            f"({a.data.name}) and {b.data.fingerprint} ({b.data.name})"
        )


def _variants(a: Report, b: Report) -> list[str]:
    """The lines of both variants; a line that only one has says whose it is."""
    shared = [f"both: {line}" for line in a.variant if line in b.variant]
    only_a = [f"only A: {line}" for line in a.variant if line not in b.variant]
    only_b = [f"only B: {line}" for line in b.variant if line not in a.variant]
    return shared + only_a + only_b


def _model_name(report: Report) -> str:
    return next(iter(report.model.values()), report.title)


def _row(one: Difference) -> Row:
    better = one.difference.value or 0.0
    if one.difference.better == "lower":
        better = -better
    verdict = "no difference shown" if one.p is not None else "not tested"
    if one.significant:
        verdict = "B is better" if better > 0 else "A is better"
    chance = "" if one.p is None else f"{one.p:.2g}"
    plain = [Number(n.value, n.unit, better=n.better) for n in (one.first, one.second)]
    return Row(one.key, [*plain, one.difference, chance, verdict])


def _plots(a: Report, b: Report) -> list[Plot]:
    """Plots that both have, with the curves of both."""
    plots = []
    for first in a.plots:
        second = next((plot for plot in b.plots if plot.title == first.title), None)
        if second is None:
            continue
        curves = [
            Curve(f"{side}: {curve.label}", curve.x, curve.y, curve.steps)
            for side, plot in (("A", first), ("B", second))
            for curve in plot.curves
        ]
        plots.append(
            Plot(first.title, first.x_name, first.y_name, curves, first.x_log, first.y_log)
        )
    return plots
