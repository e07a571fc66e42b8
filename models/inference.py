"""What a pack's parts promise: the types that detectors, embedders and quality sources share.

Pictures are uint8 BGR, (H, W, 3), as cameras give them; each part converts to what its card says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Session(Protocol):
    """One loaded network on one runtime. Thread-safe for concurrent `run` calls."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    provider: str
    """What really runs it, for people: "onnxruntime CPU", "openvino CPU", "onnxruntime CUDA"."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; returns every output by name."""
        ...


class FaceBoxes(NamedTuple):
    """Faces of one picture, best score first.

    boxes (N, 4) x0 y0 x1 y1, landmarks (N, 5, 2), scores (N,): float32, pixels of that picture.
    Landmarks: left eye, right eye, nose tip, left and right mouth corner, left and right as seen
    in the picture.
    """

    boxes: Floats
    landmarks: Floats
    scores: Floats


class Detector(Protocol):
    """Finds faces with five landmarks."""

    def detect(self, images: Sequence[Image], *, score: float | None = None) -> list[FaceBoxes]:
        """One FaceBoxes per (H, W, 3) picture; sizes may differ. score None takes the card's."""
        ...


class AlignTemplate(NamedTuple):
    """Where a consumer wants the five landmarks: points (5, 2) float32 px in a size x size crop."""

    size: int
    points: Floats


class Embedded(NamedTuple):
    """embeddings (N, C) not normalised, norms (N,), styles (N, K, 2) mean and std; float32."""

    embeddings: Floats
    norms: Floats
    styles: Floats


class Embedder(Protocol):
    """Turns aligned crops into embeddings."""

    template: AlignTemplate
    dimension: int

    def embed(self, crops: npt.NDArray[np.uint8]) -> Embedded:
        """crops (N, S, S, 3) uint8 BGR -> Embedded."""
        ...


class QualitySource(Protocol):
    """Says how much a face is worth for recognition; larger is better."""

    template: AlignTemplate | None
    """The crop it wants under the consumer name "quality"; None when it needs none of its own."""
    unit: str
    """What its numbers are, for people: "LightQNet 0..1", "norm", ..."""

    def score(
        self,
        *,
        crops: npt.NDArray[np.uint8],
        embedded: Embedded,
        boxes: Floats,
        scores: Floats,
    ) -> Floats:
        """Quality (N,) float32 of N faces.

        crops: (N, S, S, 3) uint8 BGR in this source's own template (the embedder's when template
        is None); embedded: the same faces' embeddings; boxes (N, 4) px; scores (N,) detector score.
        """
        ...
