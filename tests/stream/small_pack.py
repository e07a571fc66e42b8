"""A pack without networks: a face in every picture that is not black, described by its colour."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from facestream.models.align import ARCFACE_112
from facestream.models.inference import Embedded, FaceBoxes, Image
from facestream.models.quality import NormQuality

EMBEDDER = "c" * 64


class OneFace:
    """Finds a face 60 px tall in the middle of every picture that is not black."""

    def detect(self, images: Sequence[Image], *, score: float | None = None) -> list[FaceBoxes]:
        return [self._one(image) for image in images]

    def _one(self, image: Image) -> FaceBoxes:
        count = int(image.max() > 127)
        centre = np.array(image.shape[1::-1]) / 2
        box = np.concatenate([centre - 30, centre + 30])
        landmarks = centre + (ARCFACE_112.points - 56) / 2
        return FaceBoxes(
            np.tile(box, (count, 1)).astype(np.float32),
            np.tile(landmarks, (count, 1, 1)).astype(np.float32),
            np.ones(count, np.float32),
        )


class MeanColour:
    """Describes a crop by its mean colour, BGR."""

    template = ARCFACE_112
    dimension = 3

    def embed(self, crops: npt.NDArray[np.uint8]) -> Embedded:
        vectors = crops.mean(axis=(1, 2)).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1).astype(np.float32)
        return Embedded(vectors, norms, np.zeros((len(crops), 0, 2), np.float32))


def small_pack(name: str) -> Any:
    """The pack; only what embedding reads of a real one."""
    card = SimpleNamespace(
        name=name,
        checksum={"net": EMBEDDER}.get,
        embedder=SimpleNamespace(file="net", minimal_eye_distance=0.0),
        ida=None,
        decision=None,
    )
    return SimpleNamespace(
        card=card,
        detector=OneFace(),
        embedder=MeanColour(),
        quality=NormQuality(unit="norm"),
        consumers={"embedder": ARCFACE_112},
        anchors=None,
        learned=None,
    )
