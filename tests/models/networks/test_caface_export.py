"""CAFace exports to ONNX in two parts, split where a track's sums stand between them."""

import warnings

import pytest
import torch

from facestream.models.caface_head import HeadSize
from facestream.models.networks.caface import CAFace, ChunkPart, ReadPart
from facestream.models.networks.sets import FaceSets, full_sets, pad_sets

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZE = HeadSize(dimension=20, styles=5, centres=4, style_code=16, norm_code=16)


def make_set(faces: int) -> FaceSets:
    draw = torch.Generator().manual_seed(faces)
    features = 5 * torch.randn(1, faces, SIZE.dimension, generator=draw)
    return full_sets(features, torch.randn(1, faces, SIZE.styles, 2, generator=draw))


def inputs_of(sets: FaceSets) -> tuple[torch.Tensor, ...]:
    return sets.features, torch.linalg.vector_norm(sets.features, dim=2), sets.styles, sets.mask


def export(part, inputs, shapes, path) -> onnxruntime.InferenceSession:
    with warnings.catch_warnings():
        # torch's exporter warns of its own use of what it deprecates.
        warnings.simplefilter("ignore")
        torch.onnx.export(part, inputs, path, dynamic_shapes=shapes, dynamo=True, verbose=False)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, inputs) -> tuple[torch.Tensor, ...]:
    names = [slot.name for slot in session.get_inputs()]
    feeds = {name: x.detach().numpy() for name, x in zip(names, inputs, strict=True)}
    return tuple(torch.from_numpy(x) for x in session.run(None, feeds))


def assert_close(exported, own) -> None:
    for theirs, ours in zip(exported, own, strict=True):
        torch.testing.assert_close(theirs, ours.detach(), rtol=1e-4, atol=1e-4)


def test_both_parts_agree_with_torch_for_any_number_of_chunks_and_faces(tmp_path):
    torch.manual_seed(0)
    network = CAFace(SIZE, style_mix=0.5).eval()
    network.recalibrate_norms(torch.linspace(10, 30, 9))
    with torch.no_grad():  # far from the start, so that faces are told apart
        for weight in (*network.cn.parameters(), *network.agn.parameters()):
            weight.mul_(6.0)
    batch, faces = torch.export.Dim("batch"), torch.export.Dim("faces")
    sets = pad_sets([make_set(3), make_set(7)])
    chunk = export(
        ChunkPart(network), inputs_of(sets), ({0: batch, 1: faces},) * 4, tmp_path / "chunk.onnx"
    )
    sums = network.cluster(network.encode(sets))
    read = export(ReadPart(network), tuple(sums), ({0: batch},) * 3, tmp_path / "read.onnx")
    for counts in ([1], [16], [4, 16, 9]):
        sets = pad_sets([make_set(count) for count in counts])
        *exported, weights = run(chunk, inputs_of(sets))
        sums = network.cluster(network.encode(sets))
        assert all(part.dtype == torch.float64 for part in exported)
        assert_close(exported, sums)
        fused, gain = run(read, exported)
        assert_close([fused], [network.read(sums)])
        shares = torch.einsum("bm,bmn->bn", gain, weights)
        assert_close([shares], [network.sample_weights(sets)])
