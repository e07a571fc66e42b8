from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError
from facestream.configs.schema import DetectConfig
from facestream.models.align import ARCFACE_112, resize_template, warp
from facestream.models.backends import open_session
from facestream.models.detectors.yunet import YuNet
from facestream.models.inference import Detector, FaceBoxes, Floats, Image
from facestream.stream.detect import DetectStage, look, well_formed
from facestream.stream.records import Detections, Frame

CONSUMERS = {"embedder": ARCFACE_112, "quality": resize_template(ARCFACE_112, 96)}


class DotDetector:
    """Finds the red discs that `paint` draws: a small, honest detector that needs no weights.

    The box is the disc's, the landmarks lie in it as in a face; best (largest) first.
    """

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []
        self.scores: list[float | None] = []

    def detect(self, images: Sequence[Image], *, score: float | None = None) -> list[FaceBoxes]:
        self.batches.append([image.shape for image in images])
        self.scores.append(score)
        return [self._find(image) for image in images]

    @staticmethod
    def _find(image: Image) -> FaceBoxes:
        red = ((image[..., 2] > 128) & (image[..., 0] < 128)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red)
        found = sorted(stats[1:].tolist(), key=lambda stat: -stat[cv2.CC_STAT_AREA])
        boxes = [[x, y, x + width, y + height] for x, y, width, height, _ in found]
        return as_faces(boxes, [0.9 - 0.01 * n for n in range(len(found))])


SHARES = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def as_faces(boxes: list[list[float]], scores: list[float]) -> FaceBoxes:
    box = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    landmarks = box[:, None, :2] + SHARES * (box[:, 2:] - box[:, :2])[:, None]
    return FaceBoxes(box, landmarks.astype(np.float32), np.array(scores, dtype=np.float32))


class Fixed:
    """Says the same of every picture."""

    def __init__(self, faces: FaceBoxes) -> None:
        self.faces = faces

    def detect(self, images: Sequence[Image], *, score: float | None = None) -> list[FaceBoxes]:
        return [self.faces for _ in images]


