"""The sections of the page that `facestream bench accuracy` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .bench_accuracy_stills import ENROLLED, PICTURES, SETS, SIZES, StillNumbers
from .bench_accuracy_videos import ALL, Facts, Variant, VideoNumbers
from .eval_tracks import TrackingScores
from .report_record import Number

if TYPE_CHECKING:
    from .eval_verification import Bootstrap

SEARCHES = (
    ("Rank 1", "Identification / per video / rank 1"),
    ("TPIR@FPIR 10 %", "Identification / per video / TPIR@FPIR=1e-1"),
    ("TPIR@FPIR 1 %", "Identification / per video / TPIR@FPIR=1e-2"),
)
ALERTS = (
    ("Matched, %", "Alerts / threshold in force / matched correctly"),
    ("Time to match, s", "Alerts / threshold in force / time to first correct match"),
    ("False alerts per hour", "Alerts / threshold in force / false alerts per camera-hour"),
)
STILLS = (
    ("Rank 1", "rank 1"),
    ("TPIR@FPIR 10 %", "TPIR@FPIR=1e-1"),
    ("TPIR@FPIR 1 %", "TPIR@FPIR=1e-2"),
)
"""What is told of every variant: heading, and key in the report."""
OURS = "facestream"
_ENOUGH = 100
"""Searches of strangers from which on one false positive is 1 % or less."""
_SPOKEN = "TPIR, no false positive"

Find = Callable[[Variant, bool], Mapping[str, Number]]


def summary_section(videos: VideoNumbers, stills: StillNumbers | None) -> str:
    """The best variants, and what end to end costs them, read off the tables below."""
    whole = ALL if ALL in videos.facts else next(iter(videos.facts))
    lines = ["## In short", ""]
    columns = name_columns(SEARCHES, videos.facts[whole].strangers)
    for given, words in ((False, "end to end"), (True, "given boxes")):
        rows = {one: videos.numbers[whole, one, given] for one in videos.variants}
        best = pick_best(rows, columns)
        told = ", ".join(f"{name} {short(rows[best][key])}" for name, key in columns)
        lines.append(f"- **Simulated**, {whole}, {words}: best is {name_variant(best)}: {told}.")
        if not given:
            key = columns[0][1]
            falls = [
                f"{group} {short(videos.numbers[group, best, True][key]).partition(' ')[0]} to "
                f"{short(videos.numbers[group, best, False][key]).partition(' ')[0]}"
                for group in videos.facts
                if group != ALL
            ]
            lines.append(f"  Its rank 1 from given boxes to end to end: {', '.join(falls)}.")
    for size in SIZES if stills is not None else ():
        assert stills is not None
        rows = {one: stills.numbers[size, one, False] for one in stills.variants}
        best = pick_best(rows, STILLS)
        named = name_columns(STILLS, stills.probes[size] // 2)
        told = ", ".join(f"{name} {short(rows[best][key])}" for name, key in named)
        lines.append(
            f"- **Real, research only**, sets of {size}, end to end: best is "
            f"{name_variant(best)}: {told}."
        )
    few = ", ".join(group for group, facts in videos.facts.items() if facts.strangers < _ENOUGH)
    lines += [
        "",
        "Best: the highest TPIR@FPIR 1 %, of several TPIR@FPIR 10 %, then rank 1. Whether a "
        "runner-up is really worse, the intervals tell.",
    ]
    if few:
        lines[-1] += f" Simulated sets with fewer than {_ENOUGH} searches of strangers: {few}."
    return "\n".join([*lines, ""])


def pick_best(
    rows: Mapping[Variant, Mapping[str, Number]], columns: Sequence[tuple[str, str]]
) -> Variant:
    """The variant with the highest number in the last column, of several in the one before."""
    return max(rows, key=lambda one: [_merit(rows[one][key])[0] for _, key in columns[::-1]])


def name_variant(variant: Variant) -> str:
    """In words: pack, fusion and score."""
    return f"`{variant.pack}`, {variant.aggregator}, {variant.matcher}"


def video_section(videos: VideoNumbers, bootstrap: Bootstrap) -> str:
    """All presets together, then each of them."""
    refused = f"; {videos.refused} photos were refused" if videos.refused else ""
    lines = [
        "## Simulated video",
        "",
        "Rendered by [`facestream simulate`](../simulate.md), which tells how near it comes to "
        "real clips; pictures per second as in the command, all else as the presets say. The "
        f"gallery has {videos.enrolled} people with one photo each{refused}; strangers walk among "
        "them. Rank 1 and TPIR are per video: one person in one video is one search. Matched, time "
        "and false alerts are of the events that a run publishes, at the pack's own threshold; "
        "time is the median from the first face that had to be found to the first correct match. "
        f"{bootstrap.resamples} resamples.",
        "",
    ]
    groups = sorted(videos.facts, key=lambda group: group != ALL)
    for group in groups:
        lines += [f"### Simulated: {group}", "", facts_words(videos.facts[group]), ""]

        def find(variant: Variant, given: bool, group: str = group) -> Mapping[str, Number]:
            return videos.numbers[group, variant, given]

        columns = name_columns(SEARCHES, videos.facts[group].strangers)
        lines += [*variant_table(videos.variants, columns, find), ""]
        lines += [*variant_table(videos.variants, ALERTS, find), ""]
    return "\n".join(lines)


def facts_words(facts: Facts) -> str:
    """What a table is about.

    >>> facts_words(Facts(5, 1.66, 30, 28, 15, 15)).partition("; ")[2]
    '30 searches of 28 people in the gallery, 15 of 15 strangers.'
    """
    return (
        f"**Simulated**: {facts.videos} videos, {facts.minutes:.1f} minutes; {facts.known} searches"
        f" of {facts.known_people} people in the gallery, {facts.strangers} of "
        f"{facts.strange_people} strangers."
    )


def name_columns(columns: Sequence[tuple[str, str]], strangers: int) -> list[tuple[str, str]]:
    """The columns, TPIR@FPIR 1 % called what it is where strangers are few.

    >>> name_columns([("TPIR@FPIR 1 %", "key")], 99), name_columns([("TPIR@FPIR 1 %", "key")], 100)
    ([('TPIR, no false positive', 'key')], [('TPIR@FPIR 1 %', 'key')])
    """
    few = strangers < _ENOUGH
    return [(_SPOKEN if few and name.endswith(" 1 %") else name, key) for name, key in columns]


def tracking_section(
    videos: VideoNumbers,
    trackers: Mapping[tuple[str, str], Mapping[str, TrackingScores]] | None,
) -> str:
    """What the detectors find, and how trackers follow it."""
    presets = [group for group in videos.facts if group != ALL]
    packs = list(dict.fromkeys(variant.pack for variant in videos.variants))
    found = [
        [group]
        + [
            short(number)
            for pack in packs
            for number in (videos.found[group, pack].recall, videos.found[group, pack].false)
        ]
        for group in videos.facts
    ]
    kinds = ("recall, %", "false positives<br>per frame")
    rows = []
    for pack in packs:
        scores = {
            preset: trackers[preset, pack]
            if trackers is not None
            else {OURS: videos.found[preset, pack].tracking}
            for preset in presets
        }
        cells = [
            embolden([(_tracking_words(one), (one.hota, one.idf1)) for one in scores[p].values()])
            for p in presets
        ]
        names = list(scores[presets[0]])
        rows += [
            [pack, name, *line] for name, line in zip(names, zip(*cells, strict=True), strict=True)
        ]
    absent = [
        "",
        "ByteTrack and OC-SORT are not in this table, since their library was not installed: "
        "`pip install --no-deps trackers supervision`, in an environment of its own, with what "
        "they ask for besides OpenCV.",
    ]
    return "\n".join(
        [
            "## Simulated: detection and tracking",
            "",
            "**Simulated**, the same videos. Faces lower than 14 px or seen to less than 25 % need "
            "not be found; in brackets the interval over videos.",
            "",
            *markdown(["Preset", *(f"{pack}: {kind}" for pack in packs for kind in kinds)], found),
            "",
            "**Simulated**: HOTA / IDF1 in %, of all trackers on the same detections. *Set as "
            "ours*: with our thresholds and waiting time in place of the library's own.",
            "",
            *markdown(["Pack", "Tracker", *presets], rows),
            *(absent if trackers is None else []),
            "",
        ]
    )


def stills_section(stills: StillNumbers | None, bootstrap: Bootstrap) -> str:
    """One table for each size of sets, or where such pictures come from."""
    lines = ["## Real stills, research only", ""]
    if stills is None:
        lines += [
            "Not measured: the assets hold no celeba/ folder (CelebA's in-the-wild pictures with "
            "celeba/wild.csv: image, identity and five landmarks).",
            "",
        ]
        return "\n".join(lines)
    shares = ", ".join(f"{100 * share:.1f} % with {pack}" for pack, share in stills.found.items())
    lines += [
        f"**Real, research only**: {stills.pictures:,} pictures of {stills.people} people of "
        f"CelebA's in-the-wild part, {PICTURES} each; its terms allow no other use, and no "
        f"picture is shown here. Stills, not video: {ENROLLED} pictures of each are enrolled, as "
        f"one fused template, and up to {SETS} disjoint sets of the others are searched. Half of "
        "the people are enrolled while the others are strangers, then the other way round; numbers "
        "are the mean of both. The packs' embedders were trained on faces of celebrities or on "
        "data that nobody documents, so some of these people may have been seen in training: "
        "compare rows, do not quote them as accuracy on people never seen. Some people are in "
        "CelebA under two numbers: such a stranger scores like a mate, and where one stranger is "
        "1 % it decides TPIR@FPIR 1 %, whose intervals reach far down therefore.",
        "",
        f"*Ours*: our detector finds the face, in {shares} of the pictures; of several, the one "
        "nearest to the middle is taken. A set or an enrolment without any face is a miss.",
        "",
    ]
    for size in SIZES:
        half = stills.probes[size] // 2

        def find(variant: Variant, given: bool, size: int = size) -> Mapping[str, Number]:
            return stills.numbers[size, variant, given]

        pictures = "1 picture" if size == 1 else f"{size} pictures"
        lines += [
            f"### Real: sets of {pictures}",
            "",
            f"**Real, research only**: {stills.probes[size]:,} sets, in turn about {half} of "
            f"people enrolled and {half} of strangers. {bootstrap.resamples} resamples.",
            "",
            *variant_table(stills.variants, name_columns(STILLS, half), find),
            "",
        ]
    return "\n".join(lines)


def variant_table(
    variants: Sequence[Variant], columns: Sequence[tuple[str, str]], find: Find
) -> list[str]:
    """A row for each variant, every number with given boxes and end to end side by side."""
    head = ["Pack, fusion, score"]
    cells: list[list[str]] = []
    for name, key in columns:
        for given in (True, False):
            head.append(f"{_folded(name)}<br>{'given' if given else 'ours'}")
            numbers = [find(variant, given)[key] for variant in variants]
            cells.append(embolden([(short(one), _merit(one)) for one in numbers]))
    rows = [
        [", ".join(variant), *line]
        for variant, line in zip(variants, zip(*cells, strict=True), strict=True)
    ]
    return markdown(head, rows)


def embolden(cells: Sequence[tuple[str, Sequence[float]]]) -> list[str]:
    """Cells in words, the best parts bold: as they are written, unless all are the same.

    cells: parts joined by " / ", each part "VALUE" or "VALUE (LOW–HIGH)", and the merit of each.

    >>> embolden([("90 (80–95)", [0.9]), ("85 (70–92)", [0.85]), ("90 (81–96)", [0.901])])
    ['**90** (80–95)', '85 (70–92)', '**90** (81–96)']
    """
    parts = [text.split(" / ") for text, _ in cells]
    for place in range(len(parts[0])):
        values = [line[place].split(" ")[0] for line in parts]
        best = values[max(range(len(cells)), key=lambda row: cells[row][1][place])]
        if len(set(values)) == 1:
            continue
        for line, value in zip(parts, values, strict=True):
            if value == best:
                line[place] = line[place].replace(value, f"**{value}**", 1)
    return [" / ".join(line) for line in parts]


def short(number: Number) -> str:
    """A number with its interval, in a few characters; the unit is in the heading.

    >>> short(Number(0.873, low=0.80, high=0.934)), short(Number(1.62, "seconds"))
    ('87 (80–93)', '1.6')
    """
    if number.value is None:
        return "–"
    scale, places = {"share": (100, 0), "count": (1, 0), "seconds": (1, 1)}.get(number.unit, (1, 2))
    text = f"{scale * number.value:.{places}f}"
    if number.low is not None and number.high is not None:
        text += f" ({scale * number.low:.{places}f}–{scale * number.high:.{places}f})"
    return text


def _folded(heading: str) -> str:
    """A heading on lines that are not wider than the numbers below it."""
    for words in ("TPIR@FPIR ", "TPIR, no ", "Matched, ", "Time to ", "False alerts "):
        heading = heading.replace(words, f"{words.rstrip()}<br>")
    return heading


def _merit(number: Number) -> list[float]:
    if number.value is None:
        return [float("-inf")]
    return [-number.value if number.better == "lower" else number.value]


def _tracking_words(scores: TrackingScores) -> str:
    return f"{100 * scores.hota:.1f} / {100 * scores.idf1:.1f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
