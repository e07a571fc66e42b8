"""The gallery as the matcher sees it: an index per gallery version, made anew when that changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from ..models.ida import DensityModel
from ..models.search import SearchIndex
from .gallery import Gallery
from .match import GalleryIndex

LOOK_SECONDS = 0.5
"""How often the gallery's version is looked up: changes are followed within a second."""


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
    ) -> None:
        """embedder: SHA-256 of its file; dimension: length of its embeddings (an empty gallery)."""
        self._gallery = gallery
        self._pack = pack
        self._embedder = embedder
        self._dimension = dimension
        self._anchors = anchors
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = clock()
        self.missing: tuple[str, ...] = ()
        """Identities without an embedding of this pack: they cannot be recognised."""
        self._index = self._read()

    def __call__(self) -> GalleryIndex:
        """(gallery version, index, names); at most LOOK_SECONDS old."""
        with self._lock:
            now = self._clock()
            if now - self._looked >= LOOK_SECONDS:
                self._looked = now
                if self._gallery.version() != self._index[0]:
                    self._index = self._read()
            return self._index

    def _read(self) -> GalleryIndex:
        templates = self._gallery.templates(self._pack, self._embedder)
        self.missing = templates.missing
        vectors = templates.vectors.reshape(-1, self._dimension)
        index = SearchIndex(vectors, np.arange(len(vectors)), anchors=self._anchors)
        return templates.version, index, templates.names
