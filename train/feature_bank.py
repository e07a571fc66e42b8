"""Banks of features: every picture as taken and in runs of degraded views, embedded by a pack.

A bank is a feature store (models/feature_store) in which a picture has 1 + runs * frames rows,
named "sfhq/00017#clean" and "sfhq/00017#2.05" for frame 5 of run 2. What a detector does not find,
or the pack abstains from, is a row without a face, as it would be no observation of a live track.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .. import ConfigError, SourceMissing
from ..configs.training import BankSettings
from ..models.align import eye_distance, warp
from ..models.card import Card
from ..models.feature_store import (
    Features,
    FeatureStore,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
    fingerprint_parts,
)
from ..models.feature_words import feature_words
from ..models.fusion import Doubles, Floats
from ..models.inference import Image
from ..models.pack import Pack, open_pack
from ..models.photo import PhotoFace, find_faces, tallest_face
from .track_views import VIEWS_VERSION, Run, draw_run, show_frame

Truth = npt.NDArray[np.bool_]


def make_bank(
    folder: Path,
    pictures: Mapping[str, Path],
    settings: BankSettings,
    pack: str,
    *,
    workers: int = 1,
    on_block: Callable[[int], None] = lambda faces: None,
) -> Bank:
    """Embed the pictures, by name, with a pack; goes on where an earlier call was cut off.

    Raises SourceMissing for an unreadable picture, ConfigError where `folder` holds something else,
    and what `open_pack` raises.
    """
    if not pictures:
        raise ConfigError("a bank needs one picture at least, got none")
    opened = open_pack(pack, threads=1)
    card = opened.card
    views = [
        f"{name}#{view}"
        for name in pictures
        for view in [
            "clean",
            *(f"{r}.{f:02}" for r, f in np.ndindex(settings.runs, settings.frames)),
        ]
    ]
    key = StoreKey(
        f"{card.name} {card.checksum(card.embedder.file)[:12]}",
        bank_words(card, settings),
        fingerprint_parts((name, path.read_bytes()) for name, path in pictures.items()),
    )
    layout = StoreLayout(
        len(views),
        card.embedder.dimension,
        styles=card.embedder.style_channels,
        dtype="float16",
    )
    store = create_store(folder, key, views, layout)
    fill_store(
        store,
        partial(_Views, pack, list(pictures.items()), settings),
        workers=workers,
        on_block=on_block,
    )
    return Bank(FeatureStore(folder), settings)


def bank_words(card: Card, settings: BankSettings) -> str:
    """How a bank's rows come out of pictures: views, detector, embedder and quality."""
    return f"found in each degraded frame, views {VIEWS_VERSION}, {settings}; {feature_words(card)}"


