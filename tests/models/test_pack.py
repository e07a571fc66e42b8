"""Loading packs: the default and the better one on real faces, InsightFace's on tiny networks."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from onnx import ModelProto, helper

from facestream import CorruptModelFile, MissingModelFile, ModelError
from facestream.models.align import warp_faces
from facestream.models.caface_head import HeadSize, random_head, save_head
from facestream.models.card import Card, FusionSpec, HeadSpec, IdaSpec, QualitySpec, SelfTestSpec
from facestream.models.card_file import read_card
from facestream.models.ida_learned import LearnedDensity, save_learned_density
from facestream.models.pack import Pack, anchor_version, open_pack, self_test_crop
from facestream.models.quality_head import QualityHead, load_quality_head, save_quality_head
from facestream.models.store import CARDS

Floats = npt.NDArray[np.float32]
BuildNetwork = Callable[..., ModelProto]


def embed_portraits(pack: Pack, folder: Path, count: int) -> Floats:
    """Unit embeddings (count, C) of the best face of each portrait."""
    found = []
    for path in sorted(folder.glob("*.jpg"))[:count]:
        picture = np.asarray(cv2.imread(str(path)), np.uint8)
        landmarks = pack.detector.detect([picture])[0].landmarks[:1]
        crops = warp_faces(picture, landmarks, pack.consumers["embedder"])
        found.append(pack.embedder.embed(crops).embeddings[0])
    embeddings = np.stack(found)
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["open_models", "omz_models"])
def test_the_same_person_is_clearly_above_different_people(
    name: str, request: pytest.FixtureRequest, assets: Path
) -> None:
    pack: Pack = request.getfixturevalue(name)
    gallery = embed_portraits(pack, assets / "london" / "gallery_neutral", 16)
    probes = embed_portraits(pack, assets / "london" / "probe_smiling", 16)
    cosines = probes @ gallery.T
    genuine = np.diag(cosines)
    impostor = cosines[~np.eye(16, dtype=bool)]
    assert genuine.mean() > impostor.mean() + 3 * impostor.std()
    # Everybody is their own best match, but for one person at most.
    assert (cosines.argmax(axis=1) == np.arange(16)).sum() >= 15


@pytest.mark.parametrize("name", ["open_models", "omz_models"])
def test_a_pack_has_what_its_card_says(name: str, request: pytest.FixtureRequest) -> None:
    pack: Pack = request.getfixturevalue(name)
    spec = pack.card.embedder
    embedded = pack.embedder.embed(self_test_crop(spec.template.size)[None])
    assert embedded.embeddings.shape == (1, spec.dimension)
    assert embedded.styles.shape == (1, spec.style_channels, 2)
    assert pack.consumers["embedder"] == pack.embedder.template
    assert pack.consumers.get("quality") == pack.quality.template
    assert pack.provider.startswith("onnxruntime")
    assert pack.card.self_test is not None
    if pack.anchors is not None:
        assert pack.anchors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(pack.anchors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ["open_models", "omz_models"])
def test_openvino_gives_the_same_embeddings(name: str, request: pytest.FixtureRequest) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed: nothing to compare with")
    pack: Pack = request.getfixturevalue(name)
    other = open_pack(pack.card, backend="openvino")
    crop = self_test_crop(pack.embedder.template.size)[None]
    assert other.provider.startswith("openvino")
    np.testing.assert_allclose(
        other.embedder.embed(crop).embeddings,
        pack.embedder.embed(crop).embeddings,
        rtol=0,
        atol=1e-4 * float(pack.embedder.embed(crop).norms[0]),
    )


def test_swapped_colours_fail_the_self_test(open_models: Pack) -> None:
    card = open_models.card
    swapped = dataclasses.replace(card.embedder, channel_order="BGR")
    with pytest.raises(CorruptModelFile, match=r"pack 'open': the embedder's self-test is off by"):
        open_pack(dataclasses.replace(card, embedder=swapped))


def test_the_self_test_crop_is_the_same_everywhere() -> None:
    crop = self_test_crop(150)
    assert crop.shape == (150, 150, 3)
    digest = hashlib.sha256(crop.tobytes()).hexdigest()
    assert digest == "7cbefa8016cbdb3a7dda3310366f31e44e433e0060b6d145e5011c8183874938"


def scrfd_network(build: BuildNetwork) -> ModelProto:
    """Nine outputs as SCRFD's: scores, boxes and landmarks at strides 8, 16 and 32."""
    random = np.random.default_rng(3)
    nodes, outputs, weights = [], {}, {}
    weights["shape_1"], weights["shape_4"], weights["shape_10"] = (
        np.array([-1, width], np.int64) for width in (1, 4, 10)
    )
    for stride in (8, 16, 32):
        for width in (1, 4, 10):
            name = f"{stride}_{width}"
            weights[f"w{name}"] = random.normal(0, 0.001, (2 * width, 3, stride, stride)).astype(
                np.float32
            )
            nodes += [
                helper.make_node("Conv", ["input", f"w{name}"], [f"c{name}"], strides=[stride] * 2),
                helper.make_node("Transpose", [f"c{name}"], [f"t{name}"], perm=[2, 3, 0, 1]),
                helper.make_node("Reshape", [f"t{name}", f"shape_{width}"], [f"r{name}"]),
                helper.make_node("Sigmoid" if width == 1 else "Relu", [f"r{name}"], [name]),
            ]
            outputs[name] = ["rows", width]
    return build(nodes, {"input": [1, 3, "height", "width"]}, outputs, weights)


