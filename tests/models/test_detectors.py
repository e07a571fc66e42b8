"""Detectors: decoding checked on networks that read their outputs from painted pixels, then faces.

A painted network is one convolution per output: at every cell it passes on chosen pixels of the
picture. A test paints scores, boxes and landmarks into a picture and knows what must come out.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from onnx import helper

from facestream import CorruptModelFile, RecordError
from facestream.models.backends import open_session
from facestream.models.detectors.batching import suppress
from facestream.models.detectors.centerface import CenterFace
from facestream.models.detectors.scrfd import Scrfd
from facestream.models.detectors.yunet import YuNet

STRIDES = (8, 16, 32)
STEP = 1 / 16
"""A painted value v stands for (v - 128) * STEP, a painted score v for v / 255."""


def paint(image: np.ndarray, plane: int, stride: int, cell: tuple[int, int], values) -> None:
    """Write the values, a row of `stride` at a time, into one plane of the cell (row, column)."""
    y, x = cell[0] * stride, cell[1] * stride
    for index, value in enumerate(values):
        image[y + index // stride, x + index % stride, plane] = value


class Readers:
    """Collects the nodes and weights of a painted network."""

    def __init__(self, gain: float = 1.0, bias: float = 0.0) -> None:
        """gain, bias: pixel value = gain * network input + bias."""
        self.gain, self.bias = gain, bias
        self.nodes: list = []
        self.weights: dict[str, np.ndarray] = {}

    def read(self, name: str, plane: int, stride: int, first: int, count: int, score=False) -> str:
        """A (N, count, H / stride, W / stride) tensor of `count` painted values from `first` on."""
        gain, bias = (1 / 255, 0.0) if score else (STEP, -128 * STEP)
        kernel = np.zeros((count, 3, stride, stride), np.float32)
        for channel in range(count):
            index = first + channel
            kernel[channel, plane, index // stride, index % stride] = gain * self.gain
        self.weights[f"{name}_w"] = kernel
        self.weights[f"{name}_b"] = np.full(count, gain * self.bias + bias, np.float32)
        self.nodes.append(
            helper.make_node(
                "Conv", ["input", f"{name}_w", f"{name}_b"], [name], strides=[stride, stride]
            )
        )
        return name

    def rows(self, tensor: str, output: str, order: list[int], shape: list[int]) -> None:
        """Transpose and reshape, as the exporters of anchor-based detectors do."""
        self.weights[f"{output}_shape"] = np.array(shape, np.int64)
        self.nodes += [
            helper.make_node("Transpose", [tensor], [f"{output}_t"], perm=order),
            helper.make_node("Reshape", [f"{output}_t", f"{output}_shape"], [output]),
        ]


PICTURES = {"input": ["batch", 3, "height", "width"]}


@pytest.fixture
def centerface(build_network) -> CenterFace:
    """Heat, scale (h, w), offset (y, x), landmarks (y, x) x 5, read from the red plane."""
    net, first, outputs = Readers(), 0, {}
    for name, count in (("537", 1), ("538", 2), ("539", 2), ("540", 10)):
        net.read(name, plane=0, stride=4, first=first, count=count, score=name == "537")
        outputs[name] = ["batch", count, "rows", "columns"]
        first += count
    model = build_network(net.nodes, PICTURES, outputs, net.weights)
    return CenterFace(open_session(model.SerializeToString()), batch=8)


@pytest.fixture
def yunet(build_network) -> YuNet:
    """cls, obj, bbox, kps of stride 8 from the blue plane, 16 from green, 32 from red."""
    net, outputs = Readers(), {}
    for plane, stride in enumerate(STRIDES):
        first = 0
        for kind, count in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            name = f"{kind}_{stride}"
            tensor = net.read(f"{name}_map", plane, stride, first, count, score=count == 1)
            net.rows(tensor, name, [0, 2, 3, 1], [0, -1, count])
            outputs[name] = ["batch", f"cells_{stride}", count]
            first += count
    model = build_network(net.nodes, PICTURES, outputs, net.weights)
    return YuNet(open_session(model.SerializeToString()), batch=8)


def paint_scrfd(build_network, *, batched: bool) -> Scrfd:
    """Score, box, landmarks of two anchors; RGB, so stride 8 reads red, 16 green, 32 blue."""
    net, outputs = Readers(gain=128.0, bias=127.5), {}
    for kind, count in (("score", 1), ("bbox", 4), ("kps", 10)):
        for plane, stride in enumerate(STRIDES):
            first = {"score": 0, "bbox": 2, "kps": 10}[kind]
            name = f"{kind}_{stride}"
            tensor = net.read(f"{name}_m", plane, stride, first, 2 * count, score=kind == "score")
            if batched:
                net.rows(tensor, name, [0, 2, 3, 1], [0, -1, count])
                outputs[name] = ["batch", f"cells_{stride}", count]
            else:
                net.rows(tensor, name, [2, 3, 0, 1], [-1, count])
                outputs[name] = [f"cells_{stride}", count]
    pictures = PICTURES if batched else {"input": [1, 3, "height", "width"]}
    model = build_network(net.nodes, pictures, outputs, net.weights)
    return Scrfd(open_session(model.SerializeToString()), batch=8)


@pytest.fixture
def scrfd_batched(build_network) -> Scrfd:
    """An export with a batch dimension."""
    return paint_scrfd(build_network, batched=True)


@pytest.fixture
def scrfd_single(build_network) -> Scrfd:
    """An export for one picture at a time, as buffalo_l's and antelopev2's are."""
    return paint_scrfd(build_network, batched=False)


def number(value: int) -> float:
    return (value - 128) * STEP


def black(height: int = 96, width: int = 128) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


LANDMARKS = [118, 117, 116, 138, 129, 126, 142, 119, 141, 137]


def test_centerface_decodes_what_is_painted(centerface):
    image = black()
    height, width, down, right = 172, 168, 132, 124
    shares = [133, 132, 133, 139, 136, 136, 140, 133, 140, 139]
    paint(image, 2, 4, (11, 15), [204, height, width, down, right, *shares])
    (faces,) = centerface.detect([image])

    h, w = 4 * np.exp(number(height)), 4 * np.exp(number(width))
    top = (11 + number(down) + 0.5) * 4 - h / 2
    left = (15 + number(right) + 0.5) * 4 - w / 2
    assert faces.scores == pytest.approx([0.8], abs=1e-6)
    assert faces.boxes[0] == pytest.approx([left, top, left + w, top + h], rel=1e-5)
    expected = [
        (left + w * number(shares[i + 1]), top + h * number(shares[i])) for i in range(0, 10, 2)
    ]
    assert faces.landmarks[0] == pytest.approx(np.array(expected), rel=1e-5)


@pytest.mark.parametrize("level", range(3))
def test_yunet_decodes_what_is_painted(yunet, level):
    stride, image = STRIDES[level], black()
    box = [132, 120, 140, 144]
    paint(image, level, stride, (1, 2), [255, 163, *box, *LANDMARKS])
    (faces,) = yunet.detect([image])

    x, y = (2 + number(box[0])) * stride, (1 + number(box[1])) * stride
    w, h = np.exp(number(box[2])) * stride, np.exp(number(box[3])) * stride
    assert faces.scores == pytest.approx([np.sqrt(163 / 255)], abs=1e-6)
    assert faces.boxes[0] == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], rel=1e-5)
    pairs = np.array([number(value) for value in LANDMARKS]).reshape(5, 2)
    assert faces.landmarks[0] == pytest.approx(np.add(pairs, (2, 1)) * stride, rel=1e-5)


@pytest.mark.parametrize("export", ["scrfd_batched", "scrfd_single"])
@pytest.mark.parametrize("anchor", range(2))
@pytest.mark.parametrize("level", range(3))
def test_scrfd_decodes_what_is_painted(request, level, anchor, export):
    scrfd: Scrfd = request.getfixturevalue(export)
    stride, image = STRIDES[level], black()
    reach = [140, 136, 150, 160]
    values = np.zeros(30, np.uint8)
    values[anchor] = 230
    values[2 + 4 * anchor : 6 + 4 * anchor] = reach
    values[10 + 10 * anchor : 20 + 10 * anchor] = LANDMARKS
    paint(image, 2 - level, stride, (1, 2), values)
    (faces,) = scrfd.detect([image])

    x, y = 2 * stride, stride
    left, top, right, bottom = (number(value) * stride for value in reach)
    assert faces.scores == pytest.approx([230 / 255], abs=1e-5)
    assert faces.boxes[0] == pytest.approx([x - left, y - top, x + right, y + bottom], rel=1e-4)
    pairs = np.array([number(value) for value in LANDMARKS]).reshape(5, 2) * stride
    assert faces.landmarks[0] == pytest.approx(np.add(pairs, (x, y)), rel=1e-4, abs=1e-4)


@pytest.fixture(params=["centerface", "yunet", "scrfd_batched", "scrfd_single"])
def detector(request):
    return request.getfixturevalue(request.param)


def scene(seed: int, height: int, width: int) -> np.ndarray:
    """Random pixels: painted networks see a crowd in them."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_batch_equals_single_runs(detector):
    """Pictures of one size, of sizes that pad to one batch, and of others, in any order."""
    sizes = [(96, 128), (90, 120), (96, 128), (33, 200), (65, 97), (90, 120)]
    images = [scene(seed, *size) for seed, size in enumerate(sizes)]
    together = detector.detect(images)
    assert sum(len(faces.scores) for faces in together) > 20
    for image, faces in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        for one, other in zip(faces, alone, strict=True):
            assert one.shape == other.shape
            assert np.allclose(one, other, atol=1e-4)


