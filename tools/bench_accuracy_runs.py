"""What a run gives on simulated video: the sections of `facestream bench accuracy` that are read.

Defaults come first. Other fusions, scores and thresholds stand beside them, with the difference to
the default taken resample by resample.
"""

from __future__ import annotations

from ..models.counts import count_interval, share_interval
from .bench_accuracy_page import (
    SEARCHES,
    STILLS,
    few_strangers,
    fold,
    markdown,
    name_columns,
    short,
)
from .bench_accuracy_stills import SIZES, StillNumbers
from .bench_accuracy_videos import ALL, Facts, Measures, Variant, VideoNumbers
from .eval_verification import Bootstrap
from .report_record import Number, measured

RANK, TPIR, _ = (key for _, key in SEARCHES)
MATCHED = "Alerts / threshold in force / matched correctly"
TIME = "Alerts / threshold in force / time to first correct match"
ALERTS = ("Matched, %", "Time, s", "Strangers named", "False alerts<br>per hour")


def summary_section(videos: VideoNumbers, stills: StillNumbers | None) -> str:
    """What the defaults give, and whether another fusion or score is clearly better or worse."""
    whole = videos.whole
    lines = ["## In short", ""]
    for pack, default in videos.defaults.items():
        one = videos.numbers[whole, default, False]
        matched, waited = one.numbers[MATCHED], one.numbers[TIME]
        lines.append(
            f"- **Simulated**, end to end: `{pack}` as it runs by default ({default.aggregator}, "
            f"{default.matcher}, threshold {one.threshold:.3f}) names **{short(matched)} %** of "
            f"the passes of people in the gallery, in {short(waited)} s (median of these), and "
            f"**{stranger_words(one)}** passes of strangers."
        )
        presets = [group for group in videos.facts if group != ALL]
        if len(presets) > 1:
            shares = [
                f"{group} {short(videos.numbers[group, default, False].numbers[MATCHED], False)}"
                for group in presets
            ]
            lines.append(f"  By preset it names, in %: {', '.join(shares)}.")
        lines.append(f"  {verdict_words(videos, pack)}")
    if stills is not None:
        lines += [still_words(stills, default) for default in videos.defaults.values()]
    strangers = videos.facts[whole].strangers
    lines += [
        f"- Strangers are few, {strangers} passes: a promise of FPIR 1 % cannot be checked with "
        f"them, since even none named would leave up to "
        f"{100 * share_interval(0, strangers).high if strangers else 100:.1f} % possible. "
        "[The measurements of thresholds](thresholds.md) have more.",
        "",
    ]
    return "\n".join(lines)


def verdict_words(videos: VideoNumbers, pack: str) -> str:
    """Which of a pack's other fusions and scores differ clearly from its default, end to end."""
    default, *others = videos.variants(pack)
    if not others:
        return "The pack has no other fusion and score."
    first = videos.numbers[videos.whole, default, False]
    told = []
    for name, key in (("TPIR@FPIR 10 %", TPIR), ("matched", MATCHED)):
        clear: dict[str, list[str]] = {"better": [], "worse": []}
        for other in others:
            gap = difference(first, videos.numbers[videos.whole, other, False], key)
            if gap.low is not None and gap.high is not None and gap.low * gap.high > 0:
                way = "better" if gap.low > 0 else "worse"
                clear[way].append(f"{other.aggregator} with {other.matcher}")
        words = [f"{', '.join(some)} {way}" for way, some in clear.items() if some]
        told.append(f"in {name} {' and '.join(words) if words else 'none'}")
    return (
        f"Of the {len(others)} other ways to fuse and score these differ clearly from it (95 %, "
        f"each for itself): {'; '.join(told)}."
    )


