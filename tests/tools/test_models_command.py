"""`facestream models`: what a person and a script see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from facestream import MissingModelFile, UnknownPack
from facestream.models.card_file import read_card
from facestream.models.pack import Pack
from facestream.models.store import CARDS
from facestream.tools.models import app

runner = CliRunner()


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of models, and an empty cache."""
    monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path))
    monkeypatch.delenv("FACESTREAM_MODELS", raising=False)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which tables are not folded."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("command", ["list", "pull", "verify", "describe"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: facestream models {command}" in result.output


def test_list_says_what_is_here_and_what_may_be_sold(nothing_here: None, wide: None) -> None:
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    assert "2 of 2 missing" in lines["open"]
    assert "yes" in lines["open"]
    assert "non-commercial" in lines["buffalo_l"]


def test_list_as_json(nothing_here: None) -> None:
    rows = json.loads(runner.invoke(app, ["list", "--json"]).output)
    packs = {row["pack"]: row for row in rows}
    assert set(packs) == {"open", "omz", "buffalo_l", "antelopev2"}
    assert packs["open"]["missing"] == [
        "centerface.onnx",
        "dlib_face_recognition_resnet_model_v1.dat",
    ]
    assert packs["antelopev2"]["commercial_use"] is False
    assert packs["omz"]["card"] == str(CARDS / "omz.yaml")


@pytest.mark.parametrize("name", ["open", "omz", "buffalo_l", "antelopev2"])
def test_describe_shows_the_card(name: str, nothing_here: None, wide: None) -> None:
    shown = runner.invoke(app, ["describe", name])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "Not good at" in text
    assert "px between the eyes" in text
    card = json.loads(runner.invoke(app, ["describe", name, "--json"]).output)
    assert card["name"] == name
    assert len(card["embedder"]["template"]["points"]) == 5
    assert len(card["missing"]) == len(card["files"])


def test_describe_shows_what_was_measured_as_a_table(nothing_here: None, wide: None) -> None:
    lines = runner.invoke(app, ["describe", "open"]).output.splitlines()
    heading = next(line for line in lines if "TAR" in line)
    assert heading.split()[0] == "probes" and heading.split()[-3:] == ["TAR", "FMR", "rank-1"]
    row = next(line.split() for line in lines if line.strip().startswith("48 px"))
    measured = read_card(CARDS / "open.yaml").measured
    assert measured is not None
    assert row[2:] == [f"{value:.4f}" for value in measured.values["48 px"].values()]
    assert "measured" not in runner.invoke(app, ["describe", "buffalo_l"]).output


def test_a_bad_card_does_not_hide_the_others(
    nothing_here: None, wide: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn.yaml").write_text("name: [")
    monkeypatch.setenv("FACESTREAM_MODELS", str(tmp_path))
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 0, result.output
    assert "torn.yaml: not YAML" in result.output
    assert "2 of 2 missing" in result.output
    rows = json.loads(runner.invoke(app, ["list", "--json"]).output)
    assert [row["pack"] for row in rows if "error" in row] == ["torn"]
    assert len(rows) == 5


def test_verify_loads_the_pack_and_runs_its_self_test(open_models: Pack, wide: None) -> None:
    result = runner.invoke(app, ["verify", "open"])
    assert result.exit_code == 0, result.output
    assert "open: loads on onnxruntime CPU; self-test passed" in result.output
    found = json.loads(runner.invoke(app, ["verify", "open", "--json"]).output)
    assert found["self_test"] is True
    assert [Path(f).name for f in found["files"]] == [
        "centerface.onnx",
        "dlib_face_recognition_resnet_model_v1.dat",
    ]


def test_pull_has_nothing_to_do_when_everything_is_here(open_models: Pack) -> None:
    result = runner.invoke(app, ["pull", "open"])
    assert result.exit_code == 0, result.output
    assert "open: 2 files are here and verified" in result.output


def test_what_is_wrong_is_raised_for_the_program_to_report(nothing_here: None) -> None:
    assert isinstance(runner.invoke(app, ["describe", "opne"]).exception, UnknownPack)
    assert isinstance(runner.invoke(app, ["verify", "open"]).exception, MissingModelFile)
    assert isinstance(runner.invoke(app, ["pull", "omz"]).exception, MissingModelFile)
