"""`facestream evaluate crops`: the given boxes of an IJB-S set become crops for `ijbs --faces`."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError, SourceCorrupt, SourceMissing
from facestream.tools.eval_crops_ijbs import cut_box, cut_crops
from facestream.tools.eval_ijbs_lists import faces_by_source, read_metadata
from facestream.tools.evaluate import app
from facestream.tools.truth import FaceTruth, IjbsWriter

FRAMES = 6


def face(frame: int, subject: str, box: tuple[float, ...]) -> FaceTruth:
    return FaceTruth(frame, 1, subject, np.array(box, np.float32), None, 1.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A video in which a bright square moves to the right by 10 px a frame, and one still."""
    folder = tmp_path / "set"
    (folder / "videos").mkdir(parents=True)
    (folder / "img").mkdir()
    writer = IjbsWriter(folder)
    with av.open(str(folder / "videos" / "12.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.options = {"crf": "8"}
        for number in range(FRAMES):
            picture = np.full((96, 160, 3), 20, np.uint8)
            picture[30:50, 20 + 10 * number : 40 + 10 * number] = 230
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")):
                video.mux(packet)
            x = 20.0 + 10 * number
            writer.add_face(4, "videos/12.mp4", face(number, "4", (x, 30, x + 20, 50)))
            writer.add_face(7, "videos/12.mp4", face(number, "7", (150, 0, 170, 20)))
        for packet in stream.encode():
            video.mux(packet)
    cv2.imwrite(str(folder / "img" / "9.png"), np.full((8, 8, 3), 77, np.uint8))
    writer.add_image(4, "img/9.png")
    writer.close()
    return folder


def test_every_crop_holds_its_face_and_is_found_again(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    assert cut_crops(root, out, margin=0.5) == (2 * FRAMES + 1, 2 * FRAMES + 1)
    for number in range(FRAMES):
        crop = cv2.imread(str(out / "4" / f"videos_12_{number:05}.jpg"))
        assert crop.shape == (40, 40, 3)
        assert crop[12:28, 12:28].mean() > 200 and crop[:6].mean() < 60
    # A box over the border gives what there is of it.
    assert cv2.imread(str(out / "7" / "videos_12_00000.jpg")).shape == (30, 20, 3)
    found = faces_by_source(out, set(read_metadata(root / "cs6_metadata.csv")))
    assert {source: len(names) for source, names in found.items()} == {
        (4, "videos/12.mp4"): FRAMES,
        (7, "videos/12.mp4"): FRAMES,
        (4, "img/9.png"): 1,
    }


def test_a_second_run_writes_only_what_is_missing(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    cut_crops(root, out)
    (out / "4" / "videos_12_00003.jpg").unlink()
    assert cut_crops(root, out) == (2 * FRAMES + 1, 1)
    (root / "videos" / "12.mp4").unlink()
    assert cut_crops(root, out) == (2 * FRAMES + 1, 0)  # nothing is left to decode


def test_the_command_takes_every_nth_frame(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    result = CliRunner().invoke(app, ["crops", str(root), str(out), "--every", "3"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("crops: 5 in")
    assert sorted(path.name for path in (out / "7").iterdir()) == [
        "videos_12_00000.jpg",
        "videos_12_00003.jpg",
    ]


def test_what_is_missing_or_too_short_is_said(root: Path, tmp_path: Path) -> None:
    with (root / "cs6_metadata.csv").open("a") as file:
        file.write("4,videos/12.mp4,99,1,1,5,5\n")
    with pytest.raises(SourceCorrupt, match=r"12\.mp4: expected frame 99, .* ends before"):
        cut_crops(root, tmp_path / "a")
    (root / "img" / "9.png").unlink()
    with pytest.raises(SourceMissing, match=r"9\.png: expected the image"):
        cut_crops(root, tmp_path / "b")
    (root / "videos" / "12.mp4").write_bytes(b"no video")
    (root / "cs6_metadata.csv").write_text("H\n4,videos/12.mp4,0,1,1,5,5\n")
    with pytest.raises(SourceCorrupt, match="not readable as video"):
        cut_crops(root, tmp_path / "c")
    (root / "cs6_metadata.csv").write_text("H\n4,videos/12.mp4\n")
    with pytest.raises(ConfigError, match="expected boxes"):
        cut_crops(root, tmp_path / "d")


def test_a_box_outside_the_frame_still_gives_a_pixel() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    assert cut_box(image, np.array([50.0, 50.0, 60.0, 60.0]), 0.0).shape == (1, 1, 3)
    assert cut_box(image, np.array([-30.0, -30.0, -20.0, -20.0]), 0.0).shape == (1, 1, 3)
