"""From simulated video to fused templates: simulate, evaluate crops, evaluate fusion.

The pack lies on disk as one that a user made: the card of the default pack with a CAFace head of
random weights beside it. People are drawn.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from facestream.configs.simulation import Simulation
from facestream.models.caface_head import HeadSize, random_head, save_head
from facestream.models.pack import Pack
from facestream.stream.synthetic import Painter, Scene
from facestream.tools import sim_cast, sim_set
from facestream.tools.evaluate import app

SETTINGS = Simulation(
    size=(640, 360),
    fps=10,
    seconds=2.5,
    scenes=1,
    cameras=2,
    subjects=2,
    passers_by=0,
    face_height=(40.0, 110.0),
    objects=0,
    noise=0,
    blur=0,
    haze=0,
    flicker=0,
    bit_rate=4000,
)


@pytest.fixture(scope="module")
def pack(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the card."""
    folder, card = tmp_path_factory.mktemp("pack"), open_models.card
    content = yaml.safe_load(card.path.read_text(encoding="utf-8"))
    assert card.ida is not None
    shutil.copy(card.folder / card.ida.anchors, folder)
    size = HeadSize(card.embedder.dimension, card.embedder.style_channels, 4)
    save_head(folder / "head.npz", random_head(2, size, style_mix=0.5))
    del content["ida"]["learned"], content["strangers"]  # their files stay where they are
    sha = hashlib.sha256((folder / "head.npz").read_bytes()).hexdigest()
    head = {"file": "head.npz", "sha256": sha, "licence": "MIT"}
    content["fusion"] = {"aggregator": "caface", "caface": head}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "mine.yaml"


@pytest.fixture(scope="module")
def crops(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The faces of two cameras, cut out by their boxes."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "stills").mkdir()
    for number, name in enumerate("ABCDEF"):
        painter = Painter(Scene(seed=number, faces=1, size=(320, 320)))
        for suffix, pts in (("", 0.0), ("_2", 1.0)):
            cv2.imwrite(str(folder / "stills" / f"{name}{suffix}.jpg"), painter.paint(pts))
    cast = sim_cast.cast_from_folders(folder / "stills", None)
    request = sim_set.Request("tiny", SETTINGS, 3, cast, "open")
    sim_set.render_set(request, open_models.detector, folder / "set")
    result = CliRunner().invoke(app, ["crops", str(folder / "set"), str(folder / "crops")])
    assert result.exit_code == 0, result.output
    return folder / "crops"


def test_crops_of_a_simulated_set_are_what_fusion_reads(
    crops: Path, pack: Path, tmp_path: Path
) -> None:
    words = ["fusion", str(crops), "--pack", str(pack), "--alignment", "detect", "--workers", "1"]
    words += ["--part", "sets", "--part", "share", "--part", "chunk", "--part", "speed"]
    words += ["--size", "1", "--size", "4", "--far", "0.2", "--resamples", "10"]
    words += ["--store", str(tmp_path / "store"), "-o", str(tmp_path / "report"), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    tables = {table["title"]: table for table in report["tables"]}
    # The pack's own head is used, without --head.
    assert not any("caface is not measured" in line for line in report["variant"])
    labels = [row["label"] for row in tables["Sets: TAR@FAR=0.2"]["rows"]]
    assert "any: caface, ida" in labels and "worse half: caface, cosine" in labels
    shares = tables["Share seen: TAR@FAR=0.2"]
    assert shares["columns"] == ["10%", "25%", "50%", "75%", "100%"]
    assert [row["label"] for row in shares["rows"]][-2:] == ["caface, cosine", "caface, ida"]
    # Chunks change the template where the head looks at styles of several faces together.
    alike = tables["Chunk size: cosine to the template of one chunk"]["rows"]
    smallest = [cell["value"] for cell in alike[1]["cells"]]
    assert smallest[-1] == pytest.approx(1.0, abs=1e-6) and smallest[0] < 1 - 1e-9
    speeds = tables["Fusion: speed relative to the embedder"]["rows"]
    assert [row["label"] for row in speeds] == ["mean", "quality", "caface"]
    assert all(np.isfinite(c["value"]) and c["value"] > 0 for c in speeds[2]["cells"])
    # The still is enrolled, and each camera's video is a medium of its own.
    assert report["data"]["facts"]["identities enrolled"] == "2"
    assert int(report["data"]["facts"]["media of 16 faces or more"]) >= 2
