"""The page that `facestream bench thresholds` writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from .. import __version__
from ..models.scores import Interval
from .bench_accuracy_page import markdown
from .bench_thresholds import SIZE, TARGETS, Class, PackNumbers, Promise, Way
from .bench_thresholds_held import (
    DRAWS,
    LONDON,
    OTHER_PEOPLE,
    RESAMPLES,
    VIDEO,
    WEB,
    WILD_PICTURES,
)
from .bench_thresholds_video import PRESETS
from .revision import revision


def write_page(numbers: Mapping[str, PackNumbers], command: str) -> str:
    """The whole page in Markdown; numbers by pack."""
    parts = [heading(command)]
    for pack, found in numbers.items():
        parts += [f"## Pack `{pack}`", "", f"Strangers: {found.sizes}.", ""]
        parts += [f"### `{pack}`: promised and found", "", count_words(found.promises), ""]
        parts += [*promise_table(found.promises), ""]
        parts += [f"### `{pack}`: by aggregator and first decision", "", WAYS, ""]
        parts += [*way_table(found.ways), ""]
        parts += [f"### `{pack}`: who is named", "", NAMED, ""]
        parts += [
            *markdown(
                ["Tracks", "Score", "Enrolled", "Threshold", "", "TPIR", "FPIR found"],
                [
                    [
                        row.tracks,
                        row.score,
                        f"{row.people:,}",
                        row.rule,
                        f"{row.threshold:.3f}",
                        spread(row.tpir, row.tpir_interval),
                        share(row.fpir),
                    ]
                    for row in found.named
                ],
            ),
            "",
        ]
        parts += [f"### `{pack}`: scaled to another size", "", SCALED, ""]
        parts += [
            *markdown(
                ["Fitted at", "Scaled to", "Threshold, scaled", "fitted there", "FPIR found"],
                [
                    [
                        f"{row.start:,}",
                        f"{row.people:,}",
                        f"{row.scaled:.3f}",
                        f"{row.fitted:.3f}",
                        share(row.found),
                    ]
                    for row in found.scaled
                ],
            ),
            "",
        ]
        parts += [f"### `{pack}`: by evidence", "", EVIDENCE, ""]
        parts += [*evidence_table(found.evidence), ""]
        parts += [f"### `{pack}`: moved by what was seen", "", MOVED, ""]
        parts += [
            *markdown(
                ["Missed mates among the seen", "FPIR by the pack's strangers", "moved"],
                [[share(r.missed), share(r.before), share(r.after)] for r in found.moved],
            ),
            "",
        ]
    return "\n".join(parts)


WAYS = f"""By cosine in {DRAWS} galleries of {SIZE}: runs that fuse by each of the pack's
aggregators and decide from 3 faces on, or from the first. Each is fitted to strangers who were
fused and decided as it does. Found of {LONDON} / {VIDEO} / {WEB}."""
NAMED = f"""Tracks of the London subjects' smiling photos, as {LONDON} and as {VIDEO}; half of them
enrolled by their neutral photo, then the other half, alone and among *others*. TPIR: share of
mates' tracks that are named rightly by one of their decisions. FPIR: share of the other half's
tracks that are named at all: about 25 people at a time, so one look-alike is 4 %."""
SCALED = """A threshold for FPIR 1 %, by cosine, from a fit at another size, as if people were
independent tries (F^G): what holds for the seconds until a changed gallery is fitted itself. The
last set of strangers above is counted; galleries of 10,000 are made of numbers in part."""
EVIDENCE = f"""Single decisions, by cosine, at the threshold for FPIR 5 % of a gallery of {SIZE}, of
runs that decide from the first face on, by aggregator. Were these shares far apart, thresholds
would have to depend on frames and quality."""
MOVED = """Every second stranger of the last set is seen first, with mates that were missed among
them, and moves the threshold for FPIR 1 % (cosine); the other strangers are counted."""


def heading(command: str) -> str:
    """What was measured, and how."""
    return f"""# Thresholds: promised and found

Written by

    {command}

on {datetime.now(UTC):%Y-%m-%d}, facestream {__version__}, revision {revision()}.

A threshold is fitted to each gallery from the strangers that the pack carries (the split's role
calibration), as [thresholds.md](../thresholds.md) says, to keep a promised FPIR: the share of
unknown people's tracks that are named by any of their decisions. Then other strangers are decided.

