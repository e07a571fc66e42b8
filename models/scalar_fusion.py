"""The learned mean: one small network gives each observation a weight, by itself.

template = unit(sum_i w_i f_i / ||f_i||), w_i = exp(score(style_i, norm_i, quality_i)). Unlike
CAFace an observation is weighed without looking at the others, so the state is two sums, chunks do
not exist, and tracks merge exactly. The network (models/networks/scalar_fusion trains it):

    x = batch norm [style means and deviations, log norm, quality, log(quality + 0.01)]
    score = fc2 . relu(fc1 x)

Its head is one .npz without pickles. W = inputs, H = hidden; float32 or float64, used as float64.

    keys       which inputs, in this order: "style", "style+norm", "style+quality" or
               "style+norm+quality"
    dimension  C, of the embedder that it was trained for
    norm.{weight, bias, running_mean, running_var} (W,)
    fc1.{weight (H, W), bias (H,)}   fc2.{weight (1, H), bias (1,)}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from .. import CorruptModelFile, MissingModelFile, ModelError
from .fusion import Doubles, FusionState, Members, check_members, no_members
from .mean_fusion import Mean
from .npz_file import read_arrays

Keys = Literal["style", "style+norm", "style+quality", "style+norm+quality"]

EPSILON = 1e-5  # of the batch normalisation
QUALITY_FLOOR = 0.01
"""Added to a quality before its logarithm; qualities below 0 count as 0."""
SMALLEST_NORM = 1e-6
SCORE_LIMIT = 100.0
"""Largest score and, negative, smallest: no weight may vanish beside another or overflow."""
LARGEST = 1 << 24
"""Bytes of a head's arrays; the shipped ones have 0.1 MB."""
_NAMES = (
    *(f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
    *(f"{layer}.{part}" for layer in ("fc1", "fc2") for part in ("weight", "bias")),
)


@dataclass(frozen=True, eq=False)
class ScalarHead:
    """A checked head. arrays: by the names above, float64. keys, dimension: as in the file."""

    keys: Keys
    dimension: int
    arrays: Mapping[str, Doubles]

    def __post_init__(self) -> None:
        """Raises CorruptModelFile for arrays that do not make up a head."""
        if self.keys not in get_args(Keys) or self.dimension < 1:
            raise CorruptModelFile(
                f"a scalar head's keys must be one of {', '.join(get_args(Keys))} and its "
                f"dimension 1 or more, got {self.keys!r} and {self.dimension}"
            )
        if set(self.arrays) != set(_NAMES):
            raise CorruptModelFile(
                f"a scalar head must hold {', '.join(_NAMES)}, got {', '.join(sorted(self.arrays))}"
            )
        hidden = self.arrays["fc1.bias"].size
        width = self.arrays["norm.bias"].size
        shapes = dict.fromkeys(_NAMES[:4], (width,)) | {
            "fc1.weight": (hidden, width),
            "fc1.bias": (hidden,),
            "fc2.weight": (1, hidden),
            "fc2.bias": (1,),
        }
        for name, shape in shapes.items():
            array = self.arrays[name]
            if array.shape != shape or not np.isfinite(array).all():
                raise CorruptModelFile(
                    f"scalar head: {name} must be {shape} finite numbers, got {array.shape}"
                )
        if (self.arrays["norm.running_var"] < 0).any():
            raise CorruptModelFile("scalar head: norm.running_var must not be negative")
        if (width - extra_inputs(self.keys)) % 2 or width <= extra_inputs(self.keys):
            raise CorruptModelFile(
                f"scalar head: {width} inputs cannot be two per style channel and "
                f"{extra_inputs(self.keys)} for {self.keys}"
            )

    @property
    def styles(self) -> int:
        """K."""
        return (self.arrays["norm.bias"].size - extra_inputs(self.keys)) // 2


class LearnedMean(Mean):
    """The aggregator "learned". Holds weights only; safe to share between tracks and threads."""

    name = "learned"

    def __init__(self, head: ScalarHead) -> None:
        """head: C and K are its own."""
        super().__init__(head.dimension)
        self.head = head
        arrays = head.arrays
        # The normalisation is an affine map of each input: it moves into the first layer.
        scale = arrays["norm.weight"] / np.sqrt(arrays["norm.running_var"] + EPSILON)
        shift = arrays["norm.bias"] - scale * arrays["norm.running_mean"]
        self._first = arrays["fc1.weight"] * scale
        self._bias = arrays["fc1.weight"] @ shift + arrays["fc1.bias"]

    def empty(self) -> FusionState:
        """No observation yet."""
        dimension = self.dimension
        nobody = no_members(dimension, self.head.styles)
        return FusionState(np.zeros((1, dimension)), np.zeros((1, 0)), np.zeros(1), 0, nobody)

    def update(self, state: FusionState, members: Members) -> FusionState:
        """The sums after N more observations, added one by one in float64."""
        check_members(members, self.dimension, self.head.styles)
        return super().update(state, members)

    def weigh(self, members: Members) -> Doubles:
        """Rows (N, 1): exp(score)."""
        return np.exp(self.score(members))[:, None]

    def gain(self, state: FusionState) -> Doubles:
        """(1,): one over the sum of weights, which is never tiny: see SCORE_LIMIT."""
        return 1.0 / state.mass if state.summed else np.ones(1)

    def score(self, members: Members) -> Doubles:
        """The network's score (N,) of usable observations, within SCORE_LIMIT."""
        last, offset = self.head.arrays["fc2.weight"][0], self.head.arrays["fc2.bias"][0]
        # One row at a time: the sums inside a matrix product depend on how many rows it has.
        scores = [
            last @ np.maximum(self._first @ row + self._bias, 0.0) + offset
            for row in scalar_inputs(members, self.head.keys)
        ]
        return np.clip(np.array(scores, np.float64), -SCORE_LIMIT, SCORE_LIMIT)


def extra_inputs(keys: Keys) -> int:
    """Inputs beside the styles: 1 for the norm and 2 for the quality."""
    return ("norm" in keys) + 2 * ("quality" in keys)


def scalar_inputs(members: Members, keys: Keys) -> Doubles:
    """What the network reads of N observations: (N, W) float64."""
    styles = members.styles.astype(np.float64)
    parts = [styles.reshape(len(styles), 2 * styles.shape[1])]
    if "norm" in keys:
        norms = np.maximum(members.norms.astype(np.float64), SMALLEST_NORM)
        parts.append(np.log(norms)[:, None])
    if "quality" in keys:
        quality = np.maximum(members.qualities.astype(np.float64), 0.0)
        parts.append(np.stack([quality, np.log(quality + QUALITY_FLOOR)], axis=1))
    return np.concatenate(parts, axis=1)


def save_scalar_head(path: Path, head: ScalarHead) -> None:
    """Write a head as .npz, float32 as it is trained."""
    arrays = {name: array.astype(np.float32) for name, array in head.arrays.items()}
    with path.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            keys=np.array(head.keys),
            dimension=np.array(head.dimension),
            **arrays,
        )


