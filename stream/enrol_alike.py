"""Who of a gallery a face is most like, exactly, while the gallery grows.

One matrix of templates, compared by cosine: a run that enrols adds rows to it and never builds it
anew. What somebody gains in the run is a template of its own beside the one they had.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import RecordError
from ..models.ida import row_lengths

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_SMALLEST = 64


class Alike(NamedTuple):
    """Somebody of the gallery, and the cosine of their template with a face."""

    name: str
    score: float


class LookAlikes:
    """The templates of a gallery by name. Use it from one thread."""

    def __init__(self, names: Sequence[str], vectors: Floats, dimension: int) -> None:
        """vectors (N, C) float32 of unit length, C = dimension; those of a name are its own.

        Raises RecordError when shapes do not fit.
        """
        if vectors.shape != (len(names), dimension):
            raise RecordError(
                f"expected {len(names)} templates of {dimension} numbers, got {vectors.shape}"
            )
        self._rows: Floats = np.zeros((max(_SMALLEST, len(names)), dimension), np.float32)
        self._rows[: len(names)] = vectors
        self._names = list(names)
        self._places: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(self._names):
            self._places[name].append(row)
        self._gained: dict[str, tuple[int, Doubles]] = {}

    @property
    def people(self) -> int:
        """How many names there are."""
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        """Whether somebody of that name has a template."""
        return name in self._places

    def compare(self, probes: Floats) -> Comparison:
        """Compare unit probes (Q, C) float32 with everybody: one matrix product."""
        return Comparison(self, probes, probes @ self.rows.T)

    def add(self, name: str, vector: Floats, quality: float) -> int:
        """Somebody gains a face of this embedding (C,), as the gallery fuses; returns the row."""
        unit = vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
        row, total = self._gained.get(name, (-1, np.zeros(len(vector))))
        total = total + max(quality, 1e-9) * unit
        if row < 0:
            row = len(self._names)
            if row == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._names.append(name)
            self._places[name].append(row)
        self._gained[name] = row, total
        length = float(np.linalg.norm(total))
        self._rows[row] = total / length if length > 1e-12 else unit
        return row

    @property
    def rows(self) -> Floats:
        """The templates so far, (N, C)."""
        return self._rows[: len(self._names)]

    def best(self, name: str, scores: Floats) -> tuple[float | None, Alike | None]:
        """Of cosines with all rows (N,), which are used up: that of `name`, and the best other."""
        own = self._places.get(name, [])
        mine = float(scores[own].max()) if own else None
        scores[own] = -np.inf
        other = int(scores.argmax()) if len(scores) else 0
        if not len(scores) or scores[other] == -np.inf:
            return mine, None
        return mine, Alike(self._names[other], float(scores[other]))


class Comparison:
    """Several faces compared at once; each is up to date when it is asked for."""

    def __init__(self, people: LookAlikes, probes: Floats, scores: Floats) -> None:
        """scores (Q, N): cosines of the probes with the rows that there were."""
        self._people = people
        self._probes = probes
        self._scores = scores
        self._changed: set[int] = set()

    def nearest(self, probe: int, name: str) -> tuple[float | None, Alike | None]:
        """The score of a probe with `name` itself, None for a new name, and the best other."""
        rows, known = self._people.rows, self._scores.shape[1]
        scores = np.empty(len(rows), np.float32)
        scores[:known] = self._scores[probe]
        late = [*self._changed, *range(known, len(rows))]
        scores[late] = rows[late] @ self._probes[probe]
        return self._people.best(name, scores)

    def add(self, probe: int, name: str, quality: float) -> None:
        """`LookAlikes.add` of one of the probes; those asked for later are compared with it too."""
        self._changed.add(self._people.add(name, self._probes[probe], quality))


def unit_rows(vectors: Floats) -> Floats:
    """Embeddings (N, C) at unit length, float32."""
    return np.asarray(vectors / row_lengths(vectors)[:, None], np.float32)
