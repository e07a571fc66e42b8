"""The lists of IJB-B and IJB-C as they are distributed with their face crops.

meta/ijbX_face_tid_mid.txt           1.jpg 1 69544               picture, template, medium
meta/ijbX_name_5pts_score.txt        1.jpg x1 y1 .. x5 y5 score  pixels of loose_crop/1.jpg
meta/ijbX_template_pair_label.txt    1 11065 1                   template, template, same
meta/ijbX_1N_gallery_G1.csv, _G2     template, subject, ...      with a header (IJB-B: S1, S2)
meta/ijbX_1N_probe_mixed.csv         template, subject, ...
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.fusion import Floats
from ..models.pairs import PairBatch
from ..models.scores import Labels
from .eval_text import Integers, read_integer_blocks
from .report_record import Bad

PAIR_LINE = "template template 1|0"


class Media(NamedTuple):
    """Pictures (N) with their template and medium (N,)."""

    names: list[str]
    templates: Labels
    media: Labels


class IjbFiles(NamedTuple):
    """Where the lists of one set lie; None where the folder has none."""

    name: str
    media: Path
    landmarks: Path | None
    pairs: Path | None
    galleries: list[Path]
    probe: Path | None
    pictures: Path


def find_files(folder: Path, name: str | None = None) -> IjbFiles:
    """The lists below FOLDER or FOLDER/meta. name: ijbb or ijbc, where the folder has both.

    Raises ConfigError when there is no list of pictures, or several and no name.
    """
    meta = folder / "meta" if (folder / "meta").is_dir() else folder
    lists = sorted(meta.glob(f"{name or '*'}_face_tid_mid.txt"))
    if len(lists) != 1:
        found = ", ".join(path.name for path in lists) or "none"
        raise ConfigError(
            f"{meta}: expected one list ijbX_face_tid_mid.txt, got {found}: name the folder that "
            "holds meta/ and loose_crop/" + ("" if not lists else ", and --set")
        )
    prefix = lists[0].name.removesuffix("_face_tid_mid.txt")

    def there(rest: str) -> Path | None:
        path = meta / f"{prefix}_{rest}"
        return path if path.is_file() else None

    return IjbFiles(
        prefix,
        lists[0],
        there("name_5pts_score.txt"),
        there("template_pair_label.txt"),
        sorted(meta.glob(f"{prefix}_1N_gallery_*.csv")),
        there("1N_probe_mixed.csv"),
        folder / "loose_crop",
    )


def read_media(path: Path, bad: list[Bad] | None = None) -> Media:
    """The list of pictures. Raises ConfigError for a malformed line, unless `bad` collects them."""
    names: list[str] = []
    numbers: list[tuple[int, int]] = []
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            _note(path, number, f'expected "1.jpg template medium", got {line[:60]!r}', bad)
            continue
        names.append(fields[0])
        numbers.append((int(fields[1]), int(fields[2])))
    if not names:
        raise ConfigError(f"{path}: expected pictures with template and medium, got none")
    both = np.array(numbers, np.int64)
    return Media(names, both[:, 0], both[:, 1])


def read_landmarks(
    path: Path, names: list[str], bad: list[Bad] | None = None
) -> tuple[Floats, Floats]:
    """Landmarks (N, 5, 2) px and detector scores (N,) of these pictures, in their order.

    Raises ConfigError for a malformed line and for a picture without one; with `bad` such a
    picture gets landmarks that are not numbers, and is treated as one without a face.
    """
    rows = {name: row for row, name in enumerate(names)}
    points = np.full((len(names), 5, 2), np.nan, np.float32)
    scores = np.zeros(len(names), np.float32)
    for number, line in _lines(path):
        fields = line.split()
        values = _floats(fields[1:])
        if len(fields) != 12 or values is None:
            _note(path, number, f'expected "1.jpg x1 y1 .. x5 y5 score", got {line[:60]!r}', bad)
            continue
        if (row := rows.get(fields[0])) is not None:
            points[row] = np.array(values[:10], np.float32).reshape(5, 2)
            scores[row] = values[10]
    lacking = np.flatnonzero(np.isnan(points).any(axis=(1, 2)))
    if len(lacking) and bad is None:
        raise ConfigError(
            f"{path}: {len(lacking)} of {len(names)} pictures have no landmarks, the first is "
            f"{names[lacking[0]]}: leave them out with --skip-bad"
        )
    if bad is not None:
        bad += [Bad(names[row], "no landmarks listed") for row in lacking]
    return points, scores


@dataclass(frozen=True, eq=False)
class PairFile:
    """The list of template pairs, read anew each time it is iterated, block by block.

    rows: the row of each template number, -1 where there is none.
    """

    path: Path
    rows: Integers

    def __iter__(self) -> Iterator[PairBatch]:
        """Batches by row. Raises ConfigError for a malformed line or an unknown template."""
        before = 0
        for block in read_integer_blocks(self.path, 3, PAIR_LINE):
            templates, same = block[:, :2], block[:, 2]
            known = templates < len(self.rows)
            rows = np.where(known, self.rows[np.where(known, templates, 0)], -1)
            wrong = np.flatnonzero((rows < 0).any(axis=1) | (same > 1))
            if len(wrong):
                line = " ".join(map(str, block[wrong[0]]))
                raise ConfigError(
                    f'{self.path}:{before + wrong[0] + 1}: expected "{PAIR_LINE}" with templates '
                    f"of the list of pictures, got {line!r}; a template without pictures can be "
                    "left at zero with --skip-bad"
                )
            yield PairBatch(rows[:, 0], rows[:, 1], same.astype(np.bool_))
            before += len(block)


def templates_of_pairs(path: Path) -> Integers:
    """All template numbers that a list of pairs names, ascending."""
    seen = np.zeros(0, np.int64)
    for block in read_integer_blocks(path, 3, PAIR_LINE):
        seen = np.union1d(seen, block[:, :2])
    return seen


def read_subjects(path: Path, bad: list[Bad] | None = None) -> tuple[Integers, Integers]:
    """Templates (T,) and their subjects (T,) of a 1:N list, each template once, in file order.

    Raises ConfigError for a malformed line and for a template with two subjects.
    """
    subject_of: dict[int, int] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows, None)
        for fields in rows:
            number = rows.line_num
            if len(fields) < 2 or not (fields[0].strip().isdecimal() and _integer(fields[1])):
                _note(path, number, f'expected "template,subject,...", got {fields[:3]}', bad)
                continue
            template, subject = int(fields[0]), int(float(fields[1]))
            if subject_of.setdefault(template, subject) != subject:
                why = f"template {template} has subjects {subject_of[template]} and {subject}"
                _note(path, number, why, bad)
    if not subject_of:
        raise ConfigError(f"{path}: expected templates with subjects, got none")
    return np.array([*subject_of], np.int64), np.array([*subject_of.values()], np.int64)


def _integer(field: str) -> bool:
    return field.strip().removesuffix(".0").isdecimal()


def _floats(fields: list[str]) -> list[float] | None:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if text := line.strip():
                yield number, text


def _note(path: Path, number: int, why: str, bad: list[Bad] | None) -> None:
    if bad is None:
        raise ConfigError(f"{path}:{number}: {why}; leave such lines out with --skip-bad")
    bad.append(Bad(f"{path.name}:{number}", why))
