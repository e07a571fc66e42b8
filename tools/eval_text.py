"""Reading columns of numbers from text files of millions of lines, with the line of every fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from .. import ConfigError

Integers = npt.NDArray[np.int64]
CHUNK = 1 << 25
"""Bytes read at once: about 1.5 million pairs of templates."""
_SPACE, _NEWLINE = 32, 10


def read_integer_blocks(path: Path, columns: int, what: str) -> Iterator[Integers]:
    """Blocks (n, columns) of a file of lines "1 11065 1": integers >= 0 separated by one space.

    what: an example of a line, for messages. Raises ConfigError with the number of a line that is
    not so; OSError when the file cannot be read.
    """
    before = 0
    with path.open("rb") as file:
        for block in _whole_lines(file):
            yield _parse(path, block, columns, before, what)
            before += block.count(b"\n")


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The file in pieces that end with a line; the last line gets its newline."""
    rest = b""
    while data := file.read(CHUNK):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        rest = data[cut:]
        if cut:
            yield data[:cut]
    if rest:
        yield rest + b"\n"


def _parse(path: Path, block: bytes, columns: int, before: int, what: str) -> Integers:
    if _is_regular(block, columns):
        values = np.fromstring(block, np.int64, sep=" ")
        return np.asarray(values.reshape(-1, columns))
    # Something is out of the ordinary: line by line, to name it or to read what is only unusual.
    rows = []
    for number, line in enumerate(block.decode("utf-8", "replace").splitlines(), before + 1):
        fields = line.split()
        if len(fields) != columns or not all(field.isdecimal() for field in fields):
            raise ConfigError(f'{path}:{number}: expected "{what}", got {line[:60]!r}')
        rows.append([int(field) for field in fields])
    return np.array(rows, np.int64).reshape(-1, columns)


def _is_regular(block: bytes, columns: int) -> bool:
    """Whether every line holds `columns` runs of up to 18 digits with one space between them."""
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data < 48)  # of the fields: spaces and newlines
    if len(ends) % columns or data.max(initial=0) > 57:
        return False
    marks = data[ends].reshape(-1, columns)
    widths = np.diff(ends, prepend=-1) - 1
    return bool(
        (marks[:, :-1] == _SPACE).all()
        and (marks[:, -1] == _NEWLINE).all()
        and widths.min(initial=1) >= 1
        and widths.max(initial=1) <= 18
    )
