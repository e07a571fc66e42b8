"""Finding faces among sightings, and strangers who recur: what commands and a console do.

`SightingSearch` joins the store with one pack's way to compare faces. Only templates of the same
pack and embedder file compare; what was left out is counted. `sighting_naming` gives names.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
import numpy as np

from .. import SightingsError
from ..models.card import Card
from ..models.fusion import Floats
from ..models.ida import DensityModel
from ..models.search import SearchIndex
from .sighting_cluster import (
    Apart,
    assignment_of,
    at_once,
    check_count,
    find_strangers,
    group_pairs,
    score_pairs,
)
from .sighting_records import (
    Found,
    SightingFilter,
    SightingHit,
    Stranger,
    Templates,
)
from .sighting_store import EVERYTHING, Sightings


class Yardstick(NamedTuple):
    """How faces of one pack compare. threshold: the score from which on two are one person's."""

    card: Card
    model: DensityModel | None
    by: Literal["ida", "cosine"]
    threshold: float

    @property
    def pack(self) -> str:
        """Name of the pack."""
        return self.card.name

    @property
    def embedder(self) -> str:
        """SHA-256 of its embedder's file."""
        return self.card.checksum(self.card.embedder.file)

    @property
    def density(self) -> DensityModel | None:
        """Whose densities the score needs; None for plain cosines."""
        return self.model if self.by == "ida" else None


class SightingSearch:
    """Finds faces among sightings. Raises what store and gallery raise."""

    def __init__(self, store: Sightings, yardstick: Yardstick) -> None:
        """The store stays yours."""
        self._store = store
        self._yardstick = yardstick

    def like(
        self,
        face: Floats,
        top: int = 10,
        wanted: SightingFilter = EVERYTHING,
        *,
        leave_out: str = "",
    ) -> Found:
        """The sightings that look most like a face: a unit embedding (C,) float32 of this pack.

        wanted: among which to look. leave_out: the id of a sighting that is not meant.
        """
        known = self._templates(wanted)
        places = [at for at, one in enumerate(known.sightings) if one.id != leave_out]
        hits: tuple[SightingHit, ...] = ()
        if places:
            vectors = known.vectors[places]
            index = SearchIndex(vectors, np.arange(len(places)), anchors=self._yardstick.density)
            (found,) = index.search(face[None], min(top, len(places)), by=self._yardstick.by)
            hits = tuple(
                SightingHit(
                    sighting=known.sightings[places[hit.identity]],
                    score=hit.score,
                    cosine=hit.cosine,
                )
                for hit in found
            )
        return Found(
            hits=hits,
            searched=len(places),
            other_models=known.other,
            without_template=self._store.count(wanted) - known.other - len(known.sightings),
            threshold=self._yardstick.threshold,
        )

    def like_sighting(self, key: str, top: int = 10, wanted: SightingFilter = EVERYTHING) -> Found:
        """Where else the face of a sighting was seen. Raises UnknownSighting, SightingsError."""
        one = self._store.find(key)
        known = self._templates(EVERYTHING)
        places = [at for at, other in enumerate(known.sightings) if other.id == one.id]
        if not places:
            yard = self._yardstick
            other = f"was made by pack {one.pack} and another embedder than that of {yard.pack}"
            why = other if one.template else "is not kept (see sightings.templates)"
            raise SightingsError(f"the template of sighting {one.id[:8]} {why}")
        return self.like(known.vectors[places[0]], top, wanted, leave_out=one.id)

    def cluster(
        self,
        *,
        least: int = 2,
        apart: Apart = "track",
        wanted: SightingFilter = EVERYTHING,
        threshold: float | None = None,
    ) -> tuple[Stranger, ...]:
        """Group unknown people's sightings into recurring strangers, and store who shows whom.

        wanted: which sightings are grouped anew; the others stay as they are. least, apart: how
        many sightings on different tracks, cameras or days make one. threshold: least mean score of
        two groups that are joined; None takes the yardstick's. Ids stay with those who have most of
        the sightings that had them. Raises SightingsError for more sightings than can be grouped.
        """
        known = self._templates(msgspec.structs.replace(wanted, unknown=True))
        check_count(len(known.sightings))
        scores = score_pairs(known.vectors, self._yardstick.density)
        bar = self._yardstick.threshold if threshold is None else threshold
        groups = group_pairs(len(known.sightings), scores, bar, at_once(known.sightings))
        considered = [one.id for one in known.sightings]
        taken = set(self._store.strangers(leave_out=considered).values())
        strangers = find_strangers(
            known.sightings, groups, scores, least=least, apart=apart, taken=taken
        )
        self._store.assign(assignment_of(strangers), among=considered)
        return strangers

    def _templates(self, wanted: SightingFilter) -> Templates:
        found = self._store.templates(self._yardstick.pack, self._yardstick.embedder, wanted)
        dimension = self._yardstick.card.embedder.dimension
        if not found.sightings:
            return Templates((), np.zeros((0, dimension), np.float32), found.other)
        return found
