"""What can happen to a picture of a face on its way from the lens to the network, one by one.

Pictures are (H, W, 3) uint8 BGR, in and out, and come back as they were sized. Nothing is drawn
here but noise; `degrade` chains these with numbers drawn at random.

Kept features depend on these steps: whoever changes what blur_gauss, blur_motion, add_noise or
code_jpeg give raises VIEWS_VERSION in track_views.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..models.inference import Floats, Image

GREYS = np.array([0.114, 0.587, 0.299], np.float32)
"""Luma of BGR (ITU-R BT.601)."""


class Camera(NamedTuple):
    """How a camera renders a face: see `film`."""

    resize: float
    """Share of the side that it resolves, in (0, 1]."""
    softness: float
    """Blur of its lens, sigma in its own px."""
    noise: float
    """Standard deviation at full white, grey levels."""
    quality: int
    """JPEG quality, 0 to 100."""


def film(image: Image, generator: np.random.Generator, camera: Camera) -> Image:
    """Render a picture (H, W, 3) through a camera: its lens, few pixels, noise, JPEG; enlarged.

    Noise and blocks of JPEG are as large as the camera's pixels, so after enlarging they are
    blotches, as in aligned faces of real video.
    """
    height, width = image.shape[:2]
    small = _resize(image, _scaled(width, camera.resize), _scaled(height, camera.resize))
    small = blur_gauss(small, camera.softness)
    small = add_noise(small, generator, camera.noise)
    corner = generator.integers(8, size=2)
    small = code_jpeg(small, camera.quality, (int(corner[0]), int(corner[1])))
    return _resize(small, width, height, cv2.INTER_LINEAR)


def crop_in_place(image: Image, box: tuple[int, int, int, int]) -> Image:
    """Keep box x0, y0, x1, y1 (px, ends not included) where it is; the rest is black."""
    x0, y0, x1, y1 = box
    kept = np.zeros_like(image)
    kept[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    return kept


def move(image: Image, *, zoom: float = 1.0, across: float = 0.0, down: float = 0.0) -> Image:
    """Zoom about the middle, then shift by shares of width and height; black comes in."""
    return _affine(image, zoom, 0.0, across, down)


def rotate(image: Image, degrees: float) -> Image:
    """Turn counter-clockwise about the middle; black comes in."""
    return _affine(image, 1.0, degrees, 0.0, 0.0)


def change_light(
    image: Image, *, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0
) -> Image:
    """Multiply, then stretch about the mean grey, then about each pixel's grey; 1 leaves as is."""
    x = image.astype(np.float32) * brightness
    mean = np.clip(x, 0, 255).dot(GREYS).mean()
    x = np.clip(mean + contrast * (np.clip(x, 0, 255) - mean), 0, 255)
    grey = x.dot(GREYS)[..., None]
    return _bytes(grey + saturation * (x - grey))


def blur_box(image: Image, side: int) -> Image:
    """Mean over squares of side px of this picture, at least 1."""
    return np.asarray(cv2.blur(image, (max(1, side), max(1, side))), np.uint8)


def blur_gauss(image: Image, sigma: float) -> Image:
    """Gaussian blur of sigma px of this picture; below 0.1 px nothing is done."""
    if sigma < 0.1:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def blur_motion(image: Image, length: int, degrees: float) -> Image:
    """Mean along a line of `length` px of this picture, at an angle to the horizontal."""
    if length <= 1:
        return image
    return np.asarray(cv2.filter2D(image, -1, motion_kernel(length, degrees)), np.uint8)


def motion_kernel(length: int, degrees: float) -> Floats:
    """Weights (S, S) float32 of a line through the middle, S odd; they sum to 1.

    Sampled four times a pixel and shared among the four nearest pixels, so that lengths and
    angles of any size give the blur they say.
    """
    half = (length - 1) / 2
    reach = math.ceil(half)
    along = np.linspace(-half, half, 4 * length)
    angle = math.radians(degrees)
    x, y = along * math.cos(angle) + reach, reach - along * math.sin(angle)
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    x0, y0 = np.floor(x + 1e-9).astype(int), np.floor(y + 1e-9).astype(int)
    right, low = np.maximum(x - x0, 0), np.maximum(y - y0, 0)
    for dx, dy, weight in (
        (0, 0, (1 - right) * (1 - low)),
        (1, 0, right * (1 - low)),
        (0, 1, (1 - right) * low),
        (1, 1, right * low),
    ):
        np.add.at(kernel, (y0 + dy, x0 + dx), weight)
    kernel = kernel[:-1, :-1]
    return np.asarray(kernel / kernel.sum(), np.float32)


def resize_down_up(
    image: Image, share: float, down: int = cv2.INTER_AREA, up: int = cv2.INTER_LINEAR
) -> Image:
    """Shrink both sides to this share, at least 1 px, and enlarge again, by OpenCV's methods."""
    height, width = image.shape[:2]
    small = _resize(image, _scaled(width, share), _scaled(height, share), down)
    return _resize(small, width, height, up)


def add_noise(image: Image, generator: np.random.Generator, deviation: float) -> Image:
    """Noise of a sensor: a floor, and photons, whose variance grows with the light.

    deviation: of a white pixel, grey levels; a black one has a third of it.
    """
    if deviation <= 0:
        return image
    x = image.astype(np.float32)
    spread = deviation * np.sqrt((1 + 8 * x / 255) / 9)
    drawn = generator.standard_normal(image.shape, dtype=np.float32)
    return _bytes(x + spread * drawn)


def code_jpeg(image: Image, quality: int, corner: tuple[int, int] = (0, 0)) -> Image:
    """Code and decode as JPEG of this quality, 0 to 100.

    corner: px above and left of the picture in its frame, 0 to 7: where the blocks begin.
    """
    top, left = corner
    framed = cv2.copyMakeBorder(image, top, 0, left, 0, cv2.BORDER_REPLICATE)
    coded = cv2.imencode(".jpg", framed, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None  # just coded
    return np.ascontiguousarray(decoded[top:, left:], np.uint8)


def _affine(image: Image, zoom: float, degrees: float, across: float, down: float) -> Image:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    matrix[:, 2] += (across * width, down * height)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height)), np.uint8)


def _resize(image: Image, width: int, height: int, how: int = cv2.INTER_AREA) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def _scaled(side: int, share: float) -> int:
    return max(1, round(side * share))


def _bytes(x: npt.NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(np.rint(x), 0, 255), np.uint8)
