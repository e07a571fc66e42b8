"""`facestream bench models`: end to end on the smallest network, and its tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.tools.bench_models_page import PAPER, digits, page, range_of, verdict
from facestream.tools.cli import app

torch = pytest.importorskip("torch")


def bench(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["bench", "models", *map(str, words)], standalone_mode=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report as the command prints it; beside it the page lies."""
    written = tmp_path_factory.mktemp("bench") / "benchmarks" / "models.md"
    words = "--model mobile --batch 1 --batch 2 --against mobile --faces 16 --largest 40"
    result = bench(*words.split(), "--repeats", "1", "--write", written, "--json")
    assert result.exception is None, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert written.read_text(encoding="utf-8") == page(found)
    return found


def test_a_network_is_counted_and_timed(report: dict[str, Any]) -> None:
    (row,) = report["models"]
    assert (row["name"], row["parameters"]) == ("mobile", 1_200_512)
    assert 0.2e9 < row["multiply_adds"] < 0.25e9  # the paper of MobileFaceNet: 221 M
    assert set(row["ms_per_face"]) == {"1", "2"}
    assert all(spread["min"] > 0 for spread in row["ms_per_face"].values())


def test_fusion_is_measured_beside_the_backbone(report: dict[str, Any]) -> None:
    fusion = report["fusion"]
    assert fusion["backbone"] == "mobile"
    assert [(row["faces"], row["way"]) for row in fusion["sets"]] == [
        (16, "one go"),
        (16, "chunks of 16"),
    ]
    for row in fusion["sets"]:
        rate = 1e3 * row["faces"] / row["ms"]["median"]
        ratio = rate / fusion["faces_per_second"]["median"]
        assert row["ratio"]["median"] == pytest.approx(ratio)
    assert [row["faces"] for row in report["largest"]] == [40, 48, 480]


def test_the_page_names_its_command_and_conventions(report: dict[str, Any]) -> None:
    text = page(report)
    assert (
        "    facestream bench models --model mobile --batch 1 --batch 2 --faces 16 --against mobile"
        in text
    )
    for words in ("One multiply-add is two FLOPs", "FPS(F) / FPS(E)", "| mobile | 1,200,512 |"):
        assert words in text
    assert "the paper's." not in text  # mobile is not what the paper compares with


def test_the_verdict_compares_medians_with_the_paper() -> None:
    def fusion(ratios: dict[int, float]) -> dict[str, Any]:
        rows = [{"faces": n, "way": "one go", "ratio": {"median": r}} for n, r in ratios.items()]
        return {"backbone": "iresnet100", "sets": rows}

    assert verdict(fusion(PAPER)) == " All medians are at or above the paper's."
    assert verdict(fusion({**PAPER, 64: 16.3})) == " Below the paper: N = 64 in one go."
    assert verdict(fusion({17: 1.0})) == ""


def test_ranges_have_three_digits() -> None:
    assert range_of({"median": 4.2345, "min": 4.1, "max": 4.9}) == "4.23 (4.1 to 4.9)"
    assert [digits(value) for value in (0.0372, 999.6, 123_456.0)] == ["0.0372", "1,000", "123,000"]
    assert range_of({"median": 1234.5, "min": 999.4, "max": 20000.0}) == "1,230 (999 to 20,000)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "resnet18"), "networks are mobile, iresnet18, .*, got 'resnet18'"),
        (("--against", "lightqnet"), "lightqnet gives a quality"),
    ],
)
def test_unknown_networks_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        raise bench(*words).exception


def test_without_torch_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("facestream.models.networks."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"need torch: pip install 'facestream\[train\]'"):
        raise bench().exception
