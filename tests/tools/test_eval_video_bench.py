"""`facestream bench accuracy`: one page of numbers, every one of them called simulated."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.tools.bench import app
from facestream.tools.bench_accuracy import Size, heading, markdown, variants


def test_every_part_that_a_pack_has_is_combined() -> None:
    rows = [variant.cells() for variant in variants(["open"])]
    assert ["open", "given", "mean", "ida"] in rows and [
        "open",
        "ours",
        "quality",
        "cosine",
    ] in rows
    assert len(rows) == len({tuple(row) for row in rows}) >= 8


def test_the_page_says_that_it_is_about_simulated_video() -> None:
    text = heading(Size(2, None, 6.0), 1, 200)
    assert text.startswith("# Accuracy on simulated video")
    assert "`facestream bench accuracy --scenes 2 --seconds 6 --seed 1`" in text
    assert markdown(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_it_needs_faces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("motrics")
    monkeypatch.delenv("FACESTREAM_ASSETS", raising=False)
    result = CliRunner().invoke(app, ["accuracy", "--folder", str(tmp_path)])
    assert isinstance(result.exception, ConfigError) and "--assets" in str(result.exception)


@pytest.mark.timeout(600)
def test_a_page_is_written_and_a_second_run_only_reads(assets: Path, tmp_path: Path) -> None:
    pytest.importorskip("motrics")
    page = tmp_path / "docs" / "accuracy.md"
    options = ["--preset", "easy", "--scenes", "1", "--cameras", "1", "--seconds", "2"]
    options += ["--resamples", "0", "--folder", str(tmp_path / "all"), "--out", str(page)]
    run = ["accuracy", "--assets", str(assets), *options]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "## Simulated: easy" in text and "| open | ours | quality | ida |" in text
    seen = {path: path.stat().st_mtime_ns for path in (tmp_path / "all" / "seen").iterdir()}
    assert len(seen) == 2  # given boxes and our own, whatever matches them
    CliRunner().invoke(app, run)
    assert page.read_text() == text
    assert {path: path.stat().st_mtime_ns for path in seen} == seen


def test_the_comparison_of_trackers_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("motrics")
    monkeypatch.setitem(sys.modules, "trackers", None)
    result = CliRunner().invoke(app, ["trackers", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "pip install --no-deps trackers" in str(result.exception)