- **{LONDON}**: pseudo-tracks of the split's role subject (Face Research Lab London Set, CC BY 4.0).
- **{VIDEO}**: the same people in simulated video ({", ".join(PRESETS)}), rendered from the smiling
  photo; tracks that the live stages find, with the decisions of a live run.
- **{WEB}**, research only: pseudo-tracks of {WILD_PICTURES} pictures each of people of CelebA's
  in-the-wild part. Some people are in CelebA under two numbers: such a stranger scores like a mate.
- Enrolled are *others*, research only: people of CelebA who are not in wild, one small picture
  each, {OTHER_PEOPLE:,} at the most. {DRAWS} galleries are drawn for each size up to 300.
- Galleries of more than {OTHER_PEOPLE:,} are these and vectors drawn from the normal law with their
  mean and covariance: numbers, not faces. They say how fit and search behave at that size, and no
  more about faces than their mean and covariance do.

Intervals are 95 %: that of a promise by resamples of the people it was fitted to, that of what was
found by resamples of the strangers ({RESAMPLES}). **No** where the two do not meet.
"""


def count_words(promises: list[Promise]) -> str:
    """How many promises hold, and by whom."""
    broken = [one for one in promises if not one.holds]
    words = f"{len(promises) - len(broken)} of {len(promises)} promises hold"
    kinds = []
    for kind in dict.fromkeys(one.strangers for one in promises):
        own = [one for one in promises if one.strangers == kind]
        kinds.append(f"{kind} {sum(one.holds for one in own)} of {len(own)}")
    words += f" ({', '.join(kinds)})"
    if not broken:
        return f"{words}."
    high = sum(one.found > one.promised.high for one in broken)
    return (
        f"{words}; of the others {high} are broken by more false alerts than promised, "
        f"{len(broken) - high} by fewer."
    )


def way_table(ways: list[Way]) -> list[str]:
    """One row for each aggregator and first decision; one group of columns for each target."""
    head = ["Aggregator", "from"]
    for target in TARGETS:
        head += [f"{100 * target:g} %: threshold", "promised", "found", "holds"]
    rows = []
    for way in ways:
        cells = [way.aggregator, f"{way.least}"]
        for target in TARGETS:
            own = [one for one in way.promises if one.target == target]
            cells += [
                f"{own[0].threshold:.3f}",
                f"{share(own[0].promised.low)}–{share(own[0].promised.high)}",
                " / ".join(share(one.found) for one in own),
                " / ".join("yes" if one.holds else "**no**" for one in own),
            ]
        rows.append(cells)
    return markdown(head, rows)


def evidence_table(classes: list[Class]) -> list[str]:
    """One row for each kind of evidence, one column for each aggregator."""
    names = list(classes[0].shares)
    return markdown(
        ["Strangers' decisions", "how many", *names],
        [
            [row.name, f"{row.decisions:,}", *(spread(*row.shares[name]) for name in names)]
            for row in classes
        ],
    )


def promise_table(promises: list[Promise]) -> list[str]:
    """One row for each score, size and set of strangers; one group of columns for each target."""
    targets = list(dict.fromkeys(one.target for one in promises))
    head = ["Score", "Enrolled", "Strangers"]
    for target in targets:
        head += [f"{100 * target:g} %: threshold", "promised", "found", "holds"]
    rows: dict[tuple[str, int, str], list[str]] = {}
    for one in promises:
        cells = rows.setdefault(
            (one.score, one.people, one.strangers), [one.score, f"{one.people:,}", one.strangers]
        )
        cells += [
            f"{one.threshold:.3f}",
            f"{share(one.promised.low)}–{share(one.promised.high)}",
            spread(one.found, one.interval),
            "yes" if one.holds else "**no**",
        ]
    return markdown(head, list(rows.values()))


def share(value: float) -> str:
    """A share in %, to two digits.

    >>> share(0.0123), share(0.00042), share(0.5)
    ('1.2', '0.042', '50')
    """
    return f"{100 * value:.2g}"


def spread(value: float, interval: Interval) -> str:
    """A share in % with its interval.

    >>> spread(0.01, Interval(0.004, 0.02))
    '1 (0.4–2)'
    """
    return f"{share(value)} ({share(interval.low)}–{share(interval.high)})"
