"""The page that `facestream bench embedder` writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .. import __version__
from .bench_accuracy_page import markdown
from .bench_embedder import FMR, IMPOSTORS, LIMIT, Measured
from .bench_embedder_faces import LEVELS, WILD_PICTURES
from .bench_embedder_measure import (
    AREA_RESAMPLES,
    CHANCE,
    DETECTOR,
    FMRS,
    NORM,
    OCCLUDED,
    Found,
    Magnitude,
    Shown,
)
from .bench_embedder_runs import CQA, DISTIL, MARGIN, PLAIN, PRESETS, TINY, Run
from .bench_ida_page import points, share
from .bench_quality_page import area, difference
from .revision import revision

LOST = 0.05
"""A true accept rate below which a network hardly recognises anybody."""

if TYPE_CHECKING:
    from .eval_verification import Bootstrap


def write_page(found: Found, command: str, bootstrap: Bootstrap) -> str:
    """The whole page in Markdown."""
    parts = [heading(found, command, bootstrap), *training_table(found), ""]
    parts += [_training_words(found.runs[TINY][0]), ""]
    parts += ["## Magnitude and damage", "", _magnitude_words(), "", *order_table(found), ""]
    parts += [magnitude_verdict(found), "", *area_table(found.magnitude), ""]
    parts += ["## Occlusion: CAL and QAN", ""]
    parts += [_occlusion_words(), ""]
    for title, table in found.occlusion.items():
        parts += [f"### {title}", "", *occlusion_table(table), "", effect_words(table), ""]
    parts += ["## Against the packs", "", _against_words(found), ""]
    for title, by_rate in found.against.items():
        parts += [f"### {title}", "", *against_table(by_rate), ""]
    return "\n".join([*parts, verdict(found), ""])


def heading(found: Found, command: str, bootstrap: Bootstrap) -> str:
    """What was trained and measured, and how."""
    run, margin = found.runs[TINY][0], found.runs[MARGIN][0]
    how = run.settings["run"]
    views = run.steps * how["batch"]
    seeds = ", ".join(str(one.seed) for one in found.runs[TINY])
    faces = "; ".join(
        f"{found.pictures[title]:,} pictures of {people} people in {title}"
        for title, people in found.people.items()
    )
    return f"""# An embedder of our own

Written by

    {command}

on {datetime.now(UTC):%Y-%m-%d}, facestream {__version__}, revision {revision()}, from runs of

    facestream train embedder PRESET --seed … --out RUNS/PRESET

Three presets that differ in the head alone, each with the seeds {seeds}: the same batches, views
and number of steps, {run.steps:,} of {how["batch"]} faces: {views:,} views. They are of the size
that one CPU core trains; no GPU was used.

- `{TINY}`: the tiny backbone with its own head, taught by the pack {run.settings["teacher"]} and
  by the MagFace loss, margins {_margins(run)};
- `{CQA}`: with the branches of CQA-Face, CAL and QAN in the place of the head;
- `{PLAIN}`: with the same branches and neither.

And two that say what MagFace does to the norm, with the same seeds, {margin.steps:,} steps each:

- `{MARGIN}`: as `{TINY}`, with margins {_margins(margin)} and the MagFace loss weighed
  {margin.settings["classify"]:g} in place of {run.settings["classify"]:g};
- `{DISTIL}`: the same without it: taught by the pack alone.

{how["optimiser"]} at {how["rate"]:g}, weights of the step with the best agreement on validation
faces. Learned from: the split's synthetic faces of role training and {run.settings["blends"]:,}
blends of two of them; chosen by the synthetic faces of role validation. No real face was learned
from.

Measured on {faces}.
None of them is of role training or validation.

- **London**: the roles subject and calibration (Face Research Lab London Set, CC BY 4.0): the
  neutral photo of each is enrolled, the smiling one is probed.
- **wild**, research only: {WILD_PICTURES} pictures of each person of CelebA's in-the-wild part,
  aligned by the landmarks that come with them; the first is enrolled. For evaluation alone: its
  terms allow no other use, no picture is shown, and nothing was trained or chosen on it. What the
  published embedders saw is not documented.

Numbers are means over seeds, ± the deviation over seeds. In brackets the 95 % bootstrap interval
over people ({bootstrap.resamples} resamples, seed {bootstrap.seed}) of that mean, for these seeds;
differences are paired: the same pairs, seeds and resamples, **bold** where the interval leaves out
0.

