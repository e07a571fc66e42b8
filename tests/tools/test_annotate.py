"""The annotated video: decoded again, its frames keep their times and show boxes and labels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.stream.records import Face, Frame, FrameRef, Tracked, TrackedFace
from facestream.stream.watcher import Label
from facestream.tools import annotate
from facestream.tools.annotate import AnnotatedVideo
from facestream.tools.palette import COLOURS, UNDECIDED, UNKNOWN, Palette


def make_frame(pts: float, camera: str = "cam1", width: int = 320, height: int = 240) -> Frame:
    image = np.full((height, width, 3), 90, np.uint8)
    return Frame(camera, round(pts * 100), pts, 1.7e9 + pts, image)


def track_faces(frame: Frame, *boxes: tuple[float, float, float, float]) -> Tracked:
    faces = tuple(
        TrackedFace(i, 0, Face(np.array(box, np.float32), np.zeros((5, 2), np.float32), 0.9))
        for i, box in enumerate(boxes)
    )
    return Tracked(frame.ref, faces)


def decode(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [float(f.pts * f.time_base) for f in frames if f.pts is not None and f.time_base]
    return times, [f.to_ndarray(format="bgr24") for f in frames]


def near(pixel: np.ndarray, colour: str, slack: int = 60) -> bool:
    """Whether a decoded BGR pixel is close to #rrggbb, compression aside."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (5, 3, 1)])
    return int(np.abs(pixel.astype(int) - wanted).max()) < slack


def test_variable_frame_times_are_kept(tmp_path: Path) -> None:
    """Frames that were left out leave their gap; a clock that stands still moves on."""
    times = [5.0, 5.04, 5.08, 5.5, 5.51, 7.0]
    video = AnnotatedVideo(tmp_path)
    for pts in times:
        frame = make_frame(pts)
        video.frame(frame, track_faces(frame), {})
    video.close()
    video.close()
    (path,) = video.paths
    assert path.name == "annotated-cam1.mp4"
    got, _ = decode(path)
    assert got == pytest.approx([t - 5.0 for t in times], abs=1e-3)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_frames_of_a_stalled_clock_are_all_written(tmp_path: Path) -> None:
    video = AnnotatedVideo(tmp_path)
    for pts in (1.0, 1.0, 0.5, 2.0):
        frame = make_frame(pts)
        video.frame(frame, track_faces(frame), {})
    video.close()
    times, _ = decode(video.paths[0])
    assert len(times) == 4
    assert times == sorted(times)


def test_boxes_have_the_colour_of_the_identity(tmp_path: Path) -> None:
    palette = Palette()
    video = AnnotatedVideo(tmp_path, palette)
    labels = {
        0: Label("Zoë 王", True, 0.61),
        1: Label(None, True, 0.1),
        2: Label(None, False, None),
    }
    for n in range(3):
        frame = make_frame(n / 25, width=640, height=480)
        boxes = ((60, 200, 140, 300), (260, 200, 340, 300), (460, 200, 540, 300))
        video.frame(frame, track_faces(frame, *boxes), labels)
    video.close()
    picture = decode(video.paths[0])[1][-1]
    assert near(picture[250, 60], palette.of("Zoë 王"))
    assert near(picture[250, 260], UNKNOWN)
    assert near(picture[250, 460], UNDECIDED)
    assert palette.of("Zoë 王") in COLOURS
    assert near(picture[250, 100], "#5a5a5a", 12)  # the face itself stays visible


def test_odd_sizes_and_a_size_change_and_two_cameras(tmp_path: Path) -> None:
    video = AnnotatedVideo(tmp_path)
    for n, (camera, width, height) in enumerate(
        [("cam1", 321, 241), ("dock/2", 160, 120), ("cam1", 321, 241), ("cam1", 640, 200)]
    ):
        frame = make_frame(n / 10, camera, width, height)
        video.frame(frame, track_faces(frame, (10, 10, 60, 80)), {})
    video.close()
    assert [p.name for p in video.paths] == ["annotated-cam1.mp4", "annotated-dock_2.mp4"]
    _, pictures = decode(video.paths[0])
    assert [p.shape for p in pictures] == [(240, 320, 3)] * 3
    assert pictures[2][5, 160].max() < 40  # black bars above a wide picture
    assert len(decode(video.paths[1])[1]) == 1


def test_an_image_is_never_changed(tmp_path: Path) -> None:
    """Frames are shared with the pipeline: drawing happens on a copy."""
    frame = make_frame(0.0)
    before = frame.image.copy()
    video = AnnotatedVideo(tmp_path)
    video.frame(frame, track_faces(frame, (10, 10, 60, 80)), {0: Label("Ada", True, 0.5)})
    video.close()
    np.testing.assert_array_equal(frame.image, before)


@settings(max_examples=60, deadline=None)
@given(
    box=st.tuples(*[st.integers(-80, 400)] * 2, *[st.integers(1, 200)] * 2),
    name=st.text(max_size=60),
    size=st.tuples(st.integers(16, 400), st.integers(16, 300)),
)
def test_any_box_and_any_name_can_be_drawn(
    box: tuple[int, int, int, int], name: str, size: tuple[int, int]
) -> None:
    """Also outside the picture, on tiny pictures, and with control characters in names."""
    x, y, w, h = box
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    ref = FrameRef("cam1", 0, 0.0, 0.0, *size)
    face = Face(np.array([x, y, x + w, y + h], np.float32), np.zeros((5, 2), np.float32), 0.9)
    tracked = Tracked(ref, (TrackedFace(0, 0, face),))
    annotate.draw_faces(picture, tracked, {0: Label(name, True, 0.5)}, Palette())
    annotate.draw_caption(picture, name)


def test_labels_make_room_for_each_other() -> None:
    """Inside the picture, not on another label."""
    picture, plate = (240, 320, 3), (20, 60, 3)
    first = annotate.place_plate((100, 100, 140, 150), plate, picture, [], 2)
    assert first == (99, 78, 159, 98)  # above
    second = annotate.place_plate((110, 105, 140, 150), plate, picture, [first], 2)
    assert second[1] >= 150  # below
    top = annotate.place_plate((300, 2, 318, 40), plate, picture, [], 2)
    assert top == (260, 42, 320, 62)  # below, and pushed in from the right


def test_texts() -> None:
    assert annotate.text_of(Label("Ada", True, 0.614)) == "Ada 0.614"
    assert annotate.text_of(Label("A" * 99, True, 0.614)) == "A" * 23 + "… 0.614"
    assert annotate.text_of(Label("Ada", True, 0.614, ("Ada", "Bo"))) == "Ada or Bo 0.614"
    assert annotate.text_of(Label(None, True, 0.2)) == "unknown"
    assert annotate.text_of(Label(None, False, None)) == ""


def test_colours_stay_with_their_identity() -> None:
    palette = Palette()
    names = [f"person {i}" for i in range(len(COLOURS))]
    given_first = [palette.of(name) for name in names]
    assert len(set(given_first)) == len(COLOURS)
    assert [palette.of(name) for name in reversed(names)] == given_first[::-1]
    assert palette.of("one more") in COLOURS


def test_time_base_is_fine_enough_for_ntsc(tmp_path: Path) -> None:
    video = AnnotatedVideo(tmp_path)
    step = Fraction(1001, 30000)
    for n in range(10):
        frame = make_frame(float(n * step))
        video.frame(frame, track_faces(frame), {})
    video.close()
    times, _ = decode(video.paths[0])
    assert np.diff(times) == pytest.approx([float(step)] * 9, abs=2e-4)
