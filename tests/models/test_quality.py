"""Quality sources fall as faces get smaller, blurred and compressed."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, laplace
from scipy.stats import spearmanr

from facestream import CorruptModelFile, RecordError
from facestream.models.align import ARCFACE_112, resize_template, warp
from facestream.models.backends import open_session
from facestream.models.inference import Embedded, QualitySource
from facestream.models.pixels import PixelFormat
from facestream.models.quality import (
    ModelQuality,
    NormQuality,
    TrainingFreeQuality,
    measure_sharpness,
)

LIGHTQNET = PixelFormat("BGR", (128.0,) * 3, (128.0,) * 3, "NHWC")
TINY = resize_template(ARCFACE_112, 8)


def embedded(count: int) -> Embedded:
    random = np.random.default_rng(count)
    embeddings = random.normal(0, 1, (count, 6)).astype(np.float32)
    norms = np.linalg.norm(embeddings, axis=1).astype(np.float32)
    return Embedded(embeddings, norms, np.zeros((count, 0, 2), np.float32))


def rate(source: QualitySource, crops, *, heights=None, scores=None) -> np.ndarray:
    count = len(crops)
    boxes = np.full((count, 4), 30.0, np.float32)
    boxes[:, 3] += 100.0 if heights is None else heights
    given_scores = np.ones(count, np.float32) if scores is None else np.float32(scores)
    quality = source.score(
        crops=np.asarray(crops), embedded=embedded(count), boxes=boxes, scores=given_scores
    )
    assert quality.shape == (count,)
    assert quality.dtype == np.float32
    return quality


def drawn_face(seed: int = 0) -> np.ndarray:
    """A crop with contours of many sizes, from smoothed noise."""
    noise = np.random.default_rng(seed).normal(0, 1, (112, 112)).astype(np.float32)
    layers = sum(cv2.GaussianBlur(noise, (0, 0), s) * s for s in (1.5, 4.0, 12.0))
    grey = np.clip(128 + 40 * layers / layers.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


# Training-free


@given(st.floats(5, 400), st.floats(5, 400), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_a_larger_face_is_never_worse(one, other, seed):
    small, large = sorted((one, other))
    crops = np.stack([drawn_face(seed)] * 2)
    quality = rate(TrainingFreeQuality(), crops, heights=[small, large])
    assert 0 <= quality[0] <= quality[1] <= 1


def test_the_product_is_what_is_documented():
    crops = np.stack([drawn_face(seed) for seed in range(3)])
    sharp = np.array([measure_sharpness(crop) for crop in crops])
    expected = 0.7 * (1 - np.exp(-40 / 25)) * (1 - np.exp(-sharp / 0.008))
    assert rate(TrainingFreeQuality(), crops, heights=40, scores=[0.7] * 3) == pytest.approx(
        expected, rel=1e-5
    )


def test_sharpness_is_detail_over_contrast_inside_the_face():
    """The ratio by an independent route: scipy's filters on the same definition."""
    grey = drawn_face()[..., 0].astype(np.float64)
    grey[:30] = 255  # hair and background do not count
    crop = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    smooth = gaussian_filter(grey, 1.5, mode="mirror")
    face = (slice(36, 104), slice(22, 90))
    expected = laplace(smooth, mode="mirror")[face].var() / (smooth[face].var() + 2.0)
    assert measure_sharpness(crop) == pytest.approx(expected, rel=0.02)


def test_nearly_flat_crops_have_no_detail():
    """Rounding to whole grey levels must not count: it is all there is in a flat crop."""
    noise = np.random.default_rng(0).integers(127, 129, (112, 112, 1), dtype=np.uint8)
    assert measure_sharpness(np.repeat(noise, 3, axis=-1)) < 0.002


def test_sharpness_falls_with_blur_and_does_not_see_brightness():
    face = drawn_face()
    sigmas = (0.5, 1.0, 2.0, 4.0, 8.0)
    blurred = [measure_sharpness(cv2.GaussianBlur(face, (0, 0), sigma)) for sigma in sigmas]
    assert (np.diff(blurred) < 0).all()
    dim = (face * 0.4 + 20).astype(np.uint8)
    assert measure_sharpness(dim) == pytest.approx(measure_sharpness(face), rel=0.05)


def test_a_flat_crop_has_no_quality():
    for value in (0, 128, 255):
        flat = np.full((1, 112, 112, 3), value, np.uint8)
        assert rate(TrainingFreeQuality(), flat) == pytest.approx([0.0])


def test_no_faces_give_no_numbers(make_embedder):
    assert rate(TrainingFreeQuality(), np.zeros((0, 112, 112, 3), np.uint8)).shape == (0,)
    assert rate(tiny_model(make_embedder), np.zeros((0, 8, 8, 3), np.uint8)).shape == (0,)


# Norm and network