## Training
"""


def training_table(found: Found) -> list[str]:
    """How the runs went: losses at the beginning and the end, and what validation said."""
    head = ["Preset", "seed", "weights", "distil", "classes", "agreement", "norm", "order"]
    head += ["best step"]
    return markdown(head, [_run_row(run) for runs in found.runs.values() for run in runs])


def _run_row(run: Run) -> list[str]:
    def course(name: str, validated: bool, digits: int = 3) -> str:
        ends = run.at(name, validated=validated)
        return "–" if ends is None else f"{ends[0]:.{digits}f} → {ends[1]:.{digits}f}"

    return [
        run.preset,
        str(run.seed),
        f"{run.parameters:,}",
        course("distil", False),
        course("classes", False, 1),
        course("agreement", True),
        course("magnitude", True, 1),
        course("order", True, 2),
        f"{run.best_step:,}",
    ]


def _margins(run: Run) -> str:
    loss = run.settings["loss"]
    return f"{loss['l_m']:g} to {loss['u_m']:g}"


def _training_words(run: Run) -> str:
    teacher = run.at("teacher_agreement", validated=True)
    assert teacher is not None  # all of these presets have a teacher
    return (
        "*Distil* and *classes*: the terms of the loss, means over the first and the last ten "
        "steps. At the first and the last validation: *agreement*, the mean cosine of degraded "
        "validation faces to what the teacher says of the clean ones (the teacher itself has "
        f"{teacher[1]:.3f}); *norm*, the mean of clean validation faces; *order*, as below, of "
        "the views of validation. MagFace's margin grows with the norm from "
        f"{run.settings['loss']['l_a']:g} on and is constant below."
    )


def _magnitude_words() -> str:
    return (
        "London faces as taken and through cameras of the strengths "
        f"{', '.join(f'{level:g}' for level in LEVELS[1:])}, which resolve "
        f"{112 * 0.1 ** LEVELS[1]:.0f} to {112 * 0.1 ** LEVELS[-1]:.0f} px of an aligned face. "
        "*Within faces*: Spearman's correlation of the norm with what the camera left, of each "
        "face, averaged; *over all*: of all views of all faces together. 1: the norm says it all; "
        "0: nothing.\n\n"
        f"Areas (times 1,000; lower is better) under FNMR at FMR {FMR:g} against the share of "
        f"probes discarded, to {LIMIT:g}: every view of the smiling photos with the neutral photo "
        f"of its person and of {IMPOSTORS} others, by the preset's own scores. A pair's quality is "
        "the smaller of its faces'. *Chance*: discarding at random. Intervals of areas: "
        f"{AREA_RESAMPLES} resamples at most."
    )


def magnitude_verdict(found: Found) -> str:
    """Whether the norm's order is MagFace's doing, by the pair that differs in it alone."""
    margin, distil = (found.magnitude[preset].order.within for preset in (MARGIN, DISTIL))
    less = margin.minus(distil)
    gain = less.number
    words = "no difference is shown"
    if gain.low is not None and gain.low > 0:
        words = "so much of the order is MagFace's doing"
    elif gain.high is not None and gain.high < 0:
        words = "the norm tells more without MagFace"
    by_seed = ", ".join(f"{value:+.3f}" for value in less.seeds)
    return f"`{MARGIN}` less `{DISTIL}`, within faces: {_score(less)}, by seed {by_seed}: {words}."


def order_table(found: Found) -> list[str]:
    """Correlations by preset."""
    head = ["Preset", "within faces", "over all"]
    rows = [
        [preset, *(_score(one) for one in magnitude.order)]
        for preset, magnitude in found.magnitude.items()
    ]
    return markdown(head, rows)


def area_table(magnitude: Mapping[str, Magnitude]) -> list[str]:
    """Areas by source of quality, and the norm's differences to its rivals."""
    head = ["Preset", NORM, DETECTOR, CHANCE, f"{NORM} − {CHANCE}", f"{NORM} − {DETECTOR}"]
    rows = []
    for preset, one in magnitude.items():
        norm = one.areas[NORM]
        cells = [area(one.areas[source].number) for source in (NORM, DETECTOR, CHANCE)]
        against = [difference(norm.minus(one.areas[rival]).number) for rival in (CHANCE, DETECTOR)]
        rows.append([preset, *cells, *against])
    return markdown(head, rows)


def _occlusion_words() -> str:
    return (
        f"TAR in % at FMR {FMR:g}: a share of the area of each probe is covered by one random "
        "colour, by a rectangle that lies anywhere (*block*) or from below (*lower part*); "
        "enrolled pictures are as taken. Up to "
        f"{OCCLUDED} pictures of each person are probed, each with the enrolled picture of its "
        f"person and of {IMPOSTORS} others. The threshold is set anew for each row. *Effect*: "
        f"{CQA} − {PLAIN}, in percentage points: what CAL and QAN do together."
    )


