"""dlib's weight file: read strictly, and the ONNX built from it says what dlib says."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import CorruptModelFile, MissingModelFile
from facestream.models.align import warp_faces
from facestream.models.dlib_graph import build_dlib_graph
from facestream.models.dlib_weights import Convolution, DlibNetwork, _Reader, read_dlib_network
from facestream.models.inference import Image
from facestream.models.pack import Pack
from facestream.models.store import locate

Crops = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def weights(open_models: Pack) -> Path:
    return locate(open_models.card, "dlib_weights")


@pytest.fixture(scope="module")
def network(weights: Path) -> DlibNetwork:
    return read_dlib_network(weights)


@pytest.fixture(scope="module")
def session(network: DlibNetwork, open_models: Pack) -> onnxruntime.InferenceSession:
    model = build_dlib_graph(network)
    # The stages become outputs, so that their shapes can be looked at.
    for name in open_models.card.embedder.style_tensors:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def embed(
    session: onnxruntime.InferenceSession, network: DlibNetwork, crops: Crops
) -> npt.NDArray[np.float32]:
    """crops (N, 150, 150, 3) uint8 RGB -> (N, 128)."""
    pixels = (crops.astype(np.float32) - np.array(network.mean, np.float32)) / np.float32(256)
    result = session.run(["embedding"], {"input": pixels.transpose(0, 3, 1, 2)})[0]
    return np.asarray(result)


def ask_dlib(weights: Path, crops: Crops) -> npt.NDArray[np.float64]:
    dlib = pytest.importorskip("dlib")
    model = dlib.face_recognition_model_v1(str(weights))
    return np.array([model.compute_face_descriptor(np.ascontiguousarray(c)) for c in crops])


def crops_of(pack: Pack, picture: Image) -> Crops:
    """Aligned RGB crops of every face of a picture."""
    landmarks = pack.detector.detect([picture])[0].landmarks
    return warp_faces(picture, landmarks, pack.embedder.template)[..., ::-1]


def filters(network: DlibNetwork) -> list[Convolution]:
    return [layer for layer in network.layers if isinstance(layer, Convolution)]


def test_the_file_holds_the_29_layer_resnet(network: DlibNetwork) -> None:
    found = filters(network)
    assert len(found) == 29
    assert network.side == 150
    assert network.mean == pytest.approx((122.782, 117.001, 104.298))
    assert found[0].weights.shape == (32, 3, 7, 7)
    # Convolutions that halve the picture have no padding.
    assert all(f.padding == (0, 0) for f in found if f.stride == (2, 2))


def test_random_pictures_give_dlibs_output(
    session: onnxruntime.InferenceSession, network: DlibNetwork, weights: Path
) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)
    flat = np.stack([np.full((150, 150, 3), level, np.uint8) for level in (0, 255)])
    crops = np.concatenate([noise, flat])
    np.testing.assert_allclose(
        embed(session, network, crops), ask_dlib(weights, crops), rtol=0, atol=1e-5
    )


def test_faces_of_the_group_photo_give_dlibs_output(
    session: onnxruntime.InferenceSession,
    network: DlibNetwork,
    weights: Path,
    open_models: Pack,
    group_photo: Image,
) -> None:
    crops = crops_of(open_models, group_photo)
    assert len(crops) == 6
    np.testing.assert_allclose(
        embed(session, network, crops), ask_dlib(weights, crops), rtol=0, atol=1e-5
    )


def test_real_portraits_give_dlibs_output(
    session: onnxruntime.InferenceSession,
    network: DlibNetwork,
    weights: Path,
    open_models: Pack,
    assets: Path,
) -> None:
    paths = sorted((assets / "london" / "gallery_neutral").glob("*.jpg"))[:4]
    pictures = [np.asarray(cv2.imread(str(path)), np.uint8) for path in paths]
    crops = np.concatenate([crops_of(open_models, picture) for picture in pictures])
    assert len(crops) >= 4
    np.testing.assert_allclose(
        embed(session, network, crops), ask_dlib(weights, crops), rtol=0, atol=1e-5
    )


def test_a_batch_gives_what_its_rows_give_alone(
    session: onnxruntime.InferenceSession, network: DlibNetwork
) -> None:
    crops = np.random.default_rng(1).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)
    alone = np.concatenate([embed(session, network, crop[None]) for crop in crops])
    np.testing.assert_allclose(embed(session, network, crops), alone, rtol=0, atol=1e-6)


def test_style_tensors_of_the_card_are_the_middle_stages(
    session: onnxruntime.InferenceSession, open_models: Pack
) -> None:
    feeds = {"input": np.zeros((2, 3, 150, 150), np.float32)}
    names = list(open_models.card.embedder.style_tensors)
    shapes = [tensor.shape for tensor in session.run(names, feeds)]
    assert shapes == [(2, 64, 17, 17), (2, 128, 8, 8)]


@pytest.fixture(scope="module")
def head(weights: Path) -> bytes:
    """Through the first convolution: every kind of field once, and short enough to cut often."""
    return weights.read_bytes()[:30_000]


@given(cut=st.integers(0, 29_999))
@settings(max_examples=60, deadline=None)
def test_a_truncated_file_is_named_with_its_offset(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "cut.dat"
    path.write_bytes(head[:cut])
    with pytest.raises(CorruptModelFile, match=rf"cut\.dat: expected .* at byte \d+ of {cut}"):
        read_dlib_network(path)


@given(at=st.integers(0, 320), value=st.integers(0, 255))
@settings(max_examples=20, deadline=None)
def test_a_changed_header_is_an_error_or_still_a_network(
    tmp_path_factory: pytest.TempPathFactory, weights: Path, at: int, value: int
) -> None:
    data = bytearray(weights.read_bytes())
    data[at] = value
    path = tmp_path_factory.mktemp("changed") / "changed.dat"
    path.write_bytes(data)
    try:
        network = read_dlib_network(path)
        build_dlib_graph(network)
    except CorruptModelFile as error:
        assert "\n" not in str(error)


@given(mantissa=st.integers(-(2**64) + 1, 2**64 - 1), exponent=st.integers(-(2**63), 2**63))
@settings(max_examples=60, deadline=None)
def test_any_float_of_the_format_is_a_number_or_an_error(mantissa: int, exponent: int) -> None:
    def integer(value: int) -> bytes:
        data = abs(value).to_bytes(8, "little")
        return bytes([8 | (0x80 if value < 0 else 0)]) + data

    reader = _Reader(integer(mantissa) + integer(exponent), "x.dat")
    try:
        value = reader.number("margin")
    except CorruptModelFile:
        assert abs(exponent) > 900
    else:
        assert value == math.ldexp(mantissa, exponent)


def test_a_stride_of_nothing_is_refused(
    weights: Path, tmp_path: Path, network: DlibNetwork
) -> None:
    """Of the first convolution: 32 filters of 7 x 7 in steps of 2 x 2."""
    data = weights.read_bytes()
    fields = bytes([1, 32, 1, 7, 1, 7, 1, 2, 1, 2])
    at = data.index(fields) + len(fields) - 1
    assert filters(network)[0].stride == (2, 2)
    path = tmp_path / "still.dat"
    path.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    with pytest.raises(CorruptModelFile, match=r"expected stride at byte \d+.*got 2 x 0"):
        read_dlib_network(path)


def test_trailing_bytes_and_other_files_are_refused(tmp_path: Path, weights: Path) -> None:
    longer = tmp_path / "longer.dat"
    longer.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(CorruptModelFile, match="expected the end of the file at byte 22466066"):
        read_dlib_network(longer)
    with pytest.raises(CorruptModelFile, match="version of the loss layer"):
        read_dlib_network(Path(sys.executable))
    with pytest.raises(MissingModelFile, match="no such file"):
        read_dlib_network(tmp_path / "none.dat")
