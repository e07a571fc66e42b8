"""The drawn scene: needs nothing, repeats itself exactly, moves."""

import numpy as np
import pytest

from facestream import ConfigError
from facestream.configs.schema import CameraConfig
from facestream.stream.source import open_source
from facestream.stream.synthetic import Painter, parse_scene

URL = "synthetic:?seed=3&faces=2&seconds=1&fps=10&size=320x180"


def test_frames_come_at_their_times() -> None:
    source = open_source(CameraConfig(name="s", url=URL))
    frames = list(source)
    assert [f.pts for f in frames] == pytest.approx([i / 10 for i in range(10)])
    assert all(f.image.shape == (180, 320, 3) for f in frames)
    assert (source.info.frames, source.info.duration, source.info.live) == (10, 1.0, False)


def test_the_same_address_gives_the_same_pixels() -> None:
    first, second = Painter(parse_scene(URL)), Painter(parse_scene(URL))
    assert np.array_equal(first.paint(0.7), second.paint(0.7))
    other = Painter(parse_scene(URL.replace("seed=3", "seed=4")))
    assert not np.array_equal(first.paint(0.7), other.paint(0.7))


def test_faces_move_and_stay_in_the_picture() -> None:
    painter = Painter(parse_scene("synthetic:?faces=4&seed=9"))
    boxes = np.stack([painter.boxes(t) for t in np.linspace(0, 20, 100)])
    assert boxes.shape == (100, 4, 4)
    assert np.all(np.ptp(boxes[:, :, 0], axis=0) > 10)
    assert boxes[..., :2].min() > 0
    assert boxes[..., 2].max() < 640 and boxes[..., 3].max() < 360


@pytest.mark.parametrize(
    "query",
    ["colour=red", "fps=0", "size=big", "faces=-1", "size=10x10", "seconds=x", "seconds=inf"],
)
def test_a_wrong_parameter_is_named(query: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_scene(f"synthetic:?{query}")


def test_what_is_no_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected synthetic:\?"):
        parse_scene("synthetic:seconds=1")


def test_less_than_a_frame_is_one_frame_and_not_an_endless_scene() -> None:
    source = open_source(CameraConfig(name="s", url="synthetic:?seconds=0.01&fps=10"))
    assert len(list(source)) == source.info.frames == 1
