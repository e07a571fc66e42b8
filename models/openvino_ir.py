"""Converts OpenVINO's intermediate representation (xml + bin) to ONNX: small convolutional nets.

It knows the layer types of Open Model Zoo's face-reidentification-retail-0095 and nothing more; an
unknown type is an error that names it. The batch size becomes free. PReLU, for which ONNX Runtime
has no fast kernel, is rewritten exactly: LeakyRelu for one slope, relu(x) + a (x - relu(x)) for one
slope per channel.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import CorruptModelFile, MissingModelFile, ModelError

OPSET = 17
ELEMENTS = {"f16": "<f2", "f32": "<f4", "i64": "<i8"}
_CHECKERS = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
KNOWN = (
    "Add, AvgPool, Const, Convert, Convolution, GroupConvolution, Multiply, PReLU, Parameter, "
    "Result, Sigmoid"
)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer of the IR: its id, name, type, attributes, and the ids of what feeds each port."""

    id: str
    name: str
    kind: str
    data: dict[str, str]
    shape: tuple[int, ...]
    inputs: list[str] = field(default_factory=list)


def convert_ir(xml: Path, weights: Path) -> onnx.ModelProto:
    """The network of `xml` and its `weights` (.bin) as ONNX, float32.

    One input "input" (N, C, H, W) and one output "embedding" (N, channels): a trailing 1 x 1
    picture is flattened. Other tensors keep the IR's layer names, so that style tensors can be
    named in a card. Raises MissingModelFile, CorruptModelFile for a file that is not an IR or
    too short, and ModelError for a layer type that is not known here.
    """
    text = _read_text(xml)
    try:
        blob = weights.read_bytes()
    except FileNotFoundError:
        raise MissingModelFile(f"{weights}: no such file; expected the weights of {xml}") from None
    try:
        return _Converter(xml, _read_layers(xml, text), blob).convert()
    except (IndexError, KeyError, ValueError, *_CHECKERS) as error:
        # A port, a shape or a number that is missing or does not fit.
        reason = " ".join(str(error).split())[:200]
        raise CorruptModelFile(
            f"{xml}: expected an OpenVINO IR whose layers fit together, got {reason}"
        ) from error


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise MissingModelFile(f"{path}: no such file; expected an OpenVINO IR") from None
    except UnicodeDecodeError:
        raise CorruptModelFile(f"{path}: expected an OpenVINO IR, got no UTF-8 text") from None
    # An IR has no document type; refusing one closes the door on entity expansion.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise CorruptModelFile(f"{path}: expected an OpenVINO IR, got XML with a document type")
    return text


def _read_layers(path: Path, text: str) -> list[_Layer]:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise CorruptModelFile(
            f"{path}: expected an OpenVINO IR, got broken XML ({error})"
        ) from None
    version = root.get("version")
    if root.tag != "net" or version not in ("10", "11"):
        raise CorruptModelFile(
            f"{path}: expected an OpenVINO IR of version 10 or 11, got <{root.tag}> {version}"
        )
    layers = {}
    for node in root.iterfind("layers/layer"):
        data = node.find("data")
        shape = tuple(int(dim.text or 0) for dim in node.findall("output/port[1]/dim"))
        layer = _Layer(
            id=node.get("id", ""),
            name=node.get("name", ""),
            kind=node.get("type", ""),
            data=dict(data.attrib) if data is not None else {},
            shape=shape,
        )
        layers[layer.id] = layer
    # Input ports are numbered from 0 in the order of the operands.
    edges = [(e.get("to-layer", ""), e.get("to-port", "0"), e) for e in root.iterfind("edges/edge")]
    for target, _, edge in sorted(edges, key=lambda e: (e[0], int(e[1]))):
        source = edge.get("from-layer", "")
        if target not in layers or source not in layers:
            raise CorruptModelFile(f"{path}: an edge joins layers {source!r} and {target!r}")
        layers[target].inputs.append(source)
    return _in_order(path, layers)


def _in_order(path: Path, layers: dict[str, _Layer]) -> list[_Layer]:
    """Layers so that each comes after what feeds it."""
    placed: dict[str, _Layer] = {}
    waiting = list(layers.values())
    while waiting:
        ready = [layer for layer in waiting if all(i in placed for i in layer.inputs)]
        if not ready:
            raise CorruptModelFile(f"{path}: the layers of the graph feed each other in a circle")
        placed.update((layer.id, layer) for layer in ready)
        waiting = [layer for layer in waiting if layer.id not in placed]
    return list(placed.values())