def test_the_norm_is_passed_on():
    source = NormQuality()
    assert source.template is None
    assert np.array_equal(rate(source, np.zeros((4, 8, 8, 3), np.uint8)), embedded(4).norms)


def tiny_model(make_embedder: Callable, *, batch: int = 32) -> ModelQuality:
    session = open_session(make_embedder(dimension=1).SerializeToString())
    return ModelQuality(session, template=TINY, pixels=PixelFormat(), unit="tiny", batch=batch)


def test_a_network_gives_one_number_per_crop(make_embedder):
    crops = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    session = open_session(make_embedder(dimension=1).SerializeToString())
    expected = session.run({"input": PixelFormat().tensor(crops)})["embedding"][:, 0]
    for batch in (2, 32):
        assert np.allclose(rate(tiny_model(make_embedder, batch=batch), crops), expected, atol=1e-4)


def test_another_network_is_refused(make_embedder):
    many = open_session(make_embedder(dimension=5).SerializeToString())
    with pytest.raises(CorruptModelFile, match=r"expected one quality per crop.*\(1, 5\)"):
        ModelQuality(many, template=TINY, pixels=PixelFormat(), unit="")
    one = open_session(make_embedder(dimension=1).SerializeToString())
    with pytest.raises(CorruptModelFile, match="112 x 112 crops in NHWC"):
        ModelQuality(one, template=ARCFACE_112, pixels=LIGHTQNET, unit="")


def test_other_crops_are_refused():
    with pytest.raises(RecordError, match=r"\(N, 112, 112, 3\)"):
        rate(TrainingFreeQuality(), np.zeros((2, 96, 96, 3), np.uint8))


# Real faces, degraded step by step


def shrink(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)


def shrink_and_back(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(shrink(image, factor), image.shape[1::-1])


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image


def compress(image: np.ndarray, loss: float) -> np.ndarray:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(100 - loss)])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


DEGRADATIONS = {
    "shrink": (shrink, (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)),
    "shrink and back": (shrink_and_back, (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)),
    "blur": (blur, (0.0, 0.7, 1.0, 1.5, 2.5, 4.0)),
    "compression": (compress, (5.0, 70.0, 85.0, 92.0, 96.0)),
}


@pytest.fixture(scope="module")
def faces(omz_models, assets) -> dict[str, list]:
    """Per degradation and level: crops of two sizes, boxes and scores of twelve people.

    The face is found in the clean picture, so that what is measured is the quality source and not
    the detector's landmarks; its score is that of the degraded picture.
    """
    paths = sorted((assets / "london" / "probe_smiling").glob("*.jpg"))[:48:4]
    clean = [shrink(cv2.imread(str(path)), 2.2) for path in paths]
    found = omz_models.detector.detect(clean)
    levels: dict[str, list] = {}
    for name, (degrade, steps) in DEGRADATIONS.items():
        levels[name] = []
        for step in steps:
            zoom = 1 / step if degrade is shrink else 1.0
            images = [degrade(image, step) for image in clean]
            points = [face.landmarks[0] * np.float32(zoom) for face in found]
            seen = omz_models.detector.detect(images, score=0.01)
            levels[name].append(
                {
                    size: np.stack(
                        [
                            warp(image, landmarks, resize_template(ARCFACE_112, size))
                            for image, landmarks in zip(images, points, strict=True)
                        ]
                    )
                    for size in (96, 112)
                }
                | {
                    "heights": [(f.boxes[0, 3] - f.boxes[0, 1]) * zoom for f in found],
                    "scores": [f.scores[0] if len(f.scores) else 0.0 for f in seen],
                }
            )
    return levels


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_training_free_quality_falls_with_every_degradation(faces, degradation):
    levels = [
        rate(TrainingFreeQuality(), level[112], heights=level["heights"], scores=level["scores"])
        for level in faces[degradation]
    ]
    check_fall(levels, least=0.5 if degradation == "compression" else 0.95)


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_lightqnet_falls_with_every_degradation(faces, degradation, assets):
    source = ModelQuality(
        open_session(assets / "models" / "lightqnet-dm100.onnx"),
        template=resize_template(ARCFACE_112, 96),
        pixels=LIGHTQNET,
        unit="LightQNet 0..1",
    )
    levels = [rate(source, level[96]) for level in faces[degradation]]
    check_fall(levels, least=0.5)


def check_fall(levels: list[np.ndarray], least: float) -> None:
    """The last level is worst on average, and quality ranks the levels within each person."""
    means = [level.mean() for level in levels]
    assert means[-1] == min(means)
    assert means[-1] < 0.95 * means[0]
    ranks = [spearmanr(range(len(levels)), own).statistic for own in np.transpose(levels)]
    assert -np.mean(ranks) >= least, f"mean rank correlation {np.mean(ranks):.2f}, means {means}"
