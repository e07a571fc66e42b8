"""Tables and curves of 1:N identification, for every protocol that has galleries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.identification import (
    Definition,
    ProbeRanks,
    cmc,
    mean_over_galleries,
    open_set,
    open_set_roc,
    resample_probes,
)
from ..models.verification import roc_points
from .eval_verification import Bootstrap, rate_words
from .report_plot import thin_curve
from .report_record import Bad, Curve, Draws, Number, Plot, Row, Table, measured

RANKS = (1, 5, 10)
FPIRS = (0.1, 0.01)

DEFINITIONS: dict[Definition, str] = {
    "at_most": "the lowest threshold with FPIR at or below the target (ISO/IEC 19795)",
    "ijb": "scores above the non-mates' maxima in descending order at max(int(N x FPIR) - 1, 0)",
    "ijbs": "scores at or above the non-mates' maxima in descending order at int(N x FPIR) - 1; "
    "above all of them where int(N x FPIR) is 0",
}
"""How the threshold of an open-set point is found, in words."""


class Search(NamedTuple):
    """The answers of one gallery. closed_only: the galleries joined, which have no non-mates."""

    name: str
    ranks: ProbeRanks
    closed_only: bool = False


def column_names(ranks: Sequence[int], fpirs: Sequence[float]) -> list[str]:
    """The columns of an identification table."""
    return [f"rank {rank}" for rank in ranks] + [f"TPIR@FPIR={rate_words(rate)}" for rate in fpirs]


def measure_searches(
    title: str,
    searches: Sequence[Search],
    *,
    definition: Definition,
    bootstrap: Bootstrap,
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIRS,
    note: str = "",
) -> tuple[Table, dict[str, Draws]]:
    """One row per gallery and, for several, their mean; draws by the key of each number."""
    columns = column_names(ranks, fpirs)
    values = {one.name: _numbers(one, definition, ranks, fpirs) for one in searches}
    draws = {
        one.name: _draws(one, definition, bootstrap, ranks, fpirs)
        for one in searches
        if bootstrap.resamples
    }
    galleries = [one.name for one in searches if not one.closed_only]
    if len(galleries) > 1:
        stacked = np.array([values[name] for name in galleries])
        values["mean"] = [float(column.mean()) for column in stacked.T]
        if bootstrap.resamples:
            draws["mean"] = np.mean([draws[name] for name in galleries], axis=0)
    rows, by_key = [], {}
    for name in ["mean"] * (len(galleries) > 1) + [one.name for one in searches]:
        cells: list[Number | str] = []
        for place, (column, value) in enumerate(zip(columns, values[name], strict=True)):
            sample = draws[name][:, place] if name in draws else np.zeros(0)
            cells.append(measured(value, sample))
            if len(sample):
                by_key[f"{title} / {name} / {column}"] = sample
        rows.append(Row(name, cells))
    return Table(title, "gallery", columns, rows, note), by_key


def _numbers(
    one: Search, definition: Definition, ranks: Sequence[int], fpirs: Sequence[float]
) -> list[float]:
    """Closed-set rates and TPIRs; NaN where the gallery cannot answer."""
    curve = cmc(one.ranks, max(ranks))
    closed = [float(curve[rank - 1]) for rank in ranks]
    if one.closed_only or one.ranks.mated.all():
        return closed + [float("nan")] * len(fpirs)
    return closed + [open_set(one.ranks, rate, definition).tpir for rate in fpirs]


def _draws(
    one: Search,
    definition: Definition,
    bootstrap: Bootstrap,
    ranks: Sequence[int],
    fpirs: Sequence[float],
) -> Draws:
    """(B, columns): NaN where a resample lacks the probes that a number needs."""
    nothing = [float("nan")] * (len(ranks) + len(fpirs))
    return np.array(
        [
            _numbers(one._replace(ranks=drawn), definition, ranks, fpirs)
            if drawn.mated.any()
            else nothing
            for drawn in resample_probes(
                one.ranks, resamples=bootstrap.resamples, seed=bootstrap.seed
            )
        ]
    )


def identification_plots(searches: Iterable[Search], longest: int = 50) -> list[Plot]:
    """CMC, and TPIR against FPIR with a logarithmic FPIR axis."""
    cmcs, opens = [], []
    for one in searches:
        curve = cmc(one.ranks, longest)
        cmcs.append(Curve(one.name, [float(n) for n in range(1, longest + 1)], curve.tolist()))
        if not one.closed_only and not one.ranks.mated.all():
            roc = open_set_roc(one.ranks)
            curve_points = thin_curve(*roc_points(roc), floor=1 / roc.impostor)
            opens.append(Curve(one.name, *curve_points))
    plots = [Plot("CMC", "rank", "identification rate", cmcs, x_log=True)]
    if opens:
        plots.append(
            Plot(
                "Open-set identification",
                "false positive identification rate (FPIR)",
                "true positive identification rate (TPIR)",
                opens,
                x_log=True,
            )
        )
    return plots


def mean_words(searches: Sequence[Search], rate: float, definition: Definition) -> str:
    """The thresholds that were in force at a rate, for the variant."""
    points = [open_set(one.ranks, rate, definition) for one in searches if not one.closed_only]
    mean = mean_over_galleries(points)
    parts = ", ".join(f"{point.threshold:.4f}" for point in points)
    return f"thresholds at FPIR={rate_words(rate)}: {parts}; FPIR measured {mean.fpir:.4f}"


def check_disjoint(galleries: Sequence[tuple[str, np.ndarray]]) -> list[int]:
    """Subjects that two galleries share, which makes non-mates of one mates of the other."""
    shared: list[int] = []
    for place, (_, first) in enumerate(galleries):
        for _, second in galleries[place + 1 :]:
            shared += np.intersect1d(first, second).tolist()
    return sorted(set(shared))


def need_disjoint(
    galleries: Sequence[tuple[str, np.ndarray]], bad: list[Bad] | None = None
) -> None:
    """Raise ConfigError when galleries share a subject; with `bad`, list each that they share."""
    if shared := check_disjoint(galleries):
        names = " and ".join(name for name, _ in galleries)
        if bad is not None:
            why = "in several galleries, so its probes are mated in all of them"
            faults = [Bad(f"galleries {names}: subject {one}", why) for one in shared]
            bad += [one for one in faults if one not in bad]
            return
        raise ConfigError(
            f"galleries {names} must not share a subject, got {len(shared)} in common, the first "
            f"is {shared[0]}: check the lists, or go on with --skip-bad"
        )
