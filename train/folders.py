"""Folders of faces, one picture and one identity each, and how they look to a distant camera."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from .. import SourceMissing
from ..configs.split import Role, role_pictures
from ..models.inference import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
CANVAS = 320
"""Side, in px, of the grey picture that a shrunken photo is laid on: detectors want some room."""


class Photos(NamedTuple):
    """People with two photos at least: some to enrol, others to recognise; words say who they are.

    Files of one person share what stands before the first underscore.
    """

    words: str
    gallery: tuple[Path, ...]
    probes: tuple[Path, ...]


def person(path: Path) -> str:
    """Whose photo this is: 017_08.jpg and 017_03.jpg are both of 017."""
    return path.stem.partition("_")[0]


def photos_in_folders(gallery: Path, probes: Path, words: str = "") -> Photos:
    """The people who are in both folders. Raises SourceMissing for unusable folders."""
    enrol, recognise = picture_paths(gallery), picture_paths(probes)
    both = {person(path) for path in enrol} & {person(path) for path in recognise}
    return Photos(
        words or f"folders {gallery.name} and {probes.name}",
        tuple(path for path in enrol if person(path) in both),
        tuple(path for path in recognise if person(path) in both),
    )


def photos_of_role(assets: Path, role: Role) -> Photos:
    """London's people of one role of the split, neutral to enrol and smiling to recognise.

    Raises as `configs.split.role_pictures` does.
    """
    paths = [path for of in role_pictures(assets, role, "london").values() for path in of]
    return Photos(
        "Face Research Lab London Set (DeBruine and Jones 2017, CC BY 4.0), consenting adults, "
        f"the split's role {role}, neutral enrolled, smiling probed",
        tuple(path for path in paths if path.parent.name == "gallery_neutral"),
        tuple(path for path in paths if path.parent.name == "probe_smiling"),
    )


def picture_paths(folder: Path) -> list[Path]:
    """The pictures of a folder, by their suffix, in order of name.

    Raises SourceMissing when there is no such folder or no picture in it.
    """
    if not folder.is_dir():
        raise SourceMissing(f"no folder of faces at {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SourceMissing(f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return paths


def read_pictures(paths: Iterable[Path]) -> Iterator[tuple[Path, Image]]:
    """Yield each picture, (H, W, 3) uint8 BGR; raises SourceMissing for an unreadable one."""
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise SourceMissing(f"{path} is not a readable picture: remove it or replace it")
        yield path, np.asarray(image, dtype=np.uint8)


def seen_from_afar(image: Image, scale: float) -> Image:
    """A photo as a surveillance camera sees it: shrunk, a little soft, compressed.

    scale: output px per input px, at most 1. Blur of sigma 0.6 px at the output's size, then JPEG
    at quality 60, on a grey canvas of at least CANVAS px.
    """
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 0.6)
    canvas = np.full((max(CANVAS, height), max(CANVAS, width), 3), 127, np.uint8)
    canvas[:height, :width] = small
    coded = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)
