"""`facestream bench fusion`: what fusing is worth on tracks of bad pictures, by size and damage.

Held-out people only. London: the split's role subject, each enrolled with the neutral photo as
taken; sets are made of runs of degraded views of the smiling one (train/track_views), or are tracks
of simulated video in which they walk. Wild: people of CelebA's in-the-wild part, which nothing
trained or fitted here saw, enrolled with two of their pictures as taken; the stretches of a set are
degraded views of their other pictures.

A set is a track: a few stretches of frames that resemble each other, the longest one the worst in
most sets. The oracle weighs by the square of the true cosine to the enrolled template, above the
mean cosine of different people: in some packs that mean is far from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import __version__
from ..models.feature_store import fingerprint_parts
from ..models.fusion import Doubles, Members, normalise_rows
from ..models.scores import Labels, identity_weights
from ..models.store import written_whole
from .bench_fusion_fusers import Compared, Drawn, Fuse, fusers_of
from .bench_fusion_tracks import Tracks, all_tracks, draw_sets

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COMPARED = (8, 16, 32, 64, 128, 256)
"""Set sizes over which aggregators are compared in pairs."""
FPIR = 0.01
RESAMPLES = 1000
LEAST_PEOPLE = 20
"""With sets of fewer people than this, nothing is measured: one person would be 5 % and more."""


@dataclass(frozen=True, eq=False)
class Hits:
    """S searches of one cell.

    owners (S,); own score (S,) and the best of the others (S,); distinct (S,): how many different
    views are in the set, fewer than its size where it repeats some.
    """

    owners: Labels
    own: Doubles
    other: Doubles
    distinct: Labels

    def rates(self, weights: Doubles) -> Doubles:
        """Rank 1 and TPIR at FPIR 1 % (R, 2) when searches have these weights (R, S).

        A search with its own person's score left out is the non-mated one.
        """
        order = np.argsort(-self.other)
        total = weights.sum(axis=1)
        passed = np.cumsum(weights[:, order], axis=1)
        # The first score that may not pass: with it, more than FPIR of the searches would.
        place = np.argmax(passed > FPIR * total[:, None], axis=1)
        first = self.own > self.other
        named = first & (self.own > self.other[order][place][:, None])  # (R, S)
        hits = np.stack([weights @ first, (weights * named).sum(axis=1)], axis=1)
        return np.asarray(hits / total[:, None])

    @property
    def value(self) -> Doubles:
        """Rank 1 and TPIR (2,) of all searches."""
        return np.asarray(self.rates(np.ones((1, len(self.own))))[0])

    @cached_property
    def drawn(self) -> Doubles:
        """Rank 1 and TPIR of each resample (RESAMPLES, 2); the same people for all aggregators."""
        weights = identity_weights(int(self.owners.max()) + 1, RESAMPLES).astype(np.float64)
        return self.rates(weights[:, self.owners])


Cells = dict[tuple[str, int], Hits]
"""By aggregator and set size."""


class Measured(NamedTuple):
    """One pack on several sets of tracks, by their words.

    few: of how many people there are sets, where they are fewer than LEAST_PEOPLE.
    """

    tracks: dict[str, Cells]
    few: dict[str, int]


def measure_pack(
    name: str, assets: Path, banks: Path, heads: Mapping[str, Path], chosen: Sequence[str]
) -> Measured:
    """The hits of every aggregator and size; kept in BANKS/cells and taken up again."""
    fusers, done = fusers_of(name, heads), Measured({}, {})
    for tracks in all_tracks(name, assets, banks, chosen):
        people = len(np.unique(tracks.owners))
        if people < LEAST_PEOPLE:
            done.few[tracks.words] = people
        else:
            done.tracks[tracks.words] = measure(tracks, fusers, banks / "cells")
    return done


def measure(tracks: Tracks, fusers: Mapping[str, Compared], keep: Path | None = None) -> Cells:
    """Every aggregator on the same sets. keep: folder for what was measured, taken up again."""
    truth = true_likeness(tracks)
    rows = {size: draw_sets(tracks, size) for size in SIZES}
    sets = b"".join(one.astype(np.int64).tobytes() for size in SIZES for one in rows[size])
    cells: Cells = {}
    for name, (fuse, mark) in fusers.items():
        path = None if keep is None else keep / f"{_digest(tracks, sets, mark)}.npz"
        if path is not None and path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                cells |= {(name, n): Hits(*(kept[f"{n}.{i}"] for i in range(4))) for n in SIZES}
            continue
        for size in SIZES:
            cells[name, size] = _search(tracks, truth, rows[size], fuse)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            columns = {
                f"{n}.{i}": getattr(cells[name, n], field.name)
                for n in SIZES
                for i, field in enumerate(fields(Hits))
            }
            with written_whole(path) as partial, partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **columns)
    return cells


def _search(tracks: Tracks, truth: Doubles, rows: Sequence[Labels], fuse: Fuse) -> Hits:
    """The templates of these sets against everybody enrolled."""
    owners = np.array([tracks.owners[one[0]] for one in rows])
    sets = [
        Drawn(
            Members(*(column[one] for column in tracks.members)),
            truth[one],
            tracks.stretches[one],
            tracks.gallery[owner],
        )
        for one, owner in zip(rows, owners, strict=True)
    ]
    scores = fuse(sets).astype(np.float64) @ tracks.gallery.T
    places = np.arange(len(sets))
    own = scores[places, owners]
    scores[places, owners] = -np.inf
    distinct = np.array([len(np.unique(one)) for one in rows])
    return Hits(owners, own, scores.max(axis=1), distinct)


def _digest(tracks: Tracks, sets: bytes, mark: str) -> str:
    """16 hexadecimal digits over all that a fuser's hits depend on."""
    arrays = (*tracks.members, tracks.owners, tracks.stretches, tracks.gallery)
    parts = [(str(one.shape), np.ascontiguousarray(one).tobytes()) for one in arrays]
    return fingerprint_parts([(f"{__version__} {mark}", sets), *parts])


def true_likeness(tracks: Tracks) -> Doubles:
    """Cosine (V,) with the enrolled template, 0 at the mean cosine of different people."""
    truth = (normalise_rows(tracks.members.embeddings) * tracks.gallery[tracks.owners]).sum(axis=1)
    alike = tracks.gallery @ tracks.gallery.T
    people = len(alike)
    others = float(alike.sum() - np.trace(alike)) / (people * (people - 1))
    return np.asarray((truth - others) / (1.0 - others))


class Rate(NamedTuple):
    """A share and between which shares 95 % of resamples of the people lie."""

    value: float
    low: float
    high: float


def resample(hits: Hits) -> tuple[Rate, Rate]:
    """Rank 1 and TPIR with intervals over identities."""
    values = hits.value
    low, high = np.percentile(hits.drawn, (2.5, 97.5), axis=0)
    first, named = (Rate(*map(float, row)) for row in zip(values, low, high, strict=True))
    return first, named


def compare(cells: Cells, one: str, other: str) -> Rate:
    """Mean difference in TPIR over COMPARED sizes, the sets paired, over identities."""
    return contrast(cells, ((one, 1.0), (other, -1.0)))


def contrast(cells: Cells, terms: Sequence[tuple[str, float]]) -> Rate:
    """The same of a sum of TPIR, each times a factor."""
    value = sum(by * np.mean([cells[one, n].value[1] for n in COMPARED]) for one, by in terms)
    drawn = sum(by * np.mean([cells[one, n].drawn[:, 1] for n in COMPARED], 0) for one, by in terms)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Rate(float(value), float(low), float(high))
