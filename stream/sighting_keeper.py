"""Writes the sightings of a run into their store, as they are decided.

The part that decides hands over events before the journal has them, and the journal's marks after:
what a mark passes over is in the store, and what is made again after a kill writes the same rows.
So each sighting is there once, whatever was killed when.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2

from .. import FacestreamError
from ..configs.schema import Policy, SightingsConfig
from ..models.fusion import Doubles
from .aggregate import FrameRow
from .events import AnyEvent, DecisionEvent, SightingEnded, SightingStarted, TrackEvent
from .gallery import Gallery
from .records import Evidence, Template, TrackKey
from .sighting_people import KEEP_ALL, erased_people, uid_of
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
CLOSE_SECONDS = 5.0
"""How long the end of a run waits for a store that does not answer."""
CAUGHT_UP = 1000
"""The newest so many events of the journal are looked at when a run begins."""

log = logging.getLogger(__name__)


class SightingKeeper:
    """Gathers what is told of sightings and stores it. Use it from one thread.

    Where a recorded camera's sightings cannot be stored, the run ends: started again, it goes on.
    Live cameras never wait: a thread writes, what could not be stored is tried again, and what is
    given up in the end is counted and logged.
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
        self._uids: dict[tuple[str, int], str] = {}
        self._uids_at = -1
        self._retry_at: float | None = None
        self._purge_at = clock()
        self._failed = False
        self._thread: threading.Thread | None = None
        self._writing: dict[TrackKey, Draft] = {}
        self._error: Exception | None = None
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
            values["best_score"] = event.best_score
        if (reading := self._readings.pop(key, None)) is not None:
            values["gain"], values["open_rows"] = pack_gain(reading[0]), pack_rows(reading[1])

    def flush(self, *, live: bool) -> None:
        """Store what was gathered: at once, or beside the work where all is `live`.

        Raises SightingsError and GalleryError, unless all is live.
        """
        self._gather()
        if live and not self._may_write():
            self._bound()
            return
        self._join(None)
        self._hear(live=live)
        if not self._drafts or (live and not self._may_write()):
            return
        self._start(self._write)
        if not live:
            self._join(None)
            self._hear(live=False)

    def pulse(self, *, live: bool) -> None:
        """Call it often: bounds what is held back, and deletes what is too old. As `flush`."""
        if self._busy:
            return
        self._hear(live=live)
        if self._held >= MOST_ROWS or (live and self._drafts and self._may_write()):
            self.flush(live=live)
        if self._clock() >= self._purge_at and not self._busy:
            self._purge_at = self._clock() + PURGE_SECONDS
            self._start(self._purge)

    def catch_up(self, events: Iterable[AnyEvent]) -> None:
        """Store what the journal knows and the store does not, of a run that was killed.

        A live camera's sightings are written beside the work: what was under way is lost with the
        process. events: the newest of the journal.
        """
        for event in events:
            self._take(event, None)
        for key, draft in list(self._drafts.items()):
            draft.begins = False
            if "started_at" not in draft.values or self._store.has_ended(draft.id):
                del self._drafts[key]
        self.flush(live=True)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing is being written; False where that takes longer."""
        self._join(seconds)
        return not self._busy

    def close(self) -> None:
        """Store what is left; what cannot be stored is told, and lost."""
        self._retry_at = None
        if self._failed:
            return
        if self.wait(CLOSE_SECONDS):
            self._hear(live=True)
            self._retry_at = None
            self._gather()
            if self._drafts:
                self._start(self._write)
                self.wait(CLOSE_SECONDS)
            if not self._busy:
                self._hear(live=True)
        held = [self._drafts, self._writing] if self._busy else [self._drafts]
        self.lost += len({key for some in held for key, draft in some.items() if draft.values})
        self._drafts.clear()
        if self.lost:
            log.error("sightings of this run that could not be stored: %d", self.lost)

    # --- the thread that writes: one job at a time ---

    @property
    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _may_write(self) -> bool:
        waits = self._retry_at is not None and self._clock() < self._retry_at
        return not self._busy and not waits

    def _start(self, job: Callable[[], None]) -> None:
        """Run a job in a thread of its own, which ends with the process."""
        if job == self._write:
            self._writing, self._drafts = self._drafts, {}
        self._thread = threading.Thread(target=self._run, args=[job], daemon=True)
        self._thread.start()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # told by `_hear`, in the thread that asked
            self._error = error

    def _write(self) -> None:
        drafts = self._writing.values()
        named = any(draft.values.get("identity") for draft in drafts)
        version = self._gallery.version() if named else None
        if version is not None and version != self._uids_at:
            self._uids, self._uids_at = {}, version
        for draft in drafts:
            self._name(draft)
        self._store.write(drafts)
        if version is not None and self._gallery.version() != version:
            uids = frozenset(uid for draft in drafts if (uid := draft.values.get("uid")))
            if gone := erased_people(self._gallery, uids):  # while this was written
                self._store.purge(KEEP_ALL, gone=gone)

    def _purge(self) -> None:
        try:
            gone = erased_people(self._gallery, self._store.people())
            self._store.purge(self._config, gone=gone)
        except FacestreamError as error:
            log.warning("old sightings stay for now: %s", error)

    def _join(self, seconds: float | None) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def _hear(self, *, live: bool) -> None:
        """What became of the last job, which is over: what it could not write is tried again."""
        written, self._writing = self._writing, {}
        error, self._error = self._error, None
        if error is None:
            if written and self._retry_at is not None:
                log.warning("the sighting store takes sightings again")
                self._retry_at = None
            return
        for key, draft in self._drafts.items():
            written[key] = written[key].followed_by(draft) if key in written else draft
        self._drafts = written
        if not live or not isinstance(error, FacestreamError):
            self._failed = True  # nor does the journal have what these tell: a run repeats it
            raise error
        if self._retry_at is None:
            log.warning("sightings are held back, and events go on: %s", error)
        self._retry_at = self._clock() + RETRY_SECONDS
        self._bound()

    def _gather(self) -> None:
        for key, rows in self._rows.items():
            draft = self._drafts.setdefault(key, Draft(*self._place(key)))
            draft.rows.append(pack_rows(rows))
        self._rows.clear()
        self._held = 0

    def _place(self, key: TrackKey) -> tuple[str, str, int]:
        return self._epoch, key.camera, key.track

    def _decision(self, draft: Draft, event: DecisionEvent, template: Template | None) -> None:
        draft.values |= {
            "identity": event.identity or "",
            "score": event.score,
            "cosine": event.cosine,
            "threshold": event.threshold,
            "threshold_why": event.threshold_why,
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
        """Add the gallery's id of whom a sighting shows, as the gallery is now.

        Who is gone from it has no name here, and no face is kept of them.
        """
        values = draft.values
        if "identity" not in values:
            return
        name, uid = values["identity"], ""
        if name:
            asked = (name, values["gallery_version"])
            if asked not in self._uids:
                self._uids[asked] = uid_of(self._gallery, *asked)
            uid = self._uids[asked]
        values["uid"] = uid
        if not uid:
            values["identity"] = ""
        if name and not uid:
            draft.keeps_template = draft.keeps_crops = False
            draft.template = draft.crops = None

    def _bound(self) -> None:
        """Give up the oldest of too many."""
        while len(self._drafts) > MOST_DRAFTS:
            oldest = self._drafts.pop(next(iter(self._drafts)))
            if not oldest.values:
                continue  # weights alone, of one that was given up before
            self.lost += 1
            if self.lost & (self.lost - 1) == 0:
                log.error("the sighting store takes nothing: sightings lost so far: %d", self.lost)


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
