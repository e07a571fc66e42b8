"""Whether a face may be enrolled as somebody, given who is in the gallery already; and storing it.

A face is refused where it looks like somebody else in the gallery, or what the rules say instead.
Photos, clips and sightings come through here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET
from scipy.special import ndtri

from .. import EnrolmentRefused, GalleryError
from ..configs.schema import EnrolConfig
from ..models.card import Card, DecisionSpec
from .enrol_alike import Alike, LookAlikes, unit_rows
from .enrol_records import PhotoResult, Refusal, refused
from .gallery import Gallery
from .gallery_records import Change, NewSample, normalise_name

Floats = npt.NDArray[np.float32]

CHANCE = 0.01
"""How likely a stranger may look like somebody of the gallery."""


class Offered(NamedTuple):
    """A face to enrol: who it is of, where it comes from, and what the networks said of it.

    name: normalised. source: as the user knows it; kept: what the gallery notes of that. digest:
    SHA-256 of what it was made of, by which it is known again.
    embedding: (C,) float32 of any length. face_height: px, None where nothing was measured.
    """

    name: str
    source: str
    kept: str
    digest: str
    embedding: Floats
    norm: float
    quality: float
    face_height: float | None = None
    change: Change | None = None


class Admission:
    """Judges and stores faces of one embedder. Use it from one thread."""

    def __init__(self, gallery: Gallery, card: Card, rules: EnrolConfig) -> None:
        """card: of the pack that made the embeddings."""
        self._gallery = gallery
        self._card = card
        self._rules = rules
        self._key = {"pack": card.name, "embedder": card.checksum(card.embedder.file)}
        self._version = -1
        self._people: LookAlikes | None = None
        self._expired: frozenset[str] = frozenset()
        self._same: dict[str, Alike] = {}
        """New names that turned out to be somebody else's in this run."""
        self._changed: set[str] = set()
        """For whom `Offered.change` was set in this run: once is enough."""

    def begin(self) -> None:
        """A new run: what was said of names in the one before is forgotten."""
        self._same.clear()
        self._changed.clear()

    def recognise(
        self, name: str, source: str, holder: str, change: Change | None = None
    ) -> PhotoResult:
        """What becomes of a photo that is in the gallery already, as `holder`."""
        if holder != name and self._rules.duplicates != "merge":
            reason = f"duplicate photo: already enrolled as {holder}"
            return PhotoResult(source, name, "refused", reason, cause="duplicate photo")
        if change is not None and holder == name and name not in self._changed:
            self._gallery.edit(name, change)
            self._changed.add(name)
        return PhotoResult(source, holder, "known")

    def admit(self, offered: Sequence[Offered]) -> list[PhotoResult]:
        """Judge faces in their order, each with those before it in the gallery, and store them.

        All that are taken go into the gallery in one transaction. Raises what the gallery raises;
        then none was taken.
        """
        if not offered:
            return []
        people = self._look(len(offered[0].embedding))
        units = unit_rows(np.stack([one.embedding for one in offered]))
        newcomers = [one.name for one in offered if one.name not in people]
        together = {name: len(units) + i for i, name in enumerate(dict.fromkeys(newcomers))}
        compared = people.compare(np.concatenate([units, *_average(offered, units, together)]))
        holders = self._gallery.holders([one.digest for one in offered], **self._key)
        taken: set[str] = set()
        results: list[PhotoResult] = []
        for place, one in enumerate(offered):
            holder = holders.get(one.digest)
            if holder is not None:
                # Who was taken a moment ago is not in the gallery yet, so cannot be changed there.
                change = None if one.digest in taken else one.change
                results.append(self.recognise(one.name, one.source, holder, change))
                continue
            own, other = compared.nearest(place, one.name)
            if own is None and one.name in together:
                # All faces of somebody new tell more than one of them.
                _, other = compared.nearest(together[one.name], one.name)
            try:
                result = self._judge(one, own, other, people.people)
            except Refusal as refusal:
                results.append(refused(one.source, one.name, refusal))
                continue
            compared.add(place, result.identity, one.quality)
            holders[one.digest] = result.identity
            taken.add(one.digest)
            results.append(result)
        return self._store(offered, results)

    def _look(self, dimension: int) -> LookAlikes:
        """The people of the gallery as it is now; read anew only where others have changed it."""
        if self._people is None or self._version != self._gallery.version():
            now = time.time()
            found = self._gallery.roster(self._key["pack"], self._key["embedder"], now=now)
            names = [found.people[owner].name for owner in found.owners]
            vectors = found.vectors if names else np.zeros((0, dimension), np.float32)
            if vectors.shape[1] != dimension:
                raise GalleryError(
                    f"embeddings of pack {self._card.name} in this gallery have "
                    f"{vectors.shape[1]} numbers, got {dimension}"
                )
            self._people = LookAlikes(names, vectors, dimension)
            self._version = found.version
            self._expired = frozenset(one.name for one in found.people if one.ends <= now)
        return self._people

    def _judge(
        self, one: Offered, own: float | None, other: Alike | None, people: int
    ) -> PhotoResult:
        """As whom a face is enrolled: own is its score with its name, other whom else it is like,
        of so many people.

        Raises Refusal.
        """
        name, remark = one.name, ""
        line = self._line(people)
        if own is None and name in self._same:
            name, remark = self._resolve(name, self._same[name], "an earlier face of theirs ")
        elif line is not None and other is not None and other.score >= line:
            if own is None:
                name, remark = self._resolve(name, other, "")
            else:
                remark = self._compete(name, own, other)
        elif own is not None and self._is_odd(own):
            remark = (
                f"unlike the faces of {name} enrolled before ({own:.2f}): enrol another person of "
                "that name under another one"
            )
        self._check_validity(name, one.change)
        height, quality = one.face_height, one.quality
        return PhotoResult(one.source, name, "enrolled", "", height, quality, remark=remark)

    def _resolve(self, name: str, other: Alike, who: str) -> tuple[str, str]:
        """As whom a new person's face is enrolled that looks like somebody else, and a remark."""
        words = f"{who}looks like {other.name} at {other.score:.2f}"
        if self._rules.duplicates == "add":
            return name, words
        self._same[name] = other
        if self._rules.duplicates == "merge":
            return other.name, f"{name} {words}: merged"
        raise Refusal(
            "looks like somebody else",
            f"{words}: merge, add or refuse? (--duplicates merge enrols it as {other.name}, "
            f"--duplicates add as {name})",
        )

    def _compete(self, name: str, own: float, other: Alike) -> str:
        """The remark on a face that looks like another person than the one it is said to be.

        Raises Refusal where it looks more like them than like its own person.
        """
        words = f"looks like {other.name} at {other.score:.2f}, and like {name} at {own:.2f}"
        if own >= other.score or self._rules.duplicates == "add":
            return words
        raise Refusal(
            "looks like somebody else",
            f"{words}: enrol it as {other.name}, or with --duplicates add as {name}",
        )

    def _line(self, people: int) -> float | None:
        """The cosine from which on a face looks like one of so many; None where nobody says."""
        if self._rules.duplicate_score is not None:
            return self._rules.duplicate_score
        return duplicate_score(self._card.decision, people)

    def _is_odd(self, own: float) -> bool:
        """Whether a face is less like its own person than strangers are on average."""
        decision = self._card.decision
        return decision is not None and own < decision.impostor_cosine_centre

    def _check_validity(self, name: str, change: Change | None) -> None:
        """Raise Refusal for somebody whose time is over, and is given no more."""
        if name not in self._expired:
            return
        if change is not None and (change.valid_until, change.keep_until) != (UNSET, UNSET):
            return  # the gallery says whether that is enough
        why = self._gallery.show(name).identity.why_not(time.time())
        raise Refusal(
            "out of date",
            f"{name} {why}, so nobody would be matched with it: change that first with "
            "`facestream gallery edit`, or remove the person",
        )

    def _store(self, offered: Sequence[Offered], results: list[PhotoResult]) -> list[PhotoResult]:
        """Put all that are taken into the gallery; what it refuses is refused."""
        taken = [place for place, result in enumerate(results) if result.status == "enrolled"]
        if not taken:
            return results
        new = [self._sample(offered[place], results[place].identity) for place in taken]
        seen, self._version = self._version, -1
        answers, before, after = self._gallery.add_samples(new, **self._key)
        for place, answer in zip(taken, answers, strict=True):
            one = results[place]
            if isinstance(answer, EnrolmentRefused):
                results[place] = refused(one.source, offered[place].name, answer, "duplicate photo")
            elif not answer:
                results[place] = msgspec.structs.replace(one, status="known")
        if before == seen and all(answer is True for answer in answers):
            # The look-alikes hold all that was taken, and nobody else has changed the gallery.
            self._version = after
        self._changed |= {one.identity for one in new if one.change is not None}
        return results

    def _sample(self, one: Offered, identity: str) -> NewSample:
        # What was to be said of a new person is not said of the one they are merged into.
        wanted = identity == one.name and identity not in self._changed
        return NewSample(
            identity=identity,
            embedding=one.embedding,
            norm=one.norm,
            quality=one.quality,
            source=one.kept,
            digest=one.digest,
            change=one.change if wanted else None,
        )


