"""Enrolment: photos in, gallery samples out, every refusal with its reason in words.

A photo enrols one person. It is refused unless it shows exactly one face (people in the background,
less than a third as tall as the nearest, do not count), tall enough and good enough. The same
detector, alignment, embedder and quality source work here as on video.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import msgspec
import numpy as np

from .. import EnrolmentRefused, GalleryEmpty
from ..models.align import eye_distance, warp
from ..models.card import Card
from ..models.inference import Detector, FaceBoxes, Floats, Image
from .gallery import Gallery
from .gallery_records import normalise_name

if TYPE_CHECKING:
    from ..models.pack import Pack

LARGEST_VIEW = 960
SMALLEST_VIEW = 320
"""Longer side, in px, of the picture that the detector sees: photos are scaled into this range."""

BORDER = 0.5
"""Border for a second look, as a share of the photo's longer side."""

FILLING = 0.5
"""A face higher than this share of the view deserves a second look.

Detectors miss faces that fill the picture, as in passport photos and aligned crops, or see several
in one: of faces cropped at the box and shown 960 px tall, two in three or more gave extra boxes;
inside a border, with either detector, none did.
"""

GREY = (127.0, 127.0, 127.0)
"""Colour of that border."""

BACKGROUND = 1 / 3
"""Faces lower than this share of the tallest one count as people in the background."""

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class EnrolRules:
    """What a photo must be like."""

    smallest_face: float = 48.0
    """Smallest height of a face, in px of the photo."""
    least_quality: float | None = None
    """Smallest quality, in the unit of the pack's quality source; none accepts any."""
    largest: bool = False
    """Take the largest face of a photo that shows several, instead of refusing it."""


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

    def __init__(self, pack: Pack, gallery: Gallery, rules: EnrolRules | None = None) -> None:
        """Enrol into `gallery` with the networks of `pack`, under `rules`."""
        self._pack = pack
        self._gallery = gallery
        self._rules = rules or EnrolRules()
        self._embedder = embedder_version(pack.card)

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
        embedding, norm, quality = self._embed(image, face)
        added = self._gallery.add_sample(
            name,
            embedding,
            norm=norm,
            quality=quality,
            pack=pack,
            embedder=self._embedder,
            source=source,
            digest=digest,
            notes=notes,
        )
        status: Literal["enrolled", "known"] = "enrolled" if added else "known"
        return PhotoResult(source, name, status, "", _height(face.box), quality)

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

    def _only_face(self, image: Image) -> _Face:
        """The face to enrol, in px of the photo. Raises EnrolmentRefused."""
        faces = find_faces(self._pack.detector, image)
        if not len(faces.boxes):
            raise EnrolmentRefused("no face found")
        heights = faces.boxes[:, 3] - faces.boxes[:, 1]
        tallest = int(heights.argmax())
        near = int((heights >= BACKGROUND * heights[tallest]).sum())
        if near > 1 and not self._rules.largest:
            raise EnrolmentRefused(
                f"{near} faces: one is needed (crop the photo or pass --largest)"
            )
        least = self._rules.smallest_face
        if heights[tallest] < least:
            raise EnrolmentRefused(
                f"face {heights[tallest]:.0f} px tall, at least {least:.0f} needed"
            )
        apart = float(eye_distance(faces.landmarks[tallest]))
        least = self._pack.card.embedder.minimal_eye_distance
        if apart < least:
            raise EnrolmentRefused(
                f"eyes {apart:.0f} px apart, at least {least:.0f} needed (too small or turned away)"
            )
        return _Face(faces.boxes[tallest], faces.landmarks[tallest], float(faces.scores[tallest]))

    def _embed(self, image: Image, face: _Face) -> tuple[Floats, float, float]:
        """Embedding (C,), its norm, and quality. Raises EnrolmentRefused for too low a quality."""
        crops = {
            consumer: warp(image, face.landmarks, template)[None]
            for consumer, template in self._pack.consumers.items()
        }
        embedded = self._pack.embedder.embed(crops["embedder"])
        quality = self._pack.quality.score(
            crops=crops.get("quality", crops["embedder"]),
            embedded=embedded,
            boxes=face.box[None],
            scores=np.array([face.score], np.float32),
        )
        got, least = float(quality[0]), self._rules.least_quality
        if least is not None and got < least:
            unit = self._pack.quality.unit
            raise EnrolmentRefused(f"quality {got:.4g}, at least {least:g} needed ({unit})")
        return embedded.embeddings[0], float(embedded.norms[0]), got


class _Face(NamedTuple):
    """box (4,) and landmarks (5, 2) float32 px of the photo; detector score."""

    box: Floats
    landmarks: Floats
    score: float


def embedder_version(card: Card) -> str:
    """SHA-256 of the embedder's published file; of all their sums where it is made from several.

    Embeddings are comparable only when this is the same. It does not depend on this machine.
    """
    key = card.embedder.file
    sources = card.derived[key].sources if key in card.derived else (key,)
    sums = [card.files[source].sha256 for source in sources]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def find_faces(detector: Detector, image: Image) -> FaceBoxes:
    """The faces of a photo (H, W, 3) uint8 BGR of any size, in px of that photo, best first.

    The photo is scaled so that its longer side is 320 to 960 px. When no face is found, or one
    that fills the photo, it is looked at again inside a border.
    """
    faces = _look(detector, image, 0.0)
    heights = faces.boxes[:, 3] - faces.boxes[:, 1]
    if len(heights) and heights.max() <= FILLING * max(image.shape[:2]):
        return faces
    framed = _look(detector, image, BORDER)
    return framed if len(framed.boxes) else faces


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


def _resize(image: Image, scale: float) -> Image:
    if scale == 1.0:
        return image
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def _look(detector: Detector, image: Image, border: float) -> FaceBoxes:
    """Detect in a view with a grey border of this share of the longer side; px of the image."""
    side = max(image.shape[:2])
    scale = min(max(1.0, SMALLEST_VIEW / side), LARGEST_VIEW / (side * (1 + 2 * border)))
    width = round(side * scale * border)
    view = cv2.copyMakeBorder(
        _resize(image, scale), width, width, width, width, cv2.BORDER_CONSTANT, value=GREY
    )
    faces = detector.detect([np.asarray(view, dtype=np.uint8)])[0]
    boxes = ((faces.boxes - width) / scale).astype(np.float32)
    landmarks = ((faces.landmarks - width) / scale).astype(np.float32)
    return FaceBoxes(boxes, landmarks, faces.scores)


def _shown(text: str) -> str:
    """A path or name as it can be printed: bytes that are no text become question marks."""
    return text.encode(errors="replace").decode()


def _height(box: Floats) -> float:
    return float(box[3] - box[1])
