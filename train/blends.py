"""Faces made of two: more directions to learn from a teacher than there are people to ask.

A teacher has a direction for any face, also for one that is nobody's: the parts of one aligned face
where a smooth random mask is high, of another where it is low. Each is a further identity of one
picture, as synthetic faces are anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..models.inference import Floats, Image
from ..models.verification import Integers
from .face_lists import LabelledFaces
from .face_pictures import SIDE, CropPictures, Pictures

PATCHES = 4
"""Values along each side of the random grid that a mask is enlarged from."""
SHARPNESS = 3.0
"""How steeply a mask goes from one face to the other."""


@dataclass(frozen=True, eq=False)
class BothPictures:
    """The rows of some pictures, then those of faces made from them."""

    pictures: Pictures
    count: int
    blends: CropPictures

    def name(self, row: int) -> str:
        """As in the pictures; of a blend, the names of both."""
        first = row < self.count
        return self.pictures.name(row) if first else self.blends.name(row - self.count)

    def content(self, row: int) -> bytes:
        """As in the pictures; of a blend, its pixels."""
        first = row < self.count
        return self.pictures.content(row) if first else self.blends.content(row - self.count)

    def read(self, row: int) -> Image:
        """The face."""
        first = row < self.count
        return self.pictures.read(row) if first else self.blends.read(row - self.count)


def add_blends(faces: LabelledFaces, blends: int, seed: int = 0) -> LabelledFaces:
    """The faces, then `blends` made of two of them each, 37 kB of memory a blend.

    seed: of who is blended and of the masks; not that of a run, so that runs can be compared.
    Raises as `LabelledFaces.read`.
    """
    if not blends:
        return faces
    crops = np.empty((blends, SIDE, SIDE, 3), np.uint8)
    names = []
    for place in range(blends):
        draw = np.random.default_rng((seed, place))
        first, second = _draw_pair(faces.labels, draw)
        crops[place] = blend(faces.read(first), faces.read(second), draw_mask(draw))
        names.append(f"{faces.pictures.name(first)} and {faces.pictures.name(second)}")
    return LabelledFaces(
        f"{faces.title}, and {blends} blends",
        BothPictures(faces.pictures, faces.count, CropPictures(names, crops)),
        np.concatenate([faces.labels, faces.classes + np.arange(blends)]),
        [*faces.names, *(f"blend {place}" for place in range(blends))],
        left_out=faces.left_out,
        named=faces.named,
    )


def blend(first: Image, second: Image, mask: Floats) -> Image:
    """Two faces (H, W, 3) by a mask (H, W) in 0 .. 1, 1 where the first is seen."""
    weight = mask[..., None]
    mixed = weight * first.astype(np.float32) + (1 - weight) * second.astype(np.float32)
    return np.asarray(np.rint(mixed), np.uint8)


def draw_mask(draw: np.random.Generator) -> Floats:
    """A smooth random mask (112, 112) float32 in 0 .. 1."""
    grid = draw.standard_normal((PATCHES, PATCHES)).astype(np.float32)
    smooth = cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(1 / (1 + np.exp(-SHARPNESS * smooth)), np.float32)


def _draw_pair(labels: Integers, draw: np.random.Generator) -> tuple[int, int]:
    """Rows of two faces of different people."""
    first = int(draw.integers(len(labels)))
    others = np.flatnonzero(labels != labels[first])
    return first, int(draw.choice(others))
