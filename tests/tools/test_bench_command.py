"""`facestream bench`: on a second of real video, and its arithmetic by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import PullFailed
from facestream.configs.schema import CameraConfig, Config
from facestream.models.backends import open_session
from facestream.models.backends.probe import tiny_network
from facestream.models.pack import Pack
from facestream.models.pull import fetch_group_photo
from facestream.stream.meter import StageTime
from facestream.stream.totals import Totals
from facestream.tools.bench import Once, ShapeTap, show, summarise
from facestream.tools.cli import app

FRAMES = 12


@pytest.fixture
def clip(tmp_path: Path, open_models: Pack) -> Path:
    """Two of six real people on H.264 video, and the folder photos with one of them."""
    try:
        photo = cv2.imread(str(fetch_group_photo()))
    except PullFailed as error:
        pytest.skip(f"the registry's photograph is not here and cannot be brought: {error}")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES)
        stream.width, stream.height, stream.pix_fmt = 480, 320, "yuv420p"
        for number in range(FRAMES):
            view = np.ascontiguousarray(photo[200:520, number : number + 480])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="bgr24")))
        container.mux(stream.encode())
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "Anna.png"), photo[200:450, :240])
    return path


def test_a_short_clip_is_measured_whole(clip: Path) -> None:
    arguments = ["--source", str(clip), "--gallery", str(clip.parent / "photos"), "--repeats", "1"]
    result = CliRunner().invoke(app, ["bench", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["frames"] == FRAMES == report["stages"]["detect"]["items"]
    assert report["embedded"] == report["stages"]["embed"]["items"] > 0
    assert report["faces"] >= report["embedded"]
    assert set(report["bare_seconds"]) == {"network dlib", "network centerface", "decoding"}
    assert all(value["median"] > 0 for value in report["bare_seconds"].values())
    assert report["ratio_to_bare"]["median"] > 0
    # Every stage is a part of the whole; reading waits beside the others.
    assert 0 < sum(stage["share"] for stage in report["stages"].values()) <= 1.05
    assert report["live_events"] > 0
    late = report["capture_to_event_ms"]
    assert 0 < late["p50"] <= late["p95"] <= late["p99"]


def test_a_tap_counts_shapes_and_runs_them_again() -> None:
    tap = ShapeTap(open_session(tiny_network()))
    for rows in (1, 3, 3):
        fed = {"x": np.full((rows, 4), -1.0, np.float32)}
        assert not tap.run(fed)["y"].any()
    assert tap.fed == Counter({(("x", (3, 4), "<f4"),): 2, (("x", (1, 4), "<f4"),): 1})
    assert tap.bare_seconds() > 0
    assert sum(tap.fed.values()) == 3  # measuring is not counted


def once(seconds: float, detecting: float) -> Once:
    totals = Totals(frames=10, faces=20, embedded=5, seconds=seconds)
    stages = {"detect": StageTime(calls=5, items=10, seconds=detecting)}
    return Once(totals, stages, {"network a": 0.5, "decoding": 0.25}, 0.9)


def test_a_report_is_medians_with_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(cameras=(CameraConfig(name="a", url="/videos/clip.mp4"),))
    runs = [once(1.0, 0.5), once(2.0, 0.6), once(4.0, 0.7)]
    latencies = [n / 1000 for n in range(1, 101)]
    report = summarise(config, runs, latencies)
    assert report["source"] == "clip.mp4"
    assert report["frames_per_second"] == {"median": 5.0, "min": 2.5, "max": 10.0}
    assert report["faces_per_second"]["median"] == 10.0
    assert report["ratio_to_bare"] == {"median": 0.375, "min": 0.1875, "max": 0.75}
    assert report["stages"]["detect"]["ms_per_item"] == pytest.approx(
        {"median": 60.0, "min": 50.0, "max": 70.0}
    )
    assert report["stages"]["detect"]["share"] == pytest.approx(0.3)
    assert report["capture_to_event_ms"] == pytest.approx({"p50": 51, "p95": 96, "p99": 100})
    show(report)
    told = capsys.readouterr().out
    assert "ratio of bare parts to pipeline: 0.375 (0.188 to 0.75)" in told
    assert "p50 51 ms, p95 96 ms, p99 100 ms" in told


def test_a_clip_without_events_has_no_latency(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(cameras=(CameraConfig(name="a", url="clip.mp4"),))
    report = summarise(config, [once(1.0, 0.5)], [])
    assert (report["capture_to_event_ms"], report["live_events"]) == ({}, 0)
    show(report)
    assert "0 events" in capsys.readouterr().out