def occlusion_table(table: Mapping[Shown, Mapping[str, Measured]]) -> list[str]:
    """One row for each occlusion: TAR by preset, the effect, and what all of CQA-Face does."""
    head = ["Occluded", *PRESETS, "effect", "effect by seed", f"{CQA} − {TINY}"]
    rows = []
    for shown, of in table.items():
        words = "nothing" if shown is None else f"{shown[0]}, {100 * shown[1]:g} %"
        effect = of[CQA].minus(of[PLAIN])
        seeds = ", ".join(f"{100 * value:+.1f}" for value in effect.seeds)
        cells = [_share(of[preset]) for preset in PRESETS]
        whole = points(of[CQA].minus(of[TINY]).number)
        rows.append([words, *cells, points(effect.number), seeds, whole])
    return markdown(head, rows)


def effect_words(table: Mapping[Shown, Mapping[str, Measured]]) -> str:
    """What the table says of the effect, in words."""
    better = worse = unclear = lost = 0
    for shown, of in table.items():
        number = of[CQA].minus(of[PLAIN]).number
        if shown is None or number.low is None or number.high is None:
            continue
        better, worse = better + (number.low > 0), worse + (number.high < 0)
        unclear += number.low <= 0 <= number.high
        lost += max(of[CQA].seeds.mean(), of[PLAIN].seeds.mean()) < LOST
    return (
        f"Of {better + worse + unclear} occlusions, CAL and QAN together raise TAR in {better} and "
        f"lower it in {worse}; in {unclear} the interval holds 0: no effect is shown there. In "
        f"{lost} neither network accepts {100 * LOST:g} % of the mates, where chance accepts "
        f"{100 * FMR:g} %: training of this length leaves little that an effect could show in."
    )


def _against_words(found: Found) -> str:
    counts = "; ".join(
        f"{title}: {mated:,} pairs of one person and {others:,} of two"
        for title, (mated, others) in found.pairs.items()
    )
    return (
        "TAR in %, faces as taken, each network in its own crop; every picture but the first of "
        f"its person with everybody's first. {counts}. Differences to the pack open in percentage "
        "points."
    )


def against_table(by_rate: Mapping[float, Mapping[str, Measured]]) -> list[str]:
    """One row for each network."""
    head = ["Network"]
    for fmr in FMRS:
        head += [f"TAR at FMR {fmr:g}", "− open"]
    rows = []
    for name in next(iter(by_rate.values())):
        cells = [name]
        for fmr in FMRS:
            of = by_rate[fmr]
            cells += [_share(of[name])]
            cells += ["" if name == "open" else points(of[name].minus(of["open"]).number)]
        rows.append(cells)
    return markdown(head, rows)


def verdict(found: Found) -> str:
    """Whether one of them can become a pack, and why not."""
    fit = [preset for preset in PRESETS if beats_open(found, preset)]
    if fit:
        return (
            f"## Verdict\n\n{', '.join(fit)}: the lower end of every difference to `open` is above "
            "0. Before one becomes a pack, the simulator's TPIR at FPIR 1 % has to say so too."
        )
    run = found.runs[TINY][0]
    views = run.steps * run.settings["run"]["batch"]
    return f"""## Verdict

None of them becomes the pack `facestream`: the lower end of the difference to `open` is not above 0
everywhere, so the simulator was not asked. These are short runs of a small network: {views:,} views
of synthetic people and their blends, on a share of a CPU core; published compact embedders see tens
of millions of pictures of tens of thousands of people. What the recipe reaches at length is not
known from this: its preset for a GPU, `embedder-gpu`, was not run.
Columns in which `open` accepts all mates cannot be won, and do not count."""


def beats_open(found: Found, preset: str) -> bool:
    """Whether the lower end of every difference to open is above 0, where open can be beaten."""
    lows = [
        of[preset].minus(of["open"]).number.low
        for by_rate in found.against.values()
        for of in by_rate.values()
        if of["open"].seeds.mean() < 1
    ]
    return bool(lows) and all(low is not None and low > 0 for low in lows)


def _share(one: Measured) -> str:
    """A share in % with its deviation over seeds."""
    number = one.number
    spread = "" if number.spread is None else f" ± {100 * number.spread:.1f}"
    value, bracket, interval = share(number).partition(" (")
    return f"{value}{spread}{bracket}{interval}"


def _score(one: Measured) -> str:
    """A correlation with its deviation over seeds and its interval."""
    number = one.number
    if number.value is None:
        return "–"
    text = f"{number.value:.3f}"
    if number.spread is not None:
        text += f" ± {number.spread:.3f}"
    if number.low is not None and number.high is not None:
        text += f" ({number.low:.3f} to {number.high:.3f})"
    return text
