"""The gallery as the matcher sees it: an index per gallery version, made anew when that changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from .. import GalleryError, RecordError
from ..models.ida import DensityModel
from ..models.search import SearchIndex
from .gallery import Gallery
from .match import GalleryIndex

LOOK_SECONDS = 0.5
"""How often the gallery's version is looked up: changes are followed within a second."""

RETRY_SECONDS = 5.0
"""How long a gallery that could not be read is left alone: asking it may take its time."""

log = logging.getLogger(__name__)


class KnownPeople:
    """Gives the newest index of a gallery; call it from any thread."""

    def __init__(
        self,
        gallery: Gallery,
        *,
        pack: str,
        embedder: str,
        dimension: int,
        anchors: DensityModel | None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """embedder: SHA-256 of its file; dimension: length of its embeddings (an empty gallery).

        now: seconds since 1970, by which people become valid and expire.
        """
        self._gallery = gallery
        self._pack = pack
        self._embedder = embedder
        self._dimension = dimension
        self._anchors = anchors
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._look_at = clock() + LOOK_SECONDS
        self._changes_at: float | None = None
        self._unreadable = False
        self.missing: tuple[str, ...] = ()
        """Identities without an embedding of this pack: they cannot be recognised."""
        self.expired: tuple[str, ...] = ()
        """Identities outside their validity: they are not recognised."""
        self._index = self._read()

    def __call__(self) -> GalleryIndex:
        """(gallery version, index, names); at most LOOK_SECONDS old.

        While the gallery cannot be read (a server that restarts) or holds what cannot be used, the
        last one stays in use; the log says so once, and again when it is right.
        """
        with self._lock:
            if self._clock() >= self._look_at:
                self._look()
            return self._index

    def _look(self) -> None:
        try:
            due = self._changes_at is not None and self._now() >= self._changes_at
            if due or self._gallery.version() != self._index[0]:
                self._index = self._read()
        except (GalleryError, RecordError) as error:
            if not self._unreadable:
                log.warning("people of version %d stay in use: %s", self._index[0], error)
            self._unreadable = True
            self._look_at = self._clock() + RETRY_SECONDS
            return
        if self._unreadable:
            log.warning("the gallery can be read again: version %d", self._index[0])
        self._unreadable = False
        self._look_at = self._clock() + LOOK_SECONDS

    def _read(self) -> GalleryIndex:
        templates = self._gallery.templates(
            self._pack, self._embedder, model=self._anchors, now=self._now()
        )
        if len(templates.vectors) and templates.vectors.shape[1] != self._dimension:
            raise GalleryError(
                f"embeddings of pack {self._pack} in the gallery have "
                f"{templates.vectors.shape[1]} numbers, the pack makes {self._dimension}: enrol "
                "again with this pack, or use the gallery that was made with it"
            )
        for name in sorted(set(templates.expired) - set(self.expired)):
            log.warning("%s is outside the validity set for them, and is not recognised", name)
        self.missing, self.expired = templates.missing, templates.expired
        self._changes_at = templates.changes_at
        vectors = templates.vectors.reshape(-1, self._dimension)
        densities = templates.densities
        unknown = np.isnan(densities)  # enrolled without `Gallery.measure`
        if self._anchors is not None and unknown.any():
            densities[unknown] = self._anchors.density(vectors[unknown])
        index = SearchIndex(
            vectors, np.arange(len(vectors)), anchors=self._anchors, densities=densities
        )
        return templates.version, index, templates.names