def test_faces_are_sorted_and_do_not_overlap(detector):
    (faces,) = detector.detect([scene(3, 96, 128)])
    assert (np.diff(faces.scores) <= 0).all()
    assert overlaps(faces.boxes).max() <= 0.4 + 1e-5


@pytest.mark.parametrize("batch, runs", [(None, [1] * 5), (1, [1] * 5), (2, [2, 2, 1]), (8, [5])])
def test_pictures_run_one_by_one_on_a_processor_unless_asked(yunet, batch, runs):
    """On a CPU a batch is slower per picture than single runs, so it is not the default there."""
    seen = []

    class Counting:
        inputs, outputs, provider = yunet._session.inputs, yunet._session.outputs, "some CPU"

        def run(self, feeds):
            seen.append(len(feeds["input"]))
            return yunet._session.run(feeds)

    detector = YuNet(Counting(), batch=batch)
    seen.clear()  # the probe at loading
    detector.detect([black()] * 5)
    assert seen == runs


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of different boxes."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    iou = shared / (area[:, None] + area - shared)
    return iou[~np.eye(len(boxes), dtype=bool)]


def test_nothing_found_has_the_right_shapes(detector):
    for faces in detector.detect([black(), black(40, 40)]):
        assert faces.boxes.shape == (0, 4)
        assert faces.landmarks.shape == (0, 5, 2)
        assert faces.scores.shape == (0,)
        assert all(part.dtype == np.float32 for part in faces)
    assert detector.detect([]) == []


