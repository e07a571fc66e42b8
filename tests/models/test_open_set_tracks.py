"""Strangers' tracks as a file: read as written, and refused where they do not fit."""

from pathlib import Path

import numpy as np
import pytest

from facestream import CorruptModelFile, RecordError
from facestream.models.open_set_tracks import (
    StrangerTracks,
    join_decisions,
    load_strangers,
    save_strangers,
)


def some_tracks(dimension: int = 64) -> StrangerTracks:
    """Three tracks of two people, with 2, 1 and 3 decisions."""
    rows = np.random.default_rng(0).standard_normal((6, dimension))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return StrangerTracks(
        "learned",
        vectors,
        np.array([0, 0, 1, 2, 2, 2]),
        np.array([3, 4, 3, 3, 4, 6]),
        np.linspace(0.2, 0.7, 6).astype(np.float32),
        np.array([0, 0, 1]),
        np.array([False, False, True]),
    )


def test_a_track_counts_by_its_best_decision():
    maxima = some_tracks().maxima(np.array([0.1, 0.4, 0.2, 0.3, 0.5, 0.0]))
    assert maxima.tolist() == [0.4, 0.2, 0.5]


def test_own_likeness_is_that_of_the_persons_other_tracks():
    tracks = some_tracks()
    alike = float(tracks.vectors[1] @ tracks.vectors[2])
    assert tracks.own_likeness().tolist() == pytest.approx([alike, alike, 1.0])


def test_everybody_but_some():
    tracks = some_tracks()
    left = tracks.without(np.array([0]))
    assert left.people.tolist() == [1] and left.tracks.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(left.vectors, tracks.vectors[3:])
    assert left.frames.tolist() == [3, 4, 6]
    assert not len(tracks.without(np.array([0, 1])).people)


def test_written_and_read(tmp_path: Path):
    tracks = some_tracks()
    save_strangers(tmp_path / "a.npz", tracks)
    read = load_strangers(tmp_path / "a.npz", 64)
    assert read.aggregator == "learned"
    for field in ("tracks", "frames", "people", "synthetic"):
        np.testing.assert_array_equal(getattr(read, field), getattr(tracks, field))
    np.testing.assert_allclose(read.quality, tracks.quality)
    np.testing.assert_allclose(np.linalg.norm(read.vectors, axis=1), 1.0, atol=1e-6)
    others = some_tracks().vectors[::-1]
    np.testing.assert_allclose(read.vectors @ others.T, tracks.vectors @ others.T, atol=4e-3)


def change(path: Path, **arrays: np.ndarray) -> Path:
    with np.load(path) as stored:
        kept = {name: stored[name] for name in stored.files} | arrays
    np.savez(path.with_name("changed.npz"), **{k: v for k, v in kept.items() if v is not None})
    return path.with_name("changed.npz")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"format": np.array("facestream strangers 2")}, "facestream strangers 1"),
        ({"people": None}, "expected"),
        ({"vectors": np.ones((6, 32), np.int8)}, r"\(T, 64\) int8.*another embedder"),
        ({"vectors": np.ones((6, 64), np.float32)}, "int8"),
        ({"vectors": np.zeros((6, 64), np.int8)}, "do not fit together"),
        ({"tracks": np.array([0, 0, 2, 2, 2, 2])}, "do not fit together"),
        ({"tracks": np.array([0, 0, 1, 1, 1, 1])}, "do not fit together"),
        ({"tracks": np.zeros(6)}, "must be .* integers"),
        ({"frames": np.array([3, 4])}, "do not fit together"),
        ({"synthetic": np.array([1])}, "do not fit together"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, changed, why):
    save_strangers(tmp_path / "a.npz", some_tracks())
    with pytest.raises(CorruptModelFile, match=why):
        load_strangers(change(tmp_path / "a.npz", **changed), 64)


def test_damage_and_nothing(tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(CorruptModelFile, match="strangers' tracks"):
        load_strangers(tmp_path / "a.npz", 64)
    with pytest.raises(RecordError, match="one decision at least"):
        join_decisions([])
