"""The page of `facestream bench fusion`: docs/benchmarks/fusion.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from .. import __version__
from ..models.store import load_card
from .bench_fusion import COMPARED, LEAST_PEOPLE, SIZES, Cells, Measured, Rate, compare, resample
from .bench_fusion_fusers import BEST, FOURTH, PLAIN, RUNS_KNOWN
from .bench_fusion_tracks import FPS, LEVELS, SECONDS, SETS, SIMULATED
from .bench_fusion_verdict import (
    LIVE,
    any_of,
    in_short,
    list_words,
    mean_rate,
    names_of,
    points,
    short,
)
from .revision import revision

INTRODUCTION = """# Fusing tracks of bad pictures

Which aggregator makes the best template of a track? A set is a track: one to four stretches of
frames that resemble each other, in most sets the longest of them the worst; every aggregator fuses
the same sets. Each searches a gallery of all people: TPIR at FPIR 1 %. Differences are paired, with
95 % intervals over the people; *clearly* means that the interval leaves out 0.

The aims, in sets of 8 faces and more: ahead of every baseline, weights by quality (LightQNet's in
omz) and the learned mean included, and half of the gap from weights by quality to an oracle's,
which are the squares of the true cosines.
"""
METHOD = """## How it was measured

Written by

    {command}

on {date}, facestream {version}, revision {revision}.

{sets} sets of each size per person ({wild} of wild). Rank 1, and TPIR at FPIR 1 %, where the same
search without its own person is the non-mated one. 95 % intervals: bootstrap over the people, the
threshold drawn anew.
{kinds}

