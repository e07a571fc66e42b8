"""Loads a pack: detector, embedder and quality source as its card describes them, verified."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import CorruptModelFile, MissingModelFile
from .backends import Backend, open_session
from .caface_head import load_head
from .card import Card, HeadSpec
from .detectors.centerface import CenterFace
from .detectors.scrfd import Scrfd
from .detectors.yunet import YuNet
from .embedder import OnnxEmbedder
from .ida_learned import LearnedDensity, load_learned_density
from .inference import (
    AlignTemplate,
    Detector,
    Embedder,
    Floats,
    Image,
    QualitySource,
    Session,
)
from .open_set_tracks import Strangers, load_strangers
from .pixels import PixelFormat
from .quality import ModelQuality, NormQuality, TrainingFreeQuality
from .quality_head import HeadQuality, load_quality_head
from .scalar_fusion import load_scalar_head
from .store import load_card, network

__all__ = ["Pack", "load_card", "open_pack", "self_test_crop"]

DETECTORS: Mapping[str, Callable[..., Detector]] = {
    "centerface": CenterFace,
    "scrfd": Scrfd,
    "yunet": YuNet,
}


@dataclass(frozen=True, eq=False)
class Pack:
    """A pack that is ready to run."""

    card: Card
    detector: Detector
    embedder: Embedder
    quality: QualitySource
    consumers: Mapping[str, AlignTemplate]
    """The crops a face needs: "embedder", and "quality" where that source wants its own."""
    anchors: Floats | None
    """(A, C) float32 unit vectors; None where the card has no `ida` section."""
    learned: LearnedDensity | None
    """IDA-L: predicts what the anchors measure; None where the card has none."""
    fusion_heads: Mapping[str, Path]
    """Files of the trained heads by the name of their aggregator: "learned", "caface"."""
    provider: str
    """What really runs the networks, for people: "onnxruntime CPU"."""
    strangers: Strangers | None = None
    """What thresholds are fitted to; None where the card has none."""


def open_pack(
    card_or_name: Card | str | Path,
    *,
    backend: Backend = "onnxruntime",
    device: str = "auto",
    threads: int = 0,
    tap: Callable[[str, Session], Session] | None = None,
) -> Pack:
    """Verify a pack's files, build what has to be built, load it and run its self-test.

    device and threads as in `backends.open_session`. tap: wraps each network's session, by its key
    in the card, for measuring. Nothing is downloaded. Raises UnknownPack,
    MissingModelFile (naming the command that brings the file), CorruptModelFile (a checksum, or a
    self-test that gives other numbers), ModelError and BackendUnavailable.
    """
    card = card_or_name if isinstance(card_or_name, Card) else load_card(card_or_name)

    def session(key: str, style_tensors: tuple[str, ...] = ()) -> Session:
        path = network(card, key, style_tensors)
        opened = open_session(path, backend=backend, device=device, threads=threads)
        return opened if tap is None else tap(key, opened)

    embedding = session(card.embedder.file, card.embedder.style_tensors)
    embedder = _embedder(card, embedding)
    quality = _quality(card, session)
    consumers = {"embedder": embedder.template}
    if quality.template is not None:
        consumers["quality"] = quality.template
    _self_test(card, embedder)
    return Pack(
        card=card,
        detector=DETECTORS[card.detector.kind](
            session(card.detector.file), score=card.detector.score
        ),
        embedder=embedder,
        quality=quality,
        consumers=consumers,
        anchors=load_anchors(card),
        learned=load_learned(card),
        fusion_heads=fusion_heads(card),
        provider=embedding.provider,
        strangers=strangers_of(card),
    )


def self_test_crop(size: int) -> Image:
    """The synthetic crop (size, size, 3) uint8 BGR of the self-test, the same on every machine.

    Blue grows to the right, green downwards, red with the squared distance from the upper left
    quarter: swapped colours, swapped axes and wrong scales all change what a network says of it.
    """
    y, x = np.mgrid[:size, :size]
    distance = (x - size // 4) ** 2 + (y - size // 4) ** 2
    planes = [plane * 255 // plane.max() for plane in (x, y, distance)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def anchor_version(data: bytes) -> str:
    """The version of anchors whose .npy file holds these bytes, for `ida.anchor_version`."""
    return hashlib.sha256(data).hexdigest()[:12]


def _embedder(card: Card, session: Session) -> OnnxEmbedder:
    spec = card.embedder
    embedder = OnnxEmbedder(
        session,
        template=spec.template.arrays(),
        dimension=spec.dimension,
        pixels=PixelFormat(spec.channel_order, spec.mean, spec.std, spec.layout),
    )
    if embedder.style_channels != spec.style_channels:
        raise CorruptModelFile(
            f"pack {card.name!r}: expected {spec.style_channels} style channels from "
            f"{', '.join(spec.style_tensors)}, the network gives {embedder.style_channels}"
        )
    return embedder


def _quality(card: Card, session: Callable[[str], Session]) -> QualitySource:
    spec = card.quality
    if spec.kind == "norm":
        return NormQuality()
    if spec.head is not None:
        path = head_file(card, spec.head)
        head = load_quality_head(path)
        has = (head.dimension, head.styles)
        if has != (wanted := (card.embedder.dimension, card.embedder.style_channels)):
            raise CorruptModelFile(
                f"{path}: expected a quality head of dimension and style channels {wanted}, got "
                f"{has}; it was trained for another embedder"
            )
        return HeadQuality(head, unit=spec.unit or "head 0..1")
    # A card of kind model has both: checked when it is read.
    if spec.kind == "training_free" or spec.file is None or spec.template is None:
        return TrainingFreeQuality()
    pixels = PixelFormat(spec.channel_order, spec.mean, spec.std, spec.layout)
    return ModelQuality(
        session(spec.file), template=spec.template.arrays(), pixels=pixels, unit=spec.unit
    )


def _self_test(card: Card, embedder: Embedder) -> None:
    """Raise CorruptModelFile when the embedder does not say what the card expects of it."""
    if card.self_test is None:
        return
    expected = np.array(card.self_test.values, np.float32)
    crop = self_test_crop(card.embedder.template.size)
    got = embedder.embed(crop[None]).embeddings[0, : expected.size]
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error <= card.self_test.tolerance:
        raise CorruptModelFile(
            f"pack {card.name!r}: the embedder's self-test is off by {error:.2g} of its largest "
            f"value, allowed is {card.self_test.tolerance:g}; another network, or this runtime "
            "computes wrongly: try `facestream models verify`, another backend, or device cpu"
        )


def _beside(card: Card, file: str) -> Path:
    """A data file that lies beside the card."""
    path = card.folder / file
    if not path.is_file():
        raise MissingModelFile(
            f"pack {card.name!r} needs {file} beside its card in {card.folder}; it comes with the "
            "card, so install the package or copy the card's folder again"
        )
    return path


def fusion_heads(card: Card) -> dict[str, Path]:
    """The card's heads by the name of their aggregator, once they are known to fit.

    Raises MissingModelFile, CorruptModelFile (another checksum, no head) or ModelError (a head of
    another embedder).
    """
    found = {name: head_file(card, spec) for name, spec in card.fusion.heads.items()}
    fits = {"dimension": card.embedder.dimension, "styles": card.embedder.style_channels}
    for name, path in found.items():
        (load_head if name == "caface" else load_scalar_head)(path, **fits)
    return found


def head_file(card: Card, spec: HeadSpec) -> Path:
    """A head beside the card, verified; raises MissingModelFile or CorruptModelFile."""
    path = _beside(card, spec.file)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != spec.sha256:
        raise CorruptModelFile(
            f"{path}: expected sha256 {spec.sha256}, got {found}; it comes with the card, so "
            "install the package or copy the card's folder again"
        )
    return path


def strangers_of(card: Card) -> Strangers | None:
    """The card's tracks of strangers, verified; None where it has none.

    Raises MissingModelFile or CorruptModelFile.
    """
    if card.strangers is None:
        return None
    return load_strangers(head_file(card, card.strangers), card.embedder.dimension)


def load_learned(card: Card) -> LearnedDensity | None:
    """The pack's SSR, once it is known to fit its embedder and its anchors."""
    ida = card.ida
    if ida is None or ida.learned is None:
        return None
    path = head_file(card, ida.learned)
    learned = load_learned_density(path)
    has = (learned.dimension, learned.k, learned.tau)
    if has != (wanted := (card.embedder.dimension, ida.k, ida.tau)):
        raise CorruptModelFile(
            f"{path}: expected an SSR of dimension, k and tau {wanted}, got {has}; it was trained "
            f"for other anchors: `facestream train ida` makes one for pack {card.name!r}"
        )
    return learned


