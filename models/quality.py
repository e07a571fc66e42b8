"""Quality sources: a network, the embedding's norm, or a training-free product."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from .. import CorruptModelFile, ModelError
from .align import ARCFACE_112
from .embedder import expect_crops
from .inference import AlignTemplate, Embedded, Floats, Image, Session
from .pixels import PixelFormat

_SIZE_SCALE = 25.0
_SHARPNESS_SCALE = 0.008
_DENOISE_SIGMA = 1.5
_ROUNDING = 2.0
_FACE = (slice(36, 104), slice(22, 90))
"""Rows and columns of ARCFACE_112 from the brows to below the mouth."""


class ModelQuality:
    """A quality network with one number per crop (LightQNet, FIQA regressors).

    LightQNet takes NHWC, BGR, (value - 128) / 128, in `resize_template(ARCFACE_112, 96)`.
    """

    template: AlignTemplate | None
    unit: str

    def __init__(
        self,
        session: Session,
        *,
        template: AlignTemplate,
        pixels: PixelFormat,
        unit: str,
        batch: int = 32,
    ) -> None:
        """session: one input of aligned crops, one output with one number per crop.

        unit: what the numbers are, for people. batch: crops per run at most. A black crop goes
        through once: CorruptModelFile for a network of another shape.
        """
        if len(session.inputs) != 1 or len(session.outputs) != 1:
            raise CorruptModelFile(
                "a quality network must have one input and one output, "
                f"got inputs {', '.join(session.inputs)} and outputs {', '.join(session.outputs)}"
            )
        self.template = template
        self.unit = unit
        self._size = template.size
        self._session = session
        self._pixels = pixels
        self._batch = batch
        try:
            self._run(np.zeros((1, self._size, self._size, 3), dtype=np.uint8))
        except CorruptModelFile:
            raise
        except ModelError as error:
            raise CorruptModelFile(
                f"expected a quality network of {self._size} x {self._size} crops in "
                f"{pixels.layout}: {error}"
            ) from error

    def score(
        self,
        *,
        crops: npt.NDArray[np.uint8],
        embedded: Embedded,
        boxes: Floats,
        scores: Floats,
    ) -> Floats:
        """The network's output for crops (N, S, S, 3) uint8 BGR -> (N,) float32; N may be 0.

        Raises RecordError on another shape or dtype.
        """
        expect_crops(crops, self._size)
        starts = range(0, len(crops), self._batch)
        parts = [self._run(crops[start : start + self._batch]) for start in starts]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _run(self, crops: npt.NDArray[np.uint8]) -> Floats:
        outputs = self._session.run({self._session.inputs[0]: self._pixels.tensor(crops)})
        raw = outputs[self._session.outputs[0]]
        if raw.size != len(crops):
            raise CorruptModelFile(
                f"expected one quality per crop ({len(crops)},), the network gives {raw.shape}"
            )
        return raw.reshape(-1).astype(np.float32, copy=False)


class NormQuality:
    """The length of the unnormalised embedding, for embedders where it orders quality (MagFace)."""

    template: AlignTemplate | None = None

    def __init__(self, *, unit: str = "norm") -> None:
        """unit: what the numbers are, for people."""
        self.unit = unit

    def score(
        self,
        *,
        crops: npt.NDArray[np.uint8],
        embedded: Embedded,
        boxes: Floats,
        scores: Floats,
    ) -> Floats:
        """The norms (N,) float32 of the embeddings."""
        return embedded.norms


class TrainingFreeQuality:
    """Detector score x size x sharpness, each from 0 to 1, for packs without anything better.

    size = 1 - exp(-h / 25 px), h the height of the box: 0.43 at 14 px, 0.86 at 50, 0.98 at 100.
    sharpness = 1 - exp(-r / 0.008) with r = var(Laplacian g) / (var(g) + 2): g is the grey
    ArcFace crop (112 px) after a Gaussian of 1.5 px, both variances over the face without hair
    and background. Gain and offset of the picture cancel in r; the Gaussian takes out the grain
    of noise and compression; 2 squared grey levels keep the rounding of nearly flat crops from
    counting as detail.

    The constants follow how the cosine of genuine pairs falls when faces are shrunk or blurred:
    rank correlation with that cosine 0.76 and 0.65 on 25 people (LightQNet 0.68 and 0.74). Weak
    where edges stay sharp: compression 0.22 and noise 0.10 (0.77 and 0.79), which lower the
    detector's score alone. Darkness is not seen, nor is pose. Prefer a quality network.
    """

    template: AlignTemplate | None = ARCFACE_112

    def __init__(self, *, unit: str = "score x size x sharpness 0..1") -> None:
        """unit: what the numbers are, for people."""
        self.unit = unit

    def score(
        self,
        *,
        crops: npt.NDArray[np.uint8],
        embedded: Embedded,
        boxes: Floats,
        scores: Floats,
    ) -> Floats:
        """crops (N, 112, 112, 3) uint8 BGR, boxes (N, 4) px, scores (N,) 0..1 -> (N,) float32.

        Raises RecordError when the crops have another shape or dtype.
        """
        expect_crops(crops, ARCFACE_112.size)
        sharpness = np.array([measure_sharpness(crop) for crop in crops], dtype=np.float32)
        heights = boxes[:, 3] - boxes[:, 1]
        size = 1.0 - np.exp(-np.maximum(heights, 0.0) / _SIZE_SCALE)
        sharp = 1.0 - np.exp(-sharpness / _SHARPNESS_SCALE)
        return np.asarray(np.clip(scores, 0.0, 1.0) * size * sharp, dtype=np.float32)


def measure_sharpness(crop: Image) -> float:
    """The ratio r of TrainingFreeQuality for one ArcFace crop (112, 112, 3) uint8 BGR; 0 and up."""
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY).astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), _DENOISE_SIGMA)
    detail = cv2.Laplacian(smooth, cv2.CV_32F)[_FACE]
    return float(detail.var() / (smooth[_FACE].var() + _ROUNDING))
