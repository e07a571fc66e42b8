"""Finding faces: frames in, faces with landmarks and aligned crops out.

The detector sees the camera's region, scaled down to a set size; boxes and landmarks come back in
pixels of the full frame, and crops are warped from the full frame, so that scaling costs nothing
but the smallest faces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .. import ConfigError
from ..configs.schema import DetectConfig
from ..models.align import eye_distance, warp
from ..models.inference import AlignTemplate, Detector, FaceBoxes
from .records import Detections, Face, Floats, Frame, Image

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Region = tuple[float, float, float, float]
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


class View(NamedTuple):
    """What the detector sees of a frame: full-frame pixel = view pixel * scale + origin (x, y)."""

    image: Image
    scale: tuple[float, float]
    origin: tuple[int, int]


class DetectStage:
    """Finds faces in frames of any cameras, several frames at a time; keeps no state."""

    def __init__(
        self,
        detector: Detector,
        consumers: Mapping[str, AlignTemplate],
        config: DetectConfig,
        regions: Mapping[str, Region],
        minimal_eye_distance: float,
        *,
        longest_side: int = 960,
    ) -> None:
        """regions: x0 y0 x1 y1 as shares of the frame, by camera; the whole frame where none is.

        consumers: the crops to make of a face; minimal_eye_distance: in frame pixels, faces below
        it are not worth embedding (the pack's gate). longest_side: where the configuration leaves
        it to the pack.
        """
        self._detector = detector
        self._consumers = dict(consumers)
        self._config = config
        self._regions = dict(regions)
        self._minimal_eye_distance = minimal_eye_distance
        self._longest_side = config.longest_side or longest_side

    def process(self, frames: Sequence[Frame]) -> list[Detections]:
        """One Detections per frame, in the order given, however frames were batched.

        Left out and counted in `rejected`: "malformed" (not finite, an empty box, or landmarks
        off the box), then "too_small" (box lower than `smallest_face` frame pixels). Kept without
        crops and counted: "below_gate" (eyes closer than the pack's gate, also of faces in
        profile). A face partly outside the picture is kept: its box may pass the border, and its
        crop is black there; quality and the embedding say what it is worth.
        """
        views = [
            look(
                frame.image,
                self._regions.get(frame.camera, WHOLE),
                self._longest_side,
            )
            for frame in frames
        ]
        found = self._detect([view.image for view in views])
        return [
            self._collect(frame, view, boxes)
            for frame, view, boxes in zip(frames, views, found, strict=True)
        ]

    def _detect(self, images: Sequence[Image]) -> list[FaceBoxes]:
        """The detector's answer per image; images of one size go through it together."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(index)
        found: dict[int, FaceBoxes] = {}
        for group in by_size.values():
            for first in range(0, len(group), self._config.batch):
                batch = group[first : first + self._config.batch]
                boxes = self._detector.detect(
                    [images[index] for index in batch], score=self._config.score
                )
                found.update(zip(batch, boxes, strict=True))
        return [found[index] for index in range(len(images))]

    def _collect(self, frame: Frame, view: View, found: FaceBoxes) -> Detections:
        boxes = found.boxes * np.tile(view.scale, 2) + np.tile(view.origin, 2)
        landmarks = found.landmarks * np.array(view.scale) + np.array(view.origin)
        formed = well_formed(boxes, landmarks, found.scores)
        high = formed[boxes[formed, 3] - boxes[formed, 1] >= self._config.smallest_face]
        points = landmarks[high].astype(np.float32)
        sharp = eye_distance(points) >= self._minimal_eye_distance
        faces = tuple(
            Face(
                boxes[i].astype(np.float32),
                points[n],
                float(found.scores[i]),
                self._crop(frame.image, points[n]) if sharp[n] else {},
            )
            for n, i in enumerate(high)
        )
        rejected = {
            "malformed": len(boxes) - len(formed),
            "too_small": len(formed) - len(high),
            "below_gate": int(np.sum(~sharp)),
        }
        return Detections(frame.ref, faces, {why: n for why, n in rejected.items() if n})

    def _crop(self, image: Image, landmarks: Floats) -> dict[str, Image]:
        """A face's crop for every consumer, each with memory of its own: some are kept for long."""
        return {
            consumer: warp(image, landmarks, template)
            for consumer, template in self._consumers.items()
        }


def look(image: Image, region: Region, longest_side: int) -> View:
    """The part of an image (H, W, 3) that the detector sees, scaled down where it is larger.

    Halving by averaging four pixels as long as the result stays large enough, then one bilinear
    step of less than two: unlike one large bilinear step it skips no pixel, so small faces do not
    flicker, at a quarter of the cost of area interpolation or less. Raises ConfigError for an
    empty region.
    """
    height, width = image.shape[:2]
    x0, y0 = round(region[0] * width), round(region[1] * height)
    x1, y1 = round(region[2] * width), round(region[3] * height)
    part = image[y0:y1, x0:x1]
    if part.size == 0:
        raise ConfigError(
            f"region of interest must hold pixels, got {region} of {width} x {height}: "
            "give x0 < x1 and y0 < y1 as shares from 0 to 1"
        )
    factor = max(part.shape[:2]) / longest_side
    if factor <= 1.0:
        return View(part, (1.0, 1.0), (x0, y0))
    size = (max(round((x1 - x0) / factor), 1), max(round((y1 - y0) / factor), 1))
    small = part
    while min(small.shape[1] / size[0], small.shape[0] / size[1]) >= 2.0:
        small = _resize(small, (small.shape[1] // 2, small.shape[0] // 2))
    return View(_resize(small, size), ((x1 - x0) / size[0], (y1 - y0) / size[1]), (x0, y0))


def well_formed(boxes: Doubles, landmarks: Doubles, scores: Floats) -> Indices:
    """Which of the boxes (N, 4), landmarks (N, 5, 2) and scores (N,) can be faces: indices.

    All numbers are finite, the box is a pixel wide and high at least, the landmarks do not
    coincide, and their mean lies in the box. Nothing is asked of their order: heads may be turned
    any way up.
    """
    flat = np.column_stack((boxes, landmarks.reshape(len(landmarks), 10), scores))
    finite = np.flatnonzero(np.isfinite(flat).all(axis=1))
    box, points = boxes[finite], landmarks[finite]
    middle = points.mean(axis=1)
    inside = ((middle >= box[:, :2]) & (middle <= box[:, 2:])).all(axis=1)
    solid = (box[:, 2:] - box[:, :2] >= 1.0).all(axis=1)
    spread = np.ptp(points, axis=1).max(axis=1) >= 1.0
    well: Indices = finite[inside & solid & spread]
    return well


def _resize(image: Image, size: tuple[int, int]) -> Image:
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return scaled.astype(np.uint8, copy=False)
