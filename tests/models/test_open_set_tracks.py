"""Strangers' tracks as a file: read as written, and refused where they do not fit."""

from pathlib import Path

import numpy as np
import pytest

from facestream import CorruptModelFile, RecordError
from facestream.models.open_set_tracks import (
    Strangers,
    StrangerTracks,
    join_decisions,
    load_strangers,
    save_strangers,
    to_steps,
)


def some_strangers(dimension: int = 64) -> Strangers:
    """The same tracks by two aggregators: the second is turned the other way."""
    one = some_tracks(dimension)
    both = np.stack([one.vectors, -one.vectors[:, ::-1]])
    return Strangers(("learned", "mean"), to_steps(both), *one[2:])


def write(folder: Path) -> Path:
    with (folder / "a.npz").open("wb") as file:
        save_strangers(file, some_strangers())
    return folder / "a.npz"


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
    written = load_strangers(write(tmp_path), 64)
    assert written.aggregators == ("learned", "mean")
    np.testing.assert_array_equal(written.steps, some_strangers().steps)
    tracks, read = some_tracks(), written.by("learned", 1)
    assert read.aggregator == "learned"
    for field in ("tracks", "frames", "people", "synthetic"):
        np.testing.assert_array_equal(getattr(read, field), getattr(tracks, field))
    np.testing.assert_allclose(read.quality, tracks.quality)
    np.testing.assert_allclose(np.linalg.norm(read.vectors, axis=1), 1.0, atol=1e-6)
    others = some_tracks().vectors[::-1]
    np.testing.assert_allclose(read.vectors @ others.T, tracks.vectors @ others.T, atol=4e-3)


def test_by_another_aggregator_and_from_another_count_on():
    strangers, one = some_strangers(), some_tracks()
    read = strangers.by("mean", 4)  # the second track has 3 faces
    assert (read.aggregator, read.frames.tolist()) == ("mean", [4, 4, 6])
    assert (read.tracks.tolist(), read.people.tolist()) == ([0, 1, 1], [0, 1])
    assert read.synthetic.tolist() == [False, True]
    cosines = (read.vectors * -one.vectors[[1, 4, 5], ::-1]).sum(axis=1)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-3)
    assert strangers.by("caface", 3).aggregator == "learned"  # the pack's own
    assert strangers.by("learned", 9).frames.tolist() == [6]


def test_files_of_one_aggregator_are_read_too(tmp_path: Path):
    one = some_tracks()
    steps = to_steps(one.vectors[None])[0]
    columns = {"format": "facestream strangers 1", "aggregator": one.aggregator, "vectors": steps}
    np.savez(
        tmp_path / "old.npz",
        **columns,
        **{name: getattr(one, name).astype(np.int32) for name in ("tracks", "frames", "people")},
        quality=one.quality,
        synthetic=one.synthetic.astype(np.int8),
    )
    read = load_strangers(tmp_path / "old.npz", 64)
    assert read.aggregators == ("learned",)
    np.testing.assert_allclose(read.by("mean", 1).vectors, one.vectors, atol=4e-3)


def change(path: Path, **arrays: np.ndarray) -> Path:
    with np.load(path) as stored:
        kept = {name: stored[name] for name in stored.files} | arrays
    np.savez(path.with_name("changed.npz"), **{k: v for k, v in kept.items() if v is not None})
    return path.with_name("changed.npz")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"format": np.array("facestream strangers 3")}, "facestream strangers 2"),
        ({"aggregators": np.array(["mean", "mean"])}, "do not fit together"),
        ({"aggregators": np.array(["mean"])}, r"\(1, T, 64\) int8"),
        ({"people": None}, "expected"),
        ({"vectors": np.ones((2, 6, 32), np.int8)}, r"\(2, T, 64\) int8.*another embedder"),
        ({"vectors": np.ones((2, 6, 64), np.float32)}, "int8"),
        ({"vectors": np.zeros((2, 6, 64), np.int8)}, "do not fit together"),
        ({"tracks": np.array([0, 0, 2, 2, 2, 2])}, "do not fit together"),
        ({"tracks": np.array([0, 0, 1, 1, 1, 1])}, "do not fit together"),
        ({"tracks": np.zeros(6)}, "must be .* integers"),
        ({"frames": np.array([3, 4])}, "do not fit together"),
        ({"synthetic": np.array([1])}, "do not fit together"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, changed, why):
    with pytest.raises(CorruptModelFile, match=why):
        load_strangers(change(write(tmp_path), **changed), 64)


def test_damage_and_nothing(tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(CorruptModelFile, match="strangers' tracks"):
        load_strangers(tmp_path / "a.npz", 64)
    with pytest.raises(RecordError, match="one decision at least"):
        join_decisions([])
