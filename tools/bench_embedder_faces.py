"""Held-out people, clean, degraded and occluded, as `facestream bench embedder` shows them.

- london: the split's roles subject and calibration, two photos of each; no network here learned
  from them.
- wild: people of CelebA's in-the-wild part, for evaluation alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import typer

from .. import SourceMissing
from ..configs.split import Role, role_pictures
from ..models.align import ARCFACE_112, warp
from ..models.inference import AlignTemplate, Detector, Embedder, Floats, Image
from ..models.photo import find_faces, tallest_face
from ..models.scores import Labels
from ..models.store import written_whole
from ..train.degrade import camera_of
from ..train.degrade_steps import film
from .bench_accuracy_stills import find_wild

Place = Literal["block", "lower part"]

LEVELS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""Strengths of the cameras; 0 is the face as it is."""
SHARES = (0.2, 0.4, 0.6)
"""Of the area of a face that is occluded."""
PLACES: tuple[Place, ...] = ("block", "lower part")
WILD_PICTURES = 5
"""Pictures of each person in wild."""
BORDER = 56
"""Px around an aligned face where a detector looks."""
TOGETHER = 64


class Faces(NamedTuple):
    """N pictures of held-out people, sorted by person.

    files (N,), landmarks (N, 5, 2) px in them, owners (N,) 0..I-1; turns (N,): which picture of its
    person, from 0 on.
    """

    title: str
    files: Sequence[Path]
    landmarks: Floats
    owners: Labels
    turns: Labels

    def crops(self, template: AlignTemplate) -> Image:
        """The faces (N, S, S, 3) uint8 BGR, cut from their pictures. Raises SourceMissing."""
        found = []
        for file, points in zip(self.files, self.landmarks, strict=True):
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise SourceMissing(f"{file} is not a readable picture")
            found.append(warp(np.asarray(image, np.uint8), points, template))
        return np.stack(found)


def london(assets: Path, detector: Detector) -> Faces:
    """Neutral photos are turn 0, smiling ones turn 1; people without a face in both are left out.

    Raises as `role_pictures`.
    """
    files: list[Path] = []
    landmarks: list[Floats] = []
    roles: tuple[Role, ...] = ("calibration", "subject")
    people = {k: v for role in roles for k, v in role_pictures(assets, role, "london").items()}
    for _, paths in sorted(people.items()):
        images = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in paths]
        seen = [tallest_face(find_faces(detector, np.asarray(x, np.uint8))) for x in images]
        points = [face.landmarks for face in seen if face is not None]
        if len(points) == 2 and len(paths) == 2:  # gallery_neutral comes before probe_smiling
            files += paths
            landmarks += points
    count = len(files) // 2
    return Faces(
        "London",
        files,
        np.stack(landmarks),
        np.repeat(np.arange(count), 2),
        np.arange(2 * count) % 2,
    )


def wild(assets: Path) -> Faces | None:
    """The first WILD_PICTURES of each person, by the landmarks that come with them; or None."""
    found = find_wild(assets)
    if found is None:
        return None
    turns = np.concatenate([np.arange(count) for count in np.bincount(found.owners)])
    rows = np.flatnonzero(turns < WILD_PICTURES)
    return Faces(
        "wild",
        [found.folder / found.files[row] for row in rows.tolist()],
        found.landmarks[rows],
        found.owners[rows],
        turns[rows],
    )


def degrade_all(crops: Image, seed: int) -> Image:
    """Faces (N, 112, 112, 3) through cameras of all LEVELS: (V, N, 112, 112, 3)."""
    views = [crops]
    for level, strength in enumerate(LEVELS[1:], 1):
        camera = camera_of(strength)
        drawn = [np.random.default_rng((seed, level, row)) for row in range(len(crops))]
        views.append(np.stack([film(x, g, camera) for x, g in zip(crops, drawn, strict=True)]))
    return np.stack(views)


def occlude(crop: Image, share: float, place: Place, draw: np.random.Generator) -> Image:
    """A face (H, W, 3) of which a share of the area is covered by one colour, drawn at random.

    block: a rectangle that lies anywhere, up to twice as high as wide or as wide as high;
    lower part: the lowest rows, all across.
    """
    height, width = crop.shape[:2]
    covered = crop.copy()
    colour = draw.integers(0, 256, 3)
    if place == "lower part":
        covered[height - round(share * height) :] = colour
        return covered
    low = max(share, 0.5)  # height by width from low to 1 / low, so that no side is over 1
    aspect = float(np.exp(draw.uniform(np.log(low), -np.log(low))))
    h = min(height, round(height * (share * aspect) ** 0.5))
    w = min(width, round(share * height * width / h))
    y, x = int(draw.integers(height - h + 1)), int(draw.integers(width - w + 1))
    covered[y : y + h, x : x + w] = colour
    return covered


def occlude_all(crops: Image, share: float, place: Place, seed: int) -> Image:
    """Faces (N, H, W, 3), each occluded by numbers of its own."""
    drawn = [np.random.default_rng((seed, PLACES.index(place), n)) for n in range(len(crops))]
    return np.stack([occlude(x, share, place, g) for x, g in zip(crops, drawn, strict=True)])


def embed_crops(embedder: Embedder, mark: str, crops: Image, folder: Path) -> Floats:
    """Raw embeddings (N, C) of crops in the embedder's template, kept in `folder` between runs.

    mark: what tells the embedder from others, such as the checksum of its network.
    """
    digest = hashlib.sha256(mark.encode() + str(crops.shape).encode() + crops.tobytes())
    path = folder / f"{digest.hexdigest()[:20]}.npy"
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False), np.float32)
    parts = []
    with typer.progressbar(range(0, len(crops), TOGETHER), label=f"{len(crops)} faces") as bar:
        for start in bar:
            parts.append(embedder.embed(crops[start : start + TOGETHER]).embeddings)
    embeddings = np.concatenate(parts)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, embeddings)
    return embeddings


def detector_scores(detector: Detector, crops: Image) -> Floats:
    """What a detector says of aligned faces (N, 112, 112, 3), inside a border; 0 for no face."""
    scores = np.zeros(len(crops), np.float32)
    for row, crop in enumerate(crops):
        framed = cv2.copyMakeBorder(crop, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)
        face = tallest_face(detector.detect([np.asarray(framed, np.uint8)])[0])
        scores[row] = 0.0 if face is None else face.score
    return scores


def own_crops(faces: Faces) -> Image:
    """The faces in the template that students learn: (N, 112, 112, 3)."""
    return faces.crops(ARCFACE_112)
