"""Faces that somebody said are not of a person, and what follows for a new face."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Negatives:
    """The marked faces of everybody in a gallery, by name."""

    def __init__(self, vectors: Mapping[str, Floats]) -> None:
        """vectors: (K, C) float32 of unit length for each name, K >= 1."""
        self._vectors = vectors

    def exclude(self, name: str, probe: Floats, cosine: float) -> bool:
        """Whether a face is at least as like one that is marked as it is like the person.

        probe: (C,) float32 of unit length; cosine: to the person's template. Comparing the two
        needs no threshold: whoever was marked is nearer to their own face than to the person's,
        and the person is nearer to theirs, however alike the two are.
        """
        marked = self._vectors.get(name)
        if marked is None:
            return False
        return bool((marked.astype(np.float64) @ probe.astype(np.float64)).max() >= cosine)


NONE = Negatives({})
