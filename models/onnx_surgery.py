"""Changes to ONNX graphs before they are loaded: free shapes, and style statistics as an output."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from .. import CorruptModelFile, MissingModelFile

STYLE = "style"
"""Name of the output that `add_style_outputs` adds."""

_SPATIAL = ("height", "width")


def load_onnx(model: Path | bytes) -> ModelProto:
    """Read an ONNX file or its bytes. Raises MissingModelFile and CorruptModelFile."""
    if isinstance(model, Path) and not model.is_file():
        raise MissingModelFile(
            f"no model file {model}: bring the pack with `facestream models pull NAME`"
        )
    data = model if isinstance(model, bytes) else model.read_bytes()
    name = f"{len(data)} bytes" if isinstance(model, bytes) else str(model)
    try:
        loaded = onnx.load_from_string(data)
    except DecodeError as error:
        raise CorruptModelFile(f"{name}: expected a whole ONNX network, got a {error}") from error
    if not loaded.graph.node:
        raise CorruptModelFile(f"{name}: expected a whole ONNX network, got one without a graph")
    return loaded


def free_shapes(model: ModelProto, *, spatial: bool = False) -> ModelProto:
    """A copy whose first input dimension is free, and with spatial=True its height and width too.

    For networks whose operators do not depend on the batch (no Reshape to a fixed batch). Inputs
    are NCHW. Initialisers are taken out of the graph's inputs, where old exporters put them: a
    runtime may not fold what a caller could still overwrite (CenterFace runs twice as fast
    without). Initialisers that no node reads are dropped, as are the old shapes of intermediate
    tensors and outputs, which the runtime infers again.
    """
    freed = ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    # An initialiser that is no input is a constant only since IR version 4.
    freed.ir_version = max(freed.ir_version, 4)
    read = _names_read(graph)
    constants = {tensor.name for tensor in graph.initializer}
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in constants:
            del graph.input[index]
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]
    del graph.value_info[:]
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        names = ("batch", None, *_SPATIAL) if spatial and len(dims) == 4 else ("batch",)
        for dim, name in zip(dims, names, strict=False):
            if name is not None:
                dim.Clear()
                dim.dim_param = name
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return freed


def add_style_outputs(
    model: ModelProto, tensor_names: Sequence[str], *, output: str = STYLE
) -> ModelProto:
    """A copy with one more output: per-channel spatial mean and standard deviation.

    tensor_names: intermediate tensors x (N, C, H, W), in the order wanted. The new output is
    (N, K, 2) float32, K the sum of their channels: [..., 0] the mean over H and W, [..., 1] the
    unbiased standard deviation sqrt(sum (x - mean)^2 / (H W - 1)), 0 where H W = 1 (the style of
    CAFace, section 3.2). It is computed in two passes inside the graph, so that the maps never
    leave the runtime.

    Raises CorruptModelFile when a tensor is not in the network or known not to have four
    dimensions, and when an output of this name exists.
    """
    styled = ModelProto()
    styled.CopyFrom(model)
    graph = styled.graph
    if not tensor_names:
        raise CorruptModelFile("style statistics need at least one tensor name, got none")
    if output in {value.name for value in graph.output}:
        raise CorruptModelFile(f"the network already has an output named {output}")
    _check_tensors(styled, tensor_names)
    axes, shape = f"{output}/axes", f"{output}/shape"
    graph.initializer.append(helper.make_tensor(axes, TensorProto.INT64, [2], [2, 3]))
    graph.initializer.append(helper.make_tensor(f"{output}/one", TensorProto.FLOAT, [], [1.0]))
    # 0 keeps a dimension: (N, K, 2, 1) -> (N, K, 2).
    graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [3], [0, 0, 2]))
    means, deviations = [], []
    for index, name in enumerate(tensor_names):
        prefix = f"{output}/{index}"
        graph.node.extend(_statistics(name, prefix, axes, f"{output}/one"))
        means.append(f"{prefix}/mean")
        deviations.append(f"{prefix}/std")
    graph.node.extend(
        [
            helper.make_node("Concat", means, [f"{output}/means"], axis=1),  # (N, K, 1, 1)
            helper.make_node("Concat", deviations, [f"{output}/stds"], axis=1),
            helper.make_node(
                "Concat", [f"{output}/means", f"{output}/stds"], [f"{output}/pairs"], axis=2
            ),
            helper.make_node("Reshape", [f"{output}/pairs", shape], [output]),
        ]
    )
    channels = "style_channels"
    graph.output.append(
        helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", channels, 2])
    )
    return styled


def _statistics(name: str, prefix: str, axes: str, one: str) -> list[NodeProto]:
    """Nodes from a (N, C, H, W) tensor to PREFIX/mean and PREFIX/std, both (N, C, 1, 1).

    GlobalAveragePool stands for the mean over H and W because ReduceMean takes its axes
    differently before and after operator set 18.
    """

    def at(result: str) -> str:
        return f"{prefix}/{result}"

    def node(op: str, inputs: list[str], result: str, **attributes: int) -> NodeProto:
        return helper.make_node(op, inputs, [at(result)], None, None, None, None, **attributes)

    return [
        node("GlobalAveragePool", [name], "mean"),
        node("Sub", [name, at("mean")], "centred"),
        node("Mul", [at("centred"), at("centred")], "squared"),
        node("GlobalAveragePool", [at("squared")], "variance"),
        node("Shape", [name], "dims"),
        node("Gather", [at("dims"), axes], "sides", axis=0),
        node("Cast", [at("sides")], "sides_float", to=TensorProto.FLOAT),
        node("ReduceProd", [at("sides_float")], "count", keepdims=0),
        node("Sub", [at("count"), one], "less"),
        node("Max", [at("less"), one], "degrees"),
        node("Div", [at("count"), at("degrees")], "bessel"),
        node("Mul", [at("variance"), at("bessel")], "unbiased"),
        node("Sqrt", [at("unbiased")], "std"),
    ]


def _check_tensors(model: ModelProto, names: Sequence[str]) -> None:
    """Raise CorruptModelFile unless every name is a four-dimensional result of some node."""
    results = [name for node in model.graph.node for name in node.output]
    for name in names:
        if name not in results:
            near = ", ".join(difflib.get_close_matches(name, results)) or "none"
            raise CorruptModelFile(f"no tensor {name!r} in the network; nearest names: {near}")
    for value in _known_shapes(model):
        rank = len(value.type.tensor_type.shape.dim)
        if value.name in names and value.type.tensor_type.HasField("shape") and rank != 4:
            raise CorruptModelFile(
                f"tensor {value.name!r} must be (N, C, H, W) for style statistics, "
                f"got {rank} dimensions"
            )


def _known_shapes(model: ModelProto) -> list[ValueInfoProto]:
    graph: GraphProto = onnx.shape_inference.infer_shapes(model).graph
    return [*graph.value_info, *graph.output]


def _names_read(graph: GraphProto) -> set[str]:
    """Every tensor name that a node or an output of the graph, or of a graph inside it, reads."""
    names = {name for node in graph.node for name in node.input}
    names |= {value.name for value in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                names |= _names_read(inner)
    return names
