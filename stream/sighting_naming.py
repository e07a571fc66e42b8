"""Giving unknown people a name: the gallery learns the face, past sightings get the name.

Two stores change, one after the other: first the gallery, then all sightings in one step. Killed in
between, the same command does the rest: the face is known by its digest and is not enrolled twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from .. import SightingsError, UnknownIdentity, UnknownSighting
from ..configs.schema import EnrolConfig
from ..models.fusion import Floats
from .enrol_admit import enrol_template
from .gallery import Gallery
from .gallery_records import normalise_name
from .match import MatchStage
from .records import FrameRef, Template, TrackKey, TrackTemplate
from .sighting_cluster import overlaps
from .sighting_records import Named, SightingFilter, SightingHit, SightingRecord, Templates
from .sighting_search import Yardstick
from .sighting_store import Sightings

Matching = Callable[[Gallery], AbstractContextManager[MatchStage]]
"""Decisions by a gallery as it is now."""

UNKNOWN = SightingFilter(unknown=True, template=True)


class SightingNaming:
    """Names sightings after people of a gallery. Raises what both stores raise."""

    def __init__(
        self, store: Sightings, gallery: Gallery, yardstick: Yardstick, matching: Matching
    ) -> None:
        """matching: what names somebody, as in a run with this pack. Both stores stay yours."""
        self._store = store
        self._gallery = gallery
        self._yardstick = yardstick
        self._matching = matching

    def name(self, which: str, name: str, *, rules: EnrolConfig | None = None) -> Named:
        """Enrol a stranger's or a sighting's face as a person, and name all that look like it.

        which: the id of a recurring stranger, or of a sighting or its beginning. A sighting without
        a template can only be named after somebody who is in the gallery already. rules: of
        enrolment; by default a face that looks like somebody else is refused.

        Raises UnknownSighting, EnrolmentRefused with the reason in words, and SightingsError where
        there is no face to enrol.
        """
        wanted = normalise_name(name)
        members = self._members(which)
        faces = self._faces(members)
        person, enrolled = wanted, 0
        if faces.sightings:
            quality = float(np.median([one.quality_median or 0.0 for one in faces.sightings]))
            result = enrol_template(
                self._gallery,
                self._yardstick.card,
                wanted,
                fuse_templates(faces),
                quality=quality,
                source=_source(which, faces.sightings),
                digest=_digest(faces),
                rules=rules,
            )
            person, enrolled = result.identity, int(result.status == "enrolled")
            if (density := self._yardstick.density) is not None:
                self._gallery.measure(self._yardstick.pack, self._yardstick.embedder, density)
        elif not self._is_known(wanted):
            raise SightingsError(
                f"{which} has no template of pack {self._yardstick.pack} to enrol: enrol {wanted} "
                "with a photo first (`facestream enroll`), and repeat"
            )
        uid = self._gallery.show(person).identity.id
        found = self._look(person, uid, members)
        scores: dict[str, float | None] = {hit.sighting.id: hit.score for hit in found}
        scores |= dict.fromkeys((one.id for one in members), None)
        marked = self._store.name(scores, name=person, uid=uid)
        return Named(name=person, uid=uid, enrolled=enrolled, marked=marked, found=found)

    def find(self, name: str, *, mark: bool = False) -> tuple[SightingHit, ...]:
        """Past sightings of unknown people that a run would name so by the gallery of today.

        Best first. mark: give them the name. Raises UnknownIdentity.
        """
        identity = self._gallery.show(name).identity
        found = self._look(identity.name, identity.id, ())
        if mark and found:
            scores = {hit.sighting.id: hit.score for hit in found}
            self._store.name(scores, name=identity.name, uid=identity.id)
        return found

    def _members(self, which: str) -> tuple[SightingRecord, ...]:
        if which.startswith("s-"):
            members = self._store.list(SightingFilter(stranger=which))
            if not members:
                raise UnknownSighting(
                    f"there is no stranger {which[:40]}: `facestream sightings cluster` shows who "
                    "there is"
                )
            return members
        return (self._store.find(which),)

    def _faces(self, members: Sequence[SightingRecord]) -> Templates:
        """The templates of these sightings, as far as this pack made them."""
        ids = {one.id for one in members}
        yard = self._yardstick
        known = self._store.templates(yard.pack, yard.embedder, SightingFilter(template=True))
        places = [at for at, one in enumerate(known.sightings) if one.id in ids]
        chosen = tuple(known.sightings[at] for at in places)
        return Templates(chosen, known.vectors[places], len(members) - len(chosen))

    def _is_known(self, name: str) -> bool:
        try:
            self._gallery.show(name)
        except UnknownIdentity:
            return False
        return True

    def _look(
        self, name: str, uid: str, members: Sequence[SightingRecord]
    ) -> tuple[SightingHit, ...]:
        """Unknown sightings that show this person, but for `members`; one face at a time."""
        ids = {one.id for one in members}
        yard = self._yardstick
        known = self._store.templates(yard.pack, yard.embedder, UNKNOWN)
        places = [at for at, one in enumerate(known.sightings) if one.id not in ids]
        if not places:
            return ()
        hits = []
        with self._matching(self._gallery) as stage:
            for place in places:
                # One by one: what is decided together is taken for one moment.
                (match,) = stage.decide([_probe(known.sightings[place], known.vectors[place])])
                hits += [
                    SightingHit(sighting=known.sightings[place], score=c.score, cosine=c.cosine)
                    for c in match.candidates
                    if match.identity == c.identity == name
                ]
        return _one_at_a_time(hits, [*members, *self._store.list(SightingFilter(person=(uid,)))])


def fuse_templates(templates: Templates) -> Floats:
    """One unit template (C,) float32 of several sightings', each weighed by its median quality."""
    quality = np.array([max(one.quality_median or 0.0, 0.0) for one in templates.sightings])
    weights = quality if quality.sum() > 0 else np.ones(len(quality))
    total = weights @ templates.vectors.astype(np.float64)
    length = float(np.linalg.norm(total))
    if length < 1e-9:  # they cancel out: the first stands for all
        total, length = templates.vectors[0].astype(np.float64), 1.0
    return np.asarray(total / length, np.float32)


