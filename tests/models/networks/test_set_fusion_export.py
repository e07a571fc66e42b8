"""Fusers export to one ONNX file with torch's numbers, for any number of sets and faces.

One of each kind: the others are made of the same parts, and an export takes its time.
"""

import numpy as np
import pytest
import torch

from facestream.models.backends import open_session
from facestream.models.networks.export import export_onnx
from facestream.models.networks.set_fusion import NAN, PFE, QualityWeighted
from facestream.models.networks.set_fusion_context import RSA, FuserPart, RecurrentFuser
from facestream.models.networks.sets import full_sets, pad_sets

pytest.importorskip("onnxscript")

C, D, SIDE = 6, 8, 2


def head(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean(dim=(2, 3))[:, :C]


MAKERS = {
    "quality": (lambda: QualityWeighted(C), "quality"),
    "nan": (lambda: NAN(C), None),
    "pfe": (lambda: PFE(C, D, side=SIDE), "maps"),
    "recurrent": (lambda: RecurrentFuser(C), None),
    "rsa": (lambda: RSA(D, head), "maps"),
}


def make_batch(counts: list[int]):
    draw = torch.Generator().manual_seed(sum(counts))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=draw)

    return pad_sets(
        [full_sets(normal(n, C), quality=normal(n), maps=normal(n, D, SIDE, SIDE)) for n in counts]
    )


@pytest.mark.parametrize("name", MAKERS)
def test_the_exported_fuser_agrees_with_torch(name, tmp_path):
    torch.manual_seed(0)
    make, field = MAKERS[name]
    fuser = make().eval()
    with torch.no_grad():
        for parameter in fuser.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    part = FuserPart(fuser, field).eval()
    # The loop of the recurrent one is written out face by face: its number of faces is fixed.
    axes = {0: "batch"} if name == "recurrent" else {0: "batch", 1: "faces"}

    def arguments(sets) -> dict[str, torch.Tensor]:
        named = {"features": sets.features, "mask": sets.mask}
        return named if field is None else named | {field: getattr(sets, field)}

    export_onnx(part, arguments(make_batch([4, 3])), ["fused"], tmp_path / "f.onnx", axes=axes)
    session = open_session(tmp_path / "f.onnx")
    for sets in (make_batch([4]), make_batch([1, 4, 2])):
        got = session.run({key: x.numpy() for key, x in arguments(sets).items()})["fused"]
        np.testing.assert_allclose(got, fuser(sets).detach().numpy(), rtol=1e-4, atol=1e-5)
