"""Tracks of strangers as templates: what thresholds are fitted to where there are no faces.

A pack carries a few hundred pseudo-tracks of people kept apart for calibration, each as the fused
templates of its decisions. Scored against any gallery they say how high strangers come there, for
the price of a matrix product, and no picture is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import CorruptModelFile, RecordError
from .fusion import Doubles, Floats
from .npz_file import read_arrays
from .scores import Flags, Labels

FORMAT = "facestream strangers 1"
MOST_BYTES = 64 << 20

ARRAYS = ("format", "aggregator", "vectors", "tracks", "frames", "quality", "people", "synthetic")


class StrangerTracks(NamedTuple):
    """N tracks of strangers with T decisions in all, those of a track one after the other.

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


def save_strangers(path: Path, tracks: StrangerTracks) -> None:
    """Write tracks as .npz: unit vectors as int8, whose cosines are off by less than 0.002."""
    largest = np.abs(tracks.vectors).max(axis=1, keepdims=True)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            format=np.array(FORMAT),
            aggregator=np.array(tracks.aggregator),
            vectors=np.round(tracks.vectors * (127.0 / largest)).astype(np.int8),
            tracks=tracks.tracks.astype(np.int32),
            frames=tracks.frames.astype(np.int32),
            quality=tracks.quality.astype(np.float32),
            people=tracks.people.astype(np.int32),
            synthetic=tracks.synthetic.astype(np.int8),
        )


def load_strangers(path: Path, dimension: int) -> StrangerTracks:
    """Read what `save_strangers` wrote; dimension: C of the pack's embedder.

    Raises CorruptModelFile for another file, and for tracks of another embedder.
    """
    arrays = read_arrays(path, "a file of strangers' tracks", most=MOST_BYTES)
    if set(ARRAYS) - arrays.keys() or str(arrays["format"]) != FORMAT:
        raise CorruptModelFile(
            f"{path}: expected {FORMAT!r} with {', '.join(ARRAYS)}, got {', '.join(arrays)}"
        )
    raw = arrays["vectors"]
    if raw.dtype != np.int8 or raw.ndim != 2 or raw.shape[1] != dimension:
        raise CorruptModelFile(
            f"{path}: expected vectors (T, {dimension}) int8, got {raw.shape} {raw.dtype}; they "
            "were made for another embedder"
        )
    vectors = raw.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    tracks = StrangerTracks(
        str(arrays["aggregator"]),
        vectors / np.maximum(lengths, 1e-12),
        _column(path, arrays, "tracks"),
        _column(path, arrays, "frames"),
        arrays["quality"],
        _column(path, arrays, "people"),
        _column(path, arrays, "synthetic").astype(np.bool_),
    )
    count = len(vectors)
    whole = (
        all(len(one) == count for one in (tracks.tracks, tracks.frames, tracks.quality))
        and len(tracks.synthetic) == len(tracks.people)
        and count > 0
        and bool((lengths > 0).all() and (np.diff(tracks.tracks) >= 0).all())
        and np.array_equal(np.unique(tracks.tracks), np.arange(len(tracks.people)))
    )
    if not whole:
        raise CorruptModelFile(f"{path}: decisions and tracks do not fit together")
    return tracks


def join_decisions(
    decisions: list[tuple[npt.NDArray[np.floating], int, float]],
) -> tuple[Floats, Labels, Floats]:
    """Vectors (T, C), frames (T,) and quality (T,) of single decisions. RecordError for none."""
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
