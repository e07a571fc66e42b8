"""The page of `facestream bench fusion`: docs/benchmarks/fusion.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from .. import __version__
from .bench_fusion import COMPARED, LEVELS, SETS, SIZES, Cells, Rate, compare, resample
from .revision import revision

INTRODUCTION = """# Fusing tracks of bad pictures

Written by

    {command}

on {date}, facestream {version}, revision {revision}.

A set is a track: one to four stretches of frames that resemble each other, in most sets the
longest of them the worst. {sets} sets of each size per person ({wild} of wild); every
aggregator fuses the same.
Each set searches a gallery of all people: rank 1, and TPIR at FPIR 1 %, where the same search
without its own person is the non-mated one. 95 % intervals: bootstrap over the people, the
threshold drawn anew.

- *London*: the {london} people of the split's role subject (Face Research Lab London Set, DeBruine
  and Jones 2017, CC BY 4.0), enrolled with the neutral photo as taken; sets are degraded views of
  the smiling one, damage {levels} on a scale from 0 to 1. Frames that no detector finds are in no
  set. So a set of any size shows one distinct photograph, in degraded copies.
- *wild*: people of CelebA (research only; nothing trained or fitted here saw them; what the
  published embedders saw is not documented), enrolled with two pictures, sets of degraded views of
  others. There are at most eight distinct photographs of a person; views are degraded copies of
  them.

*mean*, *quality*, *learned* and *caface* are the aggregators that run live, with the heads that
ship; *norm* weighs by the embedding's length, *oracle* by the square of the true cosine with the
enrolled template above the mean cosine of different people, which no system knows. PFE and CFAN
read feature maps, which these packs' networks do not give; NAN has no head here. A stretch that is
longer than its run walks back and forth over it, so a set may hold a view twice. Columns in which
any set does are marked *augmented*; how many do, and how many different views a set has, is told
first. Comparisons over several sizes count such sets too. The heads were trained on other people
(`facestream train caface`), and their validation faces are not among these.
"""


def write_page(measured: Mapping[str, Mapping[str, Cells]], command: str) -> str:
    """The page in Markdown. measured: cells by pack and by the words of the tracks."""
    london = max(
        int(hits.owners.max()) + 1
        for cells in measured.values()
        for words, by in cells.items()
        if words != "wild"
        for hits in by.values()
    )
    levels = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in LEVELS.items())
    parts = [
        INTRODUCTION.format(
            command=command,
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            version=__version__,
            revision=revision(),
            sets=SETS["london"],
            wild=SETS["wild"],
            london=london,
            levels=levels,
        )
    ]
    for pack, tracks in measured.items():
        parts.append(f"## {pack}\n")
        for words, cells in tracks.items():
            parts += [f"### {words}\n", _repeats(cells), _table(cells, 1), _table(cells, 0)]
            parts.append(_differences(cells))
    return "\n".join(parts)


def _names(cells: Cells) -> list[str]:
    return list(dict.fromkeys(name for name, _ in cells))


def _heads(title: str, cells: Cells) -> list[str]:
    """The first two lines of a table by size; the sets are the same for every aggregator."""
    first = _names(cells)[0]
    heads = [
        f"N={n}" + (" (augmented)" if (cells[first, n].distinct < n).any() else "") for n in SIZES
    ]
    return [f"| {title} | {' | '.join(heads)} |", "|---" * (len(SIZES) + 1) + "|"]


def _repeats(cells: Cells) -> str:
    """How many sets repeat a view, and how many different views a set has."""
    lines, distinct = _heads("sets", cells), [cells[_names(cells)[0], n].distinct for n in SIZES]
    shares = [f"{100 * np.mean(d < n):.0f}" for d, n in zip(distinct, SIZES, strict=True)]
    means = [f"{np.mean(d):.1f}" for d in distinct]
    lines.append(f"| that repeat a view, % | {' | '.join(shares)} |")
    lines.append(f"| distinct views, mean | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def _table(cells: Cells, which: int) -> str:
    """Rank 1 (0) or TPIR (1), per cent."""
    lines = _heads(("rank 1, %", "TPIR at FPIR 1 %, with 95 % intervals")[which], cells)
    for name in _names(cells):
        rates = [resample(cells[name, size])[which] for size in SIZES]
        shown = [f"{100 * r.value:.1f}" if which == 0 else _interval(r) for r in rates]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _differences(cells: Cells) -> str:
    """Paired differences of the trained heads, and how much of the gap to the oracle they close."""
    names = _names(cells)
    sizes = ", ".join(map(str, COMPARED))
    lines = [
        f"| TPIR, difference in points, mean of N = {sizes} | |",
        "|---|---|",
    ]
    trained = [name for name in ("learned", "caface") if name in names]
    for one in trained:
        others = ["mean", "norm", "quality", *(["learned"] if one == "caface" else [])]
        for other in others:
            if other in names:
                shown = _interval(compare(cells, one, other), sign="+")
                lines.append(f"| {one} - {other} | {shown} |")
    gap = compare(cells, "oracle", "quality")
    lines.append(f"| oracle - quality | {_interval(gap, sign='+')} |")
    if gap.low > 0:  # a share of what may be no gap says nothing
        for one in trained:
            share = compare(cells, one, "quality").value / gap.value
            lines.append(f"| share of that gap that {one} closes | {100 * share:.0f} % |")
    return "\n".join(lines) + "\n"


def _interval(rate: Rate, sign: str = "") -> str:
    return (
        f"{100 * rate.value:{sign}.1f} ({100 * rate.low:{sign}.1f} to {100 * rate.high:{sign}.1f})"
    )
