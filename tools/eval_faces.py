"""The faces of an evaluation: where their pictures are, how they are aligned and embedded.

A set of faces can be sent to other processes: it holds paths and numbers, no pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from .. import ConfigError
from ..configs.paths import data_folder

if TYPE_CHECKING:
    from ..models.card import Card
    from ..models.feature_store import Compute, Features, FeatureStore
    from ..models.inference import FaceBoxes, Floats, Image
    from ..models.pack import Pack

Alignment = Literal["aligned", "landmarks", "detect"]

ALIGNMENTS: dict[Alignment, str] = {
    "aligned": "pictures are crops aligned to the ArcFace template",
    "landmarks": "faces aligned by the given five landmarks",
    "detect": "faces found by the pack's detector, the one nearest to the middle taken",
}
"""How a face comes out of its picture, in words for reports."""


class Pictures(Protocol):
    """Encoded pictures by row. Picklable."""

    def read(self, row: int) -> bytes:
        """The bytes of a picture file (JPEG, PNG). Raises OSError when it is not there."""
        ...


@dataclass(frozen=True)
class FolderPictures:
    """Picture files below a folder, one per row."""

    folder: Path
    files: Sequence[str]

    def read(self, row: int) -> bytes:
        """The file's bytes."""
        return (self.folder / self.files[row]).read_bytes()


@dataclass(frozen=True, eq=False)
class FaceSet:
    """N faces with their names, unique and in the order of the rows.

    landmarks (N, 5, 2) float32 px for alignment "landmarks"; detector (N,) float32 scores that the
    data set's own list gives.
    """

    title: str
    names: Sequence[str]
    pictures: Pictures
    alignment: Alignment
    landmarks: Floats | None = None
    detector: Floats | None = None

    def fingerprint(self, *, skip_bad: bool = False) -> str:
        """Fingerprint of names, pictures and landmarks; reads every picture file once.

        Raises ConfigError naming the first picture that is missing, and how many are, unless
        skip_bad.
        """
        from ..models.feature_store import fingerprint_parts

        missing: list[str] = []
        total = fingerprint_parts(self._parts(missing))
        if missing and not skip_bad:
            raise ConfigError(
                f"{self.title}: {len(missing)} of {len(self.names)} listed pictures cannot be "
                f"read, the first is {missing[0]}: check the folder, or leave such faces out with "
                "--skip-bad"
            )
        return total

    def _parts(self, missing: list[str]) -> Iterator[tuple[str, bytes]]:
        for row, name in enumerate(self.names):
            try:
                yield name, self.pictures.read(row)
            except OSError:
                missing.append(name)
                yield name, b""
        for array in (self.landmarks, self.detector):
            yield "array", b"" if array is None else np.ascontiguousarray(array).tobytes()


class Aligned(NamedTuple):
    """One face ready for its consumers: crops by consumer, its box in px and detector score."""

    crops: dict[str, Image]
    box: Floats
    score: float


@dataclass(frozen=True)
class EmbedFaces:
    """Opens a pack where it is called and embeds faces with it: the `start` of `fill_store`."""

    pack: str | Path
    backend: str
    faces: FaceSet
    flip: bool
    styles: bool

    def __call__(self) -> Compute:
        """One thread per process: several processes use the cores better, and bits stay equal."""
        from ..models.pack import open_pack

        pack = open_pack(self.pack, backend=self.backend, threads=1)  # type: ignore[arg-type]
        return lambda rows: embed_rows(pack, self.faces, rows, flip=self.flip, styles=self.styles)


def embed_rows(pack: Pack, faces: FaceSet, rows: range, *, flip: bool, styles: bool) -> Features:
    """Features of these rows; faces that are not found or not readable are marked so."""
    from ..models.feature_store import Features, State

    count, dimension = len(rows), pack.embedder.dimension
    kept = pack.card.embedder.style_channels if styles else 0
    states = np.zeros(count, np.uint8)
    found: list[Aligned] = []
    for place, row in enumerate(rows):
        states[place], face = align_row(pack, faces, row)
        if face is not None:
            found.append(face)
    good = states == State.EMBEDDED
    result = Features(
        states,
        np.zeros((count, dimension), np.float32),
        np.zeros((count if flip else 0, dimension), np.float32),
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
        np.zeros((count, kept, 2), np.float32),
    )
    if not found:
        return result
    crops = {name: np.stack([face.crops[name] for face in found]) for name in pack.consumers}
    embedded = pack.embedder.embed(crops["embedder"])
    scores = np.array([face.score for face in found], np.float32)
    result.embeddings[good] = embedded.embeddings
    if flip:
        mirrored = np.ascontiguousarray(crops["embedder"][:, :, ::-1])
        result.flipped[good] = pack.embedder.embed(mirrored).embeddings
    if kept:
        result.styles[good] = embedded.styles
    result.detector[good] = scores
    result.quality[good] = pack.quality.score(
        crops=crops.get("quality", crops["embedder"]),
        embedded=embedded,
        boxes=np.stack([face.box for face in found]),
        scores=scores,
    )
    return result


