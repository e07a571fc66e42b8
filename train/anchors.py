"""Anchors of a pack: unit embeddings of faces of nobody who will ever be probed or enrolled.

IDA measures how crowded an embedding's neighbourhood is by its nearest anchors (models/ida).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ModelError, SourceMissing
from ..models.align import eye_distance
from ..models.anchor_check import leave_out_alike, nearest_rows
from ..models.card import Card
from ..models.card_file import replace_section
from ..models.fusion import Floats
from ..models.pack import Pack, anchor_version
from ..models.photo import describe_face, find_faces, tallest_face
from ..models.store import written_whole
from .folders import picture_paths, read_pictures

NEIGHBOURS, TAU = 10, 1.0


class Candidates(NamedTuple):
    """What anchors are chosen from.

    vectors: (N, C) float32, unit length; names: of the pictures or classes; refused: how many
    pictures had no usable face.
    """

    vectors: Floats
    names: tuple[str, ...]
    refused: int


class Alike(NamedTuple):
    """A candidate that is left out, whom it looks like, and their cosine."""

    name: str
    like: str
    cosine: float


class AnchorReport(NamedTuple):
    """The file written, how many anchors it holds and of what dimension, and what was left out."""

    path: Path
    kept: int
    dimension: int
    refused: int
    version: str
    alike: tuple[Alike, ...] = ()


def build_anchors(
    pack: Pack, folder: Path, *, every: int = 1, attribution: str = ""
) -> AnchorReport:
    """Embed a folder of faces and write all of them: `embed_faces`, then `write_anchors`."""
    return write_anchors(pack.card, embed_faces(pack, folder, every=every), attribution=attribution)


def embed_faces(pack: Pack, folder: Path, *, every: int = 1) -> Candidates:
    """Embed every n-th picture of a folder, in order of name.

    Raises SourceMissing for an unusable folder.
    """
    kept, names, refused = [], [], 0
    for path, image in read_pictures(picture_paths(folder)[::every]):
        face = tallest_face(find_faces(pack.detector, image))
        least = pack.card.embedder.minimal_eye_distance
        if face is None or float(eye_distance(face.landmarks)) < least:
            refused += 1
            continue
        kept.append(describe_face(pack, image, face).embedding)
        names.append(path.name)
    vectors = np.stack(kept) if kept else np.zeros((0, pack.card.embedder.dimension), np.float32)
    return Candidates(_unit(vectors, str(folder)), tuple(names), refused)


def read_weights(card: Card, path: Path, *, every: int = 1) -> Candidates:
    """The class vectors of a classification layer over this pack's embeddings.

    path: .npy, or .npz of one array, (classes, C) of any float. Raises SourceMissing for what is
    none.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found:
                arrays = [found[name] for name in found.files]
            if len(arrays) != 1:
                raise SourceMissing(f"{path} holds {len(arrays)} arrays, expected one")
            found = arrays[0]
    except (OSError, ValueError, EOFError) as error:
        raise SourceMissing(
            f"{path} is not an .npy or .npz file of class weights: {error}"
        ) from None
    dimension = card.embedder.dimension
    if found.ndim != 2 or found.shape[1] != dimension or found.dtype.kind != "f":
        raise SourceMissing(
            f"{path}: expected class weights (classes, {dimension}) for pack {card.name}, got "
            f"{found.shape} {found.dtype}"
        )
    names = tuple(f"class {row}" for row in range(0, len(found), every))
    return Candidates(_unit(found[::every].astype(np.float32), str(path)), names, 0)


def choose_apart(
    candidates: Candidates, bar: float, people: dict[str, Floats] | None = None
) -> tuple[Candidates, tuple[Alike, ...]]:
    """Candidates of whom no two are alike, and who was left out.

    bar: the cosine from which two show one person. people: unit templates (C,) of a gallery by
    name, whom no anchor may show either.
    """
    rows, pairs = leave_out_alike(candidates.vectors, bar)
    names = candidates.names
    alike = [Alike(names[one.row], names[one.like], one.cosine) for one in pairs]
    if people:
        known = list(people)
        near, cosines = nearest_rows(candidates.vectors[rows], np.stack([people[n] for n in known]))
        alike += [
            Alike(names[row], known[who], float(cosine))
            for row, who, cosine in zip(rows, near, cosines, strict=True)
            if cosine >= bar
        ]
        rows = rows[cosines < bar]
    chosen = Candidates(
        candidates.vectors[rows], tuple(names[row] for row in rows), candidates.refused
    )
    return chosen, tuple(alike)


def write_anchors(
    card: Card, chosen: Candidates, *, attribution: str = "", alike: tuple[Alike, ...] = ()
) -> AnchorReport:
    """Write anchors beside a card, float16, with the card's `ida`.

    The card's `decision` and `measured`, fitted with other anchors, are taken out: `fit_pack`
    comes next. Raises ModelError when fewer than k are left.
    """
    if len(chosen.vectors) < NEIGHBOURS:
        raise ModelError(
            f"the source gave {len(chosen.vectors)} usable faces, at least {NEIGHBOURS} needed "
            f"({chosen.refused} pictures had none, {len(alike)} looked like others)"
        )
    vectors = chosen.vectors.astype(np.float16)
    path = card.folder / f"{card.name}.anchors.npy"
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)
    version = anchor_version(path.read_bytes())
    replace_section(
        card.path,
        "ida",
        {
            "anchors": path.name,
            "anchor_version": version,
            "k": NEIGHBOURS,
            "tau": TAU,
            "attribution": attribution,
        },
    )
    for fitted in ("decision", "measured"):
        replace_section(card.path, fitted, None)
    return AnchorReport(path, len(vectors), vectors.shape[1], chosen.refused, version, alike)


def _unit(vectors: Floats, source: str) -> Floats:
    """Rows (N, C) of length 1. Raises SourceMissing for one without a direction."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise SourceMissing(f"{source}: a vector is zero or not finite, which no face gives")
    return np.asarray(vectors / lengths, np.float32)
