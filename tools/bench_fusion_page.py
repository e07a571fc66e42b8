"""The page of `facestream bench fusion`: docs/benchmarks/fusion.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from .. import __version__
from .bench_fusion import COMPARED, SIZES, Cells, Rate, compare, resample
from .bench_fusion_fusers import BEST, FOURTH, RUNS_KNOWN
from .bench_fusion_tracks import FPS, LEVELS, SECONDS, SETS, SIMULATED
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
{kinds}

*mean*, *quality*, *learned* and *caface* are the aggregators that run live, with the heads that
ship; *norm* weighs by the embedding's length, *oracle* by the square of the true cosine with the
enrolled template above the mean cosine of different people, which no system knows. The oracle
weighs each face by itself, and its square is a guess: it can be beaten.

*nan*, *cfan*, *pfe*, *quality-caface*, *guided-caface* and *learned-embedding*, where they are
shown, were trained by the same recipe on the same sets (`facestream train caface caface-nan-omz`
and so on) and do not run live. CFAN and PFE read feature maps, which these packs' networks do not
give: here they read the style statistics instead, means and deviations of such maps, and are not
the papers'. PFE has its own loss. The last three are what was tried beyond: *quality-caface* is
CAFace with the quality as one more style channel; in *guided-caface* a face counts exp(score) times
in CAFace, with a score like that of the learned mean, so that what it learns beyond comes from the
set; *learned-embedding* is the learned mean that also reads the embedding.

A stretch that is longer than its run walks back and forth over it, so a set may hold a view twice.
Columns in which any set does are marked *augmented*; how many do, and how many different views a
set has, is told first. Comparisons over several sizes count such sets too. The heads were trained
on other people, and their validation faces are not among these.

**What there is to gain.** CAFace looks at the whole set, the learned mean at one face at a time.
Tables of that name ask oracles what either could gain. *Runs known* is told what company could tell
about frames that say the same: every stretch counts once, however long it is (a set of simulated
video is one stretch, so that says nothing there). *4th power* of the
true cosine is about the best that weighing each face by itself can do. *Best weights* are those
with which a weighted mean comes nearest to the enrolled template.
"""
KINDS = {
    "london": """
- *London*: the {people} people of the split's role subject (Face Research Lab London Set, DeBruine
  and Jones 2017, CC BY 4.0), enrolled with the neutral photo as taken; sets are degraded views of
  the smiling one, damage {levels} on a scale from 0 to 1. Frames that no detector finds are in no
  set. So a set of any size shows one distinct photograph, in degraded copies.""",
    "simulated": """
- *simulated*: the {people} people of the role subject, enrolled likewise, in video of
  [`facestream simulate`](../simulate.md), preset {presets}, {fps} pictures per second for
  {seconds:g} s, nobody else among them. Boxes and landmarks are the truth's, the live stages embed;
  a set is so many faces of one track in a row, one stretch by itself.""",
    "wild": """
- *wild*: people of CelebA (research only; nothing trained or fitted here saw them; what the
  published embedders saw is not documented), enrolled with two pictures, sets of degraded views of
  others. There are at most eight distinct photographs of a person; views are degraded copies of
  them.""",
}


def write_page(measured: Mapping[str, Mapping[str, Cells]], command: str) -> str:
    """The page in Markdown. measured: cells by pack and by the words of the tracks."""
    kinds = {words.partition(",")[0] for tracks in measured.values() for words in tracks}
    told = [text for kind, text in KINDS.items() if kind in kinds]
    parts = [
        INTRODUCTION.format(
            command=command,
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            version=__version__,
            revision=revision(),
            sets=SETS["london"],
            wild=SETS["wild"],
            kinds="".join(told).format(**_facts(measured)),
        )
    ]
    for pack, tracks in measured.items():
        parts += [f"## {pack}\n", _means(tracks)]
        if all(("learned", COMPARED[0]) in cells for cells in tracks.values()):
            parts.append(_against_learned(tracks))
        for words, cells in tracks.items():
            parts += [f"### {words}\n", _repeats(cells), _table(cells, 1), _table(cells, 0)]
            parts += [_differences(cells), _gains(cells)]
    return "\n".join(parts)