def paint(width: int, height: int, *discs: tuple[int, int, int]) -> Image:
    """A blue picture with red discs (centre x, centre y, diameter)."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = 255
    for x, y, diameter in discs:
        cv2.circle(image, (x, y), diameter // 2, (0, 0, 255), -1)
    return image


def frame(image: Image, camera: str = "door", sequence: int = 0) -> Frame:
    return Frame(camera, sequence, 0.0, 1.7e9, image)


def stage(
    detector: Detector,
    *,
    gate: float = 0.0,
    regions: dict[str, tuple[float, float, float, float]] | None = None,
    **config: float,
) -> DetectStage:
    settings = DetectConfig(**config)  # type: ignore[arg-type]
    return DetectStage(detector, CONSUMERS, settings, regions or {}, gate)


def detect_one(detector: Detector, image: Image, **options: float) -> Detections:
    (detections,) = stage(detector, **options).process([frame(image)])  # type: ignore[arg-type]
    return detections


# --- coordinates ---


@pytest.mark.parametrize("longest_side", [2000, 960, 640, 400])
def test_boxes_come_back_in_pixels_of_the_full_frame(longest_side: int) -> None:
    image = paint(1920, 1080, (400, 300, 200), (1500, 700, 90))
    detections = detect_one(DotDetector(), image, longest_side=longest_side)
    scale = max(1920 / longest_side, 1.0)
    boxes = np.stack([face.box for face in detections.faces])
    assert boxes == pytest.approx(
        np.array([[300, 200, 500, 400], [1455, 655, 1545, 745]]), abs=scale + 1
    )
    assert detections.frame == frame(image).ref


def test_small_frames_are_not_enlarged() -> None:
    detector = DotDetector()
    detect_one(detector, paint(320, 240), longest_side=960)
    assert detector.batches == [[(240, 320, 3)]]


def test_only_the_region_of_the_camera_is_looked_at() -> None:
    image = paint(1000, 500, (200, 250, 80), (700, 250, 60))
    detector = DotDetector()
    halves = stage(detector, regions={"right": (0.5, 0.2, 1.0, 1.0)}, smallest_face=10)
    left, right = halves.process([frame(image, "whole"), frame(image, "right")])
    assert len(left.faces) == 2
    (face,) = right.faces
    assert face.box == pytest.approx(np.array([670, 220, 731, 281]), abs=1)
    assert face.landmarks == pytest.approx(left.faces[1].landmarks, abs=1)  # both full-frame
    assert detector.batches == [[(480, 960, 3)], [(400, 500, 3)]]


def test_a_region_without_pixels_is_an_error() -> None:
    with pytest.raises(ConfigError, match="region of interest must hold pixels"):
        look(paint(100, 100), (0.5, 0.5, 0.5, 1.0), 960)


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(20, 700),
    height=st.integers(20, 700),
    longest_side=st.integers(64, 400),
    left=st.floats(0, 0.4),
    right=st.floats(0.6, 1),
)
def test_a_view_covers_its_region_exactly(
    width: int, height: int, longest_side: int, left: float, right: float
) -> None:
    view = look(paint(width, height), (left, 0.0, right, 1.0), longest_side)
    seen = np.array(view.image.shape[1::-1])
    assert seen.max() <= longest_side
    covered = seen * view.scale + view.origin
    assert covered == pytest.approx([round(right * width), height])
    assert view.origin == (round(left * width), 0)


def test_scaling_down_averages_every_pixel_so_that_thin_things_stay() -> None:
    """Plain bilinear scaling by 4.5 reads 2 of every 4.5 columns: these lines would be gone."""
    lines = np.zeros((2160, 4320, 3), dtype=np.uint8)
    lines[:, 5::45] = 255
    view = look(lines, (0.0, 0.0, 1.0, 1.0), 960)
    assert view.image.shape == (480, 960, 3)
    kept = view.image[0, :, 0].reshape(-1, 10).sum(axis=1)
    assert kept.min() > 30  # 255 / 4.5 = 57 grey levels per line when nothing is lost


# --- batches ---


def test_frames_of_one_size_share_batches_and_answers_keep_their_order() -> None:
    detector = DotDetector()
    frames = [
        frame(
            paint(200 + 100 * (n % 2), 200, (60 + 10 * n, 100, 40)),
            camera=f"c{n % 3}",
            sequence=n,
        )
        for n in range(7)
    ]
    detections = stage(detector, batch=3, score=0.25).process(frames)
    assert [item.frame.sequence for item in detections] == list(range(7))
    assert [round(item.faces[0].box[[0, 2]].mean()) for item in detections] == pytest.approx(
        [60 + 10 * n for n in range(7)], abs=1
    )
    assert [len(batch) for batch in detector.batches] == [3, 1, 3]
    assert all(len(set(batch)) == 1 for batch in detector.batches)
    assert set(detector.scores) == {0.25}


def test_no_frames_give_no_detections() -> None:
    assert stage(DotDetector()).process([]) == []


# --- what is left out ---


def test_small_faces_are_counted_and_left_out() -> None:
    image = paint(640, 480, (100, 100, 60), (300, 100, 12), (400, 100, 8))
    detections = detect_one(DotDetector(), image, smallest_face=20)
    assert len(detections.faces) == 1
    assert detections.rejected == {"too_small": 2}


def test_faces_below_the_gate_are_kept_without_crops() -> None:
    """A disc's eyes are 0.4 of its width apart."""
    image = paint(640, 480, (100, 100, 100), (300, 100, 50))
    detections = detect_one(DotDetector(), image, gate=30.0)
    assert [set(face.crops) for face in detections.faces] == [{"embedder", "quality"}, set()]
    assert detections.rejected == {"below_gate": 1}


NAN, INF = float("nan"), float("inf")