def _one_at_a_time(
    hits: Sequence[SightingHit], taken: Sequence[SightingRecord]
) -> tuple[SightingHit, ...]:
    """Best first, without those that one camera had beside a better one, or beside `taken`."""
    chosen: list[SightingHit] = []
    held = list(taken)
    for hit in sorted(hits, key=lambda one: (-one.score, one.sighting.id)):
        if not any(overlaps(hit.sighting, other) for other in held):
            chosen.append(hit)
            held.append(hit.sighting)
    return tuple(chosen)


def _probe(one: SightingRecord, vector: Floats) -> TrackTemplate:
    """A sighting as it is decided; there is nothing of its frames but how many they were."""
    qualities = (one.quality_min or 0.0, one.quality_median or 0.0, one.quality_max or 0.0)
    frame = FrameRef(one.camera, one.first_frame or 0, one.first_pts or 0.0, one.started_at, 0, 0)
    template = Template(vector, one.frames, *qualities, ())
    return TrackTemplate(TrackKey(one.camera, one.epoch, one.track), frame, template)


def _digest(faces: Templates) -> str:
    """By which the same faces are known again, in whatever order."""
    rows = sorted(row.astype("<f4").tobytes() for row in faces.vectors)
    return hashlib.sha256(b"".join(rows)).hexdigest()


def _source(which: str, sightings: Sequence[SightingRecord]) -> str:
    count = len(sightings)
    if which.startswith("s-"):
        return f"stranger {which} ({count} sighting{'s' if count > 1 else ''})"
    return f"sighting {sightings[0].id[:8]}"
