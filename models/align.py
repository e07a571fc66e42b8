"""Aligned face crops: a closed-form similarity fit of five landmarks, and the warp that uses it.

With landmarks and template points written as complex numbers z_i and w_i (x + iy), a similarity
without reflection is w = a z + b, a = s exp(i theta). Least squares over i has the closed form

    a = sum conj(z_i - z_mean) (w_i - w_mean) / sum |z_i - z_mean|^2,    b = w_mean - a z_mean,

which is Umeyama's solution (1991, eq. 40-43) restricted to proper rotations, in 2-D.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from .. import RecordError
from .inference import AlignTemplate, Floats, Image

Doubles = npt.NDArray[np.float64]

ARCFACE_112 = AlignTemplate(
    112,
    np.array(
        [
            [38.2946, 51.6963],
            [73.5318, 51.5014],
            [56.0252, 71.7366],
            [41.5493, 92.3655],
            [70.7299, 92.2041],
        ],
        dtype=np.float32,
    ),
)
"""The template of ArcFace, CosFace, MagFace, AdaFace and most others: 112 x 112."""

_OVERSAMPLING = 2
"""Samples per crop pixel and axis once a face is shrunk by more than this factor."""


def resize_template(template: AlignTemplate, size: int) -> AlignTemplate:
    """The same crop at another resolution: points are multiplied by size / template.size."""
    return AlignTemplate(size, (template.points * (size / template.size)).astype(np.float32))


def eye_distance(landmarks: Floats) -> Floats:
    """Distance between the eyes in pixels: landmarks (..., 5, 2) -> (...) float32."""
    across = landmarks[..., 1, :] - landmarks[..., 0, :]
    return np.asarray(np.hypot(across[..., 0], across[..., 1]), dtype=np.float32)


def fit_similarity(landmarks: npt.ArrayLike, points: npt.ArrayLike) -> Doubles:
    """Least-squares similarity that takes landmarks to points, never a reflection.

    landmarks: (..., 5, 2) px, one face or any number of them; points: (5, 2) px. Any number of
    corresponding points from 2 up works. Returns (..., 2, 3) float64: M with
    M[:, :2] @ landmark + M[:, 2] nearest to the point. Raises RecordError on other shapes, and
    where landmarks are not finite or all coincide (they say nothing about scale or rotation).
    """
    source = np.asarray(landmarks, dtype=np.float64)
    target = np.asarray(points, dtype=np.float64)
    if target.ndim != 2 or target.shape[1] != 2 or source.shape[-2:] != target.shape:
        raise RecordError(
            "landmarks (..., K, 2) and points (K, 2) must correspond, "
            f"got {source.shape} and {target.shape}"
        )
    z = source[..., 0] + 1j * source[..., 1]  # (..., K)
    w = target[:, 0] + 1j * target[:, 1]  # (K,)
    z_mean, w_mean = z.mean(axis=-1), w.mean()
    centred = z - z_mean[..., None]
    spread = (centred.real**2 + centred.imag**2).sum(axis=-1)
    # A spread below one part in 1e18 of the coordinates is rounding, not geometry.
    floor = 1e-18 * (1.0 + np.abs(z_mean) ** 2)
    if not bool(np.all(spread > floor)) or not bool(np.all(np.isfinite(spread))):
        raise RecordError("landmarks must be finite and not all in one place to align a face")
    a = (centred.conj() * (w - w_mean)).sum(axis=-1) / spread
    b = w_mean - a * z_mean
    rows = [np.stack([a.real, -a.imag, b.real], -1), np.stack([a.imag, a.real, b.imag], -1)]
    return np.stack(rows, axis=-2)


def warp(image: Image, landmarks: Floats, template: AlignTemplate) -> Image:
    """One aligned crop: image (H, W, 3) uint8 BGR, landmarks (5, 2) px -> (S, S, 3) uint8 BGR.

    What lies outside the picture is black. Raises RecordError as `fit_similarity` does.
    """
    return _crop(image, fit_similarity(landmarks, template.points), template.size)


def warp_faces(image: Image, landmarks: Floats, template: AlignTemplate) -> Image:
    """The aligned crops of N faces of one picture: landmarks (N, 5, 2) px -> (N, S, S, 3) uint8."""
    crops = np.empty((len(landmarks), template.size, template.size, 3), dtype=np.uint8)
    for index, matrix in enumerate(fit_similarity(landmarks, template.points)):
        crops[index] = _crop(image, matrix, template.size)
    return crops


def _crop(image: Image, matrix: Doubles, size: int) -> Image:
    """Sample the crop that `matrix` (2, 3) describes.

    Bilinear sampling reads four pixels however many fall into one crop pixel. Down to half size
    the error is small (41 dB PSNR and better against 64 samples per pixel); below, a face of
    200 px and more loses down to 36 dB. There the source is first averaged to about twice the
    crop's resolution and the crop is taken at that resolution and averaged: 50 dB and better,
    for about 0.3 ms more, whatever the size of the face.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale * _OVERSAMPLING >= 1.0:
        return _sample(image, matrix, size)
    factor = int(1.0 / (scale * _OVERSAMPLING))
    if factor > 1:
        image, matrix = _shrink_region(image, matrix, size, factor)
    # Pixel centres: crop pixel i covers fine pixels k i .. k i + k - 1, centred on k i + (k-1)/2.
    fine = matrix * _OVERSAMPLING
    fine[:, 2] += (_OVERSAMPLING - 1) / 2
    crop = _sample(image, fine, size * _OVERSAMPLING)
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _sample(image: Image, matrix: Doubles, size: int) -> Image:
    crop = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return crop.astype(np.uint8, copy=False)


def _shrink_region(image: Image, matrix: Doubles, size: int, factor: int) -> tuple[Image, Doubles]:
    """Average the part of the picture under the crop by a whole factor; the matrix follows."""
    inverse = np.linalg.inv(matrix[:, :2])
    square = np.array([[0, 0], [size, 0], [0, size], [size, size]]) - 0.5
    corners = (square - matrix[:, 2]) @ inverse.T
    height, width = image.shape[:2]
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int) - factor, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + factor, (width, height))
    across, down = int(x1 - x0) // factor, int(y1 - y0) // factor
    if across < 1 or down < 1:  # the crop lies outside the picture: all of it is border
        return image, matrix
    region = image[y0 : y0 + down * factor, x0 : x0 + across * factor]
    small = cv2.resize(region, (across, down), interpolation=cv2.INTER_AREA)
    # Small pixel u is centred on source pixel x0 + factor u + (factor - 1) / 2.
    origin = np.array([x0, y0]) + (factor - 1) / 2
    moved = np.column_stack([matrix[:, :2] * factor, matrix[:, :2] @ origin + matrix[:, 2]])
    return small.astype(np.uint8, copy=False), moved
