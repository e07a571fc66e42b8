"""Embedders: pixel formats, chunks, style statistics, and refusals that say what was got."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from onnx import helper

from facestream import CorruptModelFile, RecordError
from facestream.models.align import resize_template, warp
from facestream.models.backends import open_session
from facestream.models.embedder import OnnxEmbedder
from facestream.models.inference import AlignTemplate
from facestream.models.onnx_surgery import add_style_outputs
from facestream.models.pixels import PixelFormat

TEMPLATE = AlignTemplate(8, np.array([[2, 3], [6, 3], [4, 4], [3, 6], [5, 6]], dtype=np.float32))


def crops(count: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_embeddings_and_norms(make_embedder):
    session = open_session(make_embedder().SerializeToString())
    embedder = OnnxEmbedder(session, template=TEMPLATE, dimension=6, pixels=PixelFormat())
    result = embedder.embed(crops(5))
    x = crops(5).transpose(0, 3, 1, 2).astype(np.float32)
    assert np.allclose(result.embeddings, session.run({"input": x})["embedding"], atol=1e-4)
    assert result.norms == pytest.approx(np.linalg.norm(result.embeddings, axis=1))
    assert result.styles.shape == (5, 0, 2)
    assert [part.dtype for part in result] == [np.float32] * 3


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_pixel_format(order, layout):
    """(value - mean) / std, mean and std in the network's own channel order."""
    mean, std = (122.782, 117.001, 104.298), (256.0, 128.0, 64.0)
    pictures = crops(3)
    expected = pictures[..., ::-1] if order == "RGB" else pictures
    expected = (expected.astype(np.float64) - mean) / std
    if layout == "NCHW":
        expected = expected.transpose(0, 3, 1, 2)
    tensor = PixelFormat(order, mean, std, layout).tensor(pictures)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert np.allclose(tensor, expected, atol=1e-6)


def test_smaller_pictures_are_padded_with_black():
    tensor = PixelFormat(mean=(10.0,) * 3, std=(2.0,) * 3).tensor(crops(1), (32, 64))
    assert tensor.shape == (1, 3, 32, 64)
    assert (tensor[:, :, 8:] == -5).all() and (tensor[:, :, :, 8:] == -5).all()
    with pytest.raises(RecordError, match=r"\(8, 8\) does not fit a batch of \(4, 64\)"):
        PixelFormat().tensor(crops(1), (4, 64))


def test_chunks_do_not_change_the_result(make_embedder):
    data = add_style_outputs(make_embedder(), ["relu1", "conv2"]).SerializeToString()
    small, large = (
        OnnxEmbedder(
            open_session(data), template=TEMPLATE, dimension=6, pixels=PixelFormat(), batch=size
        )
        for size in (3, 64)
    )
    for one, other in zip(small.embed(crops(10)), large.embed(crops(10)), strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-4)


def test_styles_come_with_the_embedding(make_embedder):
    data = add_style_outputs(make_embedder(), ["conv2"]).SerializeToString()
    embedder = OnnxEmbedder(
        open_session(data), template=TEMPLATE, dimension=6, pixels=PixelFormat()
    )
    assert embedder.style_channels == 8
    result = embedder.embed(crops(4))
    assert result.embeddings.shape == (4, 6)
    assert result.styles.shape == (4, 8, 2)
    assert (result.styles[..., 1] > 0).all()


def test_no_crops_give_empty_arrays(make_embedder):
    data = add_style_outputs(make_embedder(), ["conv2"]).SerializeToString()
    embedder = OnnxEmbedder(
        open_session(data), template=TEMPLATE, dimension=6, pixels=PixelFormat()
    )
    result = embedder.embed(crops(0))
    assert [part.shape for part in result] == [(0, 6), (0,), (0, 8, 2)]


def test_maps_of_one_pixel_are_flattened(build_network):
    """Some exporters leave the embedding as (N, C, 1, 1)."""
    net = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    model = build_network(net, {"x": ["n", 3, 8, 8]}, {"y": ["n", 3, 1, 1]}, {})
    embedder = OnnxEmbedder(
        open_session(model.SerializeToString()),
        template=TEMPLATE,
        dimension=3,
        pixels=PixelFormat("RGB"),
    )
    expected = crops(2).mean((1, 2))[:, ::-1]
    assert np.allclose(embedder.embed(crops(2)).embeddings, expected, atol=1e-3)


def test_another_dimension_says_expected_and_got(make_embedder):
    session = open_session(make_embedder().SerializeToString())
    with pytest.raises(CorruptModelFile, match=r"expected embeddings \(1, 512\).*\(1, 6\)"):
        OnnxEmbedder(session, template=TEMPLATE, dimension=512, pixels=PixelFormat())


def test_another_input_size_is_refused(make_embedder):
    session = open_session(make_embedder().SerializeToString())
    with pytest.raises(CorruptModelFile, match="expected an embedder of 112 x 112 crops in NCHW"):
        OnnxEmbedder(
            session, template=resize_template(TEMPLATE, 112), dimension=6, pixels=PixelFormat()
        )


def test_several_outputs_are_refused(build_network):
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in ("a", "b")]
    shape = ["n", 3, 8, 8]
    model = build_network(nodes, {"x": shape}, {"a": shape, "b": shape}, {})
    with pytest.raises(CorruptModelFile, match="outputs a, b"):
        OnnxEmbedder(
            open_session(model.SerializeToString()),
            template=TEMPLATE,
            dimension=3,
            pixels=PixelFormat(),
        )


@pytest.mark.parametrize("bad", [crops(2, 9), crops(2).astype(np.float32), crops(2)[0]])
def test_other_crops_are_refused(make_embedder, bad):
    session = open_session(make_embedder().SerializeToString())
    embedder = OnnxEmbedder(session, template=TEMPLATE, dimension=6, pixels=PixelFormat())
    with pytest.raises(RecordError, match=r"crops must be \(N, 8, 8, 3\) uint8 BGR"):
        embedder.embed(bad)


# Real faces


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_same_person_is_closer_than_others(omz_models, assets, backend):
    """Neutral against smiling, 12 people, on both runtimes."""
    model = assets / "models" / "omz_face_reid_0095_noprelu.onnx"
    template = omz_models.embedder.template
    embedder = OnnxEmbedder(
        open_session(model, backend=backend),
        template=template,
        dimension=256,
        pixels=PixelFormat("BGR"),
    )

    def unit(folder: str) -> np.ndarray:
        paths = sorted((assets / "london" / folder).glob("*.jpg"))[:12]
        images = [cv2.imread(str(path)) for path in paths]
        found = omz_models.detector.detect(images)
        faces = [warp(i, f.landmarks[0], template) for i, f in zip(images, found, strict=True)]
        embeddings = embedder.embed(np.stack(faces)).embeddings
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    cosines = unit("gallery_neutral") @ unit("probe_smiling").T
    genuine, impostor = np.diag(cosines), cosines[~np.eye(12, dtype=bool)]
    assert genuine.min() > impostor.max()
    assert genuine.mean() > 0.8 and abs(impostor.mean()) < 0.2
