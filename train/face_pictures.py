"""Where aligned faces come from: files, records, .bin sets. One picture at a time, by its row.

Everything here gives (112, 112, 3) uint8 BGR, aligned to the ArcFace template, and names the file
(and key or line) of what it cannot read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from .. import SourceCorrupt, SourceMissing
from ..models.align import ARCFACE_112, warp
from ..models.bin_set import BinPictures
from ..models.feature_store import fingerprint_parts
from ..models.inference import Floats, Image
from ..models.verification import Integers
from .record_io import RecordFile

SIDE = ARCFACE_112.size
PROBED = 256
"""How many pictures a fingerprint reads."""


class Pictures(Protocol):
    """Aligned faces by row."""

    def name(self, row: int) -> str:
        """The file, and what finds the picture in it, for messages and fingerprints."""
        ...

    def content(self, row: int) -> bytes:
        """What the picture is made of. Raises SourceMissing and SourceCorrupt naming it."""
        ...

    def read(self, row: int) -> Image:
        """The face (112, 112, 3) uint8 BGR. Raises as `content`, and where it is no picture."""
        ...


def decode_face(content: bytes, name: str, landmarks: Floats | None = None) -> Image:
    """The face of a picture file: warped by its landmarks (5, 2) px, else already an aligned crop.

    A crop of another size than 112 px is resized. Raises SourceCorrupt, naming it, for what is no
    picture, and for a crop that is not square: that cannot be aligned to the template.
    """
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise SourceCorrupt(
            f"{name} is not a readable picture ({len(content)} bytes): replace it, or take it out "
            "of the list"
        )
    picture = np.asarray(image, np.uint8)
    if landmarks is not None:
        return warp(picture, landmarks, ARCFACE_112)
    height, width = picture.shape[:2]
    if height != width:
        raise SourceCorrupt(
            f"{name}: expected a square crop, aligned to the ArcFace template, got {width} x "
            f"{height}: align it first, or list its landmarks"
        )
    if width != SIDE:
        how = cv2.INTER_AREA if width > SIDE else cv2.INTER_CUBIC
        picture = np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=how), np.uint8)
    return picture


@dataclass(frozen=True, eq=False)
class FilePictures:
    """Picture files, one per row; landmarks (N, 5, 2) px where the faces are not aligned yet.

    places: of each in the list that names it, "list.csv:3", where there is one.
    """

    files: Sequence[Path]
    landmarks: Floats | None = None
    places: Sequence[str] = ()

    def name(self, row: int) -> str:
        """The path, after its place in a list."""
        place = f"{self.places[row]}: " if self.places else ""
        return f"{place}{self.files[row]}"

    def content(self, row: int) -> bytes:
        """The bytes of the file. Raises SourceMissing."""
        try:
            return self.files[row].read_bytes()
        except OSError as error:
            raise SourceMissing(
                f"{self.name(row)} cannot be read ({error.strerror or error}): bring it back, or "
                "take it out of the list"
            ) from error

    def read(self, row: int) -> Image:
        """The face, warped where there are landmarks."""
        points = None if self.landmarks is None else self.landmarks[row]
        return decode_face(self.content(row), self.name(row), points)


@dataclass(frozen=True, eq=False)
class RecordPictures:
    """Pictures of a .rec by key, one per row."""

    file: RecordFile
    keys: Integers

    def name(self, row: int) -> str:
        """The .rec, key and byte offset."""
        key = int(self.keys[row])
        return f"{self.file.path}, key {key}, byte {self.file.offset(key)}"

    def content(self, row: int) -> bytes:
        """The encoded picture."""
        return self.file.read(int(self.keys[row])).content

    def read(self, row: int) -> Image:
        """The face."""
        return decode_face(self.content(row), self.name(row))


@dataclass(frozen=True, eq=False)
class BinFaces:
    """Pictures of a .bin set, pair i in rows 2i and 2i + 1."""

    pictures: BinPictures

    def name(self, row: int) -> str:
        """The .bin and the number of the picture, from 0."""
        return f"{self.pictures.path}, picture {row}"

    def content(self, row: int) -> bytes:
        """The encoded picture."""
        return self.pictures.read(row)

    def read(self, row: int) -> Image:
        """The face."""
        return decode_face(self.content(row), self.name(row))


@dataclass(frozen=True, eq=False)
class CropPictures:
    """Faces in memory: crops (N, 112, 112, 3) uint8 BGR, and the names of their pictures."""

    names: Sequence[str]
    crops: Image

    def name(self, row: int) -> str:
        """The picture that the face was cut from."""
        return self.names[row]

    def content(self, row: int) -> bytes:
        """The pixels."""
        return bytes(self.crops[row].tobytes())

    def read(self, row: int) -> Image:
        """The face; writing to it changes nothing here."""
        return np.array(self.crops[row], np.uint8)


@dataclass(frozen=True, eq=False)
class ChosenPictures:
    """Some rows of other pictures, in the order given."""

    pictures: Pictures
    rows: Integers

    def name(self, row: int) -> str:
        """As in the other pictures."""
        return self.pictures.name(int(self.rows[row]))

    def content(self, row: int) -> bytes:
        """As in the other pictures."""
        return self.pictures.content(int(self.rows[row]))

    def read(self, row: int) -> Image:
        """As in the other pictures."""
        return self.pictures.read(int(self.rows[row]))


def fingerprint_faces(
    title: str, pictures: Pictures, labels: Integers, names: Sequence[str]
) -> str:
    """16 hexadecimal digits of a labelled list (N,) of identities with these names (classes,).

    Title, labels, names, landmarks and the content of pictures count. Of more than 256 pictures,
    256 evenly spread ones are read: sets of millions are told apart without reading them. Paths do
    not count, so a set can be moved. Raises as `Pictures.content`.
    """
    some = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), PROBED)).astype(np.int64))
    points = _landmarks(pictures, np.arange(len(labels)))
    head = [
        ("title", title.encode()),
        ("labels", np.ascontiguousarray(labels, "<i8").tobytes()),
        ("names", "\0".join(names).encode(errors="surrogateescape")),
        ("landmarks", b"" if points is None else np.ascontiguousarray(points, "<f4").tobytes()),
    ]
    return fingerprint_parts([*head, *((f"{row}", pictures.content(row)) for row in some.tolist())])


def _landmarks(pictures: Pictures, rows: Integers) -> Floats | None:
    """(N, 5, 2) px that the faces of rows (N,) are aligned by; None where they are aligned."""
    if isinstance(pictures, ChosenPictures):
        return _landmarks(pictures.pictures, pictures.rows[rows])
    if isinstance(pictures, FilePictures) and pictures.landmarks is not None:
        return pictures.landmarks[rows]
    return None
