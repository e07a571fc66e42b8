"""The first screen of `facestream bench fusion`: what finds the most, by how much, and which aims
are met. All of it is made from the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .bench_fusion import COMPARED, Cells, Rate, compare, contrast
from .bench_fusion_fusers import BEST, FOURTH, RUNS_KNOWN

PLAIN = ("mean", "norm", "quality")
LIVE = ("mean", "quality", "learned", "caface")
"""Of what is compared, what a run can be told to fuse with."""
CONTEXT = "caface"
"""The paper's, which the aims are about."""

Tracks = Mapping[str, Cells]
"""Cells by the words of the tracks; all have the same fusers."""


def in_short(pack: str, tracks: Tracks, default: str) -> str:
    """What is met, and a table with a column per kind of tracks. default: the pack's aggregator."""
    names = names_of(any_of(tracks))
    trained = [name for name in dict.fromkeys((default, CONTEXT)) if name in names]
    lines = [f"- {_better(pack, tracks, default)}"]
    lines.append(f"- Of what runs live, most is found by {_best_live(tracks)}.")
    for one in trained:
        others = [name for name in (*PLAIN, "learned") if name in names and name != one]
        lines.append(
            f"- Aim, *{one}* clearly ahead of {list_words(others)}: {_beats(tracks, one, others)}"
        )
    lines += [f"- Aim, half of the gap, *{one}*: {_halves(tracks, one)}" for one in trained]
    return "\n".join([*lines, "", _table(pack, tracks, default, trained)])


def names_of(cells: Cells) -> list[str]:
    """What is compared, without the oracles that only tell what there is to gain."""
    names = dict.fromkeys(name for name, _ in cells)
    return [n for n in names if n not in (FOURTH, BEST) and not n.endswith(RUNS_KNOWN)]


def mean_rate(cells: Cells, name: str) -> float:
    """Mean TPIR over the compared sizes."""
    return float(np.mean([cells[name, size].value[1] for size in COMPARED]))


def points(rate: Rate) -> str:
    """A difference with its interval, in points."""
    return f"{100 * rate.value:+.1f} ({100 * rate.low:+.1f} to {100 * rate.high:+.1f})"


def short(words: str) -> str:
    """The words of tracks, where a comma would be misread."""
    return words.replace(", ", " ")


def share_closed(cells: Cells, one: str, oracle: str) -> float | None:
    """Which share of the gap from quality to an oracle it closes; None where no gap is clear."""
    gap = compare(cells, oracle, "quality")
    return compare(cells, one, "quality").value / gap.value if gap.low > 0 else None


def any_of(tracks: Tracks) -> Cells:
    """Of any tracks."""
    return next(iter(tracks.values()))


def _table(pack: str, tracks: Tracks, default: str, trained: Sequence[str]) -> str:
    names = names_of(any_of(tracks))
    plain = [name for name in PLAIN if name != default]
    others = [name for name in names if name not in (*LIVE, "norm", "oracle")]
    first = names[0], COMPARED[0]
    rows = {
        "people with a set": [
            str(len(np.unique(cells[first].owners))) for cells in tracks.values()
        ],
        f"*{default}*, what {pack} fuses with: TPIR, %": [
            f"{100 * mean_rate(cells, default):.1f}" for cells in tracks.values()
        ],
        f"*{default}* less the best of {list_words(plain)}": [
            _versus(cells, plain, default, -1) for cells in tracks.values()
        ],
    }
    if CONTEXT in trained and default != CONTEXT:
        rows[f"*{CONTEXT}* less *{default}*"] = [
            points(compare(cells, CONTEXT, default)) for cells in tracks.values()
        ]
    if others:
        rows[f"the best of what does not run live, less *{default}*"] = [
            _versus(cells, others, default, 1) for cells in tracks.values()
        ]
    for one in trained:
        for oracle in ("oracle", FOURTH):
            shares = [share_closed(cells, one, oracle) for cells in tracks.values()]
            rows[f"share of the gap from *quality* to *{oracle}* that *{one}* closes"] = [
                "no clear gap" if share is None else f"{100 * share:.0f} %" for share in shares
            ]
    title = f"{pack}: points of TPIR at FPIR 1 %, mean of N = {', '.join(map(str, COMPARED))}"
    lines = [f"| {title} | {' | '.join(tracks)} |", "|---" * (len(tracks) + 1) + "|"]
    lines += [f"| {title} | {' | '.join(shown)} |" for title, shown in rows.items()]
    return "\n".join(lines) + "\n"


