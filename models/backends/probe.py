"""What the runtimes share: the smallest network there is, and the words for a failed run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..inference import Session


def tiny_network() -> bytes:
    """y = relu(x), x (N, 4) float32, as ONNX bytes."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def runs(session: Session) -> bool:
    """Whether the tiny network gives the right answer on this session."""
    x = np.array([[-1.0, 0.0, 1.0, 2.0]], dtype=np.float32)
    return bool(np.array_equal(session.run({"x": x})["y"], np.maximum(x, 0)))


def describe_failure(feeds: Mapping[str, np.ndarray], error: Exception) -> str:
    """One line about a run that failed: what was fed, and the runtime's reason."""
    fed = ", ".join(f"{name} {feed.shape} {feed.dtype.name}" for name, feed in feeds.items())
    reason = " ".join(str(error).split())[:200]
    return f"the network failed on {fed}: {reason}"
