"""Still photos through a pack: find their faces, align one, embed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .align import warp
from .inference import Detector, FaceBoxes, Floats, Image

if TYPE_CHECKING:
    from .pack import Pack

LARGEST_VIEW = 960
SMALLEST_VIEW = 320
"""Longer side, in px, of the picture that the detector sees: photos are scaled into this range."""

BORDER = 0.5
"""Border for a second look, as a share of the photo's longer side."""

FILLING = 0.5
"""A face higher than this share of the view deserves a second look.

Detectors miss faces that fill the picture, as in passport photos and aligned crops, or see several
in one: of faces cropped at the box and shown 960 px tall, two in three or more gave extra boxes;
inside a border, with either detector, none did.
"""

GREY = (127.0, 127.0, 127.0)
"""Colour of that border."""


class PhotoFace(NamedTuple):
    """box (4,) and landmarks (5, 2) float32 px of the photo; detector score."""

    box: Floats
    landmarks: Floats
    score: float

    @property
    def height(self) -> float:
        """Height of the box in px."""
        return float(self.box[3] - self.box[1])


class Described(NamedTuple):
    """What a pack says of a face: embedding (C,) float32 not normalised, its norm, the quality."""

    embedding: Floats
    norm: float
    quality: float


def find_faces(detector: Detector, image: Image) -> FaceBoxes:
    """The faces of a photo (H, W, 3) uint8 BGR of any size, in px of that photo, best first.

    The photo is scaled so that its longer side is 320 to 960 px. When no face is found, or one
    that fills the photo, it is looked at again inside a border.
    """
    (faces,) = find_faces_in(detector, [image])
    return faces


def find_faces_in(detector: Detector, images: Sequence[Image]) -> list[FaceBoxes]:
    """`find_faces` of several photos; the detector gets them together."""
    found = _look(detector, images, 0.0)
    again = [place for place, one in enumerate(found) if not _settled(images[place], one)]
    framed = _look(detector, [images[place] for place in again], BORDER)
    for place, faces in zip(again, framed, strict=True):
        if len(faces.boxes):
            found[place] = faces
    return found


def tallest_face(faces: FaceBoxes) -> PhotoFace | None:
    """The tallest of the faces; None when there is none."""
    if not len(faces.boxes):
        return None
    best = int((faces.boxes[:, 3] - faces.boxes[:, 1]).argmax())
    return PhotoFace(faces.boxes[best], faces.landmarks[best], float(faces.scores[best]))


def describe_face(pack: Pack, image: Image, face: PhotoFace) -> Described:
    """Align one face of a photo for each consumer of the pack and run embedder and quality."""
    crops = crop_face(pack, image, face)
    batch = {consumer: crop[None] for consumer, crop in crops.items()}
    (described,) = describe_crops(pack, batch, [face])
    return described


def crop_face(pack: Pack, image: Image, face: PhotoFace) -> dict[str, Image]:
    """A face of a photo aligned for each consumer of the pack: (S, S, 3) uint8 by its name."""
    return {
        consumer: warp(image, face.landmarks, template)
        for consumer, template in pack.consumers.items()
    }


def describe_crops(
    pack: Pack, crops: Mapping[str, npt.NDArray[np.uint8]], faces: Sequence[PhotoFace]
) -> list[Described]:
    """Run embedder and quality on the crops (N, S, S, 3), by consumer, of N faces together."""
    embedded = pack.embedder.embed(crops["embedder"])
    quality = pack.quality.score(
        crops=crops.get("quality", crops["embedder"]),
        embedded=embedded,
        boxes=np.stack([face.box for face in faces]),
        scores=np.array([face.score for face in faces], np.float32),
    )
    return [
        Described(embedded.embeddings[i], float(embedded.norms[i]), float(quality[i]))
        for i in range(len(faces))
    ]


def _settled(image: Image, faces: FaceBoxes) -> bool:
    """Whether faces were found, and none that fills the photo."""
    heights = faces.boxes[:, 3] - faces.boxes[:, 1]
    return bool(len(heights) and heights.max() <= FILLING * max(image.shape[:2]))


def _look(detector: Detector, images: Sequence[Image], border: float) -> list[FaceBoxes]:
    """Detect in views with a grey border of this share of the longer side; px of the images."""
    framed = [_frame(image, border) for image in images]
    found = detector.detect([view for view, _, _ in framed]) if framed else []
    return [
        FaceBoxes(
            ((faces.boxes - width) / scale).astype(np.float32),
            ((faces.landmarks - width) / scale).astype(np.float32),
            faces.scores,
        )
        for faces, (_, scale, width) in zip(found, framed, strict=True)
    ]


def _frame(image: Image, border: float) -> tuple[Image, float, int]:
    """The view that the detector sees, its scale, and the width of its border in px of the view."""
    side = max(image.shape[:2])
    scale = min(max(1.0, SMALLEST_VIEW / side), LARGEST_VIEW / (side * (1 + 2 * border)))
    width = round(side * scale * border)
    view = cv2.copyMakeBorder(
        _resize(image, scale), width, width, width, width, cv2.BORDER_CONSTANT, value=GREY
    )
    return np.asarray(view, dtype=np.uint8), scale, width


def _resize(image: Image, scale: float) -> Image:
    if scale == 1.0:
        return image
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)
