"""What the detectors share: pictures into batches, candidates into faces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ... import CorruptModelFile, ModelError
from ..inference import FaceBoxes, Floats, Image, Session
from ..pixels import PixelFormat

STRIDE = 32
"""Sides of what goes into a detector are multiples of this."""

_PROBE = 64


class Candidates(NamedTuple):
    """M faces before suppression: picture (M,) index in the batch; the rest as in FaceBoxes."""

    picture: npt.NDArray[np.intp]
    boxes: Floats
    landmarks: Floats
    scores: Floats


class BatchDetector(ABC):
    """What every detector does around its network; a subclass says how outputs become faces."""

    PIXELS: ClassVar[PixelFormat]
    """What the network takes."""
    OVERLAP: ClassVar[float]
    """Intersection over union above which the lesser of two faces is dropped."""

    def __init__(self, session: Session, score: float, batch: int) -> None:
        """score: smallest score by default; batch: pictures per run at most."""
        self._session = session
        self._score = score
        self._batch = batch

    @abstractmethod
    def forward(self, batch: Floats, least: float) -> Candidates:
        """Run a batch (N, 3, H, W) as PIXELS says; the faces with a score of `least` and more."""

    def detect(self, images: Sequence[Image], *, score: float | None = None) -> list[FaceBoxes]:
        """One FaceBoxes per (H, W, 3) uint8 BGR picture; pictures may differ in size.

        Pictures are padded with black to multiples of 32 to the right and below, never resized, so
        coordinates need no correction; those of one padded size run together. Raises RecordError
        for other pictures.
        """
        least = self._score if score is None else score
        groups: dict[tuple[int, int], list[list[int]]] = {}
        for index, image in enumerate(images):
            height, width = (-(-side // STRIDE) * STRIDE for side in image.shape[:2])
            batches = groups.setdefault((height, width), [[]])
            if len(batches[-1]) == self._batch:
                batches.append([])
            batches[-1].append(index)
        faces: dict[int, FaceBoxes] = {}
        for size, batches in groups.items():
            for batch in batches:
                tensor = self.PIXELS.tensor([images[index] for index in batch], size)
                found = self.forward(tensor, least)
                for position, index in enumerate(batch):
                    own = found.picture == position
                    faces[index] = suppress(
                        found.boxes[own],
                        found.landmarks[own],
                        found.scores[own],
                        self.OVERLAP,
                        images[index].shape[:2],
                    )
        return [faces[index] for index in range(len(images))]


def choose_batch(session: Session, batch: int | None) -> int:
    """Pictures per run: `batch`, or where it is None one on a CPU and eight on an accelerator.

    On a CPU one picture fills the cores, and the maps of several fall out of the caches: four
    640 x 384 pictures in one run took 25 % (CenterFace) and 40 % (YuNet) longer per picture.
    """
    if batch is not None:
        return batch
    return 1 if session.provider.endswith(" CPU") else 8


def suppress(
    boxes: Floats, landmarks: Floats, scores: Floats, overlap: float, size: tuple[int, ...]
) -> FaceBoxes:
    """Greedy non-maximum suppression: a face goes when a better one overlaps it by more than this.

    boxes (M, 4), landmarks (M, 5, 2), scores (M,); overlap: intersection over union; size: height
    and width of the picture. Faces centred outside the picture, with an empty box, or with
    landmarks that are not finite or all in one place are left out. Best score first.
    """
    height, width = size
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    extent = boxes[:, 2:] - boxes[:, :2]
    sound = (
        np.isfinite(boxes).all(axis=1)
        & np.isfinite(landmarks).all(axis=(1, 2))
        & (extent > 0).all(axis=1)
        & (middle >= 0).all(axis=1)
        & (middle < (width, height)).all(axis=1)
        & (np.ptp(landmarks, axis=1) > 1e-3).any(axis=1)
    )
    boxes, landmarks, scores = boxes[sound], landmarks[sound], scores[sound]
    corner_and_extent = np.concatenate([boxes[:, :2], extent[sound]], axis=1)
    # cv2 takes 0.04 ms for 100 candidates, a vectorised numpy loop 0.6 ms or more.
    kept = cv2.dnn.NMSBoxes(corner_and_extent.tolist(), scores.tolist(), 0.0, overlap)
    order = np.asarray(kept, dtype=np.intp).reshape(-1)
    return FaceBoxes(boxes[order], landmarks[order], scores[order])


def probe(session: Session, network: str) -> dict[str, npt.NDArray[np.float32]]:
    """The outputs for one black 64 x 64 picture, to find out at loading time what a file holds.

    Raises CorruptModelFile when the network does not take (1, 3, 64, 64).
    """
    if len(session.inputs) != 1:
        raise CorruptModelFile(
            f"{network}: expected a network with one input, got {', '.join(session.inputs)}"
        )
    black = np.zeros((1, 3, _PROBE, _PROBE), dtype=np.float32)
    try:
        return session.run({session.inputs[0]: black})
    except ModelError as error:
        raise CorruptModelFile(
            f"{network}: expected a network for pictures of any size (free its shapes): {error}"
        ) from error


def expect_shapes(
    network: str, got: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, ...]]
) -> None:
    """Raise CorruptModelFile unless the probe's outputs have these shapes, in this order."""
    if list(got) != list(wanted):
        raise CorruptModelFile(
            f"{network}: expected outputs {list(wanted)} for a 64 x 64 picture, got {list(got)}"
        )


def probe_cells(stride: int) -> int:
    """Cells per side at this stride in the probe picture."""
    return _PROBE // stride