def still_words(stills: StillNumbers, default: Variant) -> str:
    """What a default gives on real stills, by size of the sets."""
    rates = [
        f"{short(stills.numbers[size, default, False][dict(STILLS)['TPIR@FPIR 10 %']])}"
        for size in SIZES
    ]
    return (
        f"- **Real, research only**, stills: `{default.pack}` by default finds at FPIR 10 %, in "
        f"sets of {', '.join(map(str, SIZES))}: {', '.join(rates)} %."
    )


def run_section(videos: VideoNumbers, bootstrap: Bootstrap) -> str:
    """The defaults by preset, and other thresholds."""
    refused = f"; {videos.refused} photos were refused" if videos.refused else ""
    lines = [
        "## What a run gives",
        "",
        "**Simulated** video, rendered by [`facestream simulate`](../simulate.md), which tells how "
        "near it comes to real clips; pictures per second as in the command, all else as the "
        f"presets say. The gallery has {videos.enrolled} people with one photo each{refused}; "
        "strangers walk among them. Every pack runs by default, end to end: pixels in, events out.",
        "",
        "A pass is one person's way through one video. *Matched*: passes of people in the gallery "
        "with a correct `match` event; *time* is the median of these, from the first face that had "
        "to be found. *Strangers named*: passes of people who are not in it with any name, in "
        "brackets the exact 95 % interval. *False alerts* are wrong names of anybody, and of what "
        "is no face; the interval is exact for independent alerts. All other intervals are "
        f"bootstrap over people, {bootstrap.resamples} resamples.",
        "",
    ]
    groups = sorted(videos.facts, key=lambda group: group != videos.whole)
    rows = []
    for group in groups:
        for pack, default in videos.defaults.items():
            one, facts = videos.numbers[group, default, False], videos.facts[group]
            cells = alert_cells(one, facts)
            rows.append([group, pack, f"{facts.known} + {facts.strangers}", *cells])
    head = ["Preset", "Pack", "Passes: known<br>+ strangers", *ALERTS]
    lines += [*markdown(head, rows), ""]
    if not videos.limits:
        return "\n".join(lines)
    lines += [
        "### Other thresholds",
        "",
        f"**Simulated**, {videos.whole}, end to end, fused and scored by default. FPIR is what is "
        "promised ([thresholds](../thresholds.md)): the threshold is fitted to this gallery. The "
        "pack's own is a fixed number, for a rate per comparison of photographs, and promises "
        "nothing of a gallery.",
        "",
    ]
    facts, rows = videos.facts[videos.whole], []
    for pack, default in videos.defaults.items():
        limits = {name: one for (of, name), one in videos.limits.items() if of == pack}
        by_default = {"**FPIR 1 % (default)**": videos.numbers[videos.whole, default, False]}
        for name, one in ((by_default if limits else {}) | limits).items():
            rows.append([pack, name, f"{one.threshold:.3f}", *alert_cells(one, facts)])
    return "\n".join([*lines, *markdown(["Pack", "Promise", "Threshold", *ALERTS], rows), ""])


