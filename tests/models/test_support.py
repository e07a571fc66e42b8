"""Support sets of the three sources, and support sets without the person's own anchors."""

import numpy as np
import pytest

from facestream import ConfigError, RecordError
from facestream.models.ida import Anchors
from facestream.models.support import (
    anchors_from_classes,
    anchors_from_faces,
    anchors_from_synthetic,
)

C = 16


def draw_faces(people: int = 40, each: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Raw embeddings of all lengths, and whose they are (numbers with gaps, in no order)."""
    draw = np.random.default_rng(seed)
    identities = draw.permutation(np.repeat(np.arange(people) * 7 + 3, each))
    centres = dict(zip(np.unique(identities), draw.standard_normal((people, C)), strict=True))
    faces = np.stack([centres[identity] for identity in identities])
    return faces + 0.3 * draw.standard_normal(faces.shape), identities


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_real_faces_are_one_per_identity_at_unit_length():
    embeddings, identities = draw_faces()
    anchors = anchors_from_faces(embeddings, identities, k=5, tau=2.0)
    np.testing.assert_array_equal(anchors.identities, np.unique(identities))
    assert (anchors.k, anchors.tau, anchors.vectors.dtype) == (5, 2.0, np.float32)
    for vector, identity in zip(anchors.vectors, anchors.identities, strict=True):
        assert (vector == unit(embeddings[identities == identity])).all(axis=1).any()


def test_a_draw_is_of_the_size_asked_for_and_repeatable():
    embeddings, identities = draw_faces()
    few = anchors_from_faces(embeddings, identities, count=12, seed=3)
    again = anchors_from_faces(embeddings, identities, count=12, seed=3)
    other = anchors_from_faces(embeddings, identities, count=12, seed=4)
    assert len(few.vectors) == len(np.unique(few.identities)) == 12
    np.testing.assert_array_equal(few.vectors, again.vectors)
    assert few.version == again.version != other.version
    assert len(anchors_from_faces(embeddings, identities, count=99).vectors) == 40


def test_synthetic_faces_have_no_identity():
    embeddings, _ = draw_faces()
    anchors = anchors_from_synthetic(embeddings)
    np.testing.assert_array_equal(anchors.vectors, unit(embeddings))
    assert anchors.identities is None and anchors.version.startswith("synthetic-")
    assert len(anchors_from_synthetic(embeddings, count=11).vectors) == 11
    with pytest.raises(RecordError, match="have no identities"):
        anchors.density(anchors.vectors[:1], np.array([0]))


def test_class_weights_are_anchors_whose_identity_is_the_class():
    weights = 5.0 * np.random.default_rng(0).standard_normal((30, C))
    anchors = anchors_from_classes(weights, count=20)
    np.testing.assert_array_equal(anchors.vectors, unit(weights)[anchors.identities])
    assert anchors.version.startswith("classes-")
    # A face of a training class, measured without it.
    others = Anchors(anchors.vectors[1:], "others")
    probe = anchors.vectors[:1]
    np.testing.assert_allclose(
        anchors.density(probe, anchors.identities[:1]), others.density(probe), rtol=0, atol=1e-7
    )


def test_the_version_is_of_everything_a_density_depends_on():
    embeddings, identities = draw_faces(each=1)
    made = [
        anchors_from_faces(embeddings, identities),
        anchors_from_faces(embeddings, identities, k=9),
        anchors_from_faces(embeddings, identities, tau=2.0),
        anchors_from_faces(embeddings, identities + 1),
        anchors_from_faces(embeddings[:-1], identities[:-1]),
        anchors_from_synthetic(embeddings),
    ]
    assert len({anchors.version for anchors in made}) == len(made)


def test_density_without_the_persons_own_anchors_is_that_of_all_others(monkeypatch):
    embeddings, identities = draw_faces()
    # All faces as anchors: three of everybody, so that three are left out.
    anchors = Anchors(unit(embeddings), "all", k=6, tau=3.0, identities=identities)
    got = anchors.density(anchors.vectors, identities)
    for vector, identity, density in zip(anchors.vectors, identities, got, strict=True):
        rest = Anchors(anchors.vectors[identities != identity], "rest", k=6, tau=3.0)
        assert density == pytest.approx(rest.density(vector[None])[0], abs=1e-6)
    assert (got < anchors.density(anchors.vectors)).all()  # with one's own faces it looks crowded
    strangers = anchors.density(anchors.vectors, identities + 1)
    np.testing.assert_array_equal(strangers, anchors.density(anchors.vectors))
    monkeypatch.setattr("facestream.models.ida._BLOCK", 500)
    np.testing.assert_allclose(anchors.density(anchors.vectors, identities), got, atol=1e-6)


def test_own_anchors_are_left_out_even_where_all_others_are_far():
    vectors = np.array([[1, 0], [-0.6, 0.8], [-0.6, -0.8]], np.float32)
    anchors = Anchors(vectors, "x", k=2, identities=np.array([4, 5, 6]))
    own = anchors.density(vectors[:1], np.array([4]))
    assert own == pytest.approx(-0.6, abs=1e-6)  # both others, not one of them and oneself


def test_too_few_anchors_of_other_people_are_refused():
    eye = np.eye(4, dtype=np.float32)
    anchors = Anchors(eye, "x", k=3, identities=np.array([0, 0, 1, 2]))
    assert np.isfinite(anchors.density(eye[:1], np.array([1]))).all()
    with pytest.raises(RecordError, match="needs 3 anchors of other people, got 2"):
        anchors.density(eye[:2], np.array([1, 0]))
    with pytest.raises(RecordError, match=r"identities must be \(2,\)"):
        anchors.density(eye[:2], np.array([1]))
    with pytest.raises(RecordError, match=r"identities must be \(4,\)"):
        Anchors(eye, "x", k=3, identities=np.arange(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, i: anchors_from_faces(e, i[1:]), "got"),
        (lambda e, i: anchors_from_faces(e[0], i), r"\(N, C\)"),
        (lambda e, i: anchors_from_synthetic(e[0]), r"\(N, C\)"),
        (lambda e, i: anchors_from_classes(e[0]), r"\(classes, C\)"),
        (lambda e, i: anchors_from_faces(e * 0, i), "without a direction"),
        (lambda e, i: anchors_from_synthetic(e * np.nan), "without a direction"),
        (lambda e, i: anchors_from_faces(e, i * 0), r"number of anchors \(1\), got 10"),
    ],
)
def test_what_gives_no_anchors_is_refused(call, message):
    with pytest.raises(RecordError, match=message):
        call(*draw_faces())


def test_a_count_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        anchors_from_synthetic(draw_faces()[0], count=0)
