"""What `facestream bench labels` times: one repeat at a size of one's choosing."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.tools.bench_labels import bench_labels, time_label_repeat


def test_every_image_is_paired_with_each_other_cluster(tmp_path: Path) -> None:
    timing = time_label_repeat(600, 10, 16, tmp_path)
    assert (timing.images, timing.pairs) == (600, 600 * 19)
    assert min(timing.clustering, timing.drawing, timing.ranking) > 0
    assert timing.memory > 16 * timing.pairs


def test_more_people_than_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one image per person, got 3 for 4"):
        time_label_repeat(3, 4, 16, tmp_path)


def test_the_command_prints_its_figures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(bench_labels)
    sizes = ["--images", "200", "--people", "5", "--dimension", "16", "--folder", str(tmp_path)]
    result = CliRunner().invoke(app, sizes)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("200 images, 3,800 pairs\n")
    assert not list(tmp_path.iterdir())
