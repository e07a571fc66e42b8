"""Which faces a training step reads: pure functions of the data, the seed and the step.

Nothing is remembered between steps, so a run can go on anywhere, and every process knows what the
others read. `Draw` says which step and which share of it is asked for; with one process, rank 0 of
1, all of it. Rows are numbers of faces in a list, int64.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from ..models.verification import Integers

ORDER, FACES, VIEWS = range(3)  # keep the streams of random numbers of one seed apart


class Draw(NamedTuple):
    """One step, 0-based, and the share of it that process `rank` of `ranks` reads."""

    seed: int
    step: int
    rank: int = 0
    ranks: int = 1


class Identities:
    """Which rows belong to whom. Classes are the labels 0 .. classes - 1."""

    def __init__(self, labels: npt.ArrayLike) -> None:
        """labels (N,) whole numbers from 0 on, every class with one row at least.

        Raises RecordError otherwise.
        """
        given = np.asarray(labels)
        if given.ndim != 1 or not len(given) or given.dtype.kind not in "iu" or given.min() < 0:
            raise RecordError(
                f"labels must be (N,) whole numbers from 0 on, N > 0, got {given.shape} "
                f"{given.dtype}"
            )
        self._order: Integers = np.argsort(given, kind="stable").astype(np.int64)
        counts = np.bincount(given.astype(np.int64))
        if not counts.all():
            raise RecordError(f"class {int(counts.argmin())} has no face: number the classes anew")
        self.counts: Integers = counts.astype(np.int64)
        """(classes,) faces of each."""
        self._ends = np.cumsum(counts)

    @property
    def classes(self) -> int:
        """How many identities there are."""
        return len(self.counts)

    def rows(self, identity: int) -> Integers:
        """The rows of one identity, ascending."""
        end = int(self._ends[identity])
        return self._order[end - int(self.counts[identity]) : end]


def shuffled_rows(count: int, batch: int, draw: Draw) -> Integers:
    """Rows (batch / ranks,) of shuffled epochs, one after the other without a gap.

    In every epoch each of the rows 0 .. count - 1 comes once, whatever the number of processes.
    Processes share no place of the stream; a batch that meets the end of an epoch goes on with the
    next, in which a row of the first can come again.
    Raises ConfigError where batch is no multiple of ranks.
    """
    share = _share(batch, draw)
    first = draw.step * batch + draw.rank * share
    places = np.arange(first, first + share)
    epochs, within = np.divmod(places, count)
    rows = np.empty(share, np.int64)
    for epoch in np.unique(epochs).tolist():
        mine = epochs == epoch
        rows[mine] = _order_of_epoch(count, draw.seed, epoch)[within[mine]]
    return rows


def identity_sets(
    identities: Identities, people: int, faces: int, draw: Draw
) -> tuple[Integers, Integers]:
    """`people` identities and `faces` rows of each: (people / ranks,) and (people / ranks, faces).

    Identities come in shuffled epochs, as in `shuffled_rows`, each as often as any other however
    many faces it has: a balanced batch of P times K, or sets to fuse. Rows of an identity are drawn
    by `sample_faces`, anew at every step. Raises ConfigError as `shuffled_rows`.
    """
    chosen = shuffled_rows(identities.classes, people, draw)
    first = draw.rank * len(chosen)
    rows = np.empty((len(chosen), faces), np.int64)
    for place, identity in enumerate(chosen.tolist()):
        # By its place in the whole batch: the same in every division into processes.
        generator = np.random.default_rng((FACES, draw.seed, draw.step, first + place))
        rows[place] = sample_faces(identities.rows(identity), faces, generator)
    return chosen, rows


def sample_faces(rows: Integers, faces: int, generator: np.random.Generator) -> Integers:
    """`faces` of these rows, in random order, no two alike while there are enough.

    Where there are fewer, every row comes once, then all come again, so that none comes two times
    more often than another. Raises RecordError for no rows.
    """
    if not len(rows):
        raise RecordError("expected an identity with one face at least, got none")
    rounds = -(-faces // len(rows))
    drawn = np.concatenate([generator.permutation(rows) for _ in range(rounds)])
    return np.asarray(drawn[:faces], np.int64)


def face_generator(draw: Draw, share: int, place: int) -> np.random.Generator:
    """Random numbers for the face at a place, 0 .. share - 1, of this process's part of a step.

    The same face of a batch gets the same numbers in every division into processes.
    """
    return np.random.default_rng((VIEWS, draw.seed, draw.step, draw.rank * share + place))


def _share(batch: int, draw: Draw) -> int:
    if batch % draw.ranks:
        raise ConfigError(
            f"a batch of {batch} cannot be shared evenly by {draw.ranks} processes: make it a "
            "multiple of their number"
        )
    return batch // draw.ranks


@lru_cache(maxsize=4)
def _order_of_epoch(count: int, seed: int, epoch: int) -> Integers:
    order = np.random.default_rng((ORDER, seed, epoch)).permutation(count)
    order.setflags(write=False)
    return order
