"""Quality from what an embedder gives anyway: a small network on embedding, norm and style.

It costs no second crop and no second network. Trained by label optimisation
(models/label_optimisation, train/fiqa); torch's side is models/networks/feature_quality. With
C = embedding, K = style channels, H = hidden width:

    x = [unit embedding (C), log norm (1), style means and deviations (2 K)]
    q = sigmoid(fc2 . relu(fc1 . (x - mean) / deviation))            in 0..1, higher is better

The file is one .npz without pickles:

    mean, deviation (W,)   of x over the training faces, W = C + 1 + 2 K
    fc1.weight (H, W)  fc1.bias (H,)  fc2.weight (1, H)  fc2.bias (1,)        all float32
    dimension, styles ()   C and K
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from .. import CorruptModelFile, MissingModelFile, RecordError
from .fusion import Doubles
from .inference import AlignTemplate, Embedded, Floats
from .npz_file import read_arrays

LARGEST = 1 << 24
"""Bytes of a file's arrays; C = 512, K = 384, H = 64 has 0.3 MB."""
SMALLEST_NORM = 1e-6
_WEIGHTS = ("mean", "deviation", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


@dataclass(frozen=True, eq=False)
class QualityHead:
    """A checked head: the six arrays of the file, float32; C and K."""

    arrays: Mapping[str, Floats]
    dimension: int
    styles: int

    def __post_init__(self) -> None:
        """Raises CorruptModelFile for arrays that do not make up a head."""
        if odd := sorted(self.arrays.keys() ^ set(_WEIGHTS)):
            raise CorruptModelFile(
                f"a quality head holds {', '.join(_WEIGHTS)}; {odd[0]} is missing or not of them"
            )
        if self.dimension < 1 or self.styles < 0:
            raise CorruptModelFile(
                f"quality head: dimension must be 1 or more and styles 0 or more, got "
                f"{self.dimension} and {self.styles}"
            )
        width, hidden = self.dimension + 1 + 2 * self.styles, self.arrays["fc1.bias"].size
        shapes = ((width,), (width,), (hidden, width), (hidden,), (1, hidden), (1,))
        for name, shape in zip(_WEIGHTS, shapes, strict=True):
            array = self.arrays[name]
            if array.shape != shape or array.dtype != np.float32 or not array.size:
                raise CorruptModelFile(
                    f"quality head: {name} must be {shape} float32, got {array.shape} {array.dtype}"
                )
            if not np.isfinite(array).all():
                raise CorruptModelFile(f"quality head: {name} holds numbers that are not finite")
        if not (self.arrays["deviation"] > 0).all():
            raise CorruptModelFile("quality head: every deviation must be above 0")

    def score(self, embeddings: Floats, styles: Floats) -> Doubles:
        """Quality (N,) float64, 0..1, of embeddings (N, C) not normalised and styles (N, K, 2).

        Raises RecordError when shapes do not fit.
        """
        x = head_inputs(embeddings, styles)
        if embeddings.shape[1] != self.dimension or styles.shape[1] != self.styles:
            raise RecordError(
                f"the quality head takes embeddings (N, {self.dimension}) and styles "
                f"(N, {self.styles}, 2), got {embeddings.shape} and {styles.shape}"
            )
        mean, deviation, weight, bias, last, last_bias = (
            self.arrays[name].astype(np.float64) for name in _WEIGHTS
        )
        hidden = np.maximum((x - mean) / deviation @ weight.T + bias, 0.0)
        return np.asarray(expit(hidden @ last[0] + last_bias[0]))


def head_inputs(embeddings: npt.NDArray[np.floating], styles: npt.NDArray[np.floating]) -> Doubles:
    """x (N, C + 1 + 2 K) float64 of embeddings (N, C) and styles (N, K, 2): means, then deviations.

    Raises RecordError for other shapes.
    """
    if (
        embeddings.ndim != 2
        or styles.ndim != 3
        or styles.shape != (len(embeddings), *styles.shape[1:2], 2)
    ):
        raise RecordError(
            f"embeddings must be (N, C) and styles (N, K, 2), got {embeddings.shape} and "
            f"{styles.shape}"
        )
    wide = embeddings.astype(np.float64)
    norms = np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), SMALLEST_NORM)
    moments = styles.astype(np.float64).transpose(0, 2, 1).reshape(len(wide), 2 * styles.shape[1])
    return np.concatenate([wide / norms, np.log(norms), moments], axis=1)


class HeadQuality:
    """A quality source that wants no crop of its own (see `models/quality`)."""

    template: AlignTemplate | None = None

    def __init__(self, head: QualityHead, *, unit: str = "0..1") -> None:
        """unit: what the numbers are, for people."""
        self.head = head
        self.unit = unit

    def score(
        self,
        *,
        crops: npt.NDArray[np.uint8],
        embedded: Embedded,
        boxes: Floats,
        scores: Floats,
    ) -> Floats:
        """Quality (N,) float32 of the embeddings and styles; N may be 0."""
        return self.head.score(embedded.embeddings, embedded.styles).astype(np.float32)


def save_quality_head(path: Path, head: QualityHead) -> None:
    """Write a head as .npz."""
    named: dict[str, Any] = {name: head.arrays[name] for name in _WEIGHTS}
    named |= {"dimension": np.asarray(head.dimension), "styles": np.asarray(head.styles)}
    with path.open("wb") as file:
        np.savez(file, **named)


def load_quality_head(path: Path) -> QualityHead:
    """Read a head. Raises MissingModelFile, or CorruptModelFile for what is none."""
    if not path.is_file():
        raise MissingModelFile(f"no quality head at {path}: check the pack's files")
    arrays = read_arrays(path, "a quality head", most=LARGEST)
    sizes: list[int] = []
    for name in ("dimension", "styles"):
        value = arrays.pop(name, None)
        if value is None or value.ndim or value.dtype.kind not in "iu":
            raise CorruptModelFile(f"{path} is no quality head: {name} is missing or no integer")
        sizes.append(int(value))
    return QualityHead(arrays, *sizes)
