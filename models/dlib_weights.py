"""Reads the weight file of dlib's face-recognition ResNet, with numpy alone.

A dlib network file is nested: every layer writes its version, then the layer below it, and only
then itself, so the file begins with one version number per layer from the loss down to the input
and goes on with the layers' contents from the input up. Integers have a control byte (low four
bits: how many bytes follow, little endian; top bit: negative); a scalar float is an integer
mantissa and an integer exponent of two; a string is its length and its bytes; a tensor is a
version, four sizes (samples, channels, rows, columns) and raw little-endian float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from .. import CorruptModelFile, MissingModelFile

Floats = npt.NDArray[np.float32]

MARK = 1
LAYER = 2
FIRST_LAYER = 3
LARGEST_TENSOR = 1 << 26


@dataclass(frozen=True, eq=False)
class Convolution:
    """weights (out, in, rows, columns) and bias (out,) float32; stride and padding (y, x)."""

    weights: Floats
    bias: Floats
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Affine:
    """y = gamma x + beta, per channel; both (channels,) float32."""

    gamma: Floats
    beta: Floats


@dataclass(frozen=True)
class Pool:
    """A pooling window (rows, columns); (0, 0) is the whole picture."""

    kind: Literal["max", "average"]
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Dense:
    """y = x weights, with weights (inputs, outputs) float32 and no bias."""

    weights: Floats


@dataclass(frozen=True)
class Step:
    """A layer without parameters.

    relu; tag: remember the value; skip: go on from the remembered value and remember the present
    one instead; add: add the remembered value, both zero-padded to the larger size.
    """

    kind: Literal["relu", "tag", "skip", "add"]


Layer = Convolution | Affine | Pool | Dense | Step


@dataclass(frozen=True, eq=False)
class DlibNetwork:
    """The network as the file has it: input side x side RGB, (pixel - mean) / 256, then layers.

    mean: red, green, blue in 0..255. layers: in the order of the data's flow.
    """

    side: int
    mean: tuple[float, float, float]
    layers: tuple[Layer, ...]


def read_dlib_network(path: Path) -> DlibNetwork:
    """Read a dlib metric-learning network over an RGB picture.

    Raises MissingModelFile when there is no such file, and CorruptModelFile, with the offset and
    what was expected there, when the file is truncated, has trailing bytes or is another network.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingModelFile(f"{path}: no such file; expected dlib's ResNet weights") from None
    return _Reader(data, str(path)).network()


