"""The sections of the page that `facestream bench accuracy` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .bench_accuracy_stills import ENROLLED, PICTURES, SETS, SIZES, StillNumbers
from .bench_accuracy_videos import ALL, Variant, VideoNumbers
from .eval_tracks import TrackingScores
from .report_record import Number

if TYPE_CHECKING:
    from .eval_verification import Bootstrap

SEARCHES = (
    ("Rank 1", "Identification / per video / rank 1"),
    ("TPIR@FPIR 10 %", "Identification / per video / TPIR@FPIR=1e-1"),
    ("TPIR@FPIR 1 %", "Identification / per video / TPIR@FPIR=1e-2"),
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


def name_columns(columns: Sequence[tuple[str, str]], strangers: int) -> list[tuple[str, str]]:
    """The columns, TPIR@FPIR 1 % called what it is where strangers are few.

    >>> name_columns([("TPIR@FPIR 1 %", "key")], 99), name_columns([("TPIR@FPIR 1 %", "key")], 100)
    ([('TPIR, no false positive', 'key')], [('TPIR@FPIR 1 %', 'key')])
    """
    few = few_strangers(strangers)
    return [(_SPOKEN if few and name.endswith(" 1 %") else name, key) for name, key in columns]


def fold(heading: str) -> str:
    """A heading on lines that are not wider than the numbers below it."""
    return heading.replace("TPIR@FPIR ", "TPIR@FPIR<br>").replace("no false", "no<br>false")


def few_strangers(strangers: int) -> bool:
    """Whether one false positive is more than 1 % of these searches."""
    return strangers < _ENOUGH


def tracking_section(
    videos: VideoNumbers,
    trackers: Mapping[tuple[str, str], Mapping[str, TrackingScores]] | None,
) -> str:
    """What the detectors find, and how trackers follow it."""
    presets = [group for group in videos.facts if group != ALL]
    packs = list(videos.defaults)
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


def stills_section(
    stills: StillNumbers | None, defaults: Mapping[str, Variant], bootstrap: Bootstrap
) -> str:
    """A table for each pack, its default first, or where such pictures come from."""
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
    halves = [stills.probes[size] // 2 for size in SIZES]
    counts = ", ".join(f"{half} of {size}" for half, size in zip(halves, SIZES, strict=True))
    lines += [
        f"Searches of people enrolled, and as many of strangers, in turn: {counts} pictures. "
        f"TPIR in %, end to end; {bootstrap.resamples} resamples.",
        "",
    ]
    names = [(size, name) for size in SIZES for name, _ in STILLS[1:]]
    head = ["Fusion, score", *(fold(f"Sets of {size}:<br>{name}") for size, name in names)]
    for pack in stills.found:
        rows = []
        for variant in stills.variants(pack):
            name = f"{variant.aggregator}, {variant.matcher}"
            cells = [
                short(stills.numbers[size, variant, False][key])
                for size in SIZES
                for _, key in STILLS[1:]
            ]
            rows.append([f"**{name} (default)**" if variant == defaults[pack] else name, *cells])
        lines += [f"### Real: {pack}", "", *markdown(head, rows), ""]
        own = [stills.numbers[size, defaults[pack], True][STILLS[1][1]] for size in SIZES]
        lines += [
            "With the landmarks of the annotation in place of our detector's the default has "
            f"TPIR@FPIR 10 % {', '.join(map(short, own))} %.",
            "",
        ]
    return "\n".join(lines)


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


def short(number: Number, interval: bool = True) -> str:
    """A number with its interval, in a few characters; the unit is in the heading.

    >>> short(Number(0.873, low=0.80, high=0.934)), short(Number(1.62, "seconds"))
    ('87 (80–93)', '1.6')
    """
    if number.value is None:
        return "–"
    scale, places = {"share": (100, 0), "count": (1, 0), "seconds": (1, 1)}.get(number.unit, (1, 2))
    text = f"{scale * number.value:.{places}f}"
    if interval and number.low is not None and number.high is not None:
        text += f" ({scale * number.low:.{places}f}–{scale * number.high:.{places}f})"
    return text


def _tracking_words(scores: TrackingScores) -> str:
    return f"{100 * scores.hota:.1f} / {100 * scores.idf1:.1f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