def test_the_asked_score_replaces_the_default(detector):
    image = scene(5, 96, 128)
    counts = [len(detector.detect([image], score=s)[0].scores) for s in (0.05, 0.5, 0.999)]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("bad", [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32)])
def test_other_pictures_are_refused(detector, bad):
    with pytest.raises(RecordError, match=r"must be \(H, W, 3\) uint8 BGR"):
        detector.detect([bad])


@pytest.mark.parametrize("kind", [CenterFace, YuNet, Scrfd])
def test_another_network_is_refused(kind, make_embedder):
    session = open_session(make_embedder(size="any").SerializeToString())
    with pytest.raises(CorruptModelFile, match=f"(?i){kind.__name__}: "):
        kind(session)


@pytest.mark.parametrize("kind", [CenterFace, Scrfd])
def test_fixed_shapes_are_refused(kind, make_embedder):
    with pytest.raises(CorruptModelFile, match="free its shapes"):
        kind(open_session(make_embedder(size=8).SerializeToString()))


def test_faces_without_geometry_are_left_out():
    """Outside the picture, empty, not a number, or with all landmarks in one place."""
    points = np.array([[3, 3], [7, 3], [5, 5], [3, 7], [7, 7]], np.float32)
    good, nan = [0, 0, 10, 10], [0, 0, np.nan, 10]
    boxes = np.array([good, [40, 0, 60, 10], [5, 5, 5, 9], nan, good], np.float32)
    landmarks = np.stack([points] * 4 + [np.full((5, 2), 5.0)]).astype(np.float32)
    faces = suppress(boxes, landmarks, np.linspace(0.5, 0.9, 5, dtype=np.float32), 0.9, (40, 40))
    assert faces.boxes.tolist() == [good]


