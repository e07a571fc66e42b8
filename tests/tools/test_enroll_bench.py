"""`facestream bench enroll`: its measures by hand, and its page on real faces."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.models import pack as packs
from facestream.models.fusion import Members
from facestream.models.pack import Pack
from facestream.tools import enroll_bench
from facestream.tools.enroll_bench import (
    Fused,
    LookAlikes,
    Measured,
    Speed,
    measure_alike,
    measure_fused,
)
from facestream.tools.enroll_bench_command import bench_enroll
from facestream.tools.enroll_bench_page import write_page

app = typer.Typer()
app.command()(bench_enroll)


def models(threshold: float, spread: float = 1e-6) -> Any:
    decision = SimpleNamespace(
        cosine_threshold=threshold, impostor_cosine_centre=0.0, impostor_cosine_spread=spread
    )
    card = SimpleNamespace(embedder=SimpleNamespace(dimension=3), fitted_decision=lambda: decision)
    return SimpleNamespace(card=card, fusion_heads={})


def members(*vectors: tuple[float, float, float]) -> Members:
    count = len(vectors)
    return Members(
        np.array(vectors, np.float32),
        np.ones(count, np.float32),
        np.ones(count, np.float32),
        np.zeros((count, 0, 2), np.float32),
    )


def test_people_that_are_themselves_are_found_and_their_twin_is_refused() -> None:
    apart = members(*[(1.0, 0.0, 0.0)] * 4, *[(0.0, 1.0, 0.0)] * 4)
    owners = np.repeat([0, 1], 4)
    one = measure_alike(models(0.5), apart, owners, photos=2, new=2, draws=3)
    assert (one.photos, one.found.tolist(), one.refused.tolist()) == (2, [1.0] * 3, [0.0] * 3)
    twins = members(*[(1.0, 0.0, 0.0)] * 4, *[(0.8, 0.6, 0.0)] * 4)
    assert measure_alike(models(0.5), twins, owners, 2, 1, 2).refused.tolist() == [1.0, 1.0]
    assert measure_alike(models(0.9), twins, owners, 2, 1, 2).refused.tolist() == [0.0, 0.0]


def test_fusing_is_judged_by_other_photos_of_the_same_person() -> None:
    # The other photo of the second person is nearer to the first one, whichever is enrolled.
    faces = members(*[(1.0, 0.0, 0.0)] * 2, (0.9, 0.1, 0.0), (0.9, -0.1, 0.0))
    owners = np.array([0, 0, 1, 1])
    found = measure_fused(models(0.5), faces, owners, photos=1, draws=4)
    assert set(found) == {"mean", "quality"}
    assert found["mean"].nearest.tolist() == [0.5] * 4
    assert found["mean"].verified.tolist() == [0.5] * 4


def test_the_page_says_what_was_measured() -> None:
    fused = {
        name: Fused(np.array([0.9, 0.9 + more]), np.array([0.8, 0.8]))
        for name, more in (("quality", 0.0), ("learned", 0.02))
    }
    alike = (LookAlikes(1, np.array([0.5, 0.7]), np.array([0.0, 0.02])),)
    page = write_page({"omz": Measured(4, 20, Speed(10, 2.0, 1.8), alike, fused)}, "x", "--y", 3)
    assert "facestream bench enroll PEOPLE --pack omz --y" in page
    assert "| 1 | 60.0 ± 14.1 | 1.0 ± 1.4 |" in page
    assert "| `learned` | 91.0 ± 1.4 | +1.0 ± 1.4 | 80.0 ± 0.0 | +0.0 ± 0.0 |" in page
    assert "10 photos in 2.0 s, 5.0 a second; 90% of the time in the networks." in page


def test_too_few_people_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    error = CliRunner().invoke(app, [str(tmp_path)]).exception
    assert isinstance(error, ConfigError)
    with pytest.raises(ConfigError, match="two people or more with 5 photos or more, got 0 of 1"):
        raise error


def test_real_faces_are_measured(
    assets: Path, omz_models: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six people, their neutral and smiling photo, and each of the two mirrored."""
    for photo in sorted((assets / "london").glob("*/00[1-6]_*.jpg")):
        image = cv2.imread(str(photo))
        assert image is not None
        folder = tmp_path / photo.stem.split("_")[0]
        folder.mkdir(exist_ok=True)
        for name, picture in (("", image), ("m", cv2.flip(image, 1))):
            assert cv2.imwrite(str(folder / f"{photo.stem}{name}.jpg"), picture)
    monkeypatch.setattr(packs, "open_pack", lambda name, tap: omz_models)
    words = [str(tmp_path), "--pack", "omz", "--photos", "2", "--draws", "2", "--timed", "6"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["omz"]
    assert (found["people"], found["faces"], found["speed"]["photos"]) == (6, 24, 6)
    assert found["fused"]["quality"]["nearest"] == [1.0, 1.0]
    assert found["alike"][1]["found"] == [1.0, 1.0]


def test_a_timed_network_counts_its_seconds() -> None:
    spent: list[float] = []
    session: Any = SimpleNamespace(
        inputs=("x",), outputs=("y",), provider="none", run=lambda feeds: {"y": feeds["x"] + 1}
    )
    timed = enroll_bench.Timed(session, spent)
    assert timed.run({"x": np.ones(2)})["y"].tolist() == [2, 2]
    assert (timed.inputs, timed.outputs, len(spent)) == (("x",), ("y",), 1) and spent[0] >= 0
