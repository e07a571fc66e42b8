"""Builds the ONNX graph of dlib's face-recognition ResNet: same output, but it batches.

Input "input" (N, 3, 150, 150) float32, RGB, (pixel - mean) / 256; output "embedding" (N, 128)
float32, not normalised, as dlib gives it (its norm is about 1.4). Rows of a batch are independent.
The outputs of the residual stages are named stage1 ... stage5; stage2 (64, 17, 17) and stage3
(128, 8, 8) are the middle ones, whose style CAFace takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import CorruptModelFile
from .dlib_weights import Affine, Convolution, Dense, DlibNetwork, Layer, Pool, Step

OPSET = 17
Shape = tuple[int, int, int]


def build_dlib_graph(network: DlibNetwork) -> onnx.ModelProto:
    """The network as ONNX, batch size free.

    Each affine layer follows a convolution directly, so it is folded into its weights: exact, in
    float64. Raises CorruptModelFile when the layers do not fit together.
    """
    return _Builder(network.side).build(network.layers)


class _Builder:
    """Follows the data through the layers, keeping the value's name and shape (C, H, W)."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.value = "input"
        self.shape: Shape = (3, side, side)
        self.kept: tuple[str, Shape] | None = None
        self.stages: list[str] = []

    def build(self, layers: tuple[Layer, ...]) -> onnx.ModelProto:
        index = 0
        while index < len(layers):
            layer = layers[index]
            following = layers[index + 1] if index + 1 < len(layers) else None
            if isinstance(layer, Convolution):
                affine = following if isinstance(following, Affine) else None
                self.convolution(layer, affine)
                index += affine is not None
            elif isinstance(layer, Affine):
                raise _misfit("an affine layer without a convolution before it")
            elif isinstance(layer, Pool):
                self.pool(layer)
            elif isinstance(layer, Dense):
                self.dense(layer)
            else:
                self.step(layer)
            index += 1
        return self.model()

    def add(
        self, kind: str, inputs: list[str], shape: Shape, name: str = "", **attributes: Any
    ) -> None:
        self.value = name or f"{kind.lower()}{len(self.nodes)}"
        self.shape = shape
        self.nodes.append(
            helper.make_node(kind, inputs, [self.value], self.value, None, None, None, **attributes)
        )

    def constant(self, name: str, values: np.ndarray) -> str:
        name = f"{name}{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def convolution(self, layer: Convolution, affine: Affine | None) -> None:
        weights, bias = layer.weights.astype(np.float64), layer.bias.astype(np.float64)
        if weights.shape[1] != self.shape[0]:
            raise _misfit(f"a convolution of {weights.shape[1]} channels after {self.shape[0]}")
        if affine is not None:
            if affine.gamma.size != bias.size:
                raise _misfit(f"{affine.gamma.size} affine channels after {bias.size} filters")
            weights *= affine.gamma[:, None, None, None]
            bias = bias * affine.gamma + affine.beta
        kernel = (weights.shape[2], weights.shape[3])
        inputs = [
            self.value,
            self.constant("weights", weights.astype(np.float32)),
            self.constant("bias", bias.astype(np.float32)),
        ]
        shape = (bias.size, *self.window(kernel, layer.stride, layer.padding))
        self.add(
            "Conv", inputs, shape, kernel_shape=kernel, strides=layer.stride, pads=layer.padding * 2
        )

    def window(
        self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
    ) -> tuple[int, int]:
        """Rows and columns after a sliding window; incomplete windows are left out, as in dlib."""
        rows, columns = (
            (size + 2 * pad - length) // step + 1
            for size, length, step, pad in zip(self.shape[1:], kernel, stride, padding, strict=True)
        )
        if min(rows, columns) < 1:
            raise _misfit(f"a window of {kernel} over {self.shape[1:]}")
        return rows, columns

    def pool(self, layer: Pool) -> None:
        if layer.window == (0, 0):
            self.stages.append(self.value)
            self.add("GlobalAveragePool", [self.value], (self.shape[0], 1, 1))
            return
        kind = "MaxPool" if layer.kind == "max" else "AveragePool"
        self.add(
            kind,
            [self.value],
            (self.shape[0], *self.window(layer.window, layer.stride, layer.padding)),
            kernel_shape=layer.window,
            strides=layer.stride,
            pads=layer.padding * 2,
        )

    def dense(self, layer: Dense) -> None:
        features = int(np.prod(self.shape))
        if features != layer.weights.shape[0]:
            raise _misfit(f"weights for {layer.weights.shape[0]} inputs after {features}")
        self.add("Flatten", [self.value], (features, 1, 1))
        weights = self.constant("dense", layer.weights)
        self.add("MatMul", [self.value, weights], (layer.weights.shape[1], 1, 1), "embedding")

    def step(self, layer: Step) -> None:
        if layer.kind == "tag":
            self.kept = (self.value, self.shape)
        elif layer.kind == "relu":
            self.add("Relu", [self.value], self.shape)
        elif self.kept is None:
            raise _misfit(f"{layer.kind!r} with nothing remembered")
        elif layer.kind == "skip":
            # Only a block that shrinks the picture pools its shortcut: it begins a new stage, so
            # what it started from is the output of the stage before.
            self.stages.append(self.kept[0])
            remembered, self.kept = self.kept, (self.value, self.shape)
            self.value, self.shape = remembered
        else:
            self.add_kept(self.kept)

    def add_kept(self, kept: tuple[str, Shape]) -> None:
        """Add both branches, each padded with zeros below, right and in channels to the larger."""
        present = (self.value, self.shape)
        shape = (
            max(present[1][0], kept[1][0]),
            max(present[1][1], kept[1][1]),
            max(present[1][2], kept[1][2]),
        )
        terms = [self.padded(name, had, shape) for name, had in (present, kept)]
        self.add("Add", terms, shape)

    def padded(self, name: str, had: Shape, wanted: Shape) -> str:
        if had == wanted:
            return name
        more = [want - got for want, got in zip(wanted, had, strict=True)]
        pads: npt.NDArray[np.int64] = np.array([0, 0, 0, 0, 0, *more], np.int64)
        self.add("Pad", [name, self.constant("pads", pads)], wanted)
        return self.value

    def model(self) -> onnx.ModelProto:
        if self.value != "embedding":
            raise _misfit("no fully connected layer at the end")
        side = self.side
        self.name_stages()
        graph = helper.make_graph(
            self.nodes,
            "dlib_face_recognition_resnet",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", self.shape[0]])],
            self.weights,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="facestream"
        )
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        return model

    def name_stages(self) -> None:
        """Give the outputs of the residual stages their names, in writers and readers alike."""
        names = {value: f"stage{number}" for number, value in enumerate(self.stages, 1)}
        for node in self.nodes:
            for ends in (node.input, node.output):
                ends[:] = [names.get(end, end) for end in ends]


def _misfit(what: str) -> CorruptModelFile:
    return CorruptModelFile(f"the layers do not fit together: {what}; not dlib's ResNet weights")
