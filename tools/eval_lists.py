"""Lists of pairs as verification sets distribute them.

    lfw        LFW, XQLFW: a line "10 300", then "name n1 n2" and "name1 n1 name2 n2", tab-separated
    two-lines  CALFW, CPLFW: "picture label", the two pictures of a pair on lines of their own
    list       MLFW and others: "picture picture 1|0"
    ytf        YouTube Faces' splits.txt: "split, name/video, name/video, 1|0" after a header

A malformed line is a ConfigError with file and line, or, with `bad` given, noted there and left
out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from .. import ConfigError
from ..models.scores import Flags, Labels
from .report_record import Bad

Kind = Literal["lfw", "two-lines", "list", "ytf"]
Lines = list[tuple[int, str]]


class Pair(NamedTuple):
    """Two items (pictures "folder/name_0001.jpg" or videos "name/1"), and the fold if given."""

    first: str
    second: str
    same: bool
    fold: int | None = None


class PairList(NamedTuple):
    """N pairs of M distinct items.

    items: names, in order of appearance. first, second (N,) item numbers. same (N,). folds (N,) or
    None: ten runs of consecutive pairs. subjects (M,) identity numbers, or None where the list does
    not tell whose pictures they are.
    """

    items: list[str]
    first: Labels
    second: Labels
    same: Flags
    folds: Labels | None
    subjects: Labels | None


def read_pairs(path: Path, kind: Kind | None = None, bad: list[Bad] | None = None) -> PairList:
    """A list of pairs, its kind told from its first lines unless given.

    Raises ConfigError for a malformed line (unless bad is given) and for a list without pairs.
    """
    lines = _lines(path)
    kind = kind or guess_kind(path, lines)
    pairs = list(_READERS[kind](lines, _Faults(path, bad)))
    if not pairs:
        raise ConfigError(f"{path}: expected pairs in the format {kind}, got none")
    return number_pairs(pairs)


def guess_kind(path: Path, lines: Lines) -> Kind:
    """The kind by the first two lines. Raises ConfigError where they fit none."""
    first = lines[0][1] if lines else ""
    fields = first.split()
    if re.fullmatch(r"\d+(\s+\d+)?", first):
        return "lfw"
    if "," in first:
        return "ytf"
    if len(fields) == 3 and fields[2] in ("0", "1"):
        return "list"
    if len(fields) == 2 and fields[1].isdecimal():
        return "two-lines"
    raise ConfigError(
        f"{path}:1: expected a list of pairs (lfw, two-lines, list or ytf), got {first[:60]!r}: "
        "check the file; evaluate verification takes the format with --kind"
    )


def number_pairs(pairs: list[Pair]) -> PairList:
    """Pairs by number of item, with subjects where the labels bear them out."""
    items = list(dict.fromkeys(item for pair in pairs for item in (pair.first, pair.second)))
    places = {item: place for place, item in enumerate(items)}
    first = np.array([places[pair.first] for pair in pairs])
    second = np.array([places[pair.second] for pair in pairs])
    same = np.array([pair.same for pair in pairs])
    folds = None
    if all(pair.fold is not None for pair in pairs):
        folds = np.array([pair.fold for pair in pairs], np.int64)
    subjects = None
    for owner in (folder_of, stem_of):
        names = np.array([owner(item) for item in items])
        # Where a "same" pair has two owners or an impostor one, this name is not the person's.
        if (names != "").all() and ((names[first] == names[second]) == same).all():
            subjects = np.unique(names, return_inverse=True)[1].astype(np.int64)
            break
    return PairList(items, first, second, same, folds, subjects)


def folder_of(item: str) -> str:
    """The folder that holds an item, "" without one."""
    return Path(item).parent.name


def stem_of(item: str) -> str:
    """The file's name before its last number, "" where it is only a number.

    >>> stem_of("aligned/Ada_King_0002.jpg"), stem_of("17.jpg")
    ('Ada_King', '')
    """
    match = re.fullmatch(r"(.+?)_\d+", Path(item).stem)
    return match.group(1) if match else ""


def _lines(path: Path) -> Lines:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a text list of pairs, got other bytes") from None
    numbered = enumerate(text.splitlines(), start=1)
    return [(number, line.strip()) for number, line in numbered if line.strip()]


class _Faults:
    """Raises at a malformed line, or notes it and goes on."""

    def __init__(self, path: Path, bad: list[Bad] | None) -> None:
        self.path, self._bad = path, bad

    def note(self, number: int, why: str) -> None:
        where = f"{self.path.name}:{number}"
        if self._bad is None:
            raise ConfigError(f"{self.path}:{number}: {why}; leave such lines out with --skip-bad")
        self._bad.append(Bad(where, why))


def _read_lfw(lines: Lines, faults: _Faults) -> Iterator[Pair]:
    header = [int(field) for field in lines[0][1].split()]
    per_fold = 2 * header[-1]
    # The line's own place decides its fold, so a line left out moves no other pair.
    for place, (number, line) in enumerate(lines[1:]):
        fields = line.split("\t") if "\t" in line else line.split()
        fold = place // per_fold if len(header) == 2 else None
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
            name, *numbers = fields
            first, second = (_lfw_picture(name, one) for one in numbers)
            yield Pair(first, second, True, fold)
        elif len(fields) == 4 and fields[1].isdecimal() and fields[3].isdecimal():
            first, second = _lfw_picture(*fields[:2]), _lfw_picture(*fields[2:])
            yield Pair(first, second, False, fold)
        else:
            faults.note(number, f'expected "name n n" or "name n name n", got {line[:60]!r}')
    expected = header[0] * per_fold if len(header) == 2 else per_fold
    if len(lines) - 1 != expected:
        faults.note(1, f"the header promises {expected} pairs, the list has {len(lines) - 1}")


def _lfw_picture(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}.jpg"


def _read_two_lines(lines: Lines, faults: _Faults) -> Iterator[Pair]:
    for place in range(0, len(lines) - 1, 2):
        (number, one), (_, other) = lines[place : place + 2]
        fields = [*one.split(), *other.split()]
        if len(fields) != 4 or not fields[1].isdecimal() or fields[1] != fields[3]:
            faults.note(number, f"expected two lines with one label, got {one!r} and {other!r}")
            continue
        yield Pair(fields[0], fields[2], fields[1] != "0")
    if len(lines) % 2:
        faults.note(lines[-1][0], f"a pair needs two lines, got {lines[-1][1]!r} alone")


def _read_list(lines: Lines, faults: _Faults) -> Iterator[Pair]:
    for number, line in lines:
        fields = line.split()
        if len(fields) != 3 or fields[2] not in ("0", "1"):
            faults.note(number, f'expected "picture picture 1|0", got {line[:60]!r}')
            continue
        a, b, label = fields
        yield Pair(a, b, label == "1")


def _read_ytf(lines: Lines, faults: _Faults) -> Iterator[Pair]:
    for number, line in lines:
        fields = [field.strip() for field in line.split(",")]
        if number == lines[0][0] and not fields[0].isdecimal():
            continue  # the header
        good = len(fields) >= 4 and fields[0].isdecimal() and fields[3] in ("0", "1")
        if not good or any(len(Path(video).parts) != 2 for video in fields[1:3]):
            faults.note(number, f'expected "split, name/video, name/video, 1|0", got {line[:60]!r}')
            continue
        a, b = fields[1:3]
        yield Pair(a, b, fields[3] == "1", int(fields[0]))


_READERS: dict[Kind, Callable[[Lines, _Faults], Iterator[Pair]]] = {
    "lfw": _read_lfw,
    "two-lines": _read_two_lines,
    "list": _read_list,
    "ytf": _read_ytf,
}
