"""Which photos and clips there are to enrol and whose they are; reading them ahead of their use."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import cv2
import numpy as np

from .. import EnrolmentRefused
from ..models.inference import Image
from .enrol_records import Refusal, shown
from .gallery_records import Change

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})

CLIPS = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".gif"})
"""Suffixes of files that are video."""

AHEAD_PHOTOS = 32
AHEAD_BYTES = 1 << 28
"""Most photos, and bytes of decoded ones, that are read before they are needed; at least one."""


class Photo(NamedTuple):
    """A file to enrol: whose it is, its name for people, and what else to set for the person."""

    path: Path
    name: str
    source: str
    change: Change | None = None

    @property
    def is_clip(self) -> bool:
        """Whether it is video, by its suffix."""
        return self.path.suffix.lower() in CLIPS


class Loaded(NamedTuple):
    """A photo that was read: digest is the SHA-256 of its bytes in hexadecimal.

    image: (H, W, 3) uint8 BGR, upright as its EXIF says; None where it is enrolled already, as
    `holder`, or could not be read, which `refusal` then says in words.
    """

    photo: Photo
    digest: str = ""
    image: Image | None = None
    holder: str | None = None
    refusal: EnrolmentRefused | None = None


def find_photos(path: Path, name: str | None = None, change: Change | None = None) -> list[Photo]:
    """The photos of `photos_of`, with names for people: the path below the folder."""
    return [
        Photo(
            photo,
            person,
            shown(photo.name if photo == path else str(photo.relative_to(path))),
            change,
        )
        for photo, person in photos_of(path, name)
    ]


def photos_of(path: Path, name: str | None = None) -> Iterator[tuple[Path, str]]:
    """Yield the photos of a path and whose they are, in the order of their names.

        NAME.jpg            one photo, of the person the file is named after
        FOLDER/NAME/*       every photo in a folder is of the person the folder is named after
        FOLDER/NAME.jpg     one person per file
        FOLDER/NAME#2.jpg   one more photo of NAME

    With `name`, the photo or every photo directly in the folder is of that person. Hidden files are
    left out; a folder where a photo should be is yielded, and refused as a photo. Raises
    EnrolmentRefused where a folder cannot be read.
    """
    if not path.is_dir():
        if not path.exists():
            raise Refusal("unreadable", f"no photo or folder at {path}")
        yield path, name or person_of(path)
        return
    for entry in _list(path):
        if name is not None or not entry.is_dir():
            yield entry, name or person_of(entry)
        else:
            yield from ((photo, entry.name) for photo in _list(entry))


def person_of(photo: Path) -> str:
    """Whom a file is named after.

    >>> person_of(Path("Anna Smith#2.jpg"))
    'Anna Smith'
    """
    return re.sub(r"#\d+$", "", photo.stem)


def load_photo(photo: Photo, find_holder: Callable[[str], str | None]) -> Loaded:
    """Read a photo, and decode it unless `find_holder(digest)` says that it is enrolled.

    Refusals are returned.
    """
    digest = ""
    try:
        content = read_bytes(photo.path)
        digest = hashlib.sha256(content).hexdigest()
        holder = find_holder(digest)
        return Loaded(photo, digest, None if holder else decode(content), holder)
    except EnrolmentRefused as refusal:
        return Loaded(photo, digest, refusal=refusal)


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises EnrolmentRefused."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refusal("unreadable", f"unreadable photo: {error.strerror}") from error


def decode(data: bytes) -> Image:
    """The photo as (H, W, 3) uint8 BGR, upright as its EXIF says. Raises EnrolmentRefused."""
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # more pixels than OpenCV takes
        found = None
    if found is None:
        raise Refusal(
            "unreadable", "unreadable photo: expected a whole JPEG, PNG, WebP, BMP or TIFF"
        )
    return np.asarray(found, dtype=np.uint8)


class ReadAhead:
    """Reads photos in a thread of its own, a little ahead of whoever iterates, in their order."""

    def __init__(self, photos: Sequence[Photo], load: Callable[[Photo], Loaded]) -> None:
        """load: called in that thread; what it raises is raised where the photo would come."""
        self._photos = photos
        self._load = load
        self._turn = threading.Condition()
        self._ready: deque[Loaded | BaseException] = deque()
        self._held = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._read, name="enrol-reader", daemon=True)

    def __enter__(self) -> Self:
        """Begin to read; leaving stops."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop reading."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[Loaded]:
        """Yield every photo once."""
        for _ in self._photos:
            with self._turn:
                self._turn.wait_for(lambda: self._ready)
                one = self._ready.popleft()
                if isinstance(one, BaseException):
                    raise one
                self._held -= _size(one)
                self._turn.notify_all()
            yield one

    def _read(self) -> None:
        for photo in self._photos:
            one: Loaded | BaseException
            try:
                one = self._load(photo)
            except BaseException as error:
                one = error
            with self._turn:
                self._ready.append(one)
                self._turn.notify_all()
                if isinstance(one, BaseException):
                    return
                self._held += _size(one)
                self._turn.wait_for(self._has_room)
                if self._stopped:
                    return

    def _has_room(self) -> bool:
        few = len(self._ready) < AHEAD_PHOTOS and self._held < AHEAD_BYTES
        return self._stopped or not self._ready or few


def _size(loaded: Loaded) -> int:
    return 0 if loaded.image is None else loaded.image.nbytes


def _list(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise Refusal("unreadable", f"cannot read the folder {folder}: {error.strerror}") from error
    return [p for p in found if not p.name.startswith(".") and p.name.lower() not in SYSTEM_FILES]
