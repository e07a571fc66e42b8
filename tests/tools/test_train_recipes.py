"""`facestream train RECIPE`: presets load, small runs go through and go on, mistakes are named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import facestream
from facestream import ConfigError, SourceCorrupt
from facestream.configs.face_training import CQATraining, EmbedderTraining, MagFaceTraining
from facestream.configs.training import (
    CAFaceTraining,
    FIQATraining,
    IDATraining,
    RunSettings,
    preset_names,
    read_training,
)
from facestream.tools.train import app
from facestream.train.checkpoint import load_checkpoint

KINDS: dict[str, type] = {
    "magface": MagFaceTraining,
    "cqa": CQATraining,
    "caface": CAFaceTraining,
    "ida": IDATraining,
    "fiqa": FIQATraining,
    "embedder": EmbedderTraining,
}
FILES = sorted((Path(facestream.__file__).parent / "configs" / "trainings").glob("*.yaml"))
SMALL = """
teacher: open
distil: 1.0
classify: 0.1
run: {steps: 3, batch: 8, rate: 0.01, optimiser: sgd, schedule: constant, validate_every: 2}
data: {held_out: 0.4, validation: 12}
backbone: tiny
dimension: 128
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_preset_loads_and_can_be_run_to_its_end(path: Path) -> None:
    recipe = path.stem.partition("-")[0]
    settings, text = read_training(KINDS[recipe], recipe, path.stem)
    assert yaml.safe_load(text)["run"]["steps"] == settings.run.steps
    assert path.read_text().startswith("#")
    run = settings.run
    assert isinstance(run, RunSettings) and run.validate_every <= run.steps
    assert all(milestone < run.steps for milestone in run.milestones)


def test_every_recipe_has_a_published_and_a_small_preset() -> None:
    for recipe in KINDS:
        assert len(preset_names(recipe)) >= 2, recipe


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people of four pictures each: blotches of their own, and noise."""
    folder = tmp_path_factory.mktemp("faces")
    draw = np.random.default_rng(1)
    for person in range(5):
        own = cv2.resize(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8), (112, 112))
        (folder / f"person{person}").mkdir()
        for picture in range(4):
            noise = draw.integers(-20, 20, own.shape)
            seen = np.clip(own + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"person{person}" / f"{picture}.png"), seen)
    return folder


@pytest.fixture(scope="module")
def finished(faces: Path) -> list[str]:
    """The words of a small run that came to its end, beside the faces."""
    small = faces.parent / "small.yaml"
    small.write_text(SMALL)
    words = ["embedder", str(small), "--faces", str(faces), "--out", str(faces.parent / "run")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "3 steps" in done.output
    return words


def test_a_small_run_writes_a_network_and_how_it_went(finished: list[str]) -> None:
    out = Path(finished[-1])
    assert (out / "summary.html").is_file()
    assert {path.name for path in (out / "export").iterdir()} == {
        "embedder.onnx",
        "embedder.pt",
        "embedder.yaml",
    }
    origin = load_checkpoint(out / "best.pt").origin
    assert origin.recipe == "embedder" and "distil: 1.0" in origin.config and len(origin.data) == 16


def test_a_script_reads_how_a_run_went(finished: list[str]) -> None:
    done = CliRunner().invoke(app, [*finished, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    out = Path(finished[-1])
    assert (told["recipe"], told["steps"]) == ("embedder", 3) and told["watch"].startswith("tar")
    assert told["best"] == load_checkpoint(out / "best.pt").best[0]  # type: ignore[index]
    assert {Path(file).parent for file in told["files"]} == {out / "export"}
    assert Path(told["summary"]).is_file()


def test_a_run_of_other_settings_is_refused(finished: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(SMALL.replace("rate: 0.01", "rate: 0.02"))
    with pytest.raises(
        ConfigError, match=r"another config: it has 'rate: 0.01', this run 'rate: 0.02'"
    ):
        CliRunner().invoke(app, ["embedder", str(other), *finished[2:]], catch_exceptions=False)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    for name in "abcdefghijkl":
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "set" / name / f"{number}.jpg").write_bytes(b"\xff\xd8 no more")
    words = ["magface", "magface-small", "--faces", str(tmp_path / "set"), "--out", str(tmp_path)]
    with pytest.raises(SourceCorrupt, match=r"\d\.jpg"):
        CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.mark.parametrize("recipe", ["magface", "cqa"])
def test_the_small_presets_refuse_somebody_with_one_picture(
    recipe: str, faces: Path, tmp_path: Path
) -> None:
    shutil.copytree(faces, tmp_path / "set")
    for number in range(3):
        (tmp_path / "set" / "person3" / f"{number}.png").unlink()
    words = [recipe, f"{recipe}-small", "--faces", str(tmp_path / "set"), "--out", str(tmp_path)]
    with pytest.raises(ConfigError, match=r"got 1 of 'person3'.*lower data\.least"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_file_in_the_place_of_the_runs_folder_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    words = ["magface", "magface-small", "--faces", "nowhere", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "'--out'" in done.output


def test_what_does_not_run_live_is_not_installed(tmp_path: Path) -> None:
    words = ["caface", "caface-nan-omz", "--assets", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(ConfigError, match="nan does not run live"):
        CliRunner().invoke(app, [*words, "--install"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["magface", "magface-small"], "--faces is missing"),
        (["ida", "ida-open"], "--assets is missing"),
        (["fiqa", "fiqa-open"], "--assets is missing"),
        (["ida", "nothing"], "no preset 'nothing'"),
        (["cqa", "cqa-smal"], "cqa-small"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACESTREAM_ASSETS", raising=False)
    with pytest.raises(ConfigError, match=told):
        CliRunner().invoke(app, [*words, "--out", str(tmp_path)], catch_exceptions=False)


def test_the_extra_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "facestream.train.ida", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"needs torch: pip install 'facestream\[train\]'"):
        CliRunner().invoke(app, ["ida", "ida-open", "--out", str(tmp_path)], catch_exceptions=False)