def load_scalar_head(
    path: Path, *, dimension: int | None = None, styles: int | None = None
) -> ScalarHead:
    """Read a head.

    Raises MissingModelFile, CorruptModelFile (not a head, incomplete, wrong shapes), or ModelError
    when `dimension` or `styles` is given and the head was fitted to another embedder.
    """
    if not path.is_file():
        raise MissingModelFile(f"no learned fusion head at {path}: check the pack's files")
    arrays = read_arrays(path, "a learned fusion head", most=LARGEST)
    keys, size = str(arrays.pop("keys", "missing")), arrays.pop("dimension", np.array(0))
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise CorruptModelFile(f"{path}: {name} must be floats, got {array.dtype}")
    if size.dtype.kind != "i" or size.ndim:
        raise CorruptModelFile(f"{path}: dimension must be one integer, got {size.dtype}")
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    try:
        head = ScalarHead(cast("Keys", keys), int(size), wide)
    except CorruptModelFile as error:
        raise CorruptModelFile(f"{path}: {error}") from error
    for what, wanted, got in (
        ("numbers per embedding", dimension, head.dimension),
        ("style channels", styles, head.styles),
    ):
        if wanted is not None and wanted != got:
            raise ModelError(
                f"the learned fusion head {path.name} was fitted to {got} {what}, the embedder "
                f"gives {wanted}: use the head of the embedder's own pack"
            )
    return head