def duplicate_score(decision: DecisionSpec | None, people: int) -> float | None:
    """The cosine from which on a new face looks like one of so many people of a gallery.

    The pack's threshold is made for one pair of people: the larger the gallery, the likelier one of
    them reaches it by chance. So it is raised until a stranger reaches it with CHANCE at most, by
    the normal that fits the upper tail of different people's cosines: 1 - Phi(z)^G = CHANCE. None
    without a fitted decision.
    """
    if decision is None:
        return None
    z = float(ndtri((1.0 - CHANCE) ** (1.0 / max(people, 1))))
    chance = decision.impostor_cosine_centre + z * decision.impostor_cosine_spread
    return max(decision.cosine_threshold, chance)


def enrol_template(
    gallery: Gallery,
    card: Card,
    name: str,
    template: Floats,
    *,
    quality: float,
    source: str,
    digest: str | None = None,
    norm: float = 1.0,
    change: Change | None = None,
    rules: EnrolConfig | None = None,
) -> PhotoResult:
    """Enrol a fused template (C,) float32, as of a sighting, as one sample of a person.

    card: of the pack that made it. quality: in the pack's unit, such as the median of the track's;
    it weighs the sample beside the person's others. source: where it comes from, in words. digest:
    SHA-256 in hexadecimal of what it was made of; the template's own where it is not given. change:
    what is set for the person in the same step.

    Enrolled as `PhotoResult.identity`, which `rules.duplicates` "merge" may have changed. Raises
    EnrolmentRefused with the reason in words: a name that cannot be shown, somebody else who looks
    like it, a person whose time is over; and what the gallery raises.
    """
    rules = rules or EnrolConfig()
    if rules.least_quality is not None and quality < rules.least_quality:
        raise Refusal(
            "low quality", f"quality {quality:.4g}, at least {rules.least_quality:.4g} needed"
        )
    vector = np.asarray(template, np.float32)
    offered = Offered(
        name=normalise_name(name),
        source=source,
        kept=source,
        digest=digest or hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest(),
        embedding=vector,
        norm=norm,
        quality=quality,
        change=change,
    )
    (result,) = Admission(gallery, card, rules).admit([offered])
    if result.status == "refused":
        raise Refusal(result.cause or "duplicate photo", result.reason)
    return result


def _average(offered: Sequence[Offered], units: Floats, names: Iterable[str]) -> list[Floats]:
    """For each name the mean (1, C) of its unit embeddings among those offered.

    It is not of unit length: its product with a template is the mean of its faces' cosines. Fusing
    them to unit length would raise the cosines of strangers, too, above what thresholds are for.
    """
    places = {name: [i for i, one in enumerate(offered) if one.name == name] for name in names}
    return [units[rows].mean(axis=0, keepdims=True) for rows in places.values()]
