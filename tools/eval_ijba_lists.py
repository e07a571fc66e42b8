"""IJB-A's ten splits as they are distributed.

IJB-A_11_sets/split1/verify_metadata_1.csv      faces of the templates, with a header
IJB-A_11_sets/split1/verify_comparisons_1.csv   template,template without a header
IJB-A_1N_sets/split1/search_gallery_1.csv, search_probe_1.csv   as verify_metadata
images/img/1.jpg, images/frame/2_00010.png      what column FILE names

The folders split1..split10 may also lie directly in the set's folder, and img/ and frame/ too.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.scores import Labels
from .eval_crops_ijbs import cut_box
from .eval_text import Integers
from .report_record import Bad

SPLITS = range(1, 11)
MARGIN = 0.5
"""Added to a face's box on each side, as a share of it: room for the detector that aligns."""

_NUMBERS = ("TEMPLATE_ID", "SUBJECT_ID", "MEDIA_ID")
BOX = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")


class Face(NamedTuple):
    """A face in a picture file: its box as left, top, width, height in pixels."""

    file: str
    box: tuple[float, float, float, float]

    @property
    def name(self) -> str:
        """A name for the feature store: one picture may hold several subjects.

        >>> Face("img/1.jpg", (10, 20.5, 30, 40)).name
        'img/1.jpg 10.0,20.5,30.0,40.0'
        """
        return f"{self.file} " + ",".join(str(float(value)) for value in self.box)


class FaceList(NamedTuple):
    """Faces (N) with their template, subject and medium (N,); a template has one subject."""

    path: Path
    faces: list[Face]
    templates: Labels
    subjects: Labels
    media: Labels


class Verification(NamedTuple):
    """1:1 in one split. pairs (P, 2): template numbers of the list of faces."""

    split: int
    listed: FaceList
    pairs: Integers


class Identification(NamedTuple):
    """1:N in one split."""

    split: int
    gallery: FaceList
    probes: FaceList


@dataclass(frozen=True)
class FaceCrops:
    """Pictures cut around the given boxes, so that the face in the middle is the one meant."""

    folder: Path
    faces: Sequence[Face]

    def read(self, row: int) -> bytes:
        """The crop as an uncompressed picture file; a file that is no picture as it is."""
        import cv2

        face = self.faces[row]
        data = (self.folder / face.file).read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None:
            return data
        left, top, width, height = face.box
        box = np.array([left, top, left + width, top + height])
        crop = cut_box(np.asarray(image, np.uint8), box, MARGIN)
        return bytes(cv2.imencode(".bmp", crop)[1])


def pictures_folder(root: Path) -> Path:
    """The folder that holds img/ and frame/: the set's own, or images/ below it."""
    return root if (root / "img").is_dir() or (root / "frame").is_dir() else root / "images"


def read_verification(root: Path, bad: list[Bad] | None = None) -> list[Verification]:
    """1:1 of all ten splits. With `bad`, what is missing or malformed is left out and listed.

    Raises ConfigError for a missing split, a malformed line, and a template that the list of faces
    does not have.
    """
    splits = []
    for split in SPLITS:
        names = (f"verify_metadata_{split}.csv", f"verify_comparisons_{split}.csv")
        if paths := _locate(root, "IJB-A_11_sets", split, names, bad):
            listed = read_faces(paths[0], bad)
            splits.append(Verification(split, listed, read_pairs(paths[1], listed, bad)))
    _need_splits(root, len(splits))
    return splits


def read_identification(root: Path, bad: list[Bad] | None = None) -> list[Identification]:
    """1:N of all ten splits, as `read_verification`."""
    splits = []
    for split in SPLITS:
        names = (f"search_gallery_{split}.csv", f"search_probe_{split}.csv")
        if paths := _locate(root, "IJB-A_1N_sets", split, names, bad):
            gallery, probes = (read_faces(path, bad) for path in paths)
            splits.append(Identification(split, gallery, probes))
    _need_splits(root, len(splits))
    return splits


