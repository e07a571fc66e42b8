"""Similarity alignment: exact recovery, equivariance, agreement with Umeyama, and sampling."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import RecordError
from facestream.models.align import (
    ARCFACE_112,
    eye_distance,
    fit_similarity,
    resize_template,
    warp,
    warp_faces,
)
from facestream.models.card_file import read_card
from facestream.models.store import CARDS

POINTS = ARCFACE_112.points.astype(np.float64)

angles = st.floats(-np.pi, np.pi)
scales = st.floats(0.05, 20.0)
shifts = st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000))
seeds = st.integers(0, 2**32 - 1)


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991 by SVD, with the sign correction that forbids reflections."""
    p, q = source - source.mean(0), target - target.mean(0)
    u, d, vt = np.linalg.svd(q.T @ p / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / p.var(0).sum()
    return np.column_stack([scale * rotation, target.mean(0) - scale * rotation @ source.mean(0)])


@given(angles, scales, shifts)
@settings(max_examples=50, deadline=None)
def test_a_similarity_is_recovered_exactly(angle, scale, shift):
    moved = apply(similarity(angle, scale, shift), POINTS)
    found = fit_similarity(moved, POINTS)
    assert np.allclose(apply(found, moved), POINTS, atol=1e-7)
    assert np.hypot(found[0, 0], found[1, 0]) == pytest.approx(1 / scale, rel=1e-7)


@given(seeds, angles, scales, shifts)
@settings(max_examples=50, deadline=None)
def test_moving_the_face_moves_the_fit_with_it(seed, angle, scale, shift):
    """fit(T x) o T = fit(x) for every similarity T, also when the landmarks do not fit exactly."""
    landmarks = POINTS + np.random.default_rng(seed).normal(0, 5, POINTS.shape)
    move = similarity(angle, scale, shift)
    still, moved = fit_similarity(landmarks, POINTS), fit_similarity(apply(move, landmarks), POINTS)
    assert np.allclose(apply(moved, apply(move, landmarks)), apply(still, landmarks), atol=1e-6)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_equals_umeyama_without_reflection(seed):
    random = np.random.default_rng(seed)
    landmarks = random.normal(0, 50, (5, 2)) + random.normal(0, 500, 2)
    assert np.allclose(fit_similarity(landmarks, POINTS), umeyama(landmarks, POINTS), atol=1e-7)


def test_a_mirrored_face_is_not_mirrored_back():
    matrix = fit_similarity(POINTS * [-1, 1], POINTS)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_many_faces_are_fitted_at_once():
    faces = POINTS + np.random.default_rng(0).normal(0, 4, (7, 5, 2))
    together = fit_similarity(faces, POINTS)
    assert together.shape == (7, 2, 3)
    assert np.allclose(together, [fit_similarity(face, POINTS) for face in faces])
    assert fit_similarity(np.zeros((0, 5, 2)), POINTS).shape == (0, 2, 3)


@pytest.mark.parametrize("where", [0.0, 1234.5])
def test_landmarks_in_one_place_are_refused(where):
    with pytest.raises(RecordError, match="all in one place"):
        fit_similarity(np.full((5, 2), where), POINTS)


def test_landmarks_that_are_not_numbers_are_refused():
    with pytest.raises(RecordError, match="finite"):
        fit_similarity(np.full((5, 2), np.nan), POINTS)


def test_shapes_are_checked():
    with pytest.raises(RecordError, match=r"\(3, 2\) and \(5, 2\)"):
        fit_similarity(np.zeros((3, 2)), POINTS)


def test_eye_distance():
    faces = np.stack([POINTS, POINTS * 2]).astype(np.float32)
    assert eye_distance(faces) == pytest.approx([35.2377, 70.4754], abs=1e-3)
    assert eye_distance(faces[0]).shape == ()


def test_the_templates_of_the_cards_are_arcfaces():
    """Three cards write the points out; they and the code must say the same."""
    for name in ("buffalo_l", "antelopev2"):
        template = read_card(CARDS / f"{name}.yaml").embedder.template.arrays()
        assert template.size == 112
        np.testing.assert_array_equal(template.points, ARCFACE_112.points)
    lightqnet = read_card(CARDS / "omz.yaml").quality.template
    assert lightqnet is not None and lightqnet.size == 96
    expected = resize_template(ARCFACE_112, 96).points
    np.testing.assert_allclose(lightqnet.arrays().points, expected, atol=1e-4)


def test_a_template_keeps_its_shape_at_another_size():
    template = resize_template(ARCFACE_112, 96)
    assert template.size == 96
    assert template.points.dtype == np.float32
    assert template.points[0] == pytest.approx(ARCFACE_112.points[0] * 96 / 112)


def plane(height: int, width: int) -> np.ndarray:
    """A picture whose brightness is linear in x (blue) and y (green): sampling it is exact."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x / width * 255, y / height * 255, 0 * x], -1).round().astype(np.uint8)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 2.3, 4.0, 7.5])
def test_crops_stay_on_the_pixel_grid_at_every_scale(scale):
    """No half-pixel drift on any of the paths: a linear picture gives the analytic crop."""
    image = plane(1200, 1400)
    place = similarity(0.3, scale, (500.0, 150.0))
    crop = warp(image, apply(place, POINTS).astype(np.float32), ARCFACE_112)
    y, x = np.mgrid[:112, :112]
    source = apply(place, np.stack([x, y], -1).reshape(-1, 2).astype(float)).reshape(112, 112, 2)
    assert crop.shape == (112, 112, 3)
    assert np.abs(crop[..., 0] - source[..., 0] / 1400 * 255).max() < 1.3
    assert np.abs(crop[..., 1] - source[..., 1] / 1200 * 255).max() < 1.3


@pytest.mark.parametrize("angle", [0.0, 0.7])
@pytest.mark.parametrize("scale", [0.5, 1.7, 2.3, 4.2, 7.5])
def test_crops_are_not_shifted_by_a_fraction_of_a_pixel(scale, angle):
    """Waves twenty crop pixels long tell a shift to a few hundredths of a crop pixel."""
    place = similarity(angle, scale, (500.0, 300.0))
    wave = 2 * np.pi / (20 * scale)
    y, x = np.mgrid[:1700, :1800]
    image = np.stack([np.sin(wave * x), np.sin(wave * y), np.zeros(x.shape)], -1) * 100 + 128
    crop = warp(
        image.round().astype(np.uint8), apply(place, POINTS).astype(np.float32), ARCFACE_112
    ).astype(float)
    y, x = np.mgrid[:112, :112]
    source = apply(place, np.stack([x, y], -1).reshape(-1, 2).astype(float)).reshape(112, 112, 2)
    for axis in range(2):
        # Least squares: what shift of the wave, in source pixels, explains the crop best?
        phase = wave * source[..., axis]
        slope = 100 * wave * np.cos(phase)
        shift = (slope * (crop[..., axis] - 128 - 100 * np.sin(phase))).sum() / (slope**2).sum()
        assert abs(shift) / scale < 0.02


@pytest.mark.parametrize("scale", [2.5, 4.2, 6.0])
def test_large_faces_are_averaged_not_skipped_over(scale):
    """Detail finer than a crop pixel must average out instead of turning into moire."""
    y, x = np.mgrid[:900, :900]
    stripes = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    landmarks = apply(similarity(0.2, scale, (150.0, 50.0)), POINTS).astype(np.float32)
    plain = cv2.warpAffine(stripes, fit_similarity(landmarks, POINTS), (112, 112))
    inside = (slice(20, 80), slice(20, 80))
    crop = warp(stripes, landmarks, ARCFACE_112)[inside]
    assert crop.std() < 0.5 * plain[inside].std()
    assert crop.mean() == pytest.approx(127.5, abs=3)


@pytest.mark.parametrize("scale", [0.5, 3.0, 8.0])
def test_outside_the_picture_is_black(scale):
    image = np.full((1000, 1000, 3), 200, np.uint8)
    landmarks = apply(similarity(0.0, scale, (1000.0 - 56 * scale, 20.0)), POINTS)
    crop = warp(image, landmarks.astype(np.float32), ARCFACE_112)
    assert (crop[10:20, 5:50] == 200).all()
    assert (crop[10:20, 60:] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_face_far_outside_gives_an_empty_crop(scale):
    landmarks = apply(similarity(0.0, scale, (5000.0, 5000.0)), POINTS).astype(np.float32)
    assert not warp(np.full((50, 60, 3), 9, np.uint8), landmarks, ARCFACE_112).any()


def test_warp_faces_equals_one_by_one():
    image = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    faces = np.stack([POINTS + 20, POINTS * 2 + 10]).astype(np.float32)
    crops = warp_faces(image, faces, ARCFACE_112)
    assert np.array_equal(crops, [warp(image, face, ARCFACE_112) for face in faces])
    assert warp_faces(image, faces[:0], ARCFACE_112).shape == (0, 112, 112, 3)
