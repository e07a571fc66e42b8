"""The page that `facestream bench enroll` writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import numpy as np

from .. import __version__
from ..stream.enrol_admit import CHANCE
from .bench_accuracy_page import markdown
from .enroll_bench import FALSE_MATCHES, Doubles, Fused, Measured
from .revision import revision

BASE = "quality"
"""How a gallery fuses photos."""


def write_page(found: Mapping[str, Measured], what: str, options: str, photos: int) -> str:
    """The page in Markdown. what: the photos in words; photos: how many are in the gallery."""
    packs = " ".join(f"--pack {name}" for name in found)
    parts = [
        f"""# Enrolment

Written by

    facestream bench enroll PEOPLE {packs} {options}

on {datetime.now(UTC):%Y-%m-%d}, facestream {__version__}, revision {revision()}, with {what}.

**Look-alikes**: {photos} photos of everybody are the gallery. Somebody new has other photos: of a
person who is there under another name (*found*: they look like that person) or of one who is not
(*refused*: they look like somebody else). The line is meant to refuse {CHANCE:.0%} of those who are
not there. **Fusing**: {photos} photos of everybody are fused; their other photos are compared with
all templates. *Nearest*: share whose nearest template is their person's. *Verified*: share that
reach the cosine which {FALSE_MATCHES:.1%} of comparisons of different people reach. Numbers are
percentages, means over random choices of the photos with the standard deviation of the choices;
differences are from `{BASE}`, of the same choices. **Speed**: of one enrolment into a new gallery,
and the share of its time that the networks took; whatever else the machine did is in it."""
    ]
    for name, one in found.items():
        speed = one.speed
        parts += [
            f"## Pack `{name}`",
            f"{one.faces} photos of {one.people} people.",
            "\n".join(
                markdown(
                    ["Photos of somebody new", "Found", "Refused"],
                    [[str(a.photos), spread(a.found), spread(a.refused)] for a in one.alike],
                )
            ),
            "\n".join(
                markdown(
                    ["Fused by", "Nearest", "Difference", "Verified", "Difference"],
                    [row(key, fused, one.fused[BASE]) for key, fused in one.fused.items()],
                )
            ),
            f"Speed: {speed.photos} photos in {speed.seconds:.1f} s, "
            f"{speed.photos / speed.seconds:.1f} a second; {speed.networks / speed.seconds:.0%} of "
            "the time in the networks.",
        ]
    return "\n\n".join(parts) + "\n"


def row(name: str, one: Fused, base: Fused) -> list[str]:
    """One way to fuse against the gallery's."""
    cells = [f"`{name}`"]
    for values, others in zip(one, base, strict=True):
        cells += [spread(values), "" if name == BASE else spread(values - others, sign=True)]
    return cells


def spread(values: Doubles, *, sign: bool = False) -> str:
    """Mean and standard deviation, in percent.

    >>> spread(np.array([0.9, 0.92])), spread(np.array([0.01, 0.03]), sign=True)
    ('91.0 ± 1.4', '+2.0 ± 1.4')
    """
    form = "+.1f" if sign else ".1f"
    return f"{100 * values.mean():{form}} ± {100 * values.std(ddof=1):.1f}"


def to_json(found: Mapping[str, Measured]) -> bytes:
    """The same numbers for programs."""

    def plain(value: object) -> object:
        if isinstance(value, np.ndarray):
            return value.tolist()
        raise NotImplementedError

    report = {
        name: one._asdict()
        | {"speed": one.speed._asdict(), "alike": [each._asdict() for each in one.alike]}
        | {"fused": {key: fused._asdict() for key, fused in one.fused.items()}}
        for name, one in found.items()
    }
    return msgspec.json.encode(report, enc_hook=plain)
