"""Histograms of magnitudes and mean faces against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models.magnitudes import MeanFaces, count_magnitudes, find_bins, spread_edges


def test_sets_are_counted_in_common_bins() -> None:
    sets = {"still": [10.0, 20.0, 29.9, 30.0], "video": [5.0, 12.0, 45.0]}
    histograms = count_magnitudes(sets, [10, 20, 30, 40])
    assert histograms.counts["still"].tolist() == [1, 2, 1]
    assert histograms.counts["video"].tolist() == [2, 0, 1]  # ends take what lies outside
    assert histograms.shares("still").tolist() == [0.25, 0.5, 0.25]
    assert histograms.means == pytest.approx({"still": 22.475, "video": 62 / 3})


def test_edges_of_equal_width_and_of_equal_counts() -> None:
    magnitudes = np.array([10.0, 11, 12, 13, 14, 15, 16, 50])
    assert spread_edges(magnitudes, 4).tolist() == [10, 20, 30, 40, 50]
    edges = spread_edges(magnitudes, 4, equal_counts=True)
    assert np.bincount(find_bins(magnitudes, edges)).tolist() == [2, 2, 2, 2]
    assert len(spread_edges([1.0, 1, 1, 1, 1, 9], 3, equal_counts=True)) < 4


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 200), min_size=2, max_size=50).filter(lambda m: max(m) - min(m) > 1e-3),
    st.integers(1, 12),
)
def test_every_face_is_in_one_bin(magnitudes: list[float], bins: int) -> None:
    edges = spread_edges(magnitudes, bins)
    counts = count_magnitudes({"all": magnitudes}, edges).counts["all"]
    assert counts.sum() == len(magnitudes) and len(counts) == bins
    np.testing.assert_array_equal(counts, np.histogram(magnitudes, edges)[0])


def some_faces() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (90, 6, 6, 3), dtype=np.uint8), draw.uniform(5, 45, 90)


def test_mean_faces_are_the_means_of_their_bins() -> None:
    crops, magnitudes = some_faces()
    edges = spread_edges(magnitudes, 4, equal_counts=True)
    faces = MeanFaces(edges, side=6)
    faces.add(crops, magnitudes)
    bins = find_bins(magnitudes, edges)
    expected = [np.floor(crops[bins == b].mean(axis=0) + 0.5) for b in range(4)]
    np.testing.assert_array_equal(faces.read(), expected)
    assert faces.counts.tolist() == np.bincount(bins).tolist()


def test_mean_faces_depend_neither_on_order_nor_on_batches() -> None:
    crops, magnitudes = some_faces()
    whole, parts = MeanFaces([0, 20, 30, 50], side=6), MeanFaces([0, 20, 30, 50], side=6)
    whole.add(crops, magnitudes)
    order = np.random.default_rng(1).permutation(90)
    for some in np.array_split(order, 7):
        parts.add(crops[some], magnitudes[some])
    np.testing.assert_array_equal(whole.read(), parts.read())


def test_a_bin_without_faces_is_black() -> None:
    faces = MeanFaces([0, 10, 20], side=2)
    faces.add(np.full((3, 2, 2, 3), 200, np.uint8), [3.0, 4, 5])
    assert faces.counts.tolist() == [3, 0]
    assert (faces.read()[0] == 200).all() and (faces.read()[1] == 0).all()


def test_blurred_faces_have_a_flatter_mean() -> None:
    # What the paper's figure shows: with the magnitude the mean face gains detail.
    draw = np.random.default_rng(2)
    pattern = 90 * np.where(np.indices((8, 8)).sum(axis=0) % 2, 1, -1)[..., None]
    magnitudes = draw.uniform(10, 40, 400)
    strength = (magnitudes - 10) / 30
    noise = draw.normal(0, 20, (400, 8, 8, 3))
    crops = np.clip(128 + strength[:, None, None, None] * pattern + noise, 0, 255).astype(np.uint8)
    faces = MeanFaces(spread_edges(magnitudes, 8, equal_counts=True), side=8)
    faces.add(crops, magnitudes)
    contrast = faces.read().astype(float).std(axis=(1, 2, 3))
    assert (np.diff(contrast) > 0).all()


def test_what_cannot_be() -> None:
    for wrong in ([], [[1.0]], [np.nan], [-1.0]):
        with pytest.raises(RecordError, match="magnitudes"):
            find_bins(wrong, [0, 1])
    for edges in ([0], [0, 0], [1, 0], [[0, 1]]):
        with pytest.raises(RecordError, match="ascending"):
            count_magnitudes({"all": [1.0]}, edges)
    with pytest.raises(RecordError, match="differ"):
        spread_edges([3.0, 3.0], 4)
    with pytest.raises(ConfigError, match="bins"):
        spread_edges([3.0, 4.0], 0)
    with pytest.raises(ConfigError, match="side"):
        MeanFaces([0, 1], side=0)
    faces = MeanFaces([0, 1], side=4)
    for crops in (np.zeros((1, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)):
        with pytest.raises(RecordError, match="crops"):
            faces.add(crops, [0.5])
    with pytest.raises(RecordError, match="uint8"):
        faces.add(np.zeros((1, 4, 4, 3)), [0.5])