def _facts(measured: Mapping[str, Mapping[str, Cells]]) -> dict[str, object]:
    """What the descriptions of the tracks are filled with."""
    people = [
        int(hits.owners.max()) + 1
        for tracks in measured.values()
        for words, cells in tracks.items()
        if words != "wild"
        for hits in cells.values()
    ]
    shown = {words.rpartition(", ")[2] for tracks in measured.values() for words in tracks}
    levels = (f"{n} {low:g} to {high:g}" for n, (low, high) in LEVELS.items() if n in shown)
    return {
        "people": max(people, default=0),
        "levels": ", ".join(levels),
        "presets": " and ".join(name for name in SIMULATED if name in shown),
        "fps": FPS,
        "seconds": SECONDS,
    }


def _means(tracks: Mapping[str, Cells]) -> str:
    """Mean TPIR over the compared sizes, per fuser and kind of track."""
    title = f"TPIR at FPIR 1 %, mean of N = {_sizes()}"
    lines = [f"| {title} | {' | '.join(tracks)} |", "|---" * (len(tracks) + 1) + "|"]
    for name in _names(next(iter(tracks.values()))):
        shown = [
            f"{100 * np.mean([cells[name, size].value[1] for size in COMPARED]):.1f}"
            for cells in tracks.values()
        ]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _against_learned(tracks: Mapping[str, Cells]) -> str:
    """Paired differences of every fuser with the learned mean."""
    names = [name for name in _names(next(iter(tracks.values()))) if name != "learned"]
    title = "TPIR less that of learned, points"
    lines = [f"| {title} | {' | '.join(tracks)} |", "|---" * (len(tracks) + 1) + "|"]
    for name in names:
        shown = [_interval(compare(cells, name, "learned"), "+") for cells in tracks.values()]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _told(name: str) -> bool:
    """Whether it is an oracle that is told of in the table of gains alone."""
    return name.endswith(RUNS_KNOWN) or name in (FOURTH, BEST)


def _names(cells: Cells) -> list[str]:
    return [name for name in dict.fromkeys(name for name, _ in cells) if not _told(name)]


def _sizes() -> str:
    return ", ".join(map(str, COMPARED))


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
    plain = ("mean", "norm", "quality")
    trained = [name for name in _names(cells) if name not in (*plain, "oracle")]
    title = f"TPIR less that of, points, mean of N = {_sizes()}"
    lines = [
        f"| {title} | {' | '.join(plain)} | share of the gap from quality to oracle |",
        "|---" * (len(plain) + 2) + "|",
    ]
    gap = compare(cells, "oracle", "quality")
    for one in trained:
        shown = [_interval(compare(cells, one, other), "+") for other in plain]
        # A share of what may be no gap says nothing.
        share = compare(cells, one, "quality").value / gap.value if gap.low > 0 else None
        shown.append("" if share is None else f"{100 * share:.0f} %")
        lines.append(f"| {one} | {' | '.join(shown)} |")
    shown = [_interval(compare(cells, "oracle", other), "+") for other in plain]
    lines.append(f"| oracle | {' | '.join(shown)} | |")
    return "\n".join(lines) + "\n"


def _gains(cells: Cells) -> str:
    """What judging single faces better, and looking at the whole set, could gain."""
    lines = [f"| what there is to gain: TPIR, points, mean of N = {_sizes()} | |", "|---|---|"]
    for one, other in (
        (f"learned{RUNS_KNOWN}", "learned"),
        (f"oracle{RUNS_KNOWN}", "oracle"),
        (FOURTH, "learned"),
        (BEST, FOURTH),
    ):
        if (one, COMPARED[0]) in cells and (other, COMPARED[0]) in cells:
            lines.append(f"| {one} - {other} | {_interval(compare(cells, one, other), '+')} |")
    return "\n".join(lines) + "\n"


def _interval(rate: Rate, sign: str = "") -> str:
    return (
        f"{100 * rate.value:{sign}.1f} ({100 * rate.low:{sign}.1f} to {100 * rate.high:{sign}.1f})"
    )