@pytest.fixture
def tiny_pack(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build_network: BuildNetwork,
    make_embedder: BuildNetwork,
) -> Callable[[str], Path]:
    """Writes the card of an InsightFace pack over tiny networks of the same shape."""

    def write(name: str) -> Path:
        raw = yaml.safe_load((CARDS / f"{name}.yaml").read_text(encoding="utf-8"))
        networks = {
            "detector": scrfd_network(build_network),
            "embedder": make_embedder(dimension=512, size=112),
        }
        for key, model in networks.items():
            data = model.SerializeToString()
            spec = raw["files"][key]
            spec.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
            folder = tmp_path / "models" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / spec["file"]).write_bytes(data)
        card = tmp_path / f"{name}.yaml"
        card.write_text(yaml.safe_dump(raw), encoding="utf-8")
        monkeypatch.setenv("FACESTREAM_MODELS", str(tmp_path / "models"))
        monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path / "cache"))
        return card

    return write


@pytest.mark.parametrize("name", ["buffalo_l", "antelopev2"])
def test_insightface_packs_load_on_networks_of_their_shape(
    name: str, tiny_pack: Callable[[str], Path]
) -> None:
    pack = open_pack(tiny_pack(name))
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    assert len(pack.detector.detect([picture])) == 1
    embedded = pack.embedder.embed(self_test_crop(112)[None])
    assert embedded.embeddings.shape == (1, 512)
    assert embedded.styles.shape == (1, 0, 2)
    assert pack.anchors is None or pack.anchors.shape[1] == 512


def test_another_network_under_the_right_name_is_refused(
    tiny_pack: Callable[[str], Path],
) -> None:
    path = tiny_pack("buffalo_l")
    card = read_card(path)
    smaller = dataclasses.replace(card.embedder, dimension=128)
    with pytest.raises(CorruptModelFile, match="expected embeddings"):
        open_pack(dataclasses.replace(card, embedder=smaller))
    odd = dataclasses.replace(card.embedder, style_tensors=("relu1",), style_channels=5)
    with pytest.raises(CorruptModelFile, match="expected 5 style channels from relu1"):
        open_pack(dataclasses.replace(card, embedder=odd))
    wrong = SelfTestSpec(values=(1.0, 2.0))
    with pytest.raises(CorruptModelFile, match="self-test is off"):
        open_pack(dataclasses.replace(card, self_test=wrong))


