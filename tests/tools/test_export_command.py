"""`facestream export`: from weights to a pack that runs, with the numbers of torch."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from facestream import ConfigError, CorruptModelFile
from facestream.models.backends import open_session
from facestream.models.caface_head import HeadSize, load_head, random_head, save_head
from facestream.models.card_file import read_card
from facestream.models.inference import AlignTemplate, Embedded
from facestream.models.pack import Pack, open_pack, self_test_crop
from facestream.models.pixels import PixelFormat
from facestream.models.quality import ModelQuality
from facestream.models.store import CARDS, pack_folder
from facestream.tools.cli import app
from facestream.tools.export import UNITS

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.timeout(600)  # tracing takes many small steps, long on busy cores

DIMENSION = 64
FITTED = {"fusion", "ida", "decision", "strangers", "measured", "self_test"}


def export(*words: str | Path) -> dict[str, Any]:
    """Run the command; the sections of a card that it printed."""
    result = CliRunner().invoke(
        app, ["export", *map(str, words)], catch_exceptions=False, standalone_mode=False
    )
    assert result.exit_code == 0, result.output
    sections: dict[str, Any] = yaml.safe_load(result.stdout)
    return sections


def refused(*words: str | Path) -> Exception:
    result = CliRunner().invoke(app, ["export", *map(str, words)], standalone_mode=False)
    assert isinstance(result.exception, Exception)
    return result.exception


def write_card(folder: Path, sections: dict[str, Any]) -> Path:
    """The open pack's card with another embedder and nothing that was fitted to its own."""
    raw = yaml.safe_load((CARDS / "open.yaml").read_text(encoding="utf-8"))
    raw = {key: raw[key] for key in raw.keys() - FITTED}
    raw["files"] |= sections.pop("files")
    path = folder / "open.yaml"
    path.write_text(yaml.safe_dump(raw | sections), encoding="utf-8")
    return path


def test_an_exported_embedder_runs_in_a_pack_with_the_numbers_of_torch(
    open_models: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facestream.models.networks.backbone import make_backbone

    torch.manual_seed(0)
    network = make_backbone("mobile", dimension=DIMENSION).eval()
    torch.save(network.state_dict(), tmp_path / "mobile.pt")
    sections = export(
        *("backbone", tmp_path / "mobile.pt", tmp_path / "mobile.onnx"),
        *("--network", "mobile", "--dimension", str(DIMENSION)),
    )
    monkeypatch.setenv("FACESTREAM_MODELS", str(pack_folder("open")))
    monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path / "cache"))
    pack = open_pack(read_card(write_card(tmp_path, sections)))
    assert pack.card.self_test is not None
    crops = np.stack([self_test_crop(112), self_test_crop(112)[::-1]])
    embedded = pack.embedder.embed(crops)
    images = PixelFormat("RGB", (127.5,) * 3, (127.5,) * 3).tensor(crops)
    with torch.no_grad():
        embeddings, styles = network.with_styles(torch.from_numpy(images))
    assert embedded.embeddings.shape == (2, DIMENSION)
    np.testing.assert_allclose(embedded.embeddings, embeddings, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(embedded.styles, styles, rtol=1e-4, atol=1e-4)


def test_an_exported_quality_network_scores_crops_as_torch_does(tmp_path: Path) -> None:
    from facestream.models.networks.lightqnet import LightQNet

    torch.manual_seed(0)
    network = LightQNet().eval()
    torch.save(network.state_dict(), tmp_path / "light.pt")
    sections = export(
        "quality", tmp_path / "light.pt", tmp_path / "light.onnx", "--kind", "lightqnet"
    )
    spec = sections["quality"]
    assert sections["files"]["quality"]["bytes"] == (tmp_path / "light.onnx").stat().st_size
    assert (spec["file"], spec["template"]["size"]) == ("quality", 96)
    pixels = PixelFormat(spec["channel_order"], tuple(spec["mean"]), tuple(spec["std"]))
    crops = np.stack([self_test_crop(96), self_test_crop(96)[::-1]])
    template = AlignTemplate(96, np.array(spec["template"]["points"], np.float32))
    source = ModelQuality(
        open_session(tmp_path / "light.onnx"), template=template, pixels=pixels, unit=spec["unit"]
    )
    nothing = np.zeros(2, np.float32)
    scores = source.score(
        crops=crops, embedded=Embedded(*[nothing] * 3), boxes=nothing, scores=nothing
    )
    with torch.no_grad():
        wanted = network(torch.from_numpy((crops.transpose(0, 3, 1, 2) - np.float32(128)) / 128))
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-4)


def test_a_head_is_exported_whole_with_its_two_parts(tmp_path: Path) -> None:
    head = random_head(0, HeadSize(16, 6, 3, style_code=8, norm_code=8), style_mix=0.5)
    save_head(tmp_path / "trained.npz", head)
    folder = tmp_path / "fusion"
    sections = export("caface", tmp_path / "trained.npz", folder)
    sha = hashlib.sha256((folder / "head.npz").read_bytes()).hexdigest()
    spec = {"file": "head.npz", "sha256": sha, "licence": "that of the weights"}
    assert sections == {"fusion": {"aggregator": "caface", "caface": spec}}
    assert sorted(path.name for path in folder.iterdir()) == ["chunk.onnx", "head.npz", "read.onnx"]
    written = load_head(folder / "head.npz")
    for name, array in load_head(tmp_path / "trained.npz").arrays.items():
        np.testing.assert_array_equal(written.arrays[name], array)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    out = tmp_path / "net.onnx"
    for kind in ("backbone",), *(("quality", "--kind", name) for name in UNITS):
        error = refused(*kind, tmp_path / "other.pt", out, "--network", "mobile")
        assert isinstance(error, CorruptModelFile)
        assert "other.pt does not hold the weights of this network: it lacks" in str(error)
    words = ("--network", "iresnet18", "--layout", "adaface")
    assert isinstance(refused("backbone", tmp_path / "other.pt", out, *words), CorruptModelFile)
    error = refused("backbone", tmp_path / "other.pt", out, *words, "--branches", "2")
    assert isinstance(error, ConfigError) and "--branches goes with --layout own" in str(error)
    words = ("--network", "iresnet18", "--layout", "other")
    error = refused("backbone", tmp_path / "other.pt", out, *words)
    assert isinstance(error, ConfigError) and "must be one of own, arcface_torch" in str(error)
    error = refused("quality", tmp_path / "other.pt", out, "--kind", "other")
    assert isinstance(error, ConfigError) and "--kind must be one of labels, cr-fiqa" in str(error)
    assert not out.exists()


def test_without_torch_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith("facestream.models.networks."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    error = refused("backbone", tmp_path / "a.pt", tmp_path / "a.onnx", "--network", "mobile")
    assert isinstance(error, ConfigError)
    assert "need torch: pip install 'facestream[train]'" in str(error)