# Real faces


@pytest.fixture(scope="module")
def portraits(assets) -> list[np.ndarray]:
    """Eight people, shrunk to three sizes as in a surveillance picture."""
    paths = sorted((assets / "london" / "gallery_neutral").glob("*.jpg"))[:8]
    scales = (1.0, 0.5, 0.3)
    return [
        cv2.resize(cv2.imread(str(path)), None, fx=s, fy=s, interpolation=cv2.INTER_AREA)
        for path, s in zip(paths, scales * 3, strict=False)
    ]


@pytest.fixture(scope="module")
def real_yunet(assets) -> YuNet:
    return YuNet(open_session(assets / "models" / "yunet_n_dynamic.onnx"), batch=8)


@pytest.fixture(params=["centerface", "yunet"])
def real_detector(request):
    if request.param == "yunet":
        return request.getfixturevalue("real_yunet")
    return CenterFace(request.getfixturevalue("open_models").detector._session, batch=8)


def test_one_face_per_portrait_with_landmarks_in_order(real_detector, portraits):
    for image, faces in zip(portraits, real_detector.detect(portraits), strict=True):
        assert len(faces.scores) == 1
        left_eye, right_eye, nose, left_mouth, right_mouth = faces.landmarks[0]
        x0, y0, x1, y1 = faces.boxes[0]
        assert x0 < left_eye[0] < nose[0] < right_eye[0] < x1
        assert left_mouth[0] < nose[0] < right_mouth[0]
        assert y0 < max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        assert y1 > left_mouth[1]
        assert 0.25 < (y1 - y0) / image.shape[0] < 0.75


def test_real_batches_equal_single_runs(real_detector, portraits):
    for image, faces in zip(portraits, real_detector.detect(portraits), strict=True):
        for one, other in zip(faces, real_detector.detect([image])[0], strict=True):
            assert np.allclose(one, other, atol=1e-3 if one.ndim > 1 else 1e-4)


def test_yunet_agrees_with_opencv(real_yunet, portraits, assets):
    """cv2.FaceDetectorYN is an independent decoder of the same network."""
    model = assets / "models" / "yunet_n_640_640.onnx"
    opencv = cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.6, 0.3)
    for image, faces in zip(portraits, real_yunet.detect(portraits), strict=True):
        opencv.setInputSize(image.shape[1::-1])
        theirs = opencv.detect(image)[1]
        x, y, w, h = theirs[:, :4].T
        assert faces.boxes == pytest.approx(np.stack([x, y, x + w, y + h], 1), abs=0.05)
        assert faces.landmarks.reshape(-1, 10) == pytest.approx(theirs[:, 4:14], abs=0.05)
        assert faces.scores == pytest.approx(theirs[:, 14], abs=1e-3)
