"""The gallery as the matcher sees it: an index per gallery version, made anew when that changes."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Self

import numpy as np

from .. import GalleryError, RecordError
from ..models.fusion import Doubles, Floats
from ..models.ida import DensityModel
from ..models.search import SearchIndex
from .gallery import Gallery
from .gallery_roster import Roster
from .match import GalleryIndex
from .negatives import Negatives
from .searching import IndexMaker

LOOK_SECONDS = 0.5
"""How often the gallery's version is looked up: changes are followed within a second."""

RETRY = 4
"""A gallery that could not be read is left alone for so many looks."""

ANSWER_SECONDS = 5.0
"""A store that takes longer than this is said not to answer."""

KEPT_BYTES = 1 << 28
"""Templates of up to this many bytes are kept, so that a change costs what it changes."""

CLOSE_SECONDS = 2.0
"""How long closing waits for a store that does not answer."""

log = logging.getLogger(__name__)


class KnownPeople:
    """Follows a gallery, and gives its newest index; call it from any thread.

    One thread asks the store, and may wait for it as long as it likes. Another one watches the
    clock: whose time ends stops being matched even while the store does not answer. Close it
    before the gallery, or use it with `with`.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        pack: str,
        embedder: str,
        dimension: int,
        anchors: DensityModel | None,
        make_index: IndexMaker = SearchIndex,
        look_seconds: float = LOOK_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Read the gallery, and start to follow it.

        embedder: SHA-256 of its file; dimension: length of its embeddings (an empty gallery).
        make_index: of every version, `SearchIndex` or what stream/searching gives.
        now: seconds since 1970, by which people become valid and expire. Raises what
        `Gallery.roster` raises, GalleryError for embeddings of another length.
        """
        self._gallery = gallery
        self._pack = pack
        self._embedder = embedder
        self._dimension = dimension
        self._anchors = anchors
        self._make_index = make_index
        self._look_seconds = look_seconds
        self._now = now
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._away = False
        self._asked_at: float | None = None
        self._roster: Roster | None = None
        self._in_use: tuple[str, str] | None = None
        self._changes_at = math.inf
        self._computed: dict[bytes, float] = {}
        self.missing: tuple[str, ...] = ()
        """Identities without an embedding of this pack: they cannot be recognised."""
        self.expired: tuple[str, ...] = ()
        """Identities outside their validity: they are not recognised."""
        self._read_at = now()
        self._show(self._read(None, self._read_at))
        self._threads = [
            threading.Thread(target=work, name=f"gallery-{work.__name__.strip('_')}", daemon=True)
            for work in (self._follow, self._watch_clock)
        ]
        for thread in self._threads:
            thread.start()

    def __call__(self) -> GalleryIndex:
        """The newest complete version, at once: its index, names and marked faces.

        While the gallery cannot be read (a server that restarts or hangs) or holds what cannot be
        used, the last one stays in use; the log says so once, and again when it is right.
        """
        return self._index

    def __enter__(self) -> Self:
        """Itself; leaving closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Stop following; the index stays as it is. Waits for a hanging store CLOSE_SECONDS."""
        self._closing.set()
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _follow(self) -> None:
        """Look for a new version again and again."""
        pause = self._look_seconds
        while not self._closing.wait(pause):
            self._asked_at = time.monotonic()
            pause = self._look_seconds * RETRY
            try:
                self._look()
            except (GalleryError, RecordError) as error:
                self._tell_away(str(error))
            except Exception:
                # Whatever it was: whoever is erased after it must still stop being matched.
                log.exception("people of version %d stay in use", self._index.version)
                self._away = True
            else:
                pause = self._look_seconds
                if self._away:
                    log.warning("the gallery can be read again: version %d", self._index.version)
                self._away = False
            finally:
                self._asked_at = None

    def _look(self) -> None:
        now = self._now()
        # A clock that was set back may make people valid whose faces were not read.
        since = self._roster if now >= self._read_at else None
        if now < self._read_at or self._gallery.version() != self._index.version:
            roster = self._read(since, now)
            with self._lock:
                self._show(roster)
            self._read_at = now

    def _watch_clock(self) -> None:
        """Let people come and go by their times, without the store."""
        failed = False
        while not self._closing.wait(self._look_seconds):
            try:
                with self._lock:
                    if self._roster is not None and self._now() >= self._changes_at:
                        self._show(self._roster)
                failed = False
            except Exception:  # tried again: nobody else takes out whose time has ended
                if not failed:
                    log.exception("whose time has ended stays in use")
                failed = True
            asked_at = self._asked_at
            if asked_at is not None and time.monotonic() - asked_at > ANSWER_SECONDS:
                self._tell_away(f"{self._gallery.place} does not answer")

    def _tell_away(self, why: str) -> None:
        if not self._away:
            log.warning("people of version %d stay in use: %s", self._index.version, why)
        self._away = True

    def _tell_pack(self, roster: Roster) -> None:
        """Say once when the gallery is matched with another pack than this one."""
        before, self._in_use = self._in_use, roster.in_use
        if roster.in_use in (None, before, (self._pack, self._embedder)):
            return
        pack = roster.in_use[0] if roster.in_use is not None else ""
        other = f"another file of pack {pack}" if pack == self._pack else f"pack {pack}"
        log.warning(
            "the gallery is matched with %s; this program goes on with the embeddings of pack %s: "
            "start it again with models.pack=auto to go over",
            *(other, self._pack),
        )

    def _read(self, since: Roster | None, now: float) -> Roster:
        roster = self._gallery.roster(
            self._pack, self._embedder, model=self._anchors, now=now, since=since
        )
        if len(roster.vectors) and roster.vectors.shape[1] != self._dimension:
            raise GalleryError(
                f"embeddings of pack {self._pack} in the gallery have "
                f"{roster.vectors.shape[1]} numbers, the pack makes {self._dimension}: enrol "
                "again with this pack, or use the gallery that was made with it"
            )
        vectors = roster.vectors.reshape(-1, self._dimension)
        return roster._replace(vectors=vectors, densities=self._fill(vectors, roster.densities))

    def _fill(self, vectors: Floats, densities: Doubles) -> Doubles:
        """Densities (T,) with those that `Gallery.measure` has not kept yet computed here.

        Each is computed once, however many versions a long enrolment makes.
        """
        if self._anchors is None:
            return densities
        rows = np.flatnonzero(np.isnan(densities))
        keys = [hashlib.sha256(vectors[row]).digest() for row in rows]
        new = [place for place, key in enumerate(keys) if key not in self._computed]
        found = self._anchors.template_density(vectors[rows[new]]) if new else np.zeros(0)
        known = self._computed | {keys[at]: float(r) for at, r in zip(new, found, strict=True)}
        self._computed = {key: known[key] for key in keys}  # nothing of who has gone
        filled = densities.copy()
        filled[rows] = [self._computed[key] for key in keys]
        return filled

    def _show(self, roster: Roster) -> None:
        """Make the index of whom the roster says are matched now."""
        templates = roster.at(self._now())
        index = self._make_index(
            templates.vectors,
            np.arange(len(templates.vectors)),
            anchors=self._anchors,
            densities=templates.densities,
        )
        self._tell_pack(roster)
        for name in sorted(set(templates.expired) - set(self.expired)):
            log.warning("%s is outside the validity set for them, and is not recognised", name)
        self.missing, self.expired = templates.missing, templates.expired
        # A second copy of the vectors, beside the index's: where time will change who is in, and
        # where it is small enough for reading only what changes.
        needed = templates.changes_at is not None or roster.vectors.nbytes <= KEPT_BYTES
        self._roster = roster if needed else None
        self._changes_at = templates.changes_at or math.inf
        self._index = GalleryIndex(
            templates.version, index, templates.names, Negatives(roster.negatives)
        )