def align_row(pack: Pack, faces: FaceSet, row: int) -> tuple[int, Aligned | None]:
    """What becomes of one face (`feature_store.State`), and the face where there is one."""
    from ..models.align import warp
    from ..models.feature_store import State
    from ..models.photo import find_faces

    image = _decode(faces.pictures, row)
    if image is None:
        return State.UNREADABLE, None
    score = 1.0 if faces.detector is None else float(faces.detector[row])
    if faces.alignment == "detect":
        seen = find_faces(pack.detector, image)
        best = central_face(seen, image)
        if best is None:
            return State.NO_FACE, None
        landmarks, box, score = seen.landmarks[best], seen.boxes[best], float(seen.scores[best])
    elif faces.landmarks is not None:
        landmarks = faces.landmarks[row]
        if not np.isfinite(landmarks).all() or np.ptp(landmarks, axis=0).max() <= 0:
            return State.NO_FACE, None
        box = _crop_box(landmarks)
    else:
        landmarks = _template_points(image)
        box = np.array([0, 0, image.shape[1], image.shape[0]], np.float32)
    whole = faces.alignment == "aligned"
    crops = {}
    for name, template in pack.consumers.items():
        same = whole and image.shape[0] == template.size
        plain = same and np.allclose(landmarks, template.points, atol=0.1)
        crops[name] = image if plain else warp(image, landmarks, template)
    return State.EMBEDDED, Aligned(crops, box, score)


def central_face(faces: FaceBoxes, image: Image) -> int | None:
    """The face whose middle is nearest to the picture's, as photo sets centre their subject."""
    if not len(faces.boxes):
        return None
    middles = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    height, width = image.shape[:2]
    away = np.linalg.norm(middles - np.array([width / 2, height / 2]), axis=1)
    return int(away.argmin())


def read_picture(pictures: Pictures, row: int) -> bytes | None:
    """The picture's bytes; None where it is not there."""
    try:
        return pictures.read(row)
    except OSError:
        return None


def _decode(pictures: Pictures, row: int) -> Image | None:
    import cv2

    data = read_picture(pictures, row)
    if not data:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(image, np.uint8)


def _template_points(image: Image) -> Floats:
    """Where an aligned crop of any size has the five landmarks: the ArcFace template, scaled."""
    from ..models.align import ARCFACE_112, resize_template

    return resize_template(ARCFACE_112, image.shape[1]).points


def _crop_box(landmarks: Floats) -> Floats:
    """The square that the ArcFace crop covers in the picture, as its box: no detector was asked."""
    from ..models.align import ARCFACE_112, fit_similarity

    matrix = fit_similarity(landmarks, ARCFACE_112.points)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    middle = np.linalg.solve(matrix[:, :2], np.array([56.0, 56.0]) - matrix[:, 2])
    half = ARCFACE_112.size / scale / 2
    return np.concatenate([middle - half, middle + half]).astype(np.float32)


class EmbedOptions(NamedTuple):
    """What a person chooses about embedding.

    store: where; None: the data folder's features/. cluster: address of a Ray cluster that embeds.
    """

    pack: str
    backend: str = "onnxruntime"
    store: Path | None = None
    workers: int = 0
    half: bool = False
    skip_bad: bool = False
    cluster: str | None = None


