"""IDA-L at run time: densities predicted from the embedding alone, without anchors or torch.

Liu et al., "Inter-class Discrepancy Alignment for Face Recognition", section 3.2: the support set
regression (SSR) is FC-ReLU-FC(->1) on the embedding, taught by what anchors measured. It is trained
in models/networks/ssr.py and runs here. C = embedding, H = hidden width. Its file is one .npz
without pickles:

    fc1.weight (H, C)  fc1.bias (H,)  fc2.weight (1, H)  fc2.bias (1,)      float32
    target                "density": the output is (r - mean) / deviation
                          "discrepancy": the output is F itself (equation 6)
    mean, deviation ()    of r over the training faces; 0 and 1 for "discrepancy"
    k, tau ()             those of the anchors that taught it
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from .. import CorruptModelFile, MissingModelFile, RecordError
from .fusion import Doubles, Floats
from .ida import check_unit_rows, discrepancy
from .npz_file import read_arrays

Target = Literal["density", "discrepancy"]

LARGEST = 1 << 26
"""Bytes of a file's arrays; C = H = 512 has 1 MB. More is no SSR, but a bomb."""
_BLOCK = 1 << 22  # numbers of the hidden layer held at once: 16 MiB
_WEIGHTS = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
_SETTINGS = ("target", "mean", "deviation", "k", "tau")


@dataclass(frozen=True, eq=False)
class LearnedDensity:
    """A trained SSR, usable wherever `Anchors` are (a `DensityModel`).

    arrays: the four weights of the file, float32. Raises CorruptModelFile when one does not fit.
    """

    arrays: Mapping[str, Floats]
    target: Target = "density"
    mean: float = 0.0
    deviation: float = 1.0
    k: int = 10
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Check names, shapes and numbers."""
        if odd := sorted(self.arrays.keys() ^ set(_WEIGHTS)):
            raise CorruptModelFile(
                f"an SSR holds {', '.join(_WEIGHTS)}; {odd[0]} is missing or not one of them"
            )
        first = self.arrays["fc1.weight"]
        hidden, dimension = first.shape if first.ndim == 2 else (0, 0)
        shapes = ((hidden, dimension), (hidden,), (1, hidden), (1,))
        for name, shape in zip(_WEIGHTS, shapes, strict=True):
            array = self.arrays[name]
            if array.shape != shape or array.dtype != np.float32 or not array.size:
                raise CorruptModelFile(
                    f"SSR: {name} must be {shape} float32, got {array.shape} {array.dtype}"
                )
            if not np.isfinite(array).all():
                raise CorruptModelFile(f"SSR: {name} holds numbers that are not finite")
        if self.target not in ("density", "discrepancy"):
            raise CorruptModelFile(
                f"SSR: target must be density or discrepancy, got {self.target!r}"
            )
        if not (np.isfinite(self.mean) and 0.0 < self.deviation < np.inf):
            raise CorruptModelFile(
                f"SSR: mean and deviation must be finite and the deviation positive, "
                f"got {self.mean} and {self.deviation}"
            )
        if self.k < 1 or not 0.0 < self.tau < np.inf:
            raise CorruptModelFile(f"SSR: k and tau must be positive, got {self.k} and {self.tau}")

    @property
    def dimension(self) -> int:
        """C."""
        return int(self.arrays["fc1.weight"].shape[1])

    @functools.cached_property
    def version(self) -> str:
        """A hash of all that a density depends on."""
        settings = (self.target, self.mean, self.deviation, self.k, self.tau, self.dimension)
        digest = hashlib.sha256(repr(settings).encode())
        for name in _WEIGHTS:
            digest.update(self.arrays[name].tobytes())
        return f"ssr-{digest.hexdigest()[:12]}"

    @property
    def own(self) -> float:
        """Nobody is left out: what it predicts has no neighbours."""
        return math.inf

    def template_density(self, templates: Floats) -> Doubles:
        """As `density`."""
        return self.density(templates)

    def density(self, vectors: Floats) -> Doubles:
        """r (N,) float64 of unit vectors (N, C), kept within the [-tau, tau] that a true r has.

        Raises RecordError when vectors do not fit.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise RecordError(
                f"vectors must be (N, {self.dimension}) as the SSR's are, got {vectors.shape}"
            )
        check_unit_rows("vectors", vectors)
        first, first_bias, second, second_bias = (self.arrays[name] for name in _WEIGHTS)
        output = np.empty(len(vectors))
        rows = max(1, _BLOCK // len(first))
        for start in range(0, len(vectors), rows):
            block = slice(start, start + rows)
            hidden = np.maximum(vectors[block] @ first.T + first_bias, 0.0)
            output[block] = hidden @ second[0] + second_bias[0]
        if self.target == "density":
            return np.asarray(np.clip(self.mean + self.deviation * output, -self.tau, self.tau))
        least, most = discrepancy([self.tau, -self.tau], self.k)
        return np.asarray(-np.log(self.k * np.clip(output, least, most)))


def save_learned_density(path: Path, model: LearnedDensity) -> None:
    """Write an SSR as .npz."""
    named: dict[str, Any] = {name: model.arrays[name] for name in _WEIGHTS}
    named |= {name: np.asarray(getattr(model, name)) for name in _SETTINGS}
    with path.open("wb") as file:
        np.savez(file, **named)


def load_learned_density(path: Path) -> LearnedDensity:
    """Read an SSR. Raises MissingModelFile, or CorruptModelFile for what is none."""
    if not path.is_file():
        raise MissingModelFile(f"no SSR at {path}: check the pack's files")
    arrays = read_arrays(path, "an SSR", most=LARGEST)
    kinds = {"target": "U", "mean": "f", "deviation": "f", "k": "iu", "tau": "f"}
    settings: dict[str, Any] = {}
    for name in _SETTINGS:
        value = arrays.pop(name, None)
        if value is None or value.ndim or value.dtype.kind not in kinds[name]:
            raise CorruptModelFile(f"{path} is not an SSR: {name} is missing or of a wrong kind")
        settings[name] = value.item()
    return LearnedDensity(cast("Mapping[str, Floats]", arrays), **settings)