def damaged() -> tuple[FaceBoxes, int]:
    """Two good faces among what a detector must not say; the number of bad ones."""
    good = [[100.0, 100, 160, 180], [300.0, 100, 360, 180]]
    bad = [[NAN, 0, 50, 50], [0, 0, INF, 50], [50.0, 50, 50, 90], [90.0, 90, 60, 120]]
    others = [[400.0, 300, 460, 380]] * 4
    faces = as_faces(good + bad + others, [0.9] * 10)
    faces.landmarks[6] = [430, 340]  # all in one place
    faces.landmarks[7] += 200  # beside the face
    faces.landmarks[8, 2, 0] = NAN
    faces.scores[9] = NAN
    return faces, 8


def test_what_cannot_be_a_face_is_counted_as_malformed() -> None:
    faces, bad = damaged()
    detections = detect_one(Fixed(faces), paint(640, 480))
    assert [face.box[0] for face in detections.faces] == [100, 300]
    assert detections.rejected == {"malformed": bad}


def test_heads_may_be_turned_any_way_up() -> None:
    faces = as_faces([[100, 100, 160, 180]], [0.9])
    turned = faces.landmarks[:, :, ::-1] - faces.landmarks[:, :, ::-1].mean(1) + [130, 140]
    upside_down = 2 * np.array([130, 140]) - faces.landmarks
    for landmarks in (turned, upside_down):
        good = well_formed(faces.boxes.astype(float), landmarks.astype(float), faces.scores)
        assert good.tolist() == [0]


def test_a_face_partly_outside_the_picture_is_kept_with_a_black_rim() -> None:
    faces = as_faces([[-30, 100, 50, 200]], [0.9])
    white = np.full((480, 640, 3), 255, dtype=np.uint8)
    (face,) = detect_one(Fixed(faces), white).faces
    assert face.box[0] == -30
    assert (face.crops["embedder"][:, 0] == 0).all() and (face.crops["embedder"][:, -1] > 0).all()


# --- crops ---


def test_every_consumer_gets_its_own_crop_of_the_full_frame() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (1080, 1920, 3), dtype=np.uint8)  # scaling would blur this
    faces = as_faces([[200, 100, 260, 180]], [0.9])
    (face,) = detect_one(Fixed(faces), image, longest_side=640).faces
    assert face.box == pytest.approx(faces.boxes[0] * 3)
    for consumer, template in CONSUMERS.items():
        crop = face.crops[consumer]
        assert crop.shape == (template.size, template.size, 3)
        assert np.array_equal(crop, warp(image, face.landmarks, template))
        assert crop.base is None  # evidence keeps a crop alone, not its whole batch


# --- real faces ---


@pytest.fixture(scope="module")
def yunet(assets: Path) -> Detector:
    return YuNet(open_session(assets / "models" / "yunet_n_dynamic.onnx"))


def test_real_landmarks_are_the_same_at_any_scale(assets: Path, yunet: Detector) -> None:
    photo = cv2.imread(str(sorted((assets / "london" / "gallery_neutral").iterdir())[0]))
    assert photo is not None
    image = np.full((1080, 1920, 3), 128, dtype=np.uint8)
    image[300:650, 1200:1550] = cv2.resize(photo, (350, 350), interpolation=cv2.INTER_AREA)
    whole = detect_one(yunet, image, longest_side=1920).faces[0]
    eyes = float(np.linalg.norm(whole.landmarks[1] - whole.landmarks[0]))
    for longest_side in (1280, 960, 640):
        (scaled,) = detect_one(yunet, image, longest_side=longest_side).faces
        assert scaled.landmarks == pytest.approx(whole.landmarks, abs=0.1 * eyes)


def test_real_faces_are_well_formed(assets: Path, yunet: Detector) -> None:
    photos = sorted((assets / "london" / "probe_smiling").iterdir())[:8]
    images: list[Image] = [cv2.imread(str(photo)) for photo in photos]  # type: ignore[misc]
    found = stage(yunet).process([frame(image, sequence=n) for n, image in enumerate(images)])
    assert [len(item.faces) for item in found] == [1] * 8
    assert not any(item.rejected for item in found)
    crops: list[Floats] = [item.faces[0].crops["embedder"].astype(np.float32) for item in found]
    assert all(crop.std() > 20 for crop in crops)
