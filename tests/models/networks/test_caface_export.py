"""CAFace exports to ONNX in two parts, split where a track's sums stand between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from facestream.models.backends import open_session
from facestream.models.caface_head import HeadSize
from facestream.models.inference import Session
from facestream.models.networks.caface import CAFace
from facestream.models.networks.export import export_caface
from facestream.models.networks.sets import FaceSets, full_sets, pad_sets

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.timeout(600)  # tracing takes many small steps, long on busy cores

SIZE = HeadSize(dimension=20, styles=5, centres=4, style_code=16, norm_code=16)


def make_set(faces: int) -> FaceSets:
    draw = torch.Generator().manual_seed(faces)
    features = 5 * torch.randn(1, faces, SIZE.dimension, generator=draw)
    return full_sets(features, torch.randn(1, faces, SIZE.styles, 2, generator=draw))


def arrays_of(sets: FaceSets) -> dict[str, np.ndarray]:
    assert sets.styles is not None
    norms = torch.linalg.vector_norm(sets.features, dim=2)
    named = {"features": sets.features, "norms": norms, "styles": sets.styles, "mask": sets.mask}
    return {name: x.numpy() for name, x in named.items()}


def assert_close(exported: np.ndarray, own: torch.Tensor) -> None:
    np.testing.assert_allclose(exported, own.detach().numpy(), rtol=1e-4, atol=1e-4)


class Exported(NamedTuple):
    """A network and its two parts on ONNX Runtime."""

    network: CAFace
    chunk: Session
    read: Session


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("caface")
    torch.manual_seed(0)
    network = CAFace(SIZE, style_mix=0.5).eval()
    network.recalibrate_norms(torch.linspace(10, 30, 9))
    with torch.no_grad():  # far from the start, so that faces are told apart
        for weight in (*network.cn.parameters(), *network.agn.parameters()):
            weight.mul_(6.0)
    paths = folder / "chunk.onnx", folder / "read.onnx"
    export_caface(network, *paths)
    return Exported(network, *(open_session(path) for path in paths))


@pytest.mark.parametrize("counts", [[1], [16], [4, 16, 9]])
def test_both_parts_agree_with_torch_for_any_number_of_chunks_and_faces(
    counts: list[int], exported: Exported
) -> None:
    network, sets = exported.network, pad_sets([make_set(count) for count in counts])
    got = exported.chunk.run(arrays_of(sets))
    sums = network.cluster(network.encode(sets))
    for name, own in zip(("values", "token_sums", "mass"), sums, strict=True):
        assert got[name].dtype == np.float64
        assert_close(got[name], own)
    result = exported.read.run({name: got[name] for name in exported.read.inputs})
    assert_close(result["fused"], network.read(sums))
    shares = np.einsum("bm,bmn->bn", result["gain"], got["weights"])
    assert_close(shares, network.sample_weights(sets))


def test_chunks_are_joined_by_adding_their_sums(exported: Exported) -> None:
    sets = make_set(40)
    parts = [
        exported.chunk.run(arrays_of(sets.take(slice(start, start + 16))))
        for start in range(0, 40, 16)
    ]
    summed = {name: sum(part[name] for part in parts) for name in exported.read.inputs}
    fused = exported.read.run(summed)["fused"]
    assert_close(fused, exported.network.fuse_in_chunks(sets, chunk=16))
