"""Degradations do what they say, and the same seed gives the same bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models.inference import Image
from facestream.train import degrade_steps as steps
from facestream.train.degrade import (
    PAPER_STRONG,
    PAPER_WEAK,
    STRONG,
    SURVEILLANCE,
    WEAK,
    Degradation,
    camera_of,
    degrade,
)
from facestream.train.degrade_steps import Camera, film


def draw_picture(height: int = 112, width: int = 112, seed: int = 0) -> Image:
    """Coloured blobs and fine grey texture: something to lose."""
    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    blobs = (cv2.GaussianBlur(drawn, (0, 0), 6) - 127) * 9 + 127
    return np.clip(blobs + 0.3 * (drawn[..., :1] - 127), 0, 255).astype(np.uint8)


def sharpness(image: Image) -> float:
    """Variance of the Laplacian of the middle, clear of borders."""
    quarter = image.shape[0] // 4
    grey = image[quarter:-quarter, quarter:-quarter].mean(axis=2)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


CHAINS = (STRONG, WEAK, PAPER_STRONG, PAPER_WEAK, SURVEILLANCE)


@pytest.mark.parametrize("settings", CHAINS)
def test_a_seed_gives_the_same_bytes_and_another_seed_others(settings: Degradation) -> None:
    image = draw_picture()
    before = image.copy()
    views = [degrade(image, np.random.default_rng([5, n]), settings) for n in (0, 0, 1)]
    assert views[0].tobytes() == views[1].tobytes() != views[2].tobytes()
    np.testing.assert_array_equal(image, before)  # the picture itself is left alone


@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(2, 150), st.integers(2, 150)),
    settings=st.sampled_from(CHAINS),
)
def test_shape_and_dtype_are_kept_for_any_size(
    seed: int, size: tuple[int, int], settings: Degradation
) -> None:
    image = draw_picture(*size)
    view = degrade(image, np.random.default_rng(seed), settings)
    assert view.shape == image.shape and view.dtype == np.uint8


@pytest.mark.parametrize("level", [0, 255])
def test_extremes_of_every_interval_do_not_fail(level: int) -> None:
    low = Degradation(
        crop_area=(1e-6, 1e-6),
        zoom=(1e-3, 1e-3),
        resize=(1e-6, 1e-6),
        camera_resize=(1e-6, 1e-6),
        quality=(0, 0),
        motion=(1, 1),
        box=(1, 1),
        gauss=(0, 0),
    )
    high = Degradation(
        crop_area=(1, 1),
        crop_aspect=(1e-3, 1e3),
        zoom=(50, 50),
        turn=180,
        shift=1,
        brightness=1,
        contrast=1,
        saturation=1,
        box=(300, 300),
        gauss=(80, 80),
        motion=(300, 300),
        noise=(500, 500),
        quality=(100, 100),
    )
    image = np.full((40, 30, 3), level, np.uint8)
    for settings in (low, high):
        for seed in range(20):
            assert degrade(image, np.random.default_rng(seed), settings).shape == image.shape


def test_a_crop_stays_in_its_place_on_black() -> None:
    image = draw_picture() | np.uint8(1)  # nowhere black
    kept = steps.crop_in_place(image, (10, 20, 50, 90))
    np.testing.assert_array_equal(kept[20:90, 10:50], image[20:90, 10:50])
    kept[20:90, 10:50] = 0
    assert not kept.any()


def test_crops_have_the_area_and_the_aspect_asked_for() -> None:
    settings = Degradation(("geometry",), flip=0, crop_area=(0.25, 0.5), zoom=(1, 1), shift=0)
    image = np.full((200, 200, 3), 255, np.uint8)
    shares = []
    for seed in range(60):
        lit = degrade(image, np.random.default_rng(seed), replace(settings, turn=0))[..., 0] > 0
        if not lit.all():
            rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
            assert lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            shares.append(lit.mean())
            assert 0.74 < len(columns) / len(rows) < 1.35
    assert len(shares) > 10 and 0.245 < min(shares) < 0.3 and 0.45 < max(shares) < 0.505


def test_zoom_shift_and_turn_move_a_mark_where_they_say() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    image[50, 70] = 255  # 20 px right of the middle
    assert steps.move(image, zoom=1.5)[50, 80].all()
    assert steps.move(image, across=10 / 101, down=-20 / 101)[30, 80].all()
    assert steps.rotate(image, 90)[30, 50].all()  # counter-clockwise: now above the middle
    np.testing.assert_array_equal(steps.move(image), image)


def test_light_by_hand() -> None:
    image = np.array([[[10, 20, 30], [100, 100, 100]]], np.uint8)
    np.testing.assert_array_equal(steps.change_light(image, brightness=1.5)[0, 0], [15, 30, 45])
    # Mean grey (0.114 10 + 0.587 20 + 0.299 30 + 100) / 2 = 60.925; halfway to it.
    flat = steps.change_light(image, contrast=0.5)[0]
    np.testing.assert_array_equal(flat[0], [35, 40, 45])
    grey = steps.change_light(image, saturation=0.0)[0, 0]
    np.testing.assert_array_equal(grey, [22, 22, 22])  # 21.85
    np.testing.assert_array_equal(steps.change_light(image), image)


@pytest.mark.parametrize(
    "blurred",
    [
        lambda x, n: steps.blur_box(x, 1 + 4 * n),
        lambda x, n: steps.blur_gauss(x, 2.0 * n),
        lambda x, n: steps.blur_motion(x, 1 + 8 * n, 30),
        lambda x, n: steps.resize_down_up(x, 1 / (1 + 2 * n)),
        lambda x, n: film(x, np.random.default_rng(0), Camera(1 / (1 + 2 * n), 0, 0, 95)),
    ],
)
def test_blurs_and_resizing_lose_sharpness_the_more_the_larger(blurred: Any) -> None:
    image = draw_picture()
    levels = [sharpness(blurred(image, n)) for n in range(3)]
    assert levels[0] > 2 * levels[1] > 2 * levels[2]


def test_blur_of_nothing_changes_nothing() -> None:
    image = draw_picture()
    for same in (
        steps.blur_box(image, 1),
        steps.blur_gauss(image, 0),
        steps.blur_motion(image, 1, 30),
        steps.resize_down_up(image, 1.0),
        steps.add_noise(image, np.random.default_rng(0), 0),
    ):
        np.testing.assert_array_equal(same, image)


def test_motion_smears_along_its_direction_only() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 240  # upright stripes
    along = steps.blur_motion(stripes, 16, 90)
    np.testing.assert_array_equal(along, stripes)
    across = steps.blur_motion(stripes, 17, 0)
    assert across[:, 16:-16].std() < 8 < stripes.std()


@given(length=st.integers(2, 60), degrees=st.floats(-180, 180))
def test_motion_kernels_are_even_lines_about_the_middle(length: int, degrees: float) -> None:
    kernel = steps.motion_kernel(length, degrees)
    side = kernel.shape[0]
    assert kernel.shape == (side, side) and side % 2 == 1
    assert kernel.sum() == pytest.approx(1, abs=1e-5) and kernel.min() >= 0
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)
    rows, columns = np.indices(kernel.shape) - side // 2
    # Variance of a uniform line of this length, and a little for sharing among pixels.
    spread = float((kernel * (rows**2 + columns**2)).sum())
    assert (length - 1) ** 2 / 12 - 0.01 <= spread <= (length - 1) ** 2 / 12 * 1.1 + 0.6


def test_blurs_grow_with_the_picture() -> None:
    settings = Degradation(("blur",), flip=0, gauss=(2, 2), box=(5, 5), resize=(1, 1))
    small, large = draw_picture(), cv2.resize(draw_picture(), (448, 448))
    for seed in range(12):
        views = [degrade(x, np.random.default_rng(seed), settings) for x in (small, large)]
        again = cv2.resize(views[1], (112, 112), interpolation=cv2.INTER_AREA)
        assert np.abs(views[0].astype(int) - again.astype(int)).mean() < 9


def test_noise_is_of_the_deviation_asked_for_and_grows_with_light() -> None:
    for level, expected in ((128, 6.71), (40, 4.5)):  # 9 sqrt((1 + 8 v / 255) / 9)
        noisy = steps.add_noise(
            np.full((200, 200, 3), level, np.uint8), np.random.default_rng(0), 9
        )
        assert noisy.std() == pytest.approx(expected, rel=0.02)
        assert noisy.mean() == pytest.approx(level, abs=0.1)


def test_jpeg_loses_more_at_lower_quality_and_blocks_begin_at_the_corner() -> None:
    image = draw_picture()
    errors = [
        np.abs(steps.code_jpeg(image, quality).astype(int) - image).mean()
        for quality in (95, 50, 5)
    ]
    assert errors[0] < errors[1] < errors[2]
    moved = steps.code_jpeg(image, 10, (3, 5))
    assert moved.shape == image.shape and (moved != steps.code_jpeg(image, 10)).any()


def test_a_camera_of_more_strength_leaves_less() -> None:
    image = draw_picture()
    # Over several draws of noise: the picture's own detail, by its correlation with what is left.
    kept = []
    for strength in np.linspace(0, 1, 6):
        views = [film(image, np.random.default_rng(n), camera_of(strength)) for n in range(3)]
        kept.append(np.mean([np.corrcoef(image.ravel(), x.ravel())[0, 1] for x in views]))
    assert kept == sorted(kept, reverse=True) and kept[0] > 0.99 and kept[-1] < 0.6
    assert camera_of(0) == Camera(1, 0, 0, 95) and camera_of(1).resize == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="strength must be in 0"):
        camera_of(1.5)


def test_a_weak_chain_applies_one_operation() -> None:
    image = np.full((112, 112, 3), 200, np.uint8)
    settings = Degradation(("geometry", "light"), single=True, brightness=0.5, flip=0)
    seen = set()
    for seed in range(40):
        view = degrade(image, np.random.default_rng(seed), settings)
        black, dim = bool((view == 0).any()), bool(view[56, 56, 0] not in (0, 200))
        seen.add((black, dim))
    assert (True, True) not in seen and {(True, False), (False, True)} <= seen


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"operations": ()}, "got none"),
        ({"operations": ("blurr",)}, "got blurr"),
        ({"crop_area": (0.0, 1.0)}, "crop_area must be an interval above 0, got 0.0, 1.0"),
        ({"resize": (0.5, 0.2)}, "resize must be"),
        ({"quality": (10, 101)}, "quality must be"),
        ({"flip": 2.0}, r"flip must be in 0 \.\. 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Degradation(**change)


def test_what_is_no_picture_is_refused() -> None:
    draw = np.random.default_rng(0)
    with pytest.raises(RecordError, match=r"got \(5, 5\)"):
        degrade(np.zeros((5, 5), np.uint8), draw)
    with pytest.raises(RecordError, match="got float64"):
        degrade(np.zeros((5, 5, 3)), draw)  # type: ignore[arg-type]
