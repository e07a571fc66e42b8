"""Pictures as video: a folder of images, or one image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from .. import SourceCorrupt, SourceMissing
from ..configs.schema import CameraConfig
from .records import Frame, Image
from .redact import redact_address
from .timing import Timeline
from .watcher import SourceInfo

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts frame2.png before frame10.png.

    >>> [p.name for p in sorted(map(Path, ["f10.png", "f2.png"]), key=natural_order)]
    ['f2.png', 'f10.png']
    """
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


def read_image(path: Path) -> Image | None:
    """Return a picture upright as (H, W, 3) uint8 BGR, None where it cannot be read."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):  # no right to read it; more pixels than OpenCV takes
        return None
    return None if image is None else np.asarray(image, dtype=np.uint8)


class ImageSource:
    """A folder of pictures in natural order, or one picture, `config.fps` of them per second.

    Pictures may differ in size. Files that are no pictures are counted in `dropped` as
    "unreadable"; they keep their place in time. Pictures before `first` are not given.
    """

    def __init__(
        self, config: CameraConfig, *, live: bool, timeline: Timeline, dropped: Counter[str]
    ) -> None:
        """List the folder and read its first picture.

        Raises SourceMissing where nothing has this name, SourceCorrupt where no file is a picture.
        """
        self.paced = live
        self.dropped = dropped
        self.first = 0
        self._config = config
        self._timeline = timeline
        paths = list_images(Path(config.url))
        self._images = self._read(paths)
        self._head = next(self._images, None)
        if self._head is None:
            raise SourceCorrupt(
                f"{redact_address(config.url)}: expected pictures ({', '.join(sorted(SUFFIXES))}), "
                f"got {len(paths)} of which none can be read"
            )
        height, width = self._head[1].shape[:2]
        self.info = SourceInfo(
            camera=config.name,
            url=redact_address(config.url),
            live=live,
            width=width,
            height=height,
            fps=config.fps,
            frames=len(paths),
            duration=len(paths) / config.fps,
        )
        timeline.begin(1.0 / config.fps, origin=0.0)

    def __iter__(self) -> Iterator[Frame]:
        """Yield every `stride`-th picture."""
        head = [] if self._head is None else [self._head]
        for index, image in chain(head, self._images):
            stamp = self._timeline.stamp(index / self._config.fps)
            if stamp.sequence >= self.first and stamp.sequence % self._config.stride == 0:
                yield Frame(self._config.name, *stamp, image)

    def close(self) -> None:
        """Nothing stays open between two pictures."""

    def _read(self, paths: list[Path]) -> Iterator[tuple[int, Image]]:
        for index, path in enumerate(paths):
            image = read_image(path)
            if image is None:
                self.dropped["unreadable"] += 1
            else:
                yield index, image


def list_images(path: Path) -> list[Path]:
    """The pictures of a folder in natural order, or the one picture. Raises SourceMissing."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SourceMissing(f"{redact_address(str(path))}: no such file or folder")
    try:
        found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir()]
    except OSError as error:
        raise SourceMissing(f"{path}: the folder cannot be read ({error.strerror})") from error
    return sorted(found, key=natural_order)
