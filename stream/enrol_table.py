"""A table of photos to enrol: one CSV file, checked whole before anybody is enrolled.

    path,name,notes,basis,label:team
    photos/anna.jpg,Anna Smith,day shift,consent 2026-17,red
    photos/anna-2.jpg,Anna Smith,,,
    clips/bob.mp4,Bob,,,blue

`path` and `name` must be there; paths are relative to the table. Rows of one name are one person,
who may be in the gallery already. An empty cell says nothing; what the rows of a person do say must
agree.
"""

from __future__ import annotations

import csv
import difflib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .. import EnrolmentRefused, GalleryError
from .enrol_photos import Photo
from .enrol_records import shown
from .gallery_records import Change, check_key, check_text, normalise_name

if TYPE_CHECKING:
    from _csv import Reader

NEEDED = ("path", "name")
TEXTS = ("notes", "basis")
LABEL = "label:"


class _Person(msgspec.Struct):
    """What the rows of a person say, and the first line that says it."""

    name: str
    line: int
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}


def read_table(path: Path) -> list[Photo]:
    """The photos of a CSV file in its order: UTF-8, columns separated by commas or semicolons.

    Raises EnrolmentRefused, naming the line, for a table that cannot be read or contradicts itself.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EnrolmentRefused(f"cannot read the table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise EnrolmentRefused(
            f"the table {path} must be UTF-8 text, got other bytes in line "
            f"{1 + error.object[: error.start].count(10)}"
        ) from error
    lines = text.splitlines()
    first = lines[0] if lines else ""
    separator = ";" if ";" in first and "," not in first else ","
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return _read_rows(path, rows, _check_header(next(rows, [])))
    except csv.Error as error:
        raise EnrolmentRefused(f"{path}, line {rows.line_num}: {error}") from error
    except GalleryError as refusal:
        raise EnrolmentRefused(f"{path}, line {max(rows.line_num, 1)}: {refusal}") from refusal


def _check_header(cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    expected = f"expected {', '.join((*NEEDED, *TEXTS))} and {LABEL}KEY"
    for column in columns:
        if column in (*NEEDED, *TEXTS):
            continue
        if column.startswith(LABEL):
            check_key(column.removeprefix(LABEL))
            continue
        near = difflib.get_close_matches(column, (*NEEDED, *TEXTS), n=1)
        hint = f", the nearest is {near[0]}" if near else ""
        raise EnrolmentRefused(f"column {column[:40]!r} is not known: {expected}{hint}")
    for column in (*NEEDED, *columns):
        if columns.count(column) != 1:
            what = "missing" if column not in columns else "there twice"
            raise EnrolmentRefused(f"column {column} is {what}: {expected}")
    return columns


def _read_rows(path: Path, rows: Reader, columns: list[str]) -> list[Photo]:
    people: dict[str, _Person] = {}
    owners: dict[Path, tuple[str, int]] = {}
    found: list[tuple[Path, str, str]] = []
    line = 1
    for cells in rows:
        line = rows.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise EnrolmentRefused(f"expected {len(columns)} cells, got {len(cells)}")
        row = {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
        if not row["path"]:
            raise EnrolmentRefused("the path is empty")
        name = normalise_name(row["name"])
        photo = path.parent / row["path"]
        owner, before = owners.setdefault(photo, (name, line))
        if owner != name:
            raise EnrolmentRefused(f"{row['path']} is of {name}, and of {owner} in line {before}")
        person = people.setdefault(name.casefold(), _Person(name, line))
        if person.name != name:
            raise EnrolmentRefused(
                f"the name {name} differs from {person.name} in line {person.line} in capitals "
                "alone: write both alike, or tell two people apart by more"
            )
        _note(person, row, line)
        short = photo.name if Path(row["path"]).is_absolute() else row["path"]
        found.append((photo, name, f"{shown(short)} (line {line})"))
    if not found:
        raise EnrolmentRefused("no photos: expected a row for each")
    changes = {person.name: _change(person.texts) for person in people.values()}
    return [Photo(photo, name, source, changes[name]) for photo, name, source in found]


def _note(person: _Person, row: dict[str, str], line: int) -> None:
    """Take up what a row says of its person."""
    for column, text in row.items():
        if column in NEEDED or not text:
            continue
        check_text(column, text)
        known = person.texts.setdefault(column, text)
        before = person.lines.setdefault(column, line)
        if known != text:
            raise EnrolmentRefused(f"{column} of {person.name} differs from that in line {before}")


def _change(texts: dict[str, str]) -> Change | None:
    if not texts:
        return None
    return Change(
        notes=texts.get("notes", msgspec.UNSET),
        basis=texts.get("basis", msgspec.UNSET),
        labels={
            column.removeprefix(LABEL): text
            for column, text in texts.items()
            if column.startswith(LABEL)
        },
    )