def read_faces(path: Path, bad: list[Bad] | None = None) -> FaceList:
    """One list of faces by the names of its columns, the others unread.

    Raises ConfigError for a header without a needed column, a malformed line, a template with two
    subjects, and no faces at all.
    """
    faces: list[Face] = []
    numbers: list[list[int]] = []
    subject_of: dict[int, int] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(file)
        columns = {name.strip().upper(): place for place, name in enumerate(next(rows, []))}
        if lacking := [name for name in (*_NUMBERS, "FILE", *BOX) if name not in columns]:
            raise ConfigError(
                f"{path}:1: expected a header with TEMPLATE_ID, SUBJECT_ID, FILE, ..., it lacks "
                f"{', '.join(lacking)}: take the list as it was distributed"
            )
        for fields in rows:
            parsed = parse_face(fields, columns)
            if parsed is None:
                why = f"expected numbers, a file and a box of a face, got {','.join(fields)[:60]!r}"
                note_line(path, rows.line_num, why, bad)
                continue
            face, (template, subject, medium) = parsed
            if subject_of.setdefault(template, subject) != subject:
                why = f"template {template} has subjects {subject_of[template]} and {subject}"
                note_line(path, rows.line_num, why, bad)
                continue
            faces.append(face)
            numbers.append([template, subject, medium])
    if not faces:
        raise ConfigError(f"{path}: expected faces of templates, got none")
    templates, subjects, media = np.array(numbers, np.int64).T
    return FaceList(path, faces, templates, subjects, media)


def read_pairs(path: Path, listed: FaceList, bad: list[Bad] | None = None) -> Integers:
    """Pairs of template numbers (P, 2). Raises ConfigError as `read_verification`."""
    known = set(listed.templates.tolist())
    pairs: list[tuple[int, int]] = []
    for number, line in _lines(path):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 2 or not all(field.isdecimal() for field in fields):
            note_line(path, number, f'expected "template,template", got {line[:60]!r}', bad)
            continue
        pair = int(fields[0]), int(fields[1])
        if unknown := [one for one in pair if one not in known]:
            why = f"template {unknown[0]} has no faces in {listed.path.name}"
            note_line(path, number, why, bad)
            continue
        pairs.append(pair)
    if not pairs:
        raise ConfigError(f"{path}: expected pairs of templates, got none")
    return np.array(pairs, np.int64)


def parse_face(
    fields: list[str], columns: dict[str, int], wanted: Sequence[str] = _NUMBERS
) -> tuple[Face, list[int]] | None:
    """A face and the numbers of the columns wanted; None for a malformed line."""
    try:
        numbers = [int(fields[columns[name]]) for name in wanted]
        left, top, width, height = (float(fields[columns[name]]) for name in BOX)
        file = fields[columns["FILE"]].strip()
    except (ValueError, IndexError):
        return None
    inside = math.isfinite(left) and math.isfinite(top) and 0 < width < math.inf
    if not file or not inside or not 0 < height < math.inf:
        return None
    return Face(file, (left, top, width, height)), numbers


def _locate(
    root: Path, group: str, split: int, names: Sequence[str], bad: list[Bad] | None
) -> list[Path]:
    """The lists of one split; empty where one is missing and `bad` notes it."""
    folders = (root / group / f"split{split}", root / f"split{split}")
    paths = []
    for name in names:
        found = [folder / name for folder in folders if (folder / name).is_file()]
        if not found and bad is None:
            raise ConfigError(
                f"{root}: expected {group}/split{split}/{name}, one of IJB-A's lists, got none: "
                "name the folder that holds the ten splits, or measure those that are there with "
                "--skip-bad"
            )
        paths += found[:1]
    if bad is not None and len(paths) < len(names):
        bad.append(Bad(f"{group}/split{split}", f"expected {' and '.join(names)}; split left out"))
        return []
    return paths


def _need_splits(root: Path, count: int) -> None:
    if not count:
        raise ConfigError(f"{root}: expected IJB-A's folders split1 to split10, got none of them")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if text := line.strip():
                yield number, text


def note_line(path: Path, number: int, why: str, bad: list[Bad] | None) -> None:
    """Raise ConfigError for a line, or list it."""
    if bad is None:
        raise ConfigError(f"{path}:{number}: {why}; leave such lines out with --skip-bad")
    bad.append(Bad(f"{path.name}:{number}", why))