class _Converter:
    """Writes one ONNX node per IR layer; constants go to the initialisers when they are used."""

    def __init__(self, xml: Path, layers: list[_Layer], blob: bytes) -> None:
        self.xml = xml
        self.layers = layers
        self.blob = blob
        self.shapes = {layer.id: layer.shape for layer in layers}
        self.values: dict[str, str] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def convert(self) -> onnx.ModelProto:
        for layer in self.layers:
            self.layer(layer)
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise ModelError(
                f"{self.xml}: expected one input and one output, "
                f"got {len(self.inputs)} and {len(self.outputs)}"
            )
        graph = helper.make_graph(
            self.nodes, self.xml.stem, self.inputs, self.outputs, self.weights
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="facestream"
        )
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        return model

    def layer(self, layer: _Layer) -> None:
        match layer.kind:
            case "Const":
                self.constants[layer.id] = self.constant(layer)
            case "Convert" if layer.inputs[0] in self.constants:
                self.constants[layer.id] = self.constants[layer.inputs[0]].astype(np.float32)
            case "Parameter":
                self.values[layer.id] = "input"
                self.inputs = [_value_info("input", layer.shape)]
            case "Result":
                self.result(layer)
            case "Convolution" | "GroupConvolution":
                self.convolution(layer)
            case "PReLU":
                self.prelu(layer)
            case "AvgPool":
                self.average_pool(layer)
            case "Add":
                self.node("Add", layer, [self.operand(i) for i in layer.inputs])
            case "Multiply":
                self.node("Mul", layer, [self.operand(i) for i in layer.inputs])
            case "Sigmoid":
                self.node("Sigmoid", layer, [self.operand(layer.inputs[0])])
            case _:
                raise ModelError(
                    f"{self.xml}: layer {layer.name!r} has type {layer.kind!r}, which is not "
                    f"converted here; known types are {KNOWN}"
                )

    def node(self, kind: str, layer: _Layer, inputs: list[str], **attributes: Any) -> None:
        self.nodes.append(
            helper.make_node(kind, inputs, [layer.name], layer.name, None, None, None, **attributes)
        )
        self.values[layer.id] = layer.name

    def operand(self, source: str) -> str:
        """Name of a value, or of a constant that becomes an initialiser."""
        if source in self.constants and source not in self.values:
            self.values[source] = self.initialiser(self.constants[source])
        return self.values[source]

    def initialiser(self, values: np.ndarray) -> str:
        name = f"weights{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, "<f4"), name))
        return name

    def constant(self, layer: _Layer) -> np.ndarray:
        element = layer.data.get("element_type", "")
        if element not in ELEMENTS:
            raise ModelError(
                f"{self.xml}: constant {layer.name!r} holds {element!r}, "
                f"expected one of {', '.join(ELEMENTS)}"
            )
        (offset,), (size,) = self.numbers(layer, "offset"), self.numbers(layer, "size")
        shape = self.numbers(layer, "shape")
        wanted = math.prod(shape) * np.dtype(ELEMENTS[element]).itemsize
        if offset < 0 or size != wanted or offset + size > len(self.blob):
            raise CorruptModelFile(
                f"{self.xml}: constant {layer.name!r} needs {wanted} bytes at {offset}, the "
                f"weights have {len(self.blob)}; truncated, or of another network"
            )
        return np.frombuffer(self.blob, ELEMENTS[element], math.prod(shape), offset).reshape(shape)

    def numbers(self, layer: _Layer, attribute: str) -> tuple[int, ...]:
        """An attribute like "2, 2" as integers."""
        text = layer.data.get(attribute, "")
        try:
            values = tuple(int(part) for part in text.split(","))
        except ValueError:
            raise CorruptModelFile(
                f"{self.xml}: {layer.kind} {layer.name!r} needs whole numbers in {attribute!r}, "
                f"got {text!r}"
            ) from None
        return values

    def weights_of(self, layer: _Layer, port: int) -> np.ndarray:
        source = layer.inputs[port]
        if source not in self.constants:
            raise ModelError(f"{self.xml}: {layer.kind} {layer.name!r} has computed weights")
        return self.constants[source]

    def convolution(self, layer: _Layer) -> None:
        filters = self.weights_of(layer, 1)
        groups = 1
        if layer.kind == "GroupConvolution":
            # The IR keeps groups on an axis of their own: (G, out / G, in / G, rows, columns).
            groups = filters.shape[0]
            filters = filters.reshape(-1, *filters.shape[2:])
        self.explicit(layer)
        self.node(
            "Conv",
            layer,
            [self.operand(layer.inputs[0]), self.initialiser(filters)],
            group=groups,
            kernel_shape=filters.shape[2:],
            strides=self.numbers(layer, "strides"),
            dilations=self.numbers(layer, "dilations"),
            pads=self.numbers(layer, "pads_begin") + self.numbers(layer, "pads_end"),
        )

    def average_pool(self, layer: _Layer) -> None:
        self.explicit(layer)
        source, kernel = layer.inputs[0], self.numbers(layer, "kernel")
        pads = self.numbers(layer, "pads_begin") + self.numbers(layer, "pads_end")
        if kernel == self.shapes[source][2:] and not any(pads):
            self.node("GlobalAveragePool", layer, [self.operand(source)])
            return
        self.node(
            "AveragePool",
            layer,
            [self.operand(source)],
            kernel_shape=kernel,
            strides=self.numbers(layer, "strides"),
            pads=pads,
            count_include_pad=int(layer.data.get("exclude-pad", "true") != "true"),
            ceil_mode=int(layer.data.get("rounding_type", "floor") == "ceil"),
        )

    def explicit(self, layer: _Layer) -> None:
        padding = layer.data.get("auto_pad", "explicit")
        if padding not in ("explicit", "valid"):
            raise ModelError(f"{self.xml}: layer {layer.name!r} has padding {padding!r}")

    def prelu(self, layer: _Layer) -> None:
        slope = self.weights_of(layer, 1).astype(np.float32)
        value = self.operand(layer.inputs[0])
        if slope.size == 1:
            self.node("LeakyRelu", layer, [value], alpha=float(slope.item()))
            return
        positive, negative, scaled = (f"{layer.name}/{part}" for part in ("relu", "rest", "slope"))
        channels = self.initialiser(slope.reshape(1, -1, *[1] * (len(layer.shape) - 2)))
        self.nodes += [
            helper.make_node("Relu", [value], [positive], positive),
            helper.make_node("Sub", [value, positive], [negative], negative),
            helper.make_node("Mul", [negative, channels], [scaled], scaled),
        ]
        self.node("Add", layer, [positive, scaled])

    def result(self, layer: _Layer) -> None:
        source = layer.inputs[0]
        features = math.prod(self.shapes[source][1:])
        self.nodes.append(helper.make_node("Flatten", [self.operand(source)], ["embedding"]))
        self.outputs.append(_value_info("embedding", (1, features)))


def _value_info(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape[1:]])