def load_anchors(card: Card) -> Floats | None:
    """The card's anchors (A, C) float32, unit; None where it has none.

    Raises MissingModelFile, or CorruptModelFile for other anchors than the card's.
    """
    if card.ida is None:
        return None
    path = _beside(card, card.ida.anchors)
    data = path.read_bytes()
    # Densities are stored under this version, so other vectors under the same one would be wrong
    # in silence.
    version = anchor_version(data)
    if version != card.ida.anchor_version:
        raise CorruptModelFile(
            f"{path}: expected anchors of version {card.ida.anchor_version}, got {version}; they "
            "come with the card, so install the package or copy the card's folder again"
        )
    try:
        stored = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptModelFile(f"{path}: not an .npy file of anchors ({error})") from None
    dimension = card.embedder.dimension
    if stored.dtype.kind != "f" or stored.shape[1:] != (dimension,) or not len(stored):
        raise CorruptModelFile(
            f"{path}: expected anchors (A, {dimension}) float16, got {stored.shape} {stored.dtype}"
        )
    anchors = stored.astype(np.float32)
    # float16 rounds lengths by up to 5e-4; scores want exact unit vectors.
    lengths = np.linalg.norm(anchors, axis=1, keepdims=True)
    if not np.allclose(lengths, 1.0, atol=1e-2):
        raise CorruptModelFile(f"{path}: anchors must be unit vectors")
    return np.asarray(anchors / lengths, dtype=np.float32)
