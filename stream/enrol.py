"""Enrolment: photos in, gallery samples out, every refusal with its reason in words.

A photo enrols one person. It is refused unless it shows exactly one face (people in the background,
less than a third as tall as the nearest, do not count), tall enough and good enough. The same
detector, alignment, embedder and quality source work here as on video.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import msgspec
import numpy as np

from .. import EnrolmentRefused, GalleryEmpty
from ..configs.schema import EnrolConfig
from ..models.align import eye_distance
from ..models.inference import Image
from ..models.photo import PhotoFace, describe_face, find_faces, tallest_face
from .gallery import Gallery
from .gallery_records import normalise_name

if TYPE_CHECKING:
    from ..models.pack import Pack

BACKGROUND = 1 / 3
"""Faces lower than this share of the tallest one count as people in the background."""

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


class PhotoResult(msgspec.Struct, frozen=True):
    """What became of one photo.

    source: the photo as the user knows it (path below the folder). status: enrolled, known (the
    same photo was enrolled before), or refused for `reason`. face_height in px of the photo and
    quality in the pack's unit are None where nothing was measured.
    """

    source: str
    identity: str
    status: Literal["enrolled", "known", "refused"]
    reason: str = ""
    face_height: float | None = None
    quality: float | None = None


class EnrolmentSummary(msgspec.Struct, frozen=True):
    """What became of a folder or of one photo, photo by photo in the order of their names."""

    path: str
    results: tuple[PhotoResult, ...]

    def count(self, status: Literal["enrolled", "known", "refused"]) -> int:
        """How many photos ended so."""
        return sum(result.status == status for result in self.results)

    @property
    def refusals(self) -> tuple[PhotoResult, ...]:
        """The refused photos."""
        return tuple(result for result in self.results if result.status == "refused")

    def require_somebody(self) -> None:
        """Raise GalleryEmpty, with the first reason, when not one photo is in the gallery."""
        if len(self.refusals) == len(self.results):
            first, count = self.refusals[0], len(self.results)
            which = "the photo was" if count == 1 else f"all {count} photos were"
            raise GalleryEmpty(
                f"nobody was enrolled from {self.path}: {which} refused ({first.source}: "
                f"{first.reason})"
            )


Progress = Callable[[int, int, PhotoResult], None]
"""Called after each photo with how many are done, how many there are, and its result."""


class Enroller:
    """Enrols photos into a gallery with a pack. Use it from one thread."""

    def __init__(self, pack: Pack, gallery: Gallery, rules: EnrolConfig | None = None) -> None:
        """Enrol into `gallery` with the networks of `pack`, under `rules`."""
        self._pack = pack
        self._gallery = gallery
        self._rules = rules or EnrolConfig()
        self._embedder = pack.card.checksum(pack.card.embedder.file)

    def enrol_photo(
        self, name: str, photo: Image | str | Path, *, notes: str | None = None
    ) -> PhotoResult:
        """Enrol one photo of a person: a file, or (H, W, 3) uint8 BGR.

        A file is turned upright as its EXIF says. Raises EnrolmentRefused with the reason in words,
        and what the gallery and the networks raise.
        """
        name = normalise_name(name)
        if isinstance(photo, np.ndarray):
            source, content = "(picture)", repr(photo.shape).encode() + photo.tobytes()
        else:
            source, content = _shown(Path(photo).name), _read(Path(photo))
        digest = hashlib.sha256(content).hexdigest()
        pack = self._pack.card.name
        holder = self._gallery.holder(digest, pack=pack, embedder=self._embedder)
        if holder == name and notes is None:
            return PhotoResult(source, name, "known")
        image = photo if isinstance(photo, np.ndarray) else _decode(content)
        face = self._only_face(image)
        described = describe_face(self._pack, image, face)
        least = self._rules.least_quality
        if least is not None and described.quality < least:
            unit = self._pack.quality.unit
            raise EnrolmentRefused(
                f"quality {described.quality:.4g}, at least {least:.4g} needed ({unit})"
            )
        added = self._gallery.add_sample(
            name,
            described.embedding,
            norm=described.norm,
            quality=described.quality,
            pack=pack,
            embedder=self._embedder,
            source=source,
            digest=digest,
            notes=notes,
        )
        status: Literal["enrolled", "known"] = "enrolled" if added else "known"
        return PhotoResult(source, name, status, "", face.height, described.quality)

    def enrol_folder(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        notes: str | None = None,
        progress: Progress | None = None,
    ) -> EnrolmentSummary:
        """Enrol a folder of photos, or one photo, named as `photos_of` says.

        Refusals do not stop it. Every photo is a transaction of its own: what was enrolled before
        an interruption stays, and a second run skips it. Raises GalleryEmpty for a folder without
        photos, EnrolmentRefused for a path that cannot be read; errors of the gallery and of the
        networks end the run.
        """
        path = Path(path)
        photos = list(photos_of(path, name))
        if not photos:
            raise GalleryEmpty(
                f"no photos in {path}: expected NAME.jpg files, or a folder of photos per person"
            )
        results = []
        for photo, person in photos:
            source = _shown(photo.name if photo == path else str(photo.relative_to(path)))
            try:
                done = self.enrol_photo(person, photo, notes=notes)
                result = msgspec.structs.replace(done, source=source)
            except EnrolmentRefused as refusal:
                result = PhotoResult(source, _shown(person), "refused", str(refusal))
            results.append(result)
            if progress is not None:
                progress(len(results), len(photos), result)
        return EnrolmentSummary(_shown(str(path)), tuple(results))

    def _only_face(self, image: Image) -> PhotoFace:
        """The face to enrol, in px of the photo. Raises EnrolmentRefused."""
        faces = find_faces(self._pack.detector, image)
        face = tallest_face(faces)
        if face is None:
            raise EnrolmentRefused("no face found")
        heights = faces.boxes[:, 3] - faces.boxes[:, 1]
        near = int((heights >= BACKGROUND * face.height).sum())
        if near > 1 and not self._rules.largest:
            raise EnrolmentRefused(
                f"{near} faces: one is needed (crop the photo or pass --largest)"
            )
        least = self._rules.smallest_face
        if face.height < least:
            raise EnrolmentRefused(f"face {face.height:.0f} px tall, at least {least:.0f} needed")
        apart = float(eye_distance(face.landmarks))
        least = self._pack.card.embedder.minimal_eye_distance
        if apart < least:
            raise EnrolmentRefused(
                f"eyes {apart:.0f} px apart, at least {least:.0f} needed (too small or turned away)"
            )
        return face


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
            raise EnrolmentRefused(f"no photo or folder at {path}")
        yield path, name or _person(path)
        return
    for entry in _list(path):
        if name is not None or not entry.is_dir():
            yield entry, name or _person(entry)
        else:
            yield from ((photo, entry.name) for photo in _list(entry))


def _person(photo: Path) -> str:
    return re.sub(r"#\d+$", "", photo.stem)


def _list(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise EnrolmentRefused(f"cannot read the folder {folder}: {error.strerror}") from error
    return [p for p in found if not p.name.startswith(".") and p.name.lower() not in SYSTEM_FILES]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnrolmentRefused(f"unreadable photo: {error.strerror}") from error


def _decode(data: bytes) -> Image:
    """The photo as (H, W, 3) uint8 BGR, upright as its EXIF says."""
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # more pixels than OpenCV takes
        found = None
    if found is None:
        raise EnrolmentRefused("unreadable photo: expected a whole JPEG, PNG, WebP, BMP or TIFF")
    return np.asarray(found, dtype=np.uint8)


def _shown(text: str) -> str:
    """A path or name as it can be printed: bytes that are no text become question marks."""
    return text.encode(errors="replace").decode()
