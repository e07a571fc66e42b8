"""Export to ONNX: free axes, torch's numbers or no file, and nothing of this machine inside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facestream import ConfigError, CorruptModelFile, ModelError
from facestream.models.align import ARCFACE_112
from facestream.models.backends import open_session
from facestream.models.embedder import OnnxEmbedder
from facestream.models.networks.backbone import Backbone, Stages
from facestream.models.networks.cqa import CQAFace
from facestream.models.networks.export import (
    STYLE_TENSORS,
    export_backbone,
    export_onnx,
    export_quality,
    load_state,
)
from facestream.models.networks.label_transfer import QualityRegressor
from facestream.models.networks.quality_heads import (
    EmbeddingQuality,
    MapQuality,
    Scored,
    SddHead,
)
from facestream.models.networks.ssr import SSR
from facestream.models.onnx_surgery import add_style_outputs, load_onnx
from facestream.models.pixels import PixelFormat

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.timeout(600)  # tracing takes many small steps, long on busy cores

SETS = {0: "batch", 1: "faces"}


class TinyBackbone(Backbone):
    """A backbone of three convolutions, for the paths that large ones take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dimension, self.map_channels, self.style_channels = 8, 6, 4 + 5
        self.second = nn.Conv2d(3, 4, 4, 4)
        self.third = nn.Sequential(nn.PReLU(4), nn.Conv2d(4, 5, 2, 2))
        self.last = nn.Sequential(nn.Conv2d(5, 6, 2, 2), nn.BatchNorm2d(6))
        self.fc = nn.Linear(6 * 49, 8)

    def _stages(self, images: Tensor) -> Stages:
        second = self.second(images)
        third = self.third(second)
        return Stages(second, third, self.last(third))

    def _embed(self, last_map: Tensor) -> Tensor:
        return self.fc(last_map.flatten(1))


class Masked(nn.Module):
    """Sets of rows and their masks to a sum and a mean, as fusing networks take them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.layer(rows) * mask[..., None]
        total = kept.sum(dim=1)
        return total, total.double() / mask.sum(dim=1, keepdim=True)


def make_sets(sets: int, faces: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(sets)
    mask = torch.arange(faces)[None] < torch.randint(1, faces + 1, (sets, 1), generator=draw)
    return {"rows": torch.randn(sets, faces, 4, generator=draw), "mask": mask}


def run(path: Path, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return open_session(path, device="cpu").run({name: x.numpy() for name, x in inputs.items()})


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masked") / "folder" / "network.onnx"
    export_onnx(Masked().eval(), make_sets(2, 3), ["total", "mean"], path, axes=SETS)
    return path


def test_any_number_of_sets_and_faces_gives_the_numbers_of_torch(masked: Path) -> None:
    network = Masked().eval()
    for sets, faces in ((1, 1), (4, 2), (3, 9)):
        inputs = make_sets(sets, faces)
        total, mean = (x.detach().numpy() for x in network(*inputs.values()))
        got = run(masked, inputs)
        np.testing.assert_allclose(got["total"], total, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got["mean"], mean, rtol=1e-5, atol=1e-5)
        assert got["mean"].dtype == np.float64


def test_a_file_is_the_same_each_time_and_says_nothing_of_this_machine(
    masked: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.onnx"
    export_onnx(Masked().eval(), make_sets(2, 3), ["total", "mean"], again, axes=SETS)
    data = again.read_bytes()
    assert data == masked.read_bytes()
    assert b"site-packages" not in data and Path(__file__).name.encode() not in data
    assert list(tmp_path.iterdir()) == [again]


class Sized(nn.Module):
    """Does with large batches what it does not with small ones: a graph does one of both."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0 if len(x) > 2 else x


