"""The weights of a CAFace head: what its file holds, how it is read, written and initialised.

One .npz without pickles. C = embedding, K = style channels, M = centres, D = token = G + N with
G = style code and N = norm code (the paper: C 512, K 384, M 4, D 128 = 64 + 64). Linear weights are
(out, in), as torch exports them; float32 or float64, used as float64.

    sim.mix (K, 2)  sim.prelu (1,)  sim.linear.{weight (G, K), bias}
    sim.bn.{weight, bias, running_mean, running_var} (G,)
    norm.{running_mean, running_var, scale} (1,)
    cn.centres (M, D)
    cn.blocks.{0,1}.norm1, .norm2 {weight, bias} (D,)
                   .qkv.{weight (3D, D), bias}   .proj.{weight (D, D), bias}
                   .fc1.{weight (4D, D), bias}   .fc2.{weight (D, 4D), bias}
    cn.assign.norm_centres.{weight, bias}, .norm_keys.{weight, bias} (D,)
    cn.assign.query.{weight (D, D), bias}, .key.{weight (D, D), bias}
    agn.mixers.{0,1}.norm.{weight, bias} (2D,)  .gate (1,)
                    .tokens.fc1.{weight (2M, M), bias}   .tokens.fc2.{weight (M, 2M), bias}
                    .channels.fc1.{weight (D, 2D), bias} .channels.fc2.{weight (2D, D), bias}
    agn.head.fc1.{weight (2D, 2D), bias}        agn.head.fc2.{weight (C, 2D), bias}
    division   "exact" (eq. 3) or "clip1" (the authors' release: by max(1, mass))
    rounding   "floor" (the paper) or "trunc" (the authors' release) of the norm's bin
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from .. import CorruptModelFile, MissingModelFile, ModelError
from .fusion import Doubles
from .npz_file import read_arrays

Division = Literal["exact", "clip1"]
Rounding = Literal["floor", "trunc"]

DEPTH = 2
HEADS = 8
LARGEST = 1 << 28
"""Bytes of a head's arrays; the paper's largest has 65 MB. More is no head, but a bomb."""
_BUFFERS = ("running_mean", "running_var")


class HeadSize(NamedTuple):
    """C, K, M and the widths of the style and the norm code (G, N)."""

    dimension: int
    styles: int
    centres: int
    style_code: int = 64
    norm_code: int = 64

    @property
    def token(self) -> int:
        """D."""
        return self.style_code + self.norm_code


@dataclass(frozen=True, eq=False)
class CAFaceHead:
    """A head: size, arrays by name (float64), and the two conventions it was trained with."""

    size: HeadSize
    arrays: Mapping[str, Doubles]
    division: Division = "exact"
    rounding: Rounding = "floor"

    def __post_init__(self) -> None:
        """Check every name, shape and number; raises CorruptModelFile."""
        shapes = head_shapes(self.size)
        if odd := sorted(shapes.keys() ^ self.arrays.keys()):
            state = "lacks" if odd[0] in shapes else "has the unknown"
            raise CorruptModelFile(
                f"a CAFace head must hold the arrays it documents: it {state} {odd[0]}"
            )
        for name, shape in shapes.items():
            if self.arrays[name].shape != shape:
                raise CorruptModelFile(
                    f"CAFace head: {name} must be {shape}, got {self.arrays[name].shape}"
                )
            if not np.isfinite(self.arrays[name]).all():
                raise CorruptModelFile(f"CAFace head: {name} holds numbers that are not finite")
        if self.division not in ("exact", "clip1") or self.rounding not in ("floor", "trunc"):
            raise CorruptModelFile(
                "CAFace head: division must be exact or clip1 and rounding floor or trunc, "
                f"got {self.division} and {self.rounding}"
            )


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _scale(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def head_shapes(size: HeadSize) -> dict[str, tuple[int, ...]]:
    """Every array of a head of this size: name to shape."""
    code, token, wide, centres = size.style_code, size.token, 2 * size.token, size.centres
    shapes: dict[str, tuple[int, ...]] = {"sim.mix": (size.styles, 2), "sim.prelu": (1,)}
    shapes |= _linear("sim.linear", code, size.styles) | _scale("sim.bn", code)
    shapes |= {"sim.bn.running_mean": (code,), "sim.bn.running_var": (code,)}
    shapes |= {"norm.running_mean": (1,), "norm.running_var": (1,), "norm.scale": (1,)}
    shapes["cn.centres"] = (centres, token)
    for block in (f"cn.blocks.{i}" for i in range(DEPTH)):
        shapes |= _scale(f"{block}.norm1", token) | _linear(f"{block}.qkv", 3 * token, token)
        shapes |= _linear(f"{block}.proj", token, token) | _scale(f"{block}.norm2", token)
        shapes |= _linear(f"{block}.fc1", 4 * token, token)
        shapes |= _linear(f"{block}.fc2", token, 4 * token)
    shapes |= _scale("cn.assign.norm_centres", token) | _scale("cn.assign.norm_keys", token)
    shapes |= _linear("cn.assign.query", token, token) | _linear("cn.assign.key", token, token)
    for mixer in (f"agn.mixers.{i}" for i in range(DEPTH)):
        shapes |= _scale(f"{mixer}.norm", wide) | {f"{mixer}.gate": (1,)}
        shapes |= _linear(f"{mixer}.tokens.fc1", 2 * centres, centres)
        shapes |= _linear(f"{mixer}.tokens.fc2", centres, 2 * centres)
        shapes |= _linear(f"{mixer}.channels.fc1", token, wide)
        shapes |= _linear(f"{mixer}.channels.fc2", wide, token)
    return (
        shapes | _linear("agn.head.fc1", wide, wide) | _linear("agn.head.fc2", size.dimension, wide)
    )


def count_parameters(size: HeadSize) -> int:
    """Trainable numbers of a head: running statistics are not among them."""
    return sum(
        int(np.prod(shape))
        for name, shape in head_shapes(size).items()
        if not name.endswith(_BUFFERS)
    )


def random_head(seed: int, size: HeadSize, *, style_mix: float = 0.0) -> CAFaceHead:
    """An untrained head with the paper's initialisation.

    Linear layers of CN and AGN N(0, .02) with bias 0, SIM's Linear U(+-1/sqrt(K)), orthonormal
    centres, norm scale .1, PReLU .25, gates 1. style_mix fills sim.mix: 0 is the paper's; it makes
    the first style code constant, so .5 (the mean of both statistics) trains more sanely.
    """
    draw = np.random.default_rng(seed)
    arrays: dict[str, Doubles] = {}
    for name, shape in head_shapes(size).items():
        if name == "cn.centres":
            # Rows of an orthogonal matrix; as many as there can be when M > D.
            full, _ = np.linalg.qr(draw.standard_normal((max(shape), max(shape))))
            rows = full[: shape[0], : shape[1]]
            arrays[name] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        elif name.startswith("sim.linear"):
            reach = 1.0 / np.sqrt(max(size.styles, 1))
            arrays[name] = draw.uniform(-reach, reach, shape)
        elif len(shape) == 2 and name != "sim.mix":
            arrays[name] = 0.02 * draw.standard_normal(shape)
        elif name.endswith((".weight", ".running_var", ".gate")):
            arrays[name] = np.ones(shape)
        else:
            fixed = {"sim.mix": style_mix, "sim.prelu": 0.25, "norm.scale": 0.1}
            arrays[name] = np.full(shape, fixed.get(name, 0.0))
    return CAFaceHead(size, arrays)


def save_head(path: Path, head: CAFaceHead) -> None:
    """Write a head as .npz (float32 for the weights, as they are trained)."""
    named: dict[str, Any] = {name: array.astype(np.float32) for name, array in head.arrays.items()}
    with path.open("wb") as file:
        np.savez(file, division=np.array(head.division), rounding=np.array(head.rounding), **named)


def load_head(path: Path, *, dimension: int | None = None, styles: int | None = None) -> CAFaceHead:
    """Read a head; C, K and M come from its arrays.

    Raises MissingModelFile, CorruptModelFile (not a head, incomplete, wrong shapes), or ModelError
    when `dimension` or `styles` is given and the head was fitted to an embedder with another
    length of embeddings or number of style channels.
    """
    if not path.is_file():
        raise MissingModelFile(f"no CAFace head at {path}: check the pack's files")
    arrays = read_arrays(path, "a CAFace head", most=LARGEST)
    division = str(arrays.pop("division", "missing"))
    rounding = str(arrays.pop("rounding", "missing"))
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise CorruptModelFile(f"{path}: {name} must be floats, got {array.dtype}")
    size = _size(path, arrays)
    for what, wanted, got in (
        ("numbers per embedding", dimension, size.dimension),
        ("style channels", styles, size.styles),
    ):
        if wanted is not None and wanted != got:
            raise ModelError(
                f"the CAFace head {path.name} was fitted to {got} {what}, the embedder gives "
                f"{wanted}: use the head of the embedder's own pack"
            )
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    return CAFaceHead(size, wide, cast("Division", division), cast("Rounding", rounding))


def _size(path: Path, arrays: Mapping[str, np.ndarray]) -> HeadSize:
    names = ("sim.mix", "sim.linear.bias", "cn.centres", "agn.head.fc2.bias")
    if any(name not in arrays or not arrays[name].ndim for name in names):
        raise CorruptModelFile(f"{path} is not a CAFace head: it must hold {', '.join(names)}")
    mix, code, centres, out = (arrays[name] for name in names)
    token = centres.shape[-1]
    if token % HEADS or token <= len(code) or not len(centres):
        raise CorruptModelFile(
            f"{path}: cn.centres must be (M, D) with D a multiple of {HEADS} and larger than the "
            f"style code ({len(code)}), got {centres.shape}"
        )
    return HeadSize(len(out), len(mix), len(centres), len(code), token - len(code))