def _versus(cells: Cells, some: Sequence[str], default: str, sign: int) -> str:
    """The best of some, and its difference with the default, or the other way round."""
    best = max(some, key=lambda name: mean_rate(cells, name))
    pair = (best, default) if sign > 0 else (default, best)
    return f"{best}: {points(compare(cells, *pair))}"


def _best_live(tracks: Tracks) -> str:
    live = [name for name in names_of(any_of(tracks)) if name in LIVE]
    told = []
    for words, cells in tracks.items():
        first, second = sorted(live, key=lambda name: -mean_rate(cells, name))[:2]
        gain = points(compare(cells, first, second))
        told.append(f"*{first}* on {short(words)}, {gain} before {second}")
    return "; ".join(told)


def _beats(tracks: Tracks, one: str, others: Sequence[str]) -> str:
    """Met where it is clearly ahead of all of them; else of whom it is not."""
    met: list[str] = []
    missed: list[str] = []
    for words, cells in tracks.items():
        gains = {name: compare(cells, one, name) for name in others}
        level = [name for name, gain in gains.items() if gain.low <= 0 <= gain.high]
        behind = [name for name, gain in gains.items() if gain.high < 0]
        said = [f"level with {list_words(level)}"] * bool(level)
        said += [f"clearly behind {list_words(behind)}"] * bool(behind)
        if said:
            missed.append(f"{short(words)} ({', '.join(said)})")
        else:
            met.append(short(words))
    return _met(met, missed)


def _halves(tracks: Tracks, one: str) -> str:
    """Where it closes half of the gap from quality to the oracle, and whether that is clear."""
    met: list[str] = []
    missed: list[str] = []
    none: list[str] = []
    for words, cells in tracks.items():
        share = share_closed(cells, one, "oracle")
        if share is None:
            none.append(short(words))
            continue
        beyond = contrast(cells, ((one, 1.0), ("quality", -0.5), ("oracle", -0.5)))
        clear = beyond.low > 0 or beyond.high < 0
        doubt = "" if clear else "; whether more than half is not clear"
        told = f"{short(words)} ({100 * share:.0f} %{doubt})"
        (met if share >= 0.5 else missed).append(told)
    return _met(met, missed) + (f" No gap is clear on {list_words(none)}." if none else "")


def _better(pack: str, tracks: Tracks, default: str) -> str:
    """What is clearly ahead of what the pack fuses with."""
    names = [name for name in names_of(any_of(tracks)) if name not in (default, "oracle")]
    gains = {
        (name, words): compare(cells, name, default)
        for name in names
        for words, cells in tracks.items()
    }
    ahead = [
        f"*{name}* on {short(words)}, {points(gain)}"
        for (name, words), gain in gains.items()
        if gain.low > 0
    ]
    words = f"clearly ahead of *{default}*, which {pack} fuses with"
    found = f"**C{words[1:]}:** {'; '.join(ahead)}." if ahead else f"**Nothing is {words}.**"
    return f"{found} Of {len(gains)} comparisons, one in forty would come out ahead by chance."


def _met(met: Sequence[str], missed: Sequence[str]) -> str:
    said = [f"**met** on {list_words(met)}"] * bool(met)
    said += [f"**missed** on {list_words(missed)}"] * bool(missed)
    return "; ".join(said) + "." if said else "not measured."


def list_words(words: Sequence[str]) -> str:
    """one, two and three"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
