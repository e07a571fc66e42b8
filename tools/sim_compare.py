"""How near simulated video comes to real video: what a pack's detector finds in both.

Nothing is known of the real clips but what is found in them, so the simulated ones are looked at
in the same way, and not by their truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt

from .. import SourceCorrupt, SourceMissing
from ..models.pack import Pack
from ..models.photo import PhotoFace, describe_face
from ..stream.records import Image

UNMATCHED = 0.2
"""Kolmogorov-Smirnov distance above which a distribution counts as unmatched."""
MEASURES = ("face height", "sharpness", "quality", "detector score")
SUFFIXES = frozenset({".mp4", ".gif", ".avi", ".mkv", ".mov"})
_LEAST_HEIGHT = 10
"""px; smaller finds are too small to measure anything in."""

Doubles = npt.NDArray[np.float64]


class Sample(NamedTuple):
    """Faces found in some clips: values (N, 4) in the order of MEASURES."""

    name: str
    clips: int
    values: Doubles


def measure_clips(pack: Pack, name: str, clips: Sequence[Path], *, every: int, most: int) -> Sample:
    """Measure the faces in each n-th frame, at most `most` from each clip, evenly over it.

    Sharpness is the mean absolute Laplacian of the grey face over its standard deviation, at the
    face's own size. Raises SourceMissing without clips and SourceCorrupt for an unreadable one.
    """
    if not clips:
        raise SourceMissing(f"no clips of {name}: expected files {', '.join(sorted(SUFFIXES))}")
    values = []
    for clip in clips:
        found = [row for image in _frames(clip, every) for row in _measure_frame(pack, image)]
        picked = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))
        values += [found[i] for i in picked]
    return Sample(name, len(clips), np.array(values, np.float64).reshape(-1, len(MEASURES)))


def clips_in(folder: Path) -> list[Path]:
    """The clips of a folder, or of the folder videos/ in it; raises SourceMissing."""
    place = folder / "videos" if (folder / "videos").is_dir() else folder
    found = sorted(p for p in place.glob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    if not found:
        raise SourceMissing(f"no clips in {place}: expected {', '.join(sorted(SUFFIXES))}")
    return found


def distance(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Kolmogorov-Smirnov distance, 0..1: the largest gap between two cumulative distributions.

    >>> distance([1, 2, 3], [1, 2, 3]), distance([1, 2], [3, 4])
    (0.0, 1.0)
    """
    first, second = np.sort(np.asarray(one, float)), np.sort(np.asarray(other, float))
    if not len(first) or not len(second):
        raise ValueError("a distance needs values on both sides, got none")
    at = np.concatenate([first, second])
    shares = [np.searchsorted(side, at, side="right") / len(side) for side in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def write_table(real: Sample, simulated: Sequence[Sample]) -> str:
    """A Markdown table: median, 5th and 95th percentile, and the distance to the real clips."""
    lines = [
        "| Clips | Faces | " + " | ".join(MEASURES) + " |",
        "|---|---|" + "---|" * len(MEASURES),
    ]
    for row, sample in enumerate((real, *simulated)):
        cells = [f"{sample.name} ({sample.clips})", str(len(sample.values))]
        for column in range(len(MEASURES)):
            if not len(sample.values):
                cells.append("none found")
                continue
            low, middle, high = np.percentile(sample.values[:, column], (5, 50, 95))
            cell = f"{middle:.3g} ({low:.3g} to {high:.3g})"
            if row:
                apart = distance(real.values[:, column], sample.values[:, column])
                cell += f", D {apart:.2f}" + (" **unmatched**" if apart > UNMATCHED else "")
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _frames(clip: Path, every: int) -> Iterator[Image]:
    try:
        with av.open(str(clip)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    yield np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
    except (av.FFmpegError, IndexError) as error:
        raise SourceCorrupt(f"{clip} is not readable video ({type(error).__name__})") from error


def _measure_frame(pack: Pack, image: Image) -> list[tuple[float, ...]]:
    rows: list[tuple[float, ...]] = []
    faces = pack.detector.detect([image])[0]
    for box, points, score in zip(*faces, strict=True):
        face = PhotoFace(box, points, float(score))
        if face.height < _LEAST_HEIGHT:
            continue
        quality = describe_face(pack, image, face).quality
        rows.append((face.height, _sharpness(image, face), quality, face.score))
    return rows


def _sharpness(image: Image, face: PhotoFace) -> float:
    x0, y0, x1, y1 = (int(max(0, v)) for v in face.box.round())
    grey = cv2.cvtColor(image[y0 : y1 + 1, x0 : x1 + 1], cv2.COLOR_BGR2GRAY).astype(np.float32)
    spread = float(grey.std())
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean()) / max(spread, 1.0)
