"""`facestream evaluate megaface`: every ordered pair is a search among the distractors."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.models.feature_store import (
    Compute,
    Features,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
)
from facestream.tools.eval_megaface import MegafaceChoices, evaluate_megaface, read_list
from facestream.tools.eval_options import Source
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.evaluate import app


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def fill(folder: Path, names: list[str], vectors: np.ndarray) -> None:
    def start() -> Compute:
        def compute(rows: range) -> Features:
            some = vectors[rows.start : rows.stop].astype("f4")
            ones = np.ones(len(rows), np.float32)
            states = np.where(some.any(axis=1), State.EMBEDDED, State.NO_FACE).astype("u1")
            none = np.zeros((0, some.shape[1]), "f4")
            return Features(states, some, none, ones, ones, np.zeros((len(rows), 0, 2), "f4"))

        return compute

    layout = StoreLayout(len(names), vectors.shape[1])
    fill_store(create_store(folder, StoreKey("p", "q", folder.name), names, layout), start)


def write_list(path: Path, paths: list[str], ids: list[str] | None = None) -> Path:
    path.write_text(json.dumps({"path": paths} | ({} if ids is None else {"id": ids})))
    return path


def test_rank_1_by_hand_for_every_number_of_distractors(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    ids = [f"A{n // 4}" for n in range(20)]
    probes = draw.normal(size=(5, 12))[np.arange(20) // 4] + 0.8 * draw.normal(size=(20, 12))
    others = draw.normal(size=(900, 12))
    others[7] = 0  # a distractor in whose picture no face was found
    names = [f"{n:04}.jpg" for n in range(900)]
    fill(tmp_path / "s" / "probes", [f"p{n:02}.png" for n in range(20)], probes)
    fill(tmp_path / "s" / "distractors", names, others)
    lists = (
        write_list(tmp_path / "d_1000", names),
        write_list(tmp_path / "d_100", names[5:105]),
    )
    choices = MegafaceChoices(
        write_list(tmp_path / "p.json", [f"p{n:02}.png" for n in range(20)], ids),
        lists,
        tmp_path,
        tmp_path,
        "aligned",
        False,
        Bootstrap(50),
    )
    source = Source("open", "onnxruntime", None, tmp_path / "s", 1, False, False)
    report = evaluate_megaface(choices, source).report
    p, d = unit(probes), others / np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-9)
    for row, some in zip(report.tables[0].rows, (np.arange(900), np.arange(5, 105)), strict=True):
        rivals = [float((p[n] @ d[[r for r in some if d[r].any()]].T).max()) for n in range(20)]
        hits = [
            p[a] @ p[b] > rivals[a]
            for a in range(20)
            for b in range(20)
            if a != b and ids[a] == ids[b]
        ]
        assert len(hits) == 60
        number = row.cells[0]
        assert number.value == pytest.approx(np.mean(hits))  # type: ignore[union-attr]
        assert number.low is not None  # type: ignore[union-attr]
    few, many = report.plots[0].curves[0].y
    assert few >= many  # more distractors never help
    assert report.data.facts["searches"] == "60"


def test_the_command_reads_the_kits_lists_and_pictures(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("a0.png", "a1.png", "b0.png", "b1.png", "d0.png", "d1.png", "d2.png"):
        noise = draw.integers(0, 40, (112, 112, 3)) + 90 * (ord(name[0]) - 97) // 3
        cv2.imwrite(str(tmp_path / name), noise.astype(np.uint8))
    probes = write_list(tmp_path / "p", ["a0.png", "a1.png", "b0.png", "b1.png"], list("aabb"))
    others = write_list(tmp_path / "d", ["d0.png", "d1.png", "d2.png"])
    folders = ["--probe-images", str(tmp_path), "--distractor-images", str(tmp_path)]
    options = ["--alignment", "aligned", "--store", str(tmp_path / "s"), "--workers", "1"]
    arguments = ["megaface", str(probes), "--distractors", str(others), *folders, *options]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["data"]["facts"] == {"probes": "4", "searches": "4", "distractors": "3"}
    assert (tmp_path / "s" / "probes" / "store.json").is_file()


def test_a_missing_picture_and_features_that_are_not_finite(tmp_path: Path) -> None:
    """They are refused, or counted: the probe is a zero vector, the distractor cannot win."""
    names = ["a0.png", "a1.png", "b0.png", "b1.png"]
    probes = write_list(tmp_path / "p", names, list("aabb"))
    others = write_list(tmp_path / "d", ["d0.png", "d1.png"])
    choices = MegafaceChoices(probes, (others,), tmp_path, tmp_path, "aligned", False, Bootstrap(0))
    embed = Source("open", "onnxruntime", tmp_path / "own", None, 1, False, False)
    with pytest.raises(ConfigError, match=r"4 of 4 listed pictures .* a0\.png"):
        evaluate_megaface(choices, embed)
    vectors = np.array([[1, 0.1], [1, 0], [0, 1], [np.nan, 1]])
    fill(tmp_path / "s" / "probes", names, vectors)
    fill(tmp_path / "s" / "distractors", ["d0.png", "d1.png"], np.array([[np.nan, 0], [-1, -1]]))
    stored = Source("open", "onnxruntime", None, tmp_path / "s", 1, False, False)
    with pytest.raises(ConfigError, match=r"1 of 4 faces cannot be used.* b1\.png: .*not finite"):
        evaluate_megaface(choices, stored)
    report = evaluate_megaface(choices, stored._replace(skip_bad=True)).report
    assert [one.where for one in report.bad] == ["b1.png", "d0.png"]
    # Of four searches those of a hit; b1 scores 0 with b0, which d1 with its negative one does not
    # reach: a missing template is no hit by itself, nor a miss.
    cell = report.tables[0].rows[0].cells[0]
    assert cell.value is not None and 0.5 <= cell.value <= 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"path": ["a"], "id": []}', "got 1 and 0"),
        ('{"path": [], "id": []}', "got 0 and 0"),
        ("[]", "expected {"),
        ("x", "expected {"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_list(tmp_path / "list", subjects=True)
    with pytest.raises(ConfigError, match="got no file"):
        read_list(tmp_path / "nothing", subjects=True)