def fusion_section(videos: VideoNumbers) -> str:
    """Every fusion and score of every pack, beside the default."""
    whole = videos.whole
    columns = name_columns(SEARCHES, videos.facts[whole].strangers)
    lines = [
        "## Fusion and score",
        "",
        f"**Simulated**, {whole}. *Given*: boxes and landmarks of the truth, followed by the "
        "truth; *ours*: end to end. Rank 1 and TPIR are per video, by the best of all decisions: "
        "one person in one video is one search. *Gap*: difference to the default, end to end, in "
        "points, with the interval of its resamples. *Matched* and *strangers named* are of the "
        "events of a run that is set so, at the threshold that is fitted to its own fusion and "
        "score for FPIR 1 %.",
        "",
    ]
    if few_strangers(videos.facts[whole].strangers):
        lines += [
            f"*{columns[-1][0]}* is TPIR at a threshold that no stranger here reaches: it hangs on "
            "one of them, and TPIR@FPIR 1 % would take a hundred.",
            "",
        ]
    (rank, rank_key), (tpir, key), (strict, strict_key) = columns
    head = ["Fusion, score", f"{rank}<br>ours", f"{tpir}<br>given", f"{tpir}<br>ours", "Gap"]
    head += [f"{strict}<br>ours", "Matched, %", "Gap", "Strangers named"]
    head = [fold(name) for name in head]
    for pack in videos.defaults:
        default, *_ = variants = videos.variants(pack)
        first = videos.numbers[whole, default, False]
        rows = []
        for variant in variants:
            given, ours = (videos.numbers[whole, variant, which] for which in (True, False))
            name = f"{variant.aggregator}, {variant.matcher}"
            own = variant == default
            rows.append(
                [
                    f"**{name} (default)**" if own else name,
                    short(ours.numbers[rank_key]),
                    short(given.numbers[key]),
                    short(ours.numbers[key]),
                    "" if own else gap_words(first, ours, key),
                    short(ours.numbers[strict_key]),
                    short(ours.numbers[MATCHED]),
                    "" if own else gap_words(first, ours, MATCHED),
                    stranger_words(ours),
                ]
            )
        lines += [f"### Fusion and score: {pack}", "", *markdown(head, rows), ""]
    return "\n".join(lines)


def given_section(videos: VideoNumbers) -> str:
    """What finding and following faces costs the defaults, by preset."""
    head, rows = ["Preset", "Pack"], []
    kinds = (("Rank 1", RANK), ("TPIR@FPIR 10 %", TPIR), ("Matched, %", MATCHED))
    head += [fold(f"{name}<br>{which}") for name, _ in kinds for which in ("given", "ours")]
    for group in sorted(videos.facts, key=lambda group: group != videos.whole):
        for pack, default in videos.defaults.items():
            cells = [
                short(videos.numbers[group, default, given].numbers[key])
                for _, key in kinds
                for given in (True, False)
            ]
            rows.append([group, pack, *cells])
    return "\n".join(
        [
            "## What finding faces costs",
            "",
            "**Simulated**, by default: boxes and tracks of the truth beside our own.",
            "",
            *markdown(head, rows),
            "",
        ]
    )


def alert_cells(one: Measures, facts: Facts) -> list[str]:
    """What somebody at the screen gets: the cells under ALERTS."""
    hours = facts.minutes / 60
    low, high = (count / hours for count in count_interval(one.false))
    per_hour = f"{one.false / hours:.0f} ({low:.0f}–{high:.0f})"
    return [short(one.numbers[MATCHED]), short(one.numbers[TIME]), stranger_words(one), per_hour]


def stranger_words(one: Measures) -> str:
    """How many passes of strangers had a name, and what share that may be.

    >>> stranger_words(Measures({}, {}, 1, 56, 2, 0.5))
    '1 of 56 (0.0–9.6 %)'
    """
    if not one.strangers:
        return "–"
    low, high = share_interval(one.named, one.strangers)
    return f"{one.named} of {one.strangers} ({100 * low:.1f}–{100 * high:.1f} %)"


def difference(first: Measures, other: Measures, key: str) -> Number:
    """The other's number less the first's, of the same resamples; no interval without draws."""
    a, b = first.numbers[key].value, other.numbers[key].value
    value = float("nan") if a is None or b is None else b - a
    if key not in first.draws:
        return measured(value, unit="points")
    return measured(value, other.draws[key] - first.draws[key], unit="points")


def gap_words(first: Measures, other: Measures, key: str) -> str:
    """A difference in points with its interval, bold where that leaves zero out."""
    gap = difference(first, other, key)
    if gap.value is None:
        return "–"
    text = f"{100 * gap.value:+.0f}"
    if gap.low is None or gap.high is None:
        return text
    text += f" ({100 * gap.low:+.0f} to {100 * gap.high:+.0f})"
    return f"**{text}**" if gap.low * gap.high > 0 else text
