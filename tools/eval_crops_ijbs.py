"""`facestream evaluate crops`: cuts the faces that an IJB-S set's boxes give out of its videos.

The crops are named as public evaluators name them (OUT/SUBJECT/videos_4012_00017.jpg, and
OUT/SUBJECT/img_77.jpg for whole images), for `facestream evaluate ijbs --faces OUT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import ConfigError, SourceCorrupt, SourceMissing
from .eval_ijbs_lists import crop_key
from .eval_progress import progress_bar
from .truth import FaceTruth, read_ijbs_faces

if TYPE_CHECKING:
    from ..models.inference import Image


class Crops(NamedTuple):
    """How many crops lie in the folder now, and how many of them this run wrote."""

    total: int
    written: int


def cut_crops(root: Path, out: Path, *, every: int = 1, margin: float = 0.5) -> Crops:
    """Cut the faces of every `every`-th frame, and copy the images; crops that are there stay.

    margin: what is added on each side, as a share of the box; a box at the border of the frame
    gives a smaller crop. Raises SourceMissing or SourceCorrupt for a video that is not there or
    shorter than its annotation, ConfigError when no line has a box.
    """
    images: list[FaceTruth] = []
    paths: list[str] = []
    videos: dict[str, dict[int, list[FaceTruth]]] = {}
    for path, face in read_ijbs_faces(root):
        if path.startswith("videos/"):
            if np.isnan(face.box).any():
                continue
            if face.frame % every == 0:
                videos.setdefault(path, {}).setdefault(face.frame, []).append(face)
        else:
            images.append(face)
            paths.append(path)
    if not videos:
        raise ConfigError(
            f"{root}/cs6_metadata.csv: expected boxes (FRAME, FACE_X, FACE_Y, FACE_WIDTH, "
            "FACE_HEIGHT after subject and path), got none: bring crops of your own"
        )
    total = len(images) + sum(len(some) for frames in videos.values() for some in frames.values())
    written = 0
    with progress_bar("cutting faces", total) as advance:
        for path, face in zip(paths, images, strict=True):
            written += _copy(root, path, face, out)
            advance(1)
        for path, frames in videos.items():
            written += _cut_video(root, path, frames, out, margin, advance)
    return Crops(total, written)


def _copy(root: Path, path: str, face: FaceTruth, out: Path) -> bool:
    source = root / path
    target = out / f"{crop_key((int(face.subject), path))}{source.suffix}"
    if target.is_file():
        return False
    if not source.is_file():
        raise SourceMissing(f"{source}: expected the image that cs6_metadata.csv lists, got none")
    _write(target, source.read_bytes())
    return True


def _cut_video(
    root: Path,
    path: str,
    frames: dict[int, list[FaceTruth]],
    out: Path,
    margin: float,
    advance: Callable[[int], None],
) -> int:
    import cv2

    def target(face: FaceTruth) -> Path:
        return out / f"{crop_key((int(face.subject), path))}_{face.frame:05}.jpg"

    left = {
        number: todo
        for number, faces in frames.items()
        if (todo := [face for face in faces if not target(face).is_file()])
    }
    advance(sum(map(len, frames.values())) - sum(map(len, left.values())))
    if not left:
        return 0
    written = 0
    for number, image in _decode(root / path, max(left)):
        for face in left.pop(number, []):
            crop = cut_box(image, face.box, margin)
            _write(target(face), cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
            written += 1
            advance(1)
    if left:
        raise SourceCorrupt(
            f"{root / path}: expected frame {min(left)}, which is annotated, but the video ends "
            "before: check that video and annotation belong together"
        )
    return written


def cut_box(image: Image, box: np.ndarray, margin: float) -> Image:
    """The box (4,) px with its margin, as far as it lies in the image (H, W, 3); never empty."""
    around = np.array([-1, -1, 1, 1]) * margin * np.tile(box[2:] - box[:2], 2)
    x0, y0, x1, y1 = np.round(box + around).astype(int)
    height, width = image.shape[:2]
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    x1, y1 = max(min(x1, width), x0 + 1), max(min(y1, height), y0 + 1)
    return image[y0:y1, x0:x1]


def _decode(path: Path, last: int) -> Iterator[tuple[int, Image]]:
    """Frames from 0 to `last` with their numbers."""
    import av

    if not path.is_file():
        raise SourceMissing(f"{path}: expected the video that cs6_metadata.csv lists, got none")
    try:
        with av.open(str(path)) as video:
            for number, frame in enumerate(video.decode(video=0)):
                if number > last:
                    return
                yield number, np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
    except (av.error.FFmpegError, IndexError) as error:
        raise SourceCorrupt(f"{path}: not readable as video ({error})") from None


def _write(path: Path, data: bytes | np.ndarray) -> None:
    """Whole or not at all, so that a run that is killed can go on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(bytes(data))
    part.replace(path)
