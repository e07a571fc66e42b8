"""Verification sets from disk: what to embed, and which items form pairs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.bin_set import BinPictures, read_bin
from ..models.scores import Labels
from .eval_faces import Alignment, FaceSet, FolderPictures
from .eval_lists import Kind, Pair, PairList, number_pairs, read_pairs
from .report_record import Bad

PICTURES = {".jpg", ".jpeg", ".png", ".bmp"}
NORMAL, MASKED = "AFDB_face_dataset", "AFDB_masked_face_dataset"
"""RMFRD's two folders, each with a folder of pictures per person."""


class VerificationSet(NamedTuple):
    """A set of pairs and its faces.

    pairs: of items; owners (faces,): the item that each face belongs to: itself for pictures, its
    video for frames. words: how the pairs came about, for the report.
    """

    faces: FaceSet
    pairs: PairList
    owners: Labels
    words: str


def read_set(
    path: Path,
    *,
    images: Path | None,
    kind: Kind | None,
    alignment: Alignment,
    every: int = 1,
    bad: list[Bad] | None = None,
) -> list[VerificationSet]:
    """The set of a .bin file or a list of pairs; RMFRD's folder gives two sets.

    images: where a list's pictures lie (default: beside it). every: take each n-th frame of a
    video. Raises ConfigError for what is malformed or missing.
    """
    if path.is_dir():
        return read_rmfrd(path, alignment)
    if not path.is_file():
        raise ConfigError(
            f"{path}: expected a .bin file, a list of pairs or RMFRD's folder, got nothing there"
        )
    if path.suffix == ".bin":
        return [_bin_set(path)]
    pairs = read_pairs(path, kind, bad)
    folder = images or path.parent
    if pairs.folds is not None and not Path(pairs.items[0]).suffix:
        return [_video_set(path, pairs, folder, alignment, every, bad)]
    faces = FaceSet(path.stem, pairs.items, FolderPictures(folder, pairs.items), alignment)
    words = "folds as the list gives them" if pairs.folds is not None else "10 consecutive folds"
    return [VerificationSet(faces, pairs, np.arange(len(pairs.items)), f"pairs listed; {words}")]


def _bin_set(path: Path) -> VerificationSet:
    content = read_bin(path)
    count = len(content.pictures)
    names = [f"{path.stem}/{row}" for row in range(count)]
    rows = np.arange(count)
    pairs = PairList(names, rows[::2], rows[1::2], content.same, None, None)
    faces = FaceSet(path.stem, names, BinPictures(path), "aligned")
    return VerificationSet(faces, pairs, rows, "pairs of the .bin file; 10 consecutive folds")


def _video_set(
    path: Path,
    pairs: PairList,
    folder: Path,
    alignment: Alignment,
    every: int,
    bad: list[Bad] | None,
) -> VerificationSet:
    """Videos as templates of all their frames: frame k of video "name/3" lies in name/3/."""
    frames: list[str] = []
    owners: list[int] = []
    for item, video in enumerate(pairs.items):
        found = pictures_in(folder / video)[::every]
        if not found:
            why = f"video {video} has no frames below {folder}"
            if bad is None:
                raise ConfigError(f"{path}: {why}: check --images, or use --skip-bad")
            bad.append(Bad(video, why))
        frames += [f"{video}/{frame.name}" for frame in found]
        owners += [item] * len(found)
    faces = FaceSet(path.stem, frames, FolderPictures(folder, frames), alignment)
    share = "all frames" if every == 1 else f"every {every}th frame"
    words = f"a video is one template of {share}; folds as the list gives them"
    return VerificationSet(faces, pairs, np.array(owners, np.int64), words)


def pictures_in(folder: Path) -> list[Path]:
    """Picture files directly in a folder, frames in the order of their numbers."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    return sorted(found, key=lambda path: [_number(part) for part in path.stem.split(".")])


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (1 << 62, text)


def read_rmfrd(folder: Path, alignment: Alignment, seed: int = 0) -> list[VerificationSet]:
    """RMFRD's masked-to-normal and masked-to-masked pairs, by folder.

    All genuine pairs, and as many impostor pairs drawn with the seed; the data set publishes no
    list. A person who has only one of the two kinds of picture still serves as an impostor.
    Raises ConfigError when there is no pair.
    """
    masked, normal = (_people(folder / part) for part in (MASKED, NORMAL))
    if not masked:
        raise ConfigError(
            f"{folder}: expected RMFRD's {MASKED}/PERSON/*.jpg, got none: of other sets name the "
            "list of pairs, and their folder with --images"
        )
    sets = []
    for name, others in (("masked-to-normal", normal), ("masked-to-masked", masked)):
        pairs = _pairs_by_folder(masked, others, np.random.default_rng(seed))
        if pairs is None:
            raise ConfigError(f"{folder}: no genuine {name} pair: check its two folders")
        faces = FaceSet(
            f"RMFRD {name}", pairs.items, FolderPictures(folder, pairs.items), alignment
        )
        words = (
            f"{name}: all genuine pairs by folder, as many impostor pairs drawn with seed {seed}; "
            "10 folds by the pairs' order, genuine and impostor pairs alternating"
        )
        sets.append(VerificationSet(faces, pairs, np.arange(len(pairs.items)), words))
    return sets


def _people(folder: Path) -> dict[str, list[str]]:
    """Pictures by person, relative to the folder above."""
    people = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = {
        person.name: [f"{folder.name}/{person.name}/{one.name}" for one in pictures_in(person)]
        for person in people
    }
    return {name: pictures for name, pictures in found.items() if pictures}


def _pairs_by_folder(
    first: dict[str, list[str]], second: dict[str, list[str]], draw: np.random.Generator
) -> PairList | None:
    genuine = [
        (a, b, name)
        for name in first
        for a in first[name]
        for b in second.get(name, [])
        if first is not second or a < b
    ]
    names, others = list(first), list(second)
    if not genuine or len(set(names) | set(others)) < 2:
        return None
    pairs = []
    for a, b, name in genuine:
        pairs.append(Pair(a, b, True))
        one, other = name, name
        while one == other:
            one = names[draw.integers(len(names))]
            other = others[draw.integers(len(others))]
        pictures = first[one][draw.integers(len(first[one]))], second[other]
        impostor = pictures[1][draw.integers(len(pictures[1]))]
        pairs.append(Pair(pictures[0], impostor, False))
    return number_pairs(pairs)