class _Reader:
    """A cursor over the file; every read checks that the bytes are there and mean something."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.at = 0

    def fail(self, expected: str, got: str, at: int) -> CorruptModelFile:
        return CorruptModelFile(
            f"{self.name}: expected {expected} at byte {at} of {len(self.data)}, got {got}; "
            "the file is truncated or not dlib's face-recognition ResNet"
        )

    def take(self, count: int, expected: str) -> bytes:
        start, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise self.fail(expected, "the end of the file", start)
        return self.data[start : self.at]

    def integer(self, expected: str) -> int:
        start = self.at
        control = self.take(1, expected)[0]
        size = control & 0x0F
        if control & 0x70 or not 1 <= size <= 8:
            raise self.fail(f"{expected} (an integer)", f"control byte 0x{control:02x}", start)
        value = int.from_bytes(self.take(size, expected), "little")
        return -value if control & 0x80 else value

    def exactly(self, value: int, expected: str) -> None:
        start = self.at
        got = self.integer(expected)
        if got != value:
            raise self.fail(f"{expected} {value}", str(got), start)

    def number(self, expected: str) -> float:
        start = self.at
        mantissa = self.integer(expected)
        exponent = self.integer(expected)
        # A mantissa has up to 64 bits, so this keeps the product inside a float.
        if abs(exponent) > 900:
            raise self.fail(expected, f"a float with exponent {exponent}", start)
        return math.ldexp(mantissa, exponent)

    def text(self, expected: str) -> str:
        start = self.at
        length = self.integer(expected)
        if not 0 < length <= 64:
            raise self.fail(expected, f"a text of {length} bytes", start)
        raw = self.take(length, expected)
        if not raw.isascii():
            raise self.fail(expected, "bytes that are no text", start)
        return raw.decode("ascii")

    def named(self, name: str) -> None:
        start = self.at
        got = self.text(f"layer name {name!r}")
        if got != name:
            raise self.fail(f"layer {name!r}", f"{got!r}", start)

    def flag(self, expected: str) -> None:
        start = self.at
        got = self.take(1, expected)
        if got not in (b"0", b"1"):
            raise self.fail(f"{expected} (0 or 1)", repr(got), start)

    def sizes(self, expected: str) -> tuple[int, int, int, int]:
        start = self.at
        n, k, rows, columns = (self.integer(expected) for _ in range(4))
        if min(n, k, rows, columns) < 0 or math.prod((n, k, rows, columns)) > LARGEST_TENSOR:
            raise self.fail(expected, f"sizes {n} x {k} x {rows} x {columns}", start)
        return n, k, rows, columns

    def tensor(self, expected: str) -> Floats:
        self.exactly(2, f"version of {expected}")
        count = math.prod(self.sizes(f"sizes of {expected}"))
        values = np.frombuffer(self.take(4 * count, f"{count} floats of {expected}"), "<f4")
        if not np.isfinite(values).all():
            raise self.fail(f"finite {expected}", "infinite or undefined values", self.at)
        return values.astype(np.float32)

    def view(self, expected: str) -> tuple[int, int, int, int]:
        self.exactly(1, f"version of {expected}")
        return self.sizes(expected)

    def pair(self, expected: str, least: int = 0) -> tuple[int, int]:
        start = self.at
        y, x = self.integer(expected), self.integer(expected)
        if min(y, x) < least:
            raise self.fail(expected, f"{y} x {x}", start)
        return y, x

    def network(self) -> DlibNetwork:
        self.exactly(1, "version of the loss layer")
        self.named("loss_metric_2")
        self.number("margin")
        self.number("distance threshold")
        versions = self.versions()
        side, mean = self.input_layer()
        layers: list[Layer] = []
        # The versions stand from the loss down, the contents from the input up.
        upwards = versions[::-1]
        for index, version in enumerate(upwards):
            if version == MARK:
                if upwards[index - 1] == MARK:
                    # Two marks in a row: remember this branch, skip back to the other one.
                    layers[-1] = Step("skip")
                else:
                    layers.append(Step("tag"))
                continue
            layers.append(self.layer())
            self.state(first=version == FIRST_LAYER)
        if self.at != len(self.data):
            left = len(self.data) - self.at
            raise self.fail("the end of the file", f"{left} more bytes", self.at)
        return DlibNetwork(side, mean, tuple(layers))

    def versions(self) -> list[int]:
        found: list[int] = []
        while not found or found[-1] != FIRST_LAYER:
            start = self.at
            version = self.integer("version of a layer")
            if version not in (MARK, LAYER, FIRST_LAYER) or len(found) > 10_000:
                raise self.fail("a layer's version 1, 2 or 3", str(version), start)
            found.append(version)
        return found

    def input_layer(self) -> tuple[int, tuple[float, float, float]]:
        self.named("input_rgb_image_sized")
        red, green, blue = (self.number(f"mean of {c}") for c in ("red", "green", "blue"))
        start = self.at
        rows, columns = self.pair("size of the input picture")
        if rows != columns or rows == 0:
            raise self.fail("a square input picture", f"{rows} x {columns}", start)
        return rows, (red, green, blue)

    def layer(self) -> Layer:
        start = self.at
        name = self.text("a layer's name")
        match name:
            case "con_4":
                return self.convolution()
            case "affine_":
                return self.affine()
            case "relu_":
                return Step("relu")
            case "add_prev_":
                return Step("add")
            case "max_pool_2" | "avg_pool_2":
                window, stride = self.pair("pooling window"), self.pair("pooling stride", 1)
                kind: Literal["max", "average"] = "max" if name == "max_pool_2" else "average"
                return Pool(kind, window, stride, self.pair("pooling padding"))
            case "fc_2":
                return self.dense()
        raise self.fail("a layer of dlib's ResNet", f"layer {name!r}", start)

    def convolution(self) -> Convolution:
        start = self.at
        params = self.tensor("convolution")
        out = self.integer("number of filters")
        rows, columns = self.pair("filter size")
        stride, padding = self.pair("stride", 1), self.pair("padding")
        filters, biases = self.view("filters"), self.view("biases")
        for _ in range(4):
            self.number("learning-rate multiplier")
        count = math.prod(filters)
        if (filters[0], *filters[2:]) != (out, rows, columns) or biases[1] != out:
            raise self.fail(f"{out} filters of {rows} x {columns}", f"{filters}", start)
        if params.size != count + out:
            raise self.fail(f"{count + out} parameters", str(params.size), start)
        return Convolution(params[:count].reshape(filters), params[count:], stride, padding)

    def affine(self) -> Affine:
        start = self.at
        params = self.tensor("affine layer")
        gamma, beta = self.view("gamma"), self.view("beta")
        self.exactly(0, "mode of the affine layer (0: per channel)")
        if gamma != beta or params.size != 2 * gamma[1]:
            raise self.fail(f"{2 * gamma[1]} parameters", str(params.size), start)
        return Affine(params[: gamma[1]], params[gamma[1] :])

    def dense(self) -> Dense:
        start = self.at
        outputs, inputs = self.integer("outputs"), self.integer("inputs")
        params = self.tensor("fully connected layer")
        weights, _ = self.view("weights"), self.view("biases")
        self.exactly(1, "bias mode of the fully connected layer (1: none)")
        for _ in range(4):
            self.number("learning-rate multiplier")
        if weights[:2] != (inputs, outputs) or params.size != inputs * outputs:
            raise self.fail(f"weights of {inputs} x {outputs}", f"{weights}", start)
        return Dense(params.reshape(inputs, outputs))

    def state(self, *, first: bool) -> None:
        """Skip what training left behind: three flags and three tensors, empty in a clean file."""
        for what in ("setup flag", "gradient flag", "output flag"):
            self.flag(what)
        for what in ("input gradient", "cached output", "parameter gradient"):
            self.tensor(what)
        if first:
            self.exactly(1, "sample expansion factor")
