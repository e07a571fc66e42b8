"""The page that `facestream bench ida` writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .. import __version__
from .bench_accuracy_page import markdown
from .bench_degraded import LONDON, MOST_OTHERS, WILD
from .bench_ida import COHORT, COLUMNS, COSINE, Measured, PackNumbers, Task
from .report_record import Number
from .revision import revision

if TYPE_CHECKING:
    from .eval_verification import Bootstrap

NAMES = dict(zip(COLUMNS, ("Rank 1", "TPIR@FPIR 10 %", "TPIR@FPIR 1 %"), strict=True))
SPOKEN = {
    "k": "Neighbours of a support set, k",
    "tau": "The factor of the cosines, tau",
    "anchors, number": "Number of anchors (drawn from the pack's)",
    "anchors, kind": "Kind of anchors",
}


def write_page(numbers: Mapping[str, PackNumbers], command: str, bootstrap: Bootstrap) -> str:
    """The whole page in Markdown; numbers by pack."""
    parts = [heading(command, bootstrap)]
    for pack, found in numbers.items():
        parts += [f"## Pack `{pack}`", ""]
        for task in found.tasks:
            parts += [f"### `{pack}`: {task.name}", "", task_words(task), ""]
            parts += [*variant_table("Score", found.methods[task.name]), ""]
        if found.agreement is not None:
            told = ", ".join(f"{name} {100 * x:.0f} %" for name, x in found.agreement.items())
            parts += [
                f"Of the variance of r among these faces IDA-L explains: {told}.",
                "",
            ]
        for name, curves in found.curves.items():
            parts += [f"### `{pack}`: curves on {name}", ""]
            for part, variants in curves.items():
                parts += [*variant_table(SPOKEN[part], variants), ""]
    return "\n".join(parts)


def heading(command: str, bootstrap: Bootstrap) -> str:
    """What was measured, and how."""
    resamples, seed = bootstrap
    return f"""# IDA: scores aligned by density

Written by

    {command}

on {datetime.now(UTC):%Y-%m-%d}, facestream {__version__}, revision {revision()}.

Open-set search of single faces. Every second person is enrolled while the others are strangers,
then the other way round; numbers are the mean of both. In brackets the 95 % bootstrap interval
over people ({resamples} resamples, seed {seed}), in %. *Against cosine* is the paired difference in
percentage points: **bold** where its interval leaves out 0. Faces that the pack's detector does not
find, or that the pack abstains from, are left out: no score could help them.

- **London**: the split's role subject (Face Research Lab London Set, CC BY 4.0): the neutral photo
  is enrolled, the smiling one is searched, as taken and in {LONDON.runs * LONDON.frames} degraded
  views.
- **wild**, research only: CelebA's in-the-wild part, ten pictures of each person: two are enrolled
  as one template, eight are searched, as they are and in {WILD.runs * WILD.frames} degraded views.
  Its terms allow no other use, and no picture is shown. Nothing trained or fitted here saw these
  people; what the published embedders saw is not documented. Some people are in CelebA under two
  numbers: such a stranger scores like a mate, so TPIR@FPIR 1 % has wide intervals there.
- *others*, research only: half of {MOST_OTHERS:,} further people of CelebA, enrolled with one
  small picture each and never searched; the other half are the *real anchors*.

Variants: *IDA-R* measures density with anchors: synthetic ones are the pack's own (SFHQ faces of
the split's role anchor). *IDA-L* predicts it by the network that ships beside the card
(`facestream train ida`). CSLS has the anchors as cohort with the same k, AS-norm the {COHORT}
highest of them. Class weights, the third kind of anchors in the paper, belong to a classification
layer; none is published with these packs' embedders.
"""


def task_words(task: Task) -> str:
    """What a table is about."""
    return (
        f"{len(task.probes):,} searches; {100 * task.missed:.0f} % of the views are left out. "
        f"{len(task.people)} people, half of them enrolled at a time"
        + (f", and {len(task.others):,} others." if len(task.others) else ".")
    )


def variant_table(words: str, variants: Mapping[str, Measured]) -> list[str]:
    """One row for each variant; words: the heading of their names."""
    head = [words]
    for name in NAMES.values():
        head += [name, "against cosine"]
    return markdown(head, [_row(name, one, variants[COSINE]) for name, one in variants.items()])


def _row(name: str, one: Measured, base: Measured) -> list[str]:
    cells = [name]
    differences = one.against(base)
    for column in NAMES:
        cells.append(share(one.numbers[column]))
        cells.append("" if one is base else points(differences[column]))
    return cells


def share(number: Number) -> str:
    """A share in %.

    >>> share(Number(0.873, low=0.80, high=0.934)), share(Number(None))
    ('87.3 (80.0–93.4)', '–')
    """
    if number.value is None:
        return "–"
    text = f"{100 * number.value:.1f}"
    if number.low is not None and number.high is not None:
        text += f" ({100 * number.low:.1f}–{100 * number.high:.1f})"
    return text


def points(number: Number) -> str:
    """A difference in percentage points, bold where its interval leaves out 0.

    >>> points(Number(0.02, "points", 0.01, 0.03)), points(Number(-0.02, "points", -0.03, 0.01))
    ('**+2.0** (+1.0 to +3.0)', '-2.0 (-3.0 to +1.0)')
    """
    if number.value is None:
        return "–"
    text = f"{100 * number.value:+.1f}"
    if number.low is None or number.high is None:
        return text
    if number.low > 0 or number.high < 0:
        text = f"**{text}**"
    return f"{text} ({100 * number.low:+.1f} to {100 * number.high:+.1f})"
