"""Faces for the page of `facestream evaluate ijb`: the probes whose search tells most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..models.identification import ProbeRanks
from ..models.pooling import Templates
from ..models.scores import Labels
from .eval_crops import face_pictures
from .eval_ijb_set import IjbSet
from .eval_options import Source
from .report_record import Example

MOST = 6
"""Probes of each group."""
WRONG = "Probes beside whom they are most like: wrong, highest scores"
STRANGERS = "Probes beside whom they are most like: not in the gallery, highest scores"
RIGHT = "Probes beside whom they are most like: right, lowest scores"


class Telling(NamedTuple):
    """A probe and the template of a gallery that it is most like, by their numbers."""

    score: float
    gallery: str
    probe: int
    template: int


def telling_probes(
    probes: Templates,
    subjects: Labels,
    galleries: Sequence[tuple[str, Templates, Labels]],
    ranks: Sequence[ProbeRanks],
) -> list[tuple[str, list[Telling]]]:
    """Groups of probes, by score. galleries: name, templates and their subjects; ranks: in each.

    Probes without a face are left out, and groups without a probe.
    """
    groups: dict[str, list[Telling]] = {WRONG: [], STRANGERS: [], RIGHT: []}
    for (name, templates, owners), one in zip(galleries, ranks, strict=True):
        for title, scores, chosen in (
            (WRONG, -one.others, one.ranks > 1),
            (STRANGERS, -one.others, one.ranks == 0),
            (RIGHT, one.mates, one.ranks == 1),
        ):
            places = np.flatnonzero(chosen & ~probes.missing)
            for place in places[np.argsort(scores[places], kind="stable")][:MOST]:
                cosines = templates.vectors @ probes.vectors[place]
                cosines[(owners == subjects[place]) != (title == RIGHT)] = -np.inf
                best = int(cosines.argmax())
                groups[title].append(
                    Telling(
                        float(cosines[best]), name, int(probes.ids[place]), int(templates.ids[best])
                    )
                )
    ordered = {
        title: sorted(some, key=lambda one: one.score, reverse=title != RIGHT)[:MOST]
        for title, some in groups.items()
    }
    return [(title, some) for title, some in ordered.items() if some]


def probe_examples(
    groups: Sequence[tuple[str, list[Telling]]], chosen: IjbSet, source: Source
) -> list[Example]:
    """Each of these probes beside that template: the first face of either that was embedded."""
    ids = {one for _, some in groups for each in some for one in (each.probe, each.template)}
    rows = {one: row for one in sorted(ids) if (row := _first_face(chosen, one)) is not None}
    shown = face_pictures(chosen.faces, sorted(set(rows.values())), source.pack, source.backend)
    return [
        Example(
            title,
            f"score {one.score:.3f}; template {one.probe}, and {one.template} of {one.gallery}",
            [shown[rows[n]] for n in (one.probe, one.template) if rows.get(n) in shown],
        )
        for title, some in groups
        for one in some
    ]


def _first_face(chosen: IjbSet, template: int) -> int | None:
    """The store's row of a template's first face, if it has one."""
    rows = chosen.rows[chosen.media.templates == template]
    usable = rows[chosen.store.embedded[rows]]
    return int(usable[0]) if len(usable) else None
