"""A small pack whose "faces" are blue blocks: it finds them by colour and describes them by paint.

Like real detectors, it does not find a face that touches the edge of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facestream.models.inference import AlignTemplate, Embedded, FaceBoxes, Floats, Image

BLUE = (230, 60, 40)
LANDMARKS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
TEMPLATE = AlignTemplate(64, (LANDMARKS * 64).astype(np.float32))


class BlueBlocks:
    """A detector of blue blocks at least 8 px tall that do not touch the edge."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def detect(self, images: Sequence[Image], *, score: float | None = None) -> list[FaceBoxes]:
        return [self._one(image) for image in images]

    def _one(self, image: Image) -> FaceBoxes:
        self.seen.append(image.shape[:2])
        blue = (image[..., 0] > 180) & (image[..., 0].astype(int) - image[..., 2] > 90)
        filled = cv2.morphologyEx(blue.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((25, 25)))
        _, _, stats, _ = cv2.connectedComponentsWithStats(filled * blue)
        height, width = image.shape[:2]
        boxes = [
            (x, y, x + w, y + h)
            for x, y, w, h, _ in stats[1:].tolist()
            if h >= 8 and x > 0 and y > 0 and x + w < width and y + h < height
        ]
        found = np.array(boxes, np.float32).reshape(-1, 4)
        origin, size = found[:, None, :2], (found[:, 2:] - found[:, :2])[:, None]
        return FaceBoxes(
            found,
            (origin + LANDMARKS.astype(np.float32) * size).astype(np.float32),
            np.full(len(found), 0.9, np.float32),
        )


class Paint:
    """An embedder that describes a crop by the colours of a coarse grid."""

    template = TEMPLATE
    dimension = 48

    def embed(self, crops: npt.NDArray[np.uint8]) -> Embedded:
        grids = [cv2.resize(c, (4, 4), interpolation=cv2.INTER_AREA) for c in crops]
        vectors = np.array(grids, np.float32).reshape(len(crops), -1) - np.float32(128)
        norms = np.linalg.norm(vectors, axis=1).astype(np.float32)
        return Embedded(vectors, norms, np.zeros((len(crops), 0, 2), np.float32))


class Sharpness:
    """Quality: the contrast of the crop."""

    template: AlignTemplate | None = None
    unit = "contrast 0..128"

    def score(
        self, *, crops: npt.NDArray[np.uint8], embedded: Embedded, boxes: Floats, scores: Floats
    ) -> Floats:
        assert boxes.shape == (len(crops), 4) and scores.shape == (len(crops),)
        return np.asarray(crops.reshape(len(crops), -1).std(axis=1), dtype=np.float32)


def make_pack(*, decision: object = None) -> Any:
    """The pack; only what enrolment reads of a real one."""
    embedder = SimpleNamespace(file="net", minimal_eye_distance=10.0, dimension=Paint.dimension)
    card = SimpleNamespace(
        name="blocks",
        checksum={"net": "a" * 64}.get,
        detector=SimpleNamespace(longest_side=640),
        embedder=embedder,
        fusion=SimpleNamespace(aggregator="quality"),
        decision=decision,
    )
    return SimpleNamespace(
        card=card,
        detector=BlueBlocks(),
        embedder=Paint(),
        quality=Sharpness(),
        consumers={"embedder": TEMPLATE},
        fusion_heads={},
    )


def face(seed: int, side: int = 100) -> Image:
    """A block with two stripes whose colours are the person's."""
    block = np.full((side, side, 3), BLUE, np.uint8)
    colours = np.random.default_rng(seed).integers(0, 100, (2, 3))
    block[side // 5 : side // 3, side // 5 : -side // 5] = colours[0]
    block[side // 2 : 2 * side // 3, side // 5 : -side // 5] = colours[1]
    return block


def photo(*faces: Image, size: tuple[int, int] = (400, 600)) -> Image:
    """Faces side by side on a wall, (H, W, 3)."""
    wall = np.full((*size, 3), 120, np.uint8)
    x = 20
    for block in faces:
        side = len(block)
        wall[20 : 20 + side, x : x + side] = block
        x += side + 40
    return wall


def save(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path