class Bank:
    """A filled bank in memory: P pictures with R runs of F frames each."""

    def __init__(self, store: FeatureStore, settings: BankSettings) -> None:
        """Pictures whose clean view has no face are left out.

        Raises ConfigError for a store that is not complete or not of these settings.
        """
        store.require_complete()
        runs, frames = settings.runs, settings.frames
        views = 1 + runs * frames
        if len(store.names) % views or any("#clean" not in n for n in store.names[::views]):
            raise ConfigError(
                f"{store.folder} is no bank of {runs} runs of {frames} frames: name another folder"
            )
        found = store.embedded.reshape(-1, views)
        kept = found[:, 0]
        self.names = [
            name.removesuffix("#clean")
            for name, keep in zip(store.names[::views], kept, strict=True)
            if keep
        ]

        def split(array: npt.NDArray[np.generic]) -> tuple[Floats, Floats]:
            wide = np.asarray(array, np.float32).reshape(-1, views, *array.shape[1:])[kept]
            shape = (len(wide), runs, frames, *array.shape[1:])
            return wide[:, 0], wide[:, 1:].reshape(shape)

        self.clean, self.embeddings = split(store.embeddings)
        _, self.styles = split(store.styles)
        _, self.quality = split(store.quality)
        self.found: Truth = found[kept, 1:].reshape(-1, runs, frames)

    names: list[str]
    """(P,)"""
    clean: Floats
    """(P, C) of the pictures as taken, not normalised."""
    embeddings: Floats
    """(P, R, F, C) not normalised."""
    styles: Floats
    """(P, R, F, K, 2)"""
    quality: Floats
    """(P, R, F) in the pack's unit."""
    found: Truth
    """(P, R, F) whether there is a face; the other rows are zero."""

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over names and features: what is trained on, whoever made it."""
        arrays = (self.clean, self.embeddings, self.styles, self.quality, self.found)
        return fingerprint_parts(
            [
                ("names", "\n".join(self.names).encode()),
                *((str(one.shape), one.tobytes()) for one in arrays),
            ]
        )

    @property
    def centres(self) -> Doubles:
        """(P, C) float64: the clean embeddings at unit length."""
        wide = self.clean.astype(np.float64)
        return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


class _Views:
    """Computes blocks of a bank: opened once in each process that fills it."""

    def __init__(
        self, pack: str, pictures: Sequence[tuple[str, Path]], settings: BankSettings
    ) -> None:
        self._pack: Pack = open_pack(pack, threads=1)
        self._pictures, self._settings = pictures, settings
        self._last: tuple[int, Image, PhotoFace | None, list[Run]] | None = None

    def __call__(self, rows: range) -> Features:
        """The features of these rows of the bank."""
        shown = [self._show(row) for row in rows]
        there = np.array([one is not None for one in shown])
        kept = [one for one in shown if one is not None]
        pack = self._pack
        count, dimension = len(rows), pack.embedder.dimension
        embeddings = np.zeros((count, dimension), np.float32)
        styles = np.zeros((count, pack.card.embedder.style_channels, 2), np.float32)
        detector, quality = np.zeros(count, np.float32), np.zeros(count, np.float32)
        if kept:
            crops = {
                consumer: np.stack([warp(image, face.landmarks, template) for image, face in kept])
                for consumer, template in pack.consumers.items()
            }
            embedded = pack.embedder.embed(crops["embedder"])
            scores = np.array([face.score for _, face in kept], np.float32)
            embeddings[there], styles[there] = embedded.embeddings, embedded.styles
            detector[there] = scores
            quality[there] = pack.quality.score(
                crops=crops.get("quality", crops["embedder"]),
                embedded=embedded,
                boxes=np.stack([face.box for _, face in kept]),
                scores=scores,
            )
        states = np.where(there, State.EMBEDDED, State.NO_FACE).astype(np.uint8)
        nothing = np.zeros((0, dimension), np.float32)
        return Features(states, embeddings, nothing, detector, quality, styles)

    def _show(self, row: int) -> tuple[Image, PhotoFace] | None:
        """The frame of a row and the face found in it; None where the pack would embed none."""
        settings = self._settings
        place, view = divmod(row, 1 + settings.runs * settings.frames)
        image, face, runs = self._open(place)
        if face is None:
            return None
        if view:
            run, frame = divmod(view - 1, settings.frames)
            image = show_frame(image, face, runs[run], frame)
            face = tallest_face(self._pack.detector.detect([image])[0])
        least = self._pack.card.embedder.minimal_eye_distance
        if face is None or float(eye_distance(face.landmarks)) < least:
            return None
        return image, face

    def _open(self, place: int) -> tuple[Image, PhotoFace | None, list[Run]]:
        if self._last is None or self._last[0] != place:
            name, path = self._pictures[place]
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise SourceMissing(f"{path} is not a readable picture: remove it or replace it")
            photo = np.asarray(image, np.uint8)
            face = tallest_face(find_faces(self._pack.detector, photo))
            self._last = (place, photo, face, draw_runs(name, self._settings))
        return self._last[1:]


def draw_runs(name: str, settings: BankSettings) -> list[Run]:
    """The runs of a picture, drawn from its name and the seed.

    Their strengths are spread over the interval, one in each of R equal parts, in random order.
    """
    digest = hashlib.sha256(f"{settings.seed} {name}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    low, high = settings.strength
    parts = (draw.permutation(settings.runs) + draw.random(settings.runs)) / settings.runs
    return [
        draw_run(draw, settings.frames, low + (high - low) * part, turned=draw.random() < 0.25)
        for part in parts
    ]
