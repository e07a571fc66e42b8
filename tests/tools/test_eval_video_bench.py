"""`facestream bench trackers`: what it needs is said before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.tools.bench import app


def test_the_comparison_of_trackers_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("motrics")
    monkeypatch.setitem(sys.modules, "trackers", None)
    result = CliRunner().invoke(app, ["trackers", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "pip install --no-deps trackers" in str(result.exception)