class Counting(nn.Module):
    """Has a state, which a graph has not."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


class Peeping(nn.Module):
    """Branches on its numbers, which a graph cannot."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1.0 if bool((x > 0).any()) else x


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.0 / (x - x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Sized(), r"the exported network takes no inputs \(1, 4\): .*Got: 1 Expected: 2"),
        (Counting(), r"output y of the exported network differs from torch by 1, allowed is 0\.0"),
        (Peeping(), "torch cannot export Peeping: GuardOnDataDependentSymNode"),
        (Infinite(), "output y has numbers that are not finite in torch"),
    ],
)
def test_a_network_that_comes_out_wrong_leaves_the_old_file(
    network: nn.Module, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ModelError, match=message):
        export_onnx(network.eval(), {"x": torch.full((2, 4), 3.0)}, ["y"], path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_training_mode_and_single_examples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    with pytest.raises(ConfigError, match=r"call its eval\(\) first"):
        export_onnx(Masked(), make_sets(2, 3), ["total", "mean"], path, axes=SETS)
    with pytest.raises(ConfigError, match="2 items along each free axis: rows, mask have 1"):
        export_onnx(Masked().eval(), make_sets(2, 1), ["total", "mean"], path, axes=SETS)


WITHOUT_ONNXSCRIPT = """
import sys
from pathlib import Path
import torch
sys.modules["onnxscript"] = None
from facestream import ConfigError
from facestream.models.networks.export import export_onnx
try:
    export_onnx(torch.nn.Linear(2, 3).eval(), {"x": torch.zeros(2, 2)}, ["y"], Path(sys.argv[1]))
except ConfigError as error:
    print(error)
"""


def test_without_onnxscript_the_error_says_what_to_install(tmp_path: Path) -> None:
    # Elsewhere: here torch has loaded its exporter already.
    path = tmp_path / "network.onnx"
    command = [sys.executable, "-c", WITHOUT_ONNXSCRIPT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("export needs onnxscript")
    assert "pip install 'facestream[train]'" in done.stdout and not path.exists()


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


@pytest.mark.parametrize("branches", [0, 3], ids=["plain", "CQA-Face"])
def test_an_embedder_and_its_styles_are_those_of_torch(branches: int, tmp_path: Path) -> None:
    backbone: Backbone = TinyBackbone()
    if branches:
        backbone = CQAFace(backbone, branches=branches, reduction=2, dimension=8)
    export_backbone(backbone.eval(), tmp_path / "net.onnx")
    model = load_onnx(tmp_path / "net.onnx")
    assert [value.name for value in model.graph.output] == ["embedding"]
    pixels = PixelFormat("RGB", (127.5,) * 3, (127.5,) * 3)
    styled = add_style_outputs(model, STYLE_TENSORS).SerializeToString()
    embedder = OnnxEmbedder(
        open_session(styled, device="cpu"), template=ARCFACE_112, dimension=8, pixels=pixels
    )
    embedded = embedder.embed(crops(3))
    with torch.no_grad():
        embeddings, styles = backbone.with_styles(torch.from_numpy(pixels.tensor(crops(3))))
    np.testing.assert_allclose(embedded.embeddings, embeddings, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(embedded.styles, styles, rtol=1e-4, atol=1e-4)


QUALITY = {
    "labels": lambda: QualityRegressor(TinyBackbone()),
    "CR-FIQA": lambda: EmbeddingQuality(TinyBackbone()),
    "SDD-FIQA": lambda: MapQuality(TinyBackbone(), SddHead(6)),
}


@pytest.mark.parametrize("name", QUALITY)
def test_a_quality_network_gives_one_number_per_face(name: str, tmp_path: Path) -> None:
    network = QUALITY[name]().eval()
    export_quality(network, tmp_path / "net.onnx")
    faces = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    got = run(tmp_path / "net.onnx", {"input": faces})
    with torch.no_grad():
        wanted = network(faces)
    quality = wanted.quality if isinstance(wanted, Scored) else wanted
    assert got.keys() == {"quality"} and got["quality"].shape == (3,)
    np.testing.assert_allclose(got["quality"], quality, rtol=1e-4, atol=1e-4)


def test_the_learned_density_of_ida_is_one_line(tmp_path: Path) -> None:
    network = SSR(8).eval()
    embeddings = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    export_onnx(network, {"embedding": embeddings}, ["output"], tmp_path / "ssr.onnx")
    got = run(tmp_path / "ssr.onnx", {"embedding": embeddings[:1]})["output"]
    np.testing.assert_allclose(got, network(embeddings[:1]).detach(), rtol=1e-4, atol=1e-4)


def test_weights_load_by_name_or_not_at_all(tmp_path: Path) -> None:
    network, path = Masked(), tmp_path / "weights.pt"
    torch.save({name: x + 1.0 for name, x in network.state_dict().items()}, path)
    loaded = Masked()
    load_state(loaded, path)
    assert not loaded.training
    torch.testing.assert_close(loaded.layer.bias, network.layer.bias + 1.0)

    wrong = {
        "layer.weight": torch.zeros(4, 3),
        "layer.scale": torch.full((3,), torch.nan),
    }
    torch.save(wrong, path)
    with pytest.raises(
        CorruptModelFile,
        match=r"weights\.pt does not hold the weights of this network: it lacks 1 \(layer\.bias\); "
        r"it has unknown 1 \(layer\.scale\); other shapes in 1 \(layer\.weight\); "
        r"not finite 1 \(layer\.scale\)",
    ):
        load_state(loaded, path)
    torch.testing.assert_close(loaded.layer.bias, network.layer.bias + 1.0)
