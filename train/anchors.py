"""Anchors of a pack: unit embeddings of faces of nobody who will ever be probed or enrolled.

IDA measures how crowded an embedding's neighbourhood is by its nearest anchors (models/ida).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ModelError
from ..models.align import eye_distance
from ..models.card_file import replace_section
from ..models.pack import Pack, anchor_version
from ..models.photo import describe_face, find_faces, tallest_face
from ..models.store import written_whole
from .folders import picture_paths, read_pictures

NEIGHBOURS, TAU = 10, 1.0


class AnchorReport(NamedTuple):
    """The file written, how many anchors it holds and of what dimension, and pictures left out."""

    path: Path
    kept: int
    dimension: int
    refused: int


def build_anchors(
    pack: Pack, folder: Path, *, every: int = 1, attribution: str = ""
) -> AnchorReport:
    """Embed a folder of faces and write them beside the card, float16, with the card's `ida`.

    The card's `decision` and `measured`, fitted with other anchors, are taken out: `fit_pack`
    comes next. Raises SourceMissing for an unusable folder and ModelError when fewer than k faces
    remain.
    """
    kept, refused = [], 0
    for _, image in read_pictures(picture_paths(folder)[::every]):
        face = tallest_face(find_faces(pack.detector, image))
        least = pack.card.embedder.minimal_eye_distance
        if face is None or float(eye_distance(face.landmarks)) < least:
            refused += 1
            continue
        embedding = describe_face(pack, image, face).embedding
        kept.append(embedding / np.linalg.norm(embedding))
    if len(kept) < NEIGHBOURS:
        raise ModelError(f"{folder} gave {len(kept)} usable faces, at least {NEIGHBOURS} needed")
    vectors = np.stack(kept).astype(np.float16)
    path = pack.card.folder / f"{pack.card.name}.anchors.npy"
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)
    replace_section(
        pack.card.path,
        "ida",
        {
            "anchors": path.name,
            "anchor_version": anchor_version(path.read_bytes()),
            "k": NEIGHBOURS,
            "tau": TAU,
            "attribution": attribution,
        },
    )
    for fitted in ("decision", "measured"):
        replace_section(pack.card.path, fitted, None)
    return AnchorReport(path, len(kept), vectors.shape[1], refused)