def test_anchors_lie_beside_the_card_and_are_unit_vectors(
    tiny_pack: Callable[[str], Path],
) -> None:
    plain = read_card(tiny_pack("buffalo_l"))
    file = plain.folder / "buffalo_l.anchors.npy"

    def with_anchors(content: bytes) -> Card:
        ida = IdaSpec(anchors=file.name, anchor_version=anchor_version(content), k=2, tau=0.1)
        return dataclasses.replace(plain, ida=ida)

    def npy(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    with pytest.raises(MissingModelFile, match=r"needs buffalo_l\.anchors\.npy beside its card"):
        open_pack(with_anchors(b""))
    anchors = np.random.default_rng(0).normal(size=(5, 512))
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    good = npy(anchors.astype(np.float16))
    file.write_bytes(good)
    loaded = open_pack(with_anchors(good)).anchors
    assert loaded is not None
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(loaded, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(loaded, anchors, atol=1e-3)
    file.write_bytes(npy(anchors[::-1].astype(np.float16)))
    with pytest.raises(CorruptModelFile, match="expected anchors of version"):
        open_pack(with_anchors(good))
    for bad, message in (
        (npy(anchors[:, :7]), r"expected anchors \(A, 512\).*got \(5, 7\)"),
        (npy(np.array(["face"])), r"got \(1,\) <U4"),
        (npy(anchors * 2), "must be unit vectors"),
        (good[:-9], r"not an \.npy file"),
        (b"text", r"not an \.npy file"),
        (b"", r"not an \.npy file"),
    ):
        file.write_bytes(bad)
        with pytest.raises(CorruptModelFile, match=message):
            open_pack(with_anchors(bad))


def test_a_quality_head_is_verified_and_fits_the_embedder(
    tiny_pack: Callable[[str], Path],
) -> None:
    plain = read_card(tiny_pack("buffalo_l"))
    assert plain.embedder.style_channels == 0
    file, draw = plain.folder / "buffalo_l.quality.npz", np.random.default_rng(0)

    def write(dimension: int = 512) -> Card:
        shapes = {"fc1.weight": (3, dimension + 1), "fc1.bias": (3,), "fc2.weight": (1, 3)}
        arrays = {n: draw.normal(size=s).astype(np.float32) for n, s in shapes.items()}
        arrays["fc2.bias"] = np.zeros(1, np.float32)
        arrays["mean"] = np.zeros(dimension + 1, np.float32)
        arrays["deviation"] = np.ones(dimension + 1, np.float32)
        save_quality_head(file, QualityHead(arrays, dimension, 0))
        head = HeadSpec(file.name, hashlib.sha256(file.read_bytes()).hexdigest(), "MIT")
        return dataclasses.replace(plain, quality=QualitySpec("head", unit="0..1", head=head))

    card = write()
    pack = open_pack(card)
    assert list(pack.consumers) == ["embedder"] and pack.quality.unit == "0..1"
    size = pack.embedder.template.size
    crops = draw.integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    embedded = pack.embedder.embed(crops)
    nothing = np.zeros((2, 4), np.float32)
    found = pack.quality.score(crops=crops, embedded=embedded, boxes=nothing, scores=nothing[:, 0])
    expected = load_quality_head(file).score(embedded.embeddings, embedded.styles)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(CorruptModelFile, match=r"style channels \(512, 0\), got \(7, 0\)"):
        open_pack(write(dimension=7))
    with pytest.raises(CorruptModelFile, match="expected sha256"):
        open_pack(card)


def test_a_learned_density_is_verified_and_fits_the_anchors(
    tiny_pack: Callable[[str], Path],
) -> None:
    plain = read_card(tiny_pack("buffalo_l"))
    buffer, draw = io.BytesIO(), np.random.default_rng(0)
    anchors = draw.normal(size=(5, 512))
    np.save(buffer, (anchors / np.linalg.norm(anchors, axis=1, keepdims=True)).astype(np.float16))
    (plain.folder / "a.npy").write_bytes(buffer.getvalue())
    file = plain.folder / "buffalo_l.ssr.npz"

    def write(*, dimension: int = 512, k: int = 2, tau: float = 1.0) -> Card:
        shapes = {"fc1.weight": (3, dimension), "fc1.bias": (3,), "fc2.weight": (1, 3)}
        weights = {n: draw.normal(size=s).astype(np.float32) for n, s in shapes.items()}
        weights["fc2.bias"] = np.zeros(1, np.float32)
        save_learned_density(file, LearnedDensity(weights, k=k, tau=tau))
        sha = hashlib.sha256(file.read_bytes()).hexdigest()
        head = HeadSpec(file.name, sha, "MIT")
        version = anchor_version(buffer.getvalue())
        ida = IdaSpec("a.npy", anchor_version=version, k=2, tau=1.0, learned=head)
        return dataclasses.replace(plain, ida=ida)

    card = write()
    learned = open_pack(card).learned
    assert learned is not None and (learned.dimension, learned.k) == (512, 2)
    assert open_pack(plain).learned is None
    for wrong in ({"dimension": 7}, {"k": 3}, {"tau": 2.0}):
        with pytest.raises(CorruptModelFile, match=r"SSR of dimension, k and tau \(512, 2, 1\.0\)"):
            open_pack(write(**wrong))
    write()  # other weights under the sum of the first
    with pytest.raises(CorruptModelFile, match="expected sha256"):
        open_pack(card)
    file.unlink()
    with pytest.raises(MissingModelFile, match=r"needs buffalo_l\.ssr\.npz beside its card"):
        open_pack(card)


def test_a_head_lies_beside_the_card_and_fits_the_embedder(
    tiny_pack: Callable[[str], Path],
) -> None:
    plain = read_card(tiny_pack("buffalo_l"))

    def card_of(name: str = "caface") -> Card:
        sha = hashlib.sha256(head.read_bytes() if head.is_file() else b"").hexdigest()
        fusion = FusionSpec(name, **{name: HeadSpec("head.npz", sha, "MIT")})  # type: ignore[arg-type]
        return dataclasses.replace(plain, fusion=fusion)

    head = plain.folder / "head.npz"
    with pytest.raises(MissingModelFile, match=r"needs head\.npz beside its card"):
        open_pack(card_of())
    save_head(head, random_head(0, HeadSize(512, 0, 2)))
    assert open_pack(card_of()).fusion_heads == {"caface": head}
    first = card_of()
    save_head(head, random_head(0, HeadSize(128, 0, 2)))
    with pytest.raises(ModelError, match="128 numbers per embedding, the embedder gives 512"):
        open_pack(card_of())
    with pytest.raises(CorruptModelFile, match="expected sha256"):
        open_pack(first)
    save_head(head, random_head(0, HeadSize(512, 384, 2)))
    with pytest.raises(ModelError, match="384 style channels, the embedder gives 0"):
        open_pack(card_of())
    head.write_bytes(b"text")
    with pytest.raises(CorruptModelFile, match="not a CAFace head"):
        open_pack(card_of())
    with pytest.raises(CorruptModelFile, match="not a learned fusion head"):
        open_pack(card_of("learned"))


def test_a_pack_that_is_not_here_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path))
    monkeypatch.delenv("FACESTREAM_MODELS", raising=False)
    with pytest.raises(MissingModelFile, match="`facestream models pull open`"):
        open_pack("open")
    with pytest.raises(ModelError, match="no model pack 'opne'"):
        open_pack("opne")
