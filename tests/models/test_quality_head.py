"""Quality from embedding, norm and style: the arithmetic by hand, and files that are none."""

import numpy as np
import pytest

from facestream import CorruptModelFile, MissingModelFile, RecordError
from facestream.models.quality_head import (
    QualityHead,
    head_inputs,
    load_quality_head,
    save_quality_head,
)


def make(**changes) -> QualityHead:
    """C = 2, K = 1, H = 1: looks at the log norm and at the style's mean."""
    arrays = {
        "mean": np.array([0, 0, 1, 0, 0], np.float32),
        "deviation": np.array([1, 1, 2, 1, 1], np.float32),
        "fc1.weight": np.array([[0, 0, 4, 1, 0]], np.float32),
        "fc1.bias": np.array([0.5], np.float32),
        "fc2.weight": np.array([[2]], np.float32),
        "fc2.bias": np.array([-1], np.float32),
    }
    return QualityHead(arrays | changes, 2, 1)


def test_inputs_are_direction_log_norm_means_and_deviations():
    styles = np.array([[[1, 2], [3, 4]]], np.float32)  # two channels: mean, deviation
    x = head_inputs(np.array([[3, 4]], np.float32), styles)
    assert x[0] == pytest.approx([0.6, 0.8, np.log(5), 1, 3, 2, 4])
    assert np.isfinite(head_inputs(np.zeros((1, 2), np.float32), styles)).all()


def test_a_face_by_hand():
    embeddings = np.array([[np.e, 0], [0, np.e**3]], np.float32)
    styles = np.array([[[0.5, 9]], [[-9, 9]]], np.float32)
    # hidden: 4 * (1 - 1) / 2 + 0.5 + 0.5 = 1; 4 * (3 - 1) / 2 - 9 + 0.5 < 0
    expected = [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]
    assert make().score(embeddings, styles) == pytest.approx(expected, abs=1e-6)
    assert make().score(embeddings[:0], styles[:0]).shape == (0,)


def test_other_shapes_are_refused():
    with pytest.raises(RecordError, match=r"takes embeddings \(N, 2\)"):
        make().score(np.ones((1, 3), np.float32), np.ones((1, 1, 2), np.float32))
    with pytest.raises(RecordError, match=r"styles \(N, K, 2\)"):
        head_inputs(np.ones((1, 2), np.float32), np.ones((2, 1, 2), np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc1.bias": np.zeros(2, np.float32)}, "fc1.weight must be"),
        ({"mean": np.zeros(5)}, "mean must be .* float32"),
        ({"fc2.bias": np.array([np.nan], np.float32)}, "fc2.bias holds numbers"),
        ({"deviation": np.zeros(5, np.float32)}, "every deviation must be above 0"),
        ({"more": np.zeros(1, np.float32)}, "more is missing or not of them"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes, message):
    with pytest.raises(CorruptModelFile, match=message):
        make(**changes)


def test_a_file_gives_the_same_numbers_and_others_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(MissingModelFile, match="no quality head"):
        load_quality_head(path)
    save_quality_head(path, make())
    faces = np.ones((3, 2), np.float32), np.ones((3, 1, 2), np.float32)
    assert np.array_equal(load_quality_head(path).score(*faces), make().score(*faces))
    np.savez(path, **make().arrays, dimension=2)
    with pytest.raises(CorruptModelFile, match="styles is missing"):
        load_quality_head(path)
    path.write_bytes(b"text")
    with pytest.raises(CorruptModelFile, match="is not a quality head"):
        load_quality_head(path)