def embed_faces(
    faces: FaceSet, options: EmbedOptions, *, flip: bool, styles: bool = False
) -> FeatureStore:
    """The features of all faces, from the store or computed now with progress on stderr.

    Raises ConfigError as `FaceSet.fingerprint` and `create_store`, or when both workers and a
    cluster are chosen, and what `open_pack` and `spread_over_cluster` raise.
    """
    from ..models.feature_store import StoreKey, StoreLayout, create_store
    from ..models.store import load_card
    from .eval_progress import progress_bar

    card = load_card(options.pack)
    with progress_bar(f"checking {faces.title}", None) as _:
        data = faces.fingerprint(skip_bad=options.skip_bad)
    key = StoreKey(pack_words(card), preprocessing_words(card, faces.alignment), data)
    layout = StoreLayout(
        len(faces.names),
        card.embedder.dimension,
        card.embedder.style_channels if styles else 0,
        flip,
        "float16" if options.half else "float32",
    )
    folder = options.store or default_folder(key, layout)
    store = create_store(folder, key, faces.names, layout)
    with progress_bar(f"embedding {faces.title}", layout.count, store.faces_done()) as advance:
        _fill(store, faces, options, card, advance)
    return store


def _fill(
    store: FeatureStore,
    faces: FaceSet,
    options: EmbedOptions,
    card: Card,
    on_block: Callable[[int], None],
) -> None:
    """Embed what is pending: in processes of this machine, or on the nodes of a cluster."""
    from ..models.feature_store import fill_blocks, fill_store

    flip, styles = store.layout.flip, store.layout.styles > 0
    if options.cluster is not None:
        if options.workers:
            raise ConfigError(
                f"--workers {options.workers} counts processes of this machine: leave it out with "
                "--cluster, whose nodes say how many they run (ray start --num-cpus=N)"
            )
        from .eval_sent import embed_on_cluster

        spread = embed_on_cluster(
            options.cluster, faces, options.pack, card, options.backend, flip=flip, styles=styles
        )
        fill_blocks(store, spread, on_block=on_block)
        return
    start = EmbedFaces(card.path or options.pack, options.backend, faces, flip, styles)
    workers = options.workers or len(os.sched_getaffinity(0))
    workers = min(workers, max(1, len(store.pending())))
    fill_store(store, start, workers=workers, on_block=on_block)


def pack_words(card: Card) -> str:
    """A pack and the checksum of its embedder, for store and report."""
    return f"{card.name} {card.checksum(card.embedder.file)[:12]}"


def preprocessing_words(card: Card, alignment: Alignment) -> str:
    """From picture to tensor in words, and what the quality is."""
    spec = card.embedder
    mean, std = (", ".join(f"{x:g}" for x in triple) for triple in (spec.mean, spec.std))
    found = f"{card.detector.kind} {card.checksum(card.detector.file)[:12]}"
    detector = f" ({found})" if alignment == "detect" else ""
    quality = card.quality.unit or card.quality.kind
    if card.quality.file is not None:
        quality += f" ({card.checksum(card.quality.file)[:12]})"
    if card.quality.head is not None:
        quality += f" ({card.quality.head.sha256[:12]})"
    size = f"{spec.template.size} x {spec.template.size} {spec.channel_order}"
    return (
        f"{ALIGNMENTS[alignment]}{detector}; {size}, minus ({mean}), divided by ({std}); "
        f"quality: {quality}"
    )


def default_folder(key: object, layout: object) -> Path:
    """A folder for this key and layout in the data folder."""
    from ..models.feature_store import fingerprint_parts

    mark = fingerprint_parts([("key", repr(key).encode()), ("layout", repr(layout).encode())])
    return data_folder() / "features" / mark


def open_features(faces: FaceSet, folder: Path, *, flip: bool) -> FeatureStore:
    """A complete store of exactly these faces; pictures are not read, so they may be elsewhere.

    Raises ConfigError when it is incomplete, lists other faces, or lacks mirrored ones where flip
    is set.
    """
    from ..models.feature_store import FeatureStore

    store = FeatureStore(folder)
    store.require_complete()
    if store.names != list(faces.names):
        other = next((n for n in faces.names if n not in set(store.names)), "another order")
        raise ConfigError(
            f"{folder} holds the features of {len(store.names)} faces, {faces.title} lists "
            f"{len(faces.names)}; the first difference: {other}: embed this list with --store"
        )
    if flip and not store.layout.flip:
        raise ConfigError(
            f"{folder} holds no mirrored faces, and this variant adds them: embed again without "
            "--features, or choose a variant without flip"
        )
    return store
