"""Labelled faces from every form in which sets come: records, folders, lists, the split's roles.

    train.rec            MXNet RecordIO with its .idx (train/record_io)
    folder/              one folder of pictures per identity
    list.csv             "path,label" or "image,identity" with that header; ten more columns
                         x1,y1 .. x5,y5, px, align faces that are not aligned yet
    list.txt             MagFace's: "path 0 label 0", fields 0 and 2 count

Paths of a list are relative to it. Labels may be any words or numbers; classes are numbered 0 ..
classes - 1 in the order of their names.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, SourceCorrupt, SourceMissing
from ..configs.split import Role, role_pictures
from ..models.align import ARCFACE_112, warp
from ..models.bin_set import BinPictures, read_bin
from ..models.inference import Detector, Floats, Image
from ..models.photo import find_faces, tallest_face
from ..models.verification import Integers
from .face_pictures import (
    BinFaces,
    ChosenPictures,
    CropPictures,
    FilePictures,
    Pictures,
    RecordPictures,
    fingerprint_faces,
)
from .folders import SUFFIXES, read_pictures
from .record_io import RecordFile
from .samplers import Identities

HEADERS = (["path", "label"], ["image", "identity"])
POINTS = [f"{axis}{n}" for n in range(1, 6) for axis in "xy"]


@dataclass(frozen=True, eq=False)
class LabelledFaces:
    """N aligned faces and whose they are."""

    title: str
    """Name of the set, for people."""
    pictures: Pictures
    labels: Integers
    """(N,) int64, 0 .. classes - 1."""
    names: Sequence[str]
    """(classes,) names of the identities."""
    left_out: Sequence[str] = field(default=())
    """Pictures in which no face was found."""
    named: bool = True
    """Whether names say who people are, in other sets too; numbers in records do not."""

    @property
    def count(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many identities there are."""
        return len(self.names)

    @cached_property
    def identities(self) -> Identities:
        """Which faces belong to whom."""
        return Identities(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; see `fingerprint_faces`."""
        return fingerprint_faces(self.title, self.pictures, self.labels, self.names)

    def read(self, row: int) -> Image:
        """One face, (112, 112, 3) uint8 BGR. Raises SourceMissing or SourceCorrupt naming it."""
        return self.pictures.read(row)

    def take(self, chosen: Sequence[int]) -> LabelledFaces:
        """The faces of these classes only, renumbered in the order given."""
        rows = [self.identities.rows(identity) for identity in chosen]
        return LabelledFaces(
            self.title,
            ChosenPictures(self.pictures, np.concatenate(rows)),
            np.repeat(np.arange(len(rows)), [len(of) for of in rows]),
            [self.names[identity] for identity in chosen],
            named=self.named,
        )


class FacePairs(NamedTuple):
    """N pairs of faces: pictures of rows 2i and 2i + 1 are pair i. same (N,) bool."""

    title: str
    pictures: Pictures
    same: npt.NDArray[np.bool_]


def open_faces(path: Path, *, least: int = 1) -> LabelledFaces:
    """The faces of a .rec, a folder, a .csv or a MagFace list, told apart by what `path` is.

    least: fewest pictures of an identity. Raises SourceMissing, SourceCorrupt or ConfigError,
    naming file, and key, folder or line, for what is missing, damaged or malformed; ConfigError for
    an identity with fewer pictures.
    """
    if path.is_dir():
        return faces_in_folders(path, least=least)
    if not path.is_file():
        raise SourceMissing(
            f"{path}: expected a .rec, a folder or a list of faces, nothing is there"
        )
    if path.suffix == ".rec":
        return faces_in_records(path, least=least)
    return faces_in_list(path, least=least)


def faces_in_records(path: Path, *, least: int = 1) -> LabelledFaces:
    """The pictures of a .rec; its labels must be whole numbers. Raises as `open_faces`."""
    file = RecordFile(path)
    keys = file.picture_keys()
    labels = file.first_labels(keys)
    wrong = np.flatnonzero((labels < 0) | (labels != np.rint(labels)))
    if len(wrong):
        raise SourceCorrupt(
            f"{path}, key {keys[wrong[0]]}, byte {file.offset(int(keys[wrong[0]]))}: expected a "
            f"whole number from 0 on as label, got {labels[wrong[0]]}"
        )
    numbers, classes = np.unique(labels.astype(np.int64), return_inverse=True)
    names = [str(number) for number in numbers.tolist()]
    pictures = RecordPictures(file, keys)
    faces = LabelledFaces(path.name, pictures, classes.astype(np.int64), names, named=False)
    return _require(faces, path, least)


def faces_in_folders(folder: Path, *, least: int = 1) -> LabelledFaces:
    """Folders named as identities, each with at least one picture. Raises as `open_faces`.

    Hidden files and folders are left out, and folders that are called as pictures are.
    """
    people = sorted(
        place for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")
    )
    if not people:
        raise SourceMissing(f"{folder} holds no folders: expected one per identity")
    files, labels = [], []
    for label, person in enumerate(people):
        found = sorted(f for f in person.iterdir() if _is_picture(f))
        if not found:
            raise SourceMissing(
                f"{person} is an identity without a picture ({', '.join(sorted(SUFFIXES))}): fill "
                "the folder or remove it"
            )
        files += found
        labels += [label] * len(found)
    names = [person.name for person in people]
    return _checked(folder, FilePictures(files), np.array(labels), names, least)


def _is_picture(path: Path) -> bool:
    """A file by its suffix; hidden ones (._a.jpg of other systems' archives) hold no picture."""
    wanted = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    return wanted and path.is_file()


def faces_in_list(path: Path, *, least: int = 1) -> LabelledFaces:
    """The pictures of a .csv with a header, or of a MagFace list. Raises as `open_faces`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a list of faces, got bytes that are no text") from None
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    read = _read_csv if path.suffix == ".csv" else _read_magface
    entries = list(read(path, lines))
    if not entries:
        raise ConfigError(f"{path}: expected a face per line, got none")
    _check_files(path, entries)
    names = sorted({entry.label for entry in entries})
    places = {name: place for place, name in enumerate(names)}
    labels = np.array([places[entry.label] for entry in entries], np.int64)
    points = [entry.landmarks for entry in entries if entry.landmarks is not None]
    pictures = FilePictures(
        [entry.file for entry in entries],
        np.stack(points) if points else None,
        [f"{path}:{entry.line}" for entry in entries],
    )
    return _checked(path, pictures, labels, names, least)


def faces_of_role(
    assets: Path, role: Role, detector: Detector, source: str = "", *, least: int = 1
) -> LabelledFaces:
    """Everybody of one role of the split, aligned by a detector; held in memory, 37 kB a face.

    Pictures without a face that is found are named in `left_out`, identities without any are not
    there. Raises as `role_pictures`, and SourceMissing where nobody remains.
    """
    names: list[str] = []
    files, labels, crops, left_out = [], [], [], []
    for identity, paths in role_pictures(assets, role, source).items():
        for path, image in read_pictures(paths):
            face = tallest_face(find_faces(detector, image))
            if face is None:
                left_out.append(str(path))
                continue
            if not names or names[-1] != identity:
                names.append(identity)
            files.append(str(path))
            labels.append(len(names) - 1)
            crops.append(warp(image, face.landmarks, ARCFACE_112))
    if not crops:
        raise SourceMissing(f"{assets}: no face was found in any picture of the role {role}")
    title = f"role {role}{f' of {source}' if source else ''}"
    faces = LabelledFaces(
        title, CropPictures(files, np.stack(crops)), np.array(labels), names, left_out
    )
    return _require(faces, assets, least)


def pairs_in_bin(path: Path) -> FacePairs:
    """The pairs of a .bin verification set. Raises as `read_bin`, and SourceMissing."""
    if not path.is_file():
        raise SourceMissing(f"{path}: expected a .bin verification set, nothing is there")
    return FacePairs(path.stem, BinFaces(BinPictures(path)), read_bin(path).same)


def hold_out(
    faces: LabelledFaces, share: float, seed: int = 0
) -> tuple[LabelledFaces, LabelledFaces]:
    """Training and validation faces, of different identities; `share` of them validate.

    Who does is decided by the hash of the name: the same people whatever the order of the list.
    Raises ConfigError where either would have fewer than two identities.
    """
    order = sorted(
        range(faces.classes),
        key=lambda n: hashlib.sha256(f"{seed} {faces.names[n]}".encode()).digest(),
    )
    count = round(share * faces.classes)
    if min(count, faces.classes - count) < 2:
        raise ConfigError(
            f"{faces.title} has {faces.classes} identities: a share of {share:g} held out leaves "
            f"{count} to validate and {faces.classes - count} to train, two of each are needed"
        )
    return faces.take(sorted(order[count:])), faces.take(sorted(order[:count]))


class _Entry(NamedTuple):
    """A line of a list."""

    line: int
    file: Path
    label: str
    landmarks: Floats | None = None


def _read_csv(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[_Entry]:
    header = lines[0][1].strip().split(",") if lines else []
    if header[:2] not in HEADERS or header[2:] not in ([], POINTS):
        raise ConfigError(
            f"{path}:1: expected the header path,label or path,label,{','.join(POINTS)}, got "
            f"{','.join(header)[:60]!r}"
        )
    for number, line in lines[1:]:
        cells = next(csv.reader([line]))
        if len(cells) != len(header) or not cells[0] or not cells[1]:
            raise ConfigError(
                f"{path}:{number}: expected {len(header)} values, {','.join(header[:2])} and so "
                f"on, got {line[:60]!r}"
            )
        points = None
        if len(cells) > 2:
            points = _landmarks(path, number, cells[2:])
        yield _Entry(number, path.parent / cells[0], cells[1], points)


def _landmarks(path: Path, number: int, cells: Sequence[str]) -> Floats:
    try:
        points = np.array([float(cell) for cell in cells], np.float32).reshape(5, 2)
    except ValueError:
        points = np.full((5, 2), np.nan, np.float32)
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() <= 0:
        raise ConfigError(
            f"{path}:{number}: expected five landmarks in px, not all in one place, got "
            f"{','.join(cells)[:60]!r}"
        )
    return points


def _read_magface(path: Path, lines: Sequence[tuple[int, str]]) -> Iterator[_Entry]:
    for number, line in lines:
        cells = line.split()
        if len(cells) not in (3, 4) or not cells[2].isdigit():
            raise ConfigError(
                f'{path}:{number}: expected "path 0 label 0", the label a whole number, got '
                f"{line[:60]!r}"
            )
        yield _Entry(number, path.parent / cells[0], str(int(cells[2])))


def _check_files(path: Path, entries: Sequence[_Entry]) -> None:
    """Every file must be there, and in one line only."""
    seen: dict[Path, int] = {}
    for entry in entries:
        if entry.file in seen:
            raise ConfigError(
                f"{path}:{entry.line}: {entry.file.name} is in line {seen[entry.file]} already"
            )
        seen[entry.file] = entry.line
        if not entry.file.is_file():
            raise SourceMissing(
                f"{path}:{entry.line}: {entry.file} is not there: paths are relative to the list"
            )


def _checked(
    path: Path, pictures: Pictures, labels: Integers, names: Sequence[str], least: int
) -> LabelledFaces:
    return _require(LabelledFaces(path.name, pictures, labels, names), path, least)


def _require(faces: LabelledFaces, path: Path, least: int) -> LabelledFaces:
    few = np.flatnonzero(faces.identities.counts < least)
    if len(few):
        raise ConfigError(
            f"{path}: expected {least} pictures of each identity at least, got "
            f"{faces.identities.counts[few[0]]} of {faces.names[few[0]]!r} ({len(few)} of "
            f"{faces.classes} identities have fewer): add pictures, take them out, or lower "
            "data.least"
        )
    return faces
