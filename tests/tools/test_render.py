"""The rendered clip: what the truth promises is what the pictures show.

The photograph here is drawn: coloured faces with dark hair on a plain wall, so that no real face
is needed and every person can be told by colour.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from facestream.models.inference import FaceBoxes
from facestream.tools import figures, render, scene

COLOURS = ((60, 90, 220), (60, 200, 90), (220, 120, 60))


def draw_people() -> tuple[np.ndarray, FaceBoxes]:
    """A drawn photograph of three people and their faces, rightmost first."""
    photo = np.full((400, 900, 3), 205, np.uint8)
    boxes, landmarks = [], []
    for i, colour in reversed(list(enumerate(COLOURS))):
        x = 150 + 300 * i
        cv2.ellipse(photo, (x, 185), (62, 90), 0, 0, 360, (20, 20, 20), -1)
        cv2.ellipse(photo, (x, 200), (45, 60), 0, 0, 360, colour, -1)
        cv2.rectangle(photo, (x - 110, 290), (x + 110, 400), (120, 40, 40), -1)
        boxes.append((x - 45, 140, x + 45, 260))
        landmarks.append([(x - 20, 185), (x + 20, 185), (x, 205), (x - 16, 230), (x + 16, 230)])
    count = len(boxes)
    return photo, FaceBoxes(
        np.array(boxes, np.float32), np.array(landmarks, np.float32), np.ones(count, np.float32)
    )


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="bgr24") for f in container.decode(video=0)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, render.Truth]:
    out = tmp_path_factory.mktemp("clip") / "clip.mp4"
    photo, faces = draw_people()
    return out, render.render_clip(photo, faces, out, seconds=4, fps=10, size=(480, 270))


def test_clip_is_h264_of_the_promised_format(clip: tuple[Path, render.Truth]) -> None:
    path, truth = clip
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == (480, 270) == truth.size
        assert stream.average_rate == Fraction(10)
        frames = list(container.decode(stream))
    assert len(frames) == 40 == len(truth.frames)
    assert sum(f.key_frame for f in frames) >= 2


def test_truth_boxes_show_the_person_they_name(clip: tuple[Path, render.Truth]) -> None:
    """Persons are counted left to right, whatever the order of the detections."""
    path, truth = clip
    checked = 0
    for picture, faces in zip(decode(path), truth.frames, strict=True):
        for face in faces:
            x0, y0, x1, y1 = face.box
            if face.visible < 0.95 or y1 - y0 < 18:
                continue
            middle = picture[round((y0 + y1) / 2), round((x0 + x1) / 2)].astype(int)
            distances = [np.abs(middle - colour).sum() for colour in COLOURS]
            assert int(np.argmin(distances)) == face.person
            checked += 1
    assert checked >= 8


def test_several_people_grow_as_they_come_nearer(clip: tuple[Path, render.Truth]) -> None:
    _, truth = clip
    assert max(len(faces) for faces in truth.frames) >= 2
    for person in range(3):
        heights = [
            f.box[3] - f.box[1] for faces in truth.frames for f in faces if f.person == person
        ]
        assert heights == sorted(heights) or np.mean(np.diff(heights) > 0) > 0.9


def test_same_seed_same_pictures() -> None:
    photo, faces = draw_people()
    heads = render.cast(photo, faces)

    def film(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        shots = render.film(heads, 0.4, 5, (320, 180), render.Camera(), generator)
        return np.stack([picture for picture, _ in shots])

    first = film(1)
    np.testing.assert_array_equal(first, film(1))
    assert not np.array_equal(first, film(2))


def test_nearer_people_hide_those_behind() -> None:
    """Visible shares follow from the layers painted over a face."""
    behind = render.TruthFace(0, (10.0, 10.0, 30.0, 30.0), 1.0)
    layer = np.zeros((20, 10, 4), np.uint8)
    layer[..., 3] = 255
    (covered,) = render._cover([behind], layer, (20, 10))
    assert covered.visible == pytest.approx(0.5)


def test_a_head_is_cut_without_its_surroundings() -> None:
    photo, faces = draw_people()
    for box, points in zip(faces.boxes, faces.landmarks, strict=True):
        head = figures.cut_head(photo, box, points)
        alpha = head.layer[..., 3]
        x0, y0, x1, y1 = head.face.round().astype(int)
        assert alpha[(y0 + y1) // 2, (x0 + x1) // 2] == 255
        assert not alpha[[0, -1]].any()
        assert not alpha[:, [0, -1]].any()
        assert np.all(head.layer[..., :3] <= alpha[..., None])  # premultiplied


def test_walks_enter_hidden_and_leave_the_picture() -> None:
    view = scene.view_of(960, 540)
    reach = scene.HALF_WIDTH / scene.CORNER
    for walk in render.WALKS:
        start = render.locate(walk, 0.0)
        assert start is not None
        assert abs(start.x / start.z) > reach  # round the corner
        steps = [render.locate(walk, t) for t in np.arange(0, 15, 0.04)]
        last = [s for s in steps if s is not None][-1]
        assert abs(view.focal * last.x / last.z) > view.width / 2 - 60
        assert render.locate(walk, -0.1) is None


def test_enrolment_photos_leave_people_out(tmp_path: Path) -> None:
    photo, faces = draw_people()
    named = render.enrolment_photos(photo, faces, tmp_path / "known", leave_out=(1,))
    assert named == {0: render.PLACEHOLDER_NAMES[0], 2: render.PLACEHOLDER_NAMES[2]}
    assert sorted(p.name for p in (tmp_path / "known").iterdir()) == ["Ari.jpg", "Cam.jpg"]
    portrait = cv2.imread(str(tmp_path / "known" / "Cam.jpg"))
    assert portrait is not None
    assert portrait.shape == (480, 400, 3)
    middle = portrait[205, 200].astype(int)
    assert int(np.argmin([np.abs(middle - c).sum() for c in COLOURS])) == 2


def test_real_faces_are_found_in_the_enrolment_photos(tmp_path: Path) -> None:
    """With a real detector: exactly one face in each portrait of real people."""
    assets = os.environ.get("FACESTREAM_ASSETS")
    if not assets:
        pytest.skip("FACESTREAM_ASSETS is not set: no photographs of real faces")
    stills = sorted(Path(assets, "london", "gallery_neutral").glob("*.jpg"))[:3]
    assert len(stills) == 3
    model = Path(assets, "models", "yunet_n_640_640.onnx")
    photo = np.hstack([cv2.resize(cv2.imread(str(p)), (400, 400)) for p in stills])
    found = cv2.FaceDetectorYN.create(str(model), "", (1200, 400), 0.7).detect(photo)[1]
    faces = FaceBoxes(
        np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1).astype(np.float32),
        found[:, 4:14].reshape(-1, 5, 2).astype(np.float32),
        found[:, 14].astype(np.float32),
    )
    named = render.enrolment_photos(photo, faces, tmp_path, leave_out=())
    assert len(named) == 3
    detector = cv2.FaceDetectorYN.create(str(model), "", (400, 480), 0.7)
    for path in tmp_path.iterdir():
        portrait = cv2.imread(str(path))
        assert portrait is not None
        assert len(detector.detect(portrait)[1]) == 1
