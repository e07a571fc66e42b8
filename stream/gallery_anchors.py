"""Whether anchors fit a gallery: nobody enrolled is among them, and kept densities are theirs."""

from __future__ import annotations

import msgspec
import numpy as np

from ..models.anchor_check import nearest_rows
from ..models.ida import Anchors
from .gallery import Gallery

DENSITY_ERROR = 1e-4
"""Stored densities differ by less than this from those of another machine's arithmetic."""


class AlikePerson(msgspec.Struct, frozen=True):
    """Somebody who looks like an anchor: its row, and the cosine with the person's template."""

    name: str
    anchor: int
    cosine: float


class Verified(msgspec.Struct, frozen=True):
    """What was found.

    people: how many have a template. alike: those who may be among the anchors, whom faces of
    theirs meet there as neighbours. unmeasured: people whose density is not
    kept, which costs time at each start and is not wrong. wrong: people whose density is not what
    these anchors give.
    """

    people: int
    alike: tuple[AlikePerson, ...]
    unmeasured: int
    wrong: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing has to be done."""
        return not (self.alike or self.wrong)


def verify_anchors(
    gallery: Gallery, anchors: Anchors, *, pack: str, embedder: str, bar: float
) -> Verified:
    """Compare a gallery's people and kept densities with anchors.

    bar: the cosine from which a template and an anchor show one person. Raises what
    `Gallery.roster` raises, RecordError where the anchors are of another dimension.
    """
    roster = gallery.roster(pack, embedder, model=anchors)
    if not len(roster.vectors):
        return Verified(0, (), 0, ())
    names = [roster.people[owner].name for owner in roster.owners]
    rows, cosines = nearest_rows(roster.vectors, anchors.vectors)
    found = np.abs(roster.densities - anchors.template_density(roster.vectors))
    return Verified(
        people=len(names),
        alike=tuple(
            AlikePerson(name, int(row), float(cosine))
            for name, row, cosine in zip(names, rows, cosines, strict=True)
            if cosine >= bar
        ),
        unmeasured=int(np.isnan(found).sum()),
        wrong=tuple(names[at] for at in np.flatnonzero(found > DENSITY_ERROR)),
    )
