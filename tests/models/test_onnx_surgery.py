"""Freed shapes and style statistics, compared with numpy on tiny networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from facestream import CorruptModelFile, MissingModelFile
from facestream.models.backends import open_session
from facestream.models.onnx_surgery import add_style_outputs, free_shapes, load_onnx


def pictures(count: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(count).normal(0, 60, (count, 3, size, size)).astype(np.float32)


def with_outputs(model: onnx.ModelProto, *names: str) -> bytes:
    """The network with intermediate tensors as outputs of their own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy.SerializeToString()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_style_equals_numpy(make_embedder, opset, backend):
    model = make_embedder(opset=opset)
    x = pictures(3)
    plain = open_session(with_outputs(model, "relu1", "conv2")).run({"input": x})
    styled = open_session(
        add_style_outputs(model, ["relu1", "conv2"]).SerializeToString(), backend=backend
    )
    assert styled.outputs == ("embedding", "style")
    result = styled.run({"input": x})

    mean = np.concatenate([plain[n].mean((2, 3), dtype=np.float64) for n in ("relu1", "conv2")], 1)
    std = np.concatenate(
        [plain[n].std((2, 3), ddof=1, dtype=np.float64) for n in ("relu1", "conv2")], 1
    )
    assert result["style"].shape == (3, 4 + 8, 2)
    assert result["style"].dtype == np.float32
    assert np.allclose(result["style"], np.stack([mean, std], -1), rtol=1e-5, atol=1e-5)
    assert np.allclose(result["embedding"], plain["embedding"], rtol=1e-5, atol=1e-5)


def test_style_order_follows_the_names(make_embedder):
    model, x = make_embedder(), {"input": pictures(2)}
    one = open_session(add_style_outputs(model, ["relu1", "conv2"]).SerializeToString()).run(x)
    other = open_session(add_style_outputs(model, ["conv2", "relu1"]).SerializeToString()).run(x)
    assert np.array_equal(one["style"][:, :4], other["style"][:, 8:])
    assert np.array_equal(one["style"][:, 4:], other["style"][:, :8])


def test_style_of_a_single_pixel_has_no_deviation(make_embedder):
    styled = add_style_outputs(make_embedder(size=2), ["conv2"])
    style = open_session(styled.SerializeToString()).run({"input": pictures(1, 2)})["style"]
    assert np.array_equal(style[..., 1], np.zeros((1, 8), np.float32))


def test_style_leaves_the_given_network_alone(make_embedder):
    model = make_embedder()
    before = model.SerializeToString()
    add_style_outputs(model, ["relu1"])
    free_shapes(model, spatial=True)
    assert model.SerializeToString() == before


def test_style_of_an_unknown_tensor_names_the_nearest(make_embedder):
    with pytest.raises(CorruptModelFile, match=r"no tensor 'relu2'.*relu1"):
        add_style_outputs(make_embedder(), ["relu2"])


def test_style_wants_maps(make_embedder):
    with pytest.raises(CorruptModelFile, match=r"'flat' must be \(N, C, H, W\).*2 dimensions"):
        add_style_outputs(make_embedder(), ["flat"])


def test_style_is_added_once(make_embedder):
    styled = add_style_outputs(make_embedder(), ["relu1"])
    with pytest.raises(CorruptModelFile, match="already has an output named style"):
        add_style_outputs(styled, ["conv2"])


def test_a_fixed_batch_is_freed(make_embedder):
    model = make_embedder(batch=10)
    freed = open_session(free_shapes(model).SerializeToString())
    assert freed.run({"input": pictures(3)})["embedding"].shape == (3, 6)


def test_height_and_width_are_freed(make_embedder):
    freed = open_session(free_shapes(make_embedder(batch=10), spatial=True).SerializeToString())
    assert freed.run({"input": pictures(2, 32)})["embedding"].shape == (2, 6)


def test_initialisers_leave_the_inputs_and_unread_ones_go(make_embedder):
    """Old exporters list weights, read or not, among the inputs."""
    model = make_embedder()
    counter = onnx.numpy_helper.from_array(np.array(7, np.int64), "bn.num_batches_tracked")
    model.graph.initializer.append(counter)
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    freed = free_shapes(model)
    assert [value.name for value in freed.graph.input] == ["input"]
    assert [tensor.name for tensor in freed.graph.initializer] == ["w1", "w2", "fc"]
    x = {"input": pictures(2)}
    plain = open_session(make_embedder().SerializeToString()).run(x)["embedding"]
    assert np.array_equal(open_session(freed.SerializeToString()).run(x)["embedding"], plain)


def test_load_onnx_reads_files_and_bytes(tmp_path, make_embedder):
    data = make_embedder().SerializeToString()
    path = tmp_path / "tiny.onnx"
    path.write_bytes(data)
    assert load_onnx(path) == load_onnx(data)


def test_load_onnx_refuses_what_is_not_a_network(tmp_path, make_embedder):
    data = make_embedder().SerializeToString()
    for content in (b"", b"not a network", data[: len(data) // 2]):
        path = tmp_path / "broken.onnx"
        path.write_bytes(content)
        with pytest.raises(CorruptModelFile, match=r"broken\.onnx: expected a whole ONNX network"):
            load_onnx(path)
    with pytest.raises(MissingModelFile, match="models pull"):
        load_onnx(tmp_path / "nothing.onnx")
