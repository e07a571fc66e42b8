"""Writes the sightings of a run into their store, as they are decided.

The part that decides hands over events before the journal has them, and the journal's marks after:
what a mark passes over is in the store, and what is made again after a kill writes the same rows.
So each sighting is there once, whatever was killed when.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2

from .. import FacestreamError, UnknownIdentity
from ..configs.schema import Policy, SightingsConfig
from ..models.fusion import Doubles
from .aggregate import FrameRow
from .events import AnyEvent, DecisionEvent, SightingEnded, SightingStarted, TrackEvent
from .gallery import Gallery
from .records import Evidence, Template, TrackKey
from .sighting_people import erased_people
from .sighting_records import Crop
from .sighting_store import Sightings
from .sighting_weights import pack_gain, pack_rows
from .sighting_write import Draft

MOST_ROWS = 4096
"""Frames whose weights are held back for the next event at most."""
MOST_DRAFTS = 10_000
"""Sightings that are held back while the store of live cameras does not take them, at most."""
RETRY_SECONDS = 30.0
"""How long such a store is left alone: asking it may take its time."""
PURGE_SECONDS = 3600.0

log = logging.getLogger(__name__)


class SightingKeeper:
    """Gathers what is told of sightings and stores it. Use it from one thread.

    Where a recorded camera's sightings cannot be stored, the run ends: started again, it goes on.
    Live cameras go on at once, and what could not be stored is tried again; what is given up in the
    end is counted and logged.
    """

    def __init__(
        self,
        store: Sightings,
        config: SightingsConfig,
        gallery: Gallery,
        *,
        epoch: str,
        embedder: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """epoch: the journal's. embedder: SHA-256 of its file. The store stays yours."""
        self._store = store
        self._config = config
        self._gallery = gallery
        self._epoch = epoch
        self._embedder = embedder
        self._clock = clock
        self._drafts: dict[TrackKey, Draft] = {}
        self._rows: dict[TrackKey, list[FrameRow]] = {}
        self._held = 0
        self._readings: dict[TrackKey, tuple[Doubles, Sequence[FrameRow]]] = {}
        self._uids: dict[str, tuple[int, str]] = {}
        self._retry_at: float | None = None
        self._purge_at = clock()
        self._failed = False
        self.lost = 0
        """Sightings given up because the store did not take them."""

    def settle(self, key: TrackKey, rows: Sequence[FrameRow]) -> None:
        """As aggregate.Ledger."""
        self._rows.setdefault(key, []).extend(rows)
        self._held += len(rows)

    def weigh(self, key: TrackKey, gain: Doubles, pending: Sequence[FrameRow]) -> None:
        """As aggregate.Ledger."""
        self._readings[key] = gain, pending

    def store(self, decided: Iterable[tuple[AnyEvent, Template | None]], *, live: bool) -> None:
        """Store events, each with the template behind it. Raises as `flush`."""
        for event, template in decided:
            self._take(event, template)
        self.flush(live=live)

    def _take(self, event: AnyEvent, template: Template | None) -> None:
        if not isinstance(event, TrackEvent):
            return
        key = TrackKey(event.camera, self._epoch, event.track)
        draft = self._drafts.setdefault(key, Draft(*self._place(key)))
        values = draft.values
        values["seen_at"] = event.captured_at.timestamp()
        if isinstance(event, SightingStarted):
            draft.begins = True
            values["started_at"] = values["seen_at"]
            values["first_frame"], values["first_pts"] = event.frame, event.pts
        if isinstance(event, DecisionEvent):
            self._decision(draft, event, template)
        if isinstance(event, SightingEnded):
            values["started_at"] = event.started_at.timestamp()
            values["ended_at"] = values["seen_at"]
            values["reason"], values["faces"] = event.reason, event.faces
        if (reading := self._readings.pop(key, None)) is not None:
            values["gain"], values["open_rows"] = pack_gain(reading[0]), pack_rows(reading[1])

    def flush(self, *, live: bool) -> None:
        """Store what was gathered. Raises SightingsError and GalleryError, unless all is `live`."""
        for key, rows in self._rows.items():
            draft = self._drafts.setdefault(key, Draft(*self._place(key)))
            draft.rows.append(pack_rows(rows))
        self._rows.clear()
        self._held = 0
        if not self._drafts:
            return
        if live and self._retry_at is not None and self._clock() < self._retry_at:
            self._bound()
            return
        try:
            for draft in self._drafts.values():
                self._name(draft)
            self._store.write(self._drafts.values())
        except FacestreamError as error:
            if not live:
                self._failed = True  # nor does the journal have what these tell: a run repeats it
                raise
            if self._retry_at is None:
                log.warning("sightings are held back, and events go on: %s", error)
            self._retry_at = self._clock() + RETRY_SECONDS
            self._bound()
            return
        if self._retry_at is not None:
            log.warning("the sighting store takes sightings again")
            self._retry_at = None
        self._drafts.clear()

    def pulse(self, *, live: bool) -> None:
        """Call it now and then: bounds what is held back, and deletes what is too old."""
        if self._held >= MOST_ROWS:
            self.flush(live=live)
        if self._clock() >= self._purge_at:
            self._purge_at = self._clock() + PURGE_SECONDS
            try:
                gone = erased_people(self._gallery, self._store.people())
                self._store.purge(self._config, gone=gone)
            except FacestreamError as error:
                log.warning("old sightings stay for now: %s", error)

    def close(self) -> None:
        """Store what is left; what cannot be stored is told, and lost."""
        if self._failed:
            return
        try:
            self._retry_at = None
            self.flush(live=False)
        except FacestreamError as error:
            left = sum(bool(draft.values) for draft in self._drafts.values())
            self.lost += left
            log.error("%d sightings could not be stored: %s", left, error)
            self._drafts.clear()

    def _place(self, key: TrackKey) -> tuple[str, str, int]:
        return self._epoch, key.camera, key.track

    def _decision(self, draft: Draft, event: DecisionEvent, template: Template | None) -> None:
        draft.values.pop("uid", None)
        draft.values |= {
            "identity": event.identity or "",
            "score": event.score,
            "cosine": event.cosine,
            "threshold": event.threshold,
            "probability": event.false_positive_probability,
            "pack": event.pack,
            "embedder": self._embedder,
            "gallery_version": event.gallery_version,
            "frames": event.frames,
            "quality_min": event.quality_min,
            "quality_median": event.quality_median,
            "quality_max": event.quality_max,
        }
        draft.keeps_template = self._keeps(self._config.templates, event)
        draft.keeps_crops = self._keeps(self._config.crops, event)
        if template is not None:
            draft.template = template.embedding if draft.keeps_template else None
            draft.crops = _crops(template.evidence) if draft.keeps_crops else None

    def _keeps(self, policy: Policy, event: DecisionEvent) -> bool:
        """Whether faces of what an event tells may be kept; never of what was not decided."""
        if isinstance(event, SightingEnded) and event.reason not in ("matched", "unknown"):
            return False
        return policy == "all" or (policy == "unknown" and event.identity is None)

    def _name(self, draft: Draft) -> None:
        """Add the gallery's id of whom a sighting shows; who is gone from it has no name here."""
        values = draft.values
        if "identity" not in values or "uid" in values:
            return
        name, version = values["identity"], values["gallery_version"]
        uid = ""
        if name:
            known = self._uids.get(name)
            if known is None or known[0] != version:
                known = self._uids[name] = version, _uid_of(self._gallery, name)
            uid = known[1]
        values["uid"] = uid
        if not uid:
            values["identity"] = ""

    def _bound(self) -> None:
        """Give up the oldest of too many."""
        while len(self._drafts) > MOST_DRAFTS:
            oldest = self._drafts.pop(next(iter(self._drafts)))
            if not oldest.values:
                continue  # weights alone, of one that was given up before
            self.lost += 1
            if self.lost & (self.lost - 1) == 0:
                log.error("the sighting store takes nothing: sightings lost so far: %d", self.lost)


def _uid_of(gallery: Gallery, name: str) -> str:
    try:
        return gallery.show(name).identity.id
    except UnknownIdentity:
        return ""


def _crops(evidence: Sequence[Evidence]) -> list[Crop]:
    found = []
    for one in evidence:
        if one.crop is None:
            continue
        done, jpeg = cv2.imencode(".jpg", one.crop, [cv2.IMWRITE_JPEG_QUALITY, 92])
        if done:
            box: Any = tuple(float(edge) for edge in one.box)
            found.append(
                Crop(
                    frame=one.frame.sequence,
                    pts=one.frame.pts,
                    captured_at=one.frame.captured_at,
                    quality=one.quality,
                    weight=one.weight,
                    box=box,
                    jpeg=jpeg.tobytes(),
                )
            )
    return found
