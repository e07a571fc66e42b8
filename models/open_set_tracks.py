"""Tracks of strangers as templates: what thresholds are fitted to where there are no faces.

A pack carries a few hundred pseudo-tracks of people kept apart for calibration, each as the fused
templates of its decisions. Scored against any gallery they say how high strangers come there, for
the price of a matrix product, and no picture is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import CorruptModelFile, RecordError
from .fusion import Doubles, Floats
from .npz_file import read_arrays
from .scores import Flags, Labels

FORMAT = "facestream strangers 2"
FORMAT_OF_ONE = "facestream strangers 1"
"""Written before there were several aggregators: `aggregator` in place of `aggregators`, and
vectors (T, C)."""
MOST_BYTES = 64 << 20

ARRAYS = ("format", "aggregators", "vectors", "tracks", "frames", "quality", "people", "synthetic")

Steps = npt.NDArray[np.int8]


class StrangerTracks(NamedTuple):
    """N tracks of strangers with T decisions in all, those of a track one after the other, fused by
    one aggregator.

    vectors (T, C) float32 unit; tracks (T,) ascending 0..N-1; frames (T,) observations fused so
    far; quality (T,) their median quality in the pack's unit; people (N,) whose each track is;
    synthetic (N,) whether nobody was ever photographed for it.
    """

    aggregator: str
    vectors: Floats
    tracks: Labels
    frames: Labels
    quality: Floats
    people: Labels
    synthetic: Flags

    def maxima(self, scores: Doubles) -> Doubles:
        """The best of each track (N,), of one score (T,) for each decision."""
        starts = np.searchsorted(self.tracks, np.arange(len(self.people)))
        return np.asarray(np.maximum.reduceat(scores, starts), np.float64)

    def own_likeness(self) -> Doubles:
        """Of each track, the cosine of its last decision with its person's most similar other one.

        (N,); 1 where a person has one track alone.
        """
        last = self.vectors[np.searchsorted(self.tracks, np.arange(len(self.people)), "right") - 1]
        found = np.ones(len(self.people))
        for person in np.unique(self.people):
            rows = np.flatnonzero(self.people == person)
            if len(rows) > 1:
                alike = (last[rows] @ last[rows].T).astype(np.float64)
                np.fill_diagonal(alike, -1.0)
                found[rows] = alike.max(axis=1)
        return found

    def without(self, people: Labels) -> StrangerTracks:
        """The tracks of everybody else; people keep their numbers."""
        kept = ~np.isin(self.people, people)
        rows = kept[self.tracks]
        numbers = np.cumsum(kept) - 1
        return StrangerTracks(
            self.aggregator,
            self.vectors[rows],
            numbers[self.tracks[rows]],
            self.frames[rows],
            self.quality[rows],
            self.people[kept],
            self.synthetic[kept],
        )


class Strangers(NamedTuple):
    """The same tracks fused by each of K aggregators, and decided from few faces on.

    aggregators: K names, the pack's own first. steps (K, T, C) int8: templates, each a unit vector
    times any factor, whose cosines are off by less than 0.002. The rest as in StrangerTracks.
    """

    aggregators: tuple[str, ...]
    steps: Steps
    tracks: Labels
    frames: Labels
    quality: Floats
    people: Labels
    synthetic: Flags

    def by(self, aggregator: str, least: int) -> StrangerTracks:
        """As a run decides that fuses by this aggregator and decides from `least` faces on.

        By the pack's own where this one is not among them; tracks of fewer faces are left out. No
        track has more than the longest: a larger `least` leaves those.
        """
        name = aggregator if aggregator in self.aggregators else self.aggregators[0]
        rows = self.frames >= min(least, int(self.frames.max()))
        kept, tracks = np.unique(self.tracks[rows], return_inverse=True)
        vectors = self.steps[self.aggregators.index(name), rows].astype(np.float32)
        return StrangerTracks(
            name,
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            tracks,
            self.frames[rows],
            self.quality[rows],
            self.people[kept],
            self.synthetic[kept],
        )


def to_steps(vectors: Floats) -> Steps:
    """Unit vectors (K, T, C) as int8; the K of one decision by one factor, as they are alike."""
    largest = np.abs(vectors).max(axis=(0, 2), keepdims=True)
    return np.asarray(np.round(vectors * (127.0 / largest)), np.int8)


def save_strangers(file: BinaryIO, strangers: Strangers) -> None:
    """Write tracks as .npz. Of aggregators but the first, differences to the one before are stored
    (modulo 256): small numbers, which take half of the room."""
    np.savez_compressed(
        file,
        format=np.array(FORMAT),
        aggregators=np.array(strangers.aggregators),
        vectors=np.diff(strangers.steps, axis=0, prepend=np.int8(0)),
        tracks=strangers.tracks.astype(np.int32),
        frames=strangers.frames.astype(np.int32),
        quality=strangers.quality.astype(np.float32),
        people=strangers.people.astype(np.int32),
        synthetic=strangers.synthetic.astype(np.int8),
    )


def load_strangers(path: Path, dimension: int) -> Strangers:
    """Read what `save_strangers` wrote, or wrote before; dimension: C of the pack's embedder.

    Raises CorruptModelFile for another file, and for tracks of another embedder.
    """
    arrays = read_arrays(path, "a file of strangers' tracks", most=MOST_BYTES)
    if str(arrays.get("format")) == FORMAT_OF_ONE and {"aggregator", "vectors"} <= arrays.keys():
        arrays["aggregators"] = arrays["aggregator"].reshape(1)
        arrays["vectors"] = arrays["vectors"][None]
    elif str(arrays.get("format")) != FORMAT:
        arrays.pop("format", None)
    if set(ARRAYS) - arrays.keys():
        raise CorruptModelFile(
            f"{path}: expected {FORMAT!r} with {', '.join(ARRAYS)}, got {', '.join(arrays)}"
        )
    names = tuple(str(name) for name in arrays["aggregators"].ravel())
    raw = arrays["vectors"]
    if raw.dtype != np.int8 or raw.ndim != 3 or raw.shape[::2] != (len(names), dimension):
        raise CorruptModelFile(
            f"{path}: expected vectors ({len(names)}, T, {dimension}) int8, got {raw.shape} "
            f"{raw.dtype}; they were made for another embedder"
        )
    tracks = Strangers(
        names,
        np.cumsum(raw, axis=0, dtype=np.int8),
        _column(path, arrays, "tracks"),
        _column(path, arrays, "frames"),
        arrays["quality"],
        _column(path, arrays, "people"),
        _column(path, arrays, "synthetic").astype(np.bool_),
    )
    count = raw.shape[1]
    whole = (
        all(len(one) == count for one in (tracks.tracks, tracks.frames, tracks.quality))
        and len(tracks.synthetic) == len(tracks.people)
        and count > 0
        and len(names) == len(set(names)) > 0
        and bool(tracks.steps.any(axis=2).all() and (np.diff(tracks.tracks) >= 0).all())
        and np.array_equal(np.unique(tracks.tracks), np.arange(len(tracks.people)))
    )
    if not whole:
        raise CorruptModelFile(f"{path}: decisions and tracks do not fit together")
    return tracks


def join_decisions(
    decisions: list[tuple[npt.NDArray[np.floating], int, float]],
) -> tuple[Floats, Labels, Floats]:
    """Vectors (T, ...), frames (T,) and quality (T,) of decisions. RecordError for none."""
    if not decisions:
        raise RecordError("expected one decision at least, got none")
    vectors, frames, quality = zip(*decisions, strict=True)
    return (
        np.stack(vectors).astype(np.float32),
        np.array(frames, np.int64),
        np.array(quality, np.float32),
    )


def _column(path: Path, arrays: dict[str, np.ndarray], name: str) -> Labels:
    column = arrays[name]
    if column.ndim != 1 or column.dtype.kind != "i":
        raise CorruptModelFile(f"{path}: {name} must be (N,) integers, got {column.shape}")
    return column.astype(np.int64)
