"""The comparison of simulated and real clips, and the command around both."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from typer.testing import CliRunner

from facestream import ConfigError, SourceCorrupt, SourceMissing
from facestream.configs.simulation import Simulation
from facestream.models.pack import Pack
from facestream.stream.synthetic import Painter, Scene
from facestream.tools import cli, sim_compare, sim_sensor, simulate

runner = CliRunner()
PRESET = """
size: [320, 180]
fps: 10
seconds: 1.0
scenes: 1
cameras: 1
subjects: 1
passers_by: 1
face_height: [30, 60]
"""

values = st.lists(st.integers(0, 20).map(float), min_size=4, max_size=40)


@settings(max_examples=60, deadline=None)
@given(one=values, other=values)
def test_the_distance_is_that_of_kolmogorov_and_smirnov(
    one: list[float], other: list[float]
) -> None:
    assert sim_compare.distance(one, other) == pytest.approx(
        ks_2samp(one, other, method="asymp").statistic
    )


def test_the_distance_needs_values() -> None:
    with pytest.raises(ValueError, match="values on both sides"):
        sim_compare.distance([], [1.0])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of drawn faces, the second with much lower ones."""
    folder = tmp_path_factory.mktemp("clips")
    painter = Painter(Scene(seed=1, faces=1, size=(320, 180)))
    frames = [painter.paint(i / 10) for i in range(10)]
    settings = Simulation(size=(320, 180), fps=10, bit_rate=2000)
    for name, scale in (("near", 1.0), ("far", 0.5)):
        small = []
        for frame in frames:
            canvas = np.full_like(frame, 120)
            part = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            canvas[: part.shape[0], : part.shape[1]] = part
            small.append(canvas)
        (folder / name).mkdir()
        sim_sensor.encode(small, folder / name / "clip.mp4", settings)
    return folder


def test_clips_are_measured_by_what_is_found_in_them(clips: Path, open_models: Pack) -> None:
    near, far = (
        sim_compare.measure_clips(
            open_models, name, sim_compare.clips_in(clips / name), every=1, most=100
        )
        for name in ("near", "far")
    )
    assert len(near.values) >= 8 and len(far.values) >= 5
    assert np.median(near.values[:, 0]) == pytest.approx(2 * np.median(far.values[:, 0]), rel=0.2)
    table = sim_compare.write_table(near, [near, far])
    head, _, real, same, other = table.splitlines()
    assert [cell.strip() for cell in head.split("|")[3:-1]] == list(sim_compare.MEASURES)
    assert "D " not in real
    assert same.count("D 0.00") == 4 and "unmatched" not in same
    assert "D 1.00 **unmatched**" in other.split("|")[3]


def test_a_clip_counts_evenly_and_at_most_so_often(clips: Path, open_models: Pack) -> None:
    paths = sim_compare.clips_in(clips / "near")
    sample = sim_compare.measure_clips(open_models, "near", paths, every=1, most=3)
    assert len(sample.values) == 3


def test_clips_that_are_none(tmp_path: Path, open_models: Pack) -> None:
    with pytest.raises(SourceMissing, match="no clips in"):
        sim_compare.clips_in(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(SourceCorrupt, match=r"clip\.mp4 is not readable video"):
        sim_compare.measure_clips(open_models, "x", [tmp_path / "clip.mp4"], every=1, most=1)


def test_the_commands_render_and_compare(clips: Path, open_models: Pack, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for number in range(3):
        cv2.imwrite(
            str(faces / f"{number}.png"),
            Painter(Scene(seed=number, faces=1, size=(320, 320))).paint(0.0),
        )
    (tmp_path / "mine.yaml").write_text(PRESET)
    out = tmp_path / "set"
    words = ["simulate", "--preset", str(tmp_path / "mine.yaml"), "--faces", str(faces)]
    done = runner.invoke(cli.app, [*words, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["simulated"] is True and (report["videos"], report["frames"]) == (1, 10)
    assert report["frames_per_second"] > 0
    page = tmp_path / "page.md"
    page.write_text("before\n" + simulate.MARKS[0] + "old\n" + simulate.MARKS[1] + "\nafter\n")
    words = ["simulate", "compare", str(out), "--real", str(clips / "near"), "--every", "2"]
    done = runner.invoke(cli.app, [*words, "--write", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| real (1) |" in text and "| set (1) |" in text


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(ConfigError, match="has no lines"):
        simulate.put_table(page, "table")
    assert page.read_text() == "nothing here\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--out is missing"),
        (["--out", "x", "--faces", "a", "--assets", "b"], "exclude each other"),
        (["--out", "x", "--passers-by", "a"], "--passers-by comes with --faces"),
        (["--out", "x"], "no faces: give --faces FOLDER"),
        (["--out", "x", "--preset", "dawn"], "no preset is called 'dawn'"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACESTREAM_ASSETS", raising=False)
    done = runner.invoke(cli.app, ["simulate", *words])
    assert isinstance(done.exception, ConfigError) and says in str(done.exception)