*mean*, *quality*, *learned* and *caface* are the aggregators that run live, with the heads that
ship; *quality* weighs by the pack's own quality, {qualities}; *norm* weighs by the
embedding's length, *oracle* by the square of the true cosine with the enrolled template above the
mean cosine of different people, which no system knows. The oracle weighs each face by itself, and
its square is a guess: it can be beaten.
{rivals}
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
RIVALS = """
Others do not run live. They were trained by the same recipe on the same sets, in as many
steps as the heads that ship or fewer, and chosen on fewer people (`facestream train caface
caface-nan-omz` and so on). {absent}CFAN and PFE read feature maps, which these packs' networks do
not give: here they read the style statistics instead, means and deviations of such maps, and are
not the papers'. PFE has its own loss. *caface-quality*, *caface-guided* and *learned-embedding* are
what was tried beyond. The first is CAFace with the quality as one more style channel; in the second
a face counts exp(score) times in CAFace, with a score like that of the learned mean, so that what
it learns beyond comes from the set; the third is the learned mean that also reads the embedding.
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


def write_page(measured: Mapping[str, Measured], command: str) -> str:
    """The page in Markdown. measured: by pack, whose cards say what they fuse with."""
    parts = [INTRODUCTION]
    for pack, done in measured.items():
        parts.append(f"## {pack} in short\n")
        if done.tracks:
            parts.append(in_short(pack, done.tracks, load_card(pack).fusion.aggregator))
        parts += [_few(words, people) for words, people in done.few.items()]
        if absent := _absent(done, measured):
            parts.append(f"Not measured for {pack}: {list_words(absent)}.\n")
    parts.append(_method(measured, command))
    for pack, done in measured.items():
        if not done.tracks:
            continue
        parts += [f"## {pack}\n", _means(done.tracks)]
        if all(("learned", COMPARED[0]) in cells for cells in done.tracks.values()):
            parts.append(_against_learned(done.tracks))
        for words, cells in done.tracks.items():
            parts += [f"### {pack}: {words}\n", _repeats(cells), _table(cells, 1)]
            parts += [_table(cells, 0), _differences(cells), _gains(cells)]
    return "\n".join(parts)


def _method(measured: Mapping[str, Measured], command: str) -> str:
    """What was fused, by what, and the command."""
    shown = {words for done in measured.values() for words in done.tracks}
    kinds = {words.partition(",")[0] for words in shown}
    presets = {words.rpartition(", ")[2] for words in shown}
    people = [
        int(hits.owners.max()) + 1
        for done in measured.values()
        for words, cells in done.tracks.items()
        if words != "wild"
        for hits in cells.values()
    ]
    levels = (f"{n} {low:g} to {high:g}" for n, (low, high) in LEVELS.items() if n in presets)
    told = "".join(text for kind, text in KINDS.items() if kind in kinds).format(
        people=max(people, default=0),
        levels=", ".join(levels),
        presets=" and ".join(name for name in SIMULATED if name in presets),
        fps=FPS,
        seconds=SECONDS,
    )
    return METHOD.format(
        command=command,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        version=__version__,
        revision=revision(),
        sets=SETS["london"],
        wild=SETS["wild"],
        kinds=told,
        qualities=list_words([f"{_quality(pack)} in {pack}" for pack in measured]),
        rivals=_rivals(measured),
    )


def _quality(pack: str) -> str:
    """The model that a pack judges faces with, or what it does without one."""
    spec = load_card(pack).quality
    return spec.file or spec.kind.replace("_", "-")


def _rivals(measured: Mapping[str, Measured]) -> str:
    """About the heads that do not run live, and which pack has none of a kind; nothing without."""
    heads = {
        pack: [name for name in names_of(any_of(done.tracks)) if name not in (*PLAIN, *LIVE)]
        for pack, done in measured.items()
        if done.tracks
    }
    every = dict.fromkeys(name for names in heads.values() for name in names)
    absent = [
        f"Not trained for {pack}: {list_words(missing)}. "
        for pack, names in heads.items()
        if (missing := [name for name in every if name not in names])
    ]
    return RIVALS.format(absent="".join(absent)) if every else ""


def _absent(done: Measured, measured: Mapping[str, Measured]) -> list[str]:
    """Tracks that another pack was measured on."""
    every = dict.fromkeys(words for other in measured.values() for words in other.tracks)
    return [short(words) for words in every if words not in (*done.tracks, *done.few)]


def _few(words: str, people: int) -> str:
    return (
        f"Nothing is said of {words}: only {people} people have a set, and {LEAST_PEOPLE} are the "
        "fewest that are measured.\n"
    )


def _means(tracks: Mapping[str, Cells]) -> str:
    """Mean TPIR over the compared sizes, per fuser and kind of track."""
    title = f"TPIR at FPIR 1 %, mean of N = {_sizes()}"
    lines = [f"| {title} | {' | '.join(tracks)} |", "|---" * (len(tracks) + 1) + "|"]
    for name in names_of(any_of(tracks)):
        shown = [f"{100 * mean_rate(cells, name):.1f}" for cells in tracks.values()]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _against_learned(tracks: Mapping[str, Cells]) -> str:
    """Paired differences of every fuser with the learned mean."""
    names = [name for name in names_of(any_of(tracks)) if name != "learned"]
    title = "TPIR less that of learned, points"
    lines = [f"| {title} | {' | '.join(tracks)} |", "|---" * (len(tracks) + 1) + "|"]
    for name in names:
        shown = [points(compare(cells, name, "learned")) for cells in tracks.values()]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _sizes() -> str:
    return ", ".join(map(str, COMPARED))


def _heads(title: str, cells: Cells) -> list[str]:
    """The first two lines of a table by size; the sets are the same for every aggregator."""
    first = names_of(cells)[0]
    heads = [
        f"N={n}" + (" (augmented)" if (cells[first, n].distinct < n).any() else "") for n in SIZES
    ]
    return [f"| {title} | {' | '.join(heads)} |", "|---" * (len(SIZES) + 1) + "|"]


def _repeats(cells: Cells) -> str:
    """How many sets repeat a view, and how many different views a set has."""
    lines, distinct = (
        _heads("sets", cells),
        [cells[names_of(cells)[0], n].distinct for n in SIZES],
    )
    shares = [f"{100 * np.mean(d < n):.0f}" for d, n in zip(distinct, SIZES, strict=True)]
    means = [f"{np.mean(d):.1f}" for d in distinct]
    lines.append(f"| that repeat a view, % | {' | '.join(shares)} |")
    lines.append(f"| distinct views, mean | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def _table(cells: Cells, which: int) -> str:
    """Rank 1 (0) or TPIR (1), per cent."""
    lines = _heads(("rank 1, %", "TPIR at FPIR 1 %, with 95 % intervals")[which], cells)
    for name in names_of(cells):
        rates = [resample(cells[name, size])[which] for size in SIZES]
        shown = [f"{100 * r.value:.1f}" if which == 0 else _interval(r) for r in rates]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _differences(cells: Cells) -> str:
    """Paired differences of the trained heads, and how much of the gap to the oracle they close."""
    plain = ("mean", "norm", "quality")
    trained = [name for name in names_of(cells) if name not in (*plain, "oracle")]
    title = f"TPIR less that of, points, mean of N = {_sizes()}"
    lines = [
        f"| {title} | {' | '.join(plain)} | share of the gap from quality to oracle |",
        "|---" * (len(plain) + 2) + "|",
    ]
    gap = compare(cells, "oracle", "quality")
    for one in trained:
        shown = [points(compare(cells, one, other)) for other in plain]
        # A share of what may be no gap says nothing.
        share = compare(cells, one, "quality").value / gap.value if gap.low > 0 else None
        shown.append("" if share is None else f"{100 * share:.0f} %")
        lines.append(f"| {one} | {' | '.join(shown)} |")
    shown = [points(compare(cells, "oracle", other)) for other in plain]
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
            lines.append(f"| {one} - {other} | {points(compare(cells, one, other))} |")
    return "\n".join(lines) + "\n"


def _interval(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"
