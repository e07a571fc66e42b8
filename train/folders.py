"""Folders of faces, one picture and one identity each, and how they look to a distant camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from .. import SourceMissing
from ..models.inference import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
CANVAS = 320
"""Side, in px, of the grey picture that a shrunken photo is laid on: detectors want some room."""


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


def pictures(folder: Path, every: int = 1) -> Iterator[tuple[Path, Image]]:
    """Yield each n-th picture of a folder, (H, W, 3) uint8 BGR, in order of name.

    Raises SourceMissing as `picture_paths` does, and for a picture that cannot be read.
    """
    for path in picture_paths(folder)[::every]:
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
