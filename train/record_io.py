"""MXNet's RecordIO: the .rec and .idx files of large sets of aligned faces, memory-mapped.

A record, everything little-endian and padded with zeros to a multiple of 4 bytes:

    uint32   magic 0xced7230a
    uint32   which part (top 3 bits: 0 whole, 1 first, 2 middle, 3 last) and length (low 29 bits)
    payload  header (flag uint32, label float32, id uint64, id2 uint64), then flag float32 labels,
             which replace the header's where there are any, then the picture (JPEG, PNG)

A payload that holds the magic at a multiple of 4 bytes is cut there into parts, without the magic.
The .idx has a line "key TAB byte offset" for each record. Where record 0 has flag 2, it is
insightface's: its labels are h0 and h1, pictures have the keys 1 .. h0 - 1, and the records from h0
on say which keys belong to whom.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import SourceCorrupt, SourceMissing
from ..models.inference import Floats
from ..models.verification import Integers

MAGIC = 0xCED7230A
HEADER = struct.Struct("<IfQQ")
LENGTH = (1 << 29) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)


class Record(NamedTuple):
    """flag; labels (L,) float32, one at least; two numbers that their writer chose; the picture."""

    flag: int
    labels: Floats
    id: int
    id2: int
    content: bytes


class RecordFile:
    """A .rec file with its .idx, read at random by key. Nothing is loaded but the index.

    May be read by several threads.
    """

    def __init__(self, path: Path) -> None:
        """Open PATH.rec and PATH.idx beside it.

        Raises SourceMissing where one of them is not there, SourceCorrupt, naming file, key or
        line, and byte offset, where the index is malformed or does not fit the records.
        """
        self.path = path
        self.index = path.with_suffix(".idx")
        for needed in (path, self.index):
            if not needed.is_file():
                raise SourceMissing(f"{needed} is not there: a .rec and its .idx belong together")
        keys, offsets = _read_index(self.index)
        with path.open("rb") as file:
            size = path.stat().st_size
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._check_offsets(keys, offsets)
        self._offsets: dict[int, int] = dict(zip(keys.tolist(), offsets.tolist(), strict=True))
        self.keys = keys
        """(N,) int64, in the order of the index."""

    @property
    def size(self) -> int:
        """Bytes of the .rec."""
        return len(self._data)

    def read(self, key: int) -> Record:
        """One record. Raises SourceCorrupt where it is not whole or no such key is there."""
        offset = self.offset(key)
        payload = self._payload(key, offset)
        if len(payload) < HEADER.size:
            raise self._fault(key, offset, f"expected {HEADER.size} bytes at least", len(payload))
        flag, label, first, second = HEADER.unpack_from(payload)
        start = HEADER.size + 4 * flag
        if start > len(payload):
            raise self._fault(key, offset, f"expected {flag} labels", len(payload))
        labels = np.array([label], np.float32)
        if flag:
            labels = np.frombuffer(payload, "<f4", flag, HEADER.size).astype(np.float32)
        return Record(flag, labels, first, second, payload[start:])

    def picture_keys(self) -> Integers:
        """Keys (N,) of the records that are pictures, ascending.

        Raises SourceCorrupt where record 0 promises pictures that the index does not have.
        """
        keys = np.sort(self.keys)
        if not len(keys) or keys[0] != 0 or self.read(0).flag == 0:
            return keys
        end = int(self.read(0).labels[0])
        there = keys[(keys >= 1) & (keys < end)]
        if len(there) != end - 1:
            raise SourceCorrupt(
                f"{self.index}: record 0 promises pictures 1 to {end - 1}, the index has "
                f"{len(there)} of them: copy both files again"
            )
        return there

    def first_labels(self, keys: Integers) -> Floats:
        """The first label (N,) float32 of each of these records, without reading their pictures."""
        offsets = np.array([self.offset(key) for key in keys.tolist()], np.int64) // 4
        # The last bytes may be no whole word; none of the words that are read here is there.
        words = np.frombuffer(self._data, "<u4", len(self._data) // 4)
        lengths = (words[offsets + 1] & LENGTH).astype(np.int64)
        cut = np.flatnonzero(4 * offsets + 8 + lengths > self.size)
        if len(cut):
            self.read(int(keys[cut[0]]))  # raises, naming key and byte
        if lengths.min(initial=LENGTH) < HEADER.size + 4:  # no room for a picture: look closely
            return np.array([self.read(key).labels[0] for key in keys.tolist()], np.float32)
        places = np.where(words[offsets + 2] > 0, offsets + 2 + HEADER.size // 4, offsets + 3)
        return words[places].view("<f4").astype(np.float32)

    def offset(self, key: int) -> int:
        """Where a record begins, bytes. Raises SourceCorrupt for a key that is not there."""
        if key not in self._offsets:
            raise SourceCorrupt(f"{self.index} has no key {key}, among {len(self._offsets)}")
        return self._offsets[key]

    def _payload(self, key: int, offset: int) -> bytes:
        """The parts of a record, with the magic that was taken out between them."""
        parts: list[bytes] = []
        while True:
            if offset + 8 > self.size:
                raise self._fault(key, offset, "expected 8 bytes of a record", self.size - offset)
            magic, word = struct.unpack_from("<II", self._data, offset)
            if magic != MAGIC:
                raise SourceCorrupt(
                    f"{self.path}, key {key}, byte {offset}: expected the magic 0x{MAGIC:08x}, got "
                    f"0x{magic:08x}: the index is of another file, or the file is damaged"
                )
            part, length = word >> 29, word & LENGTH
            if part not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
                raise SourceCorrupt(
                    f"{self.path}, key {key}, byte {offset}: expected "
                    f"{'another' if parts else 'the first'} part of a record, got part {part}: "
                    "the index is of another file, or the file is damaged"
                )
            left = self.size - offset - 8
            if length > left:
                raise self._fault(key, offset, f"expected {length} bytes", left)
            parts.append(self._data[offset + 8 : offset + 8 + length])
            if part in (WHOLE, LAST):
                return struct.pack("<I", MAGIC).join(parts)
            offset += 8 + length + -length % 4

    def _fault(self, key: int, offset: int, expected: str, got: int) -> SourceCorrupt:
        return SourceCorrupt(
            f"{self.path}, key {key}, byte {offset}: {expected}, got {max(0, got)}: the file is "
            "cut short or damaged; copy it again"
        )

    def _check_offsets(self, keys: Integers, offsets: Integers) -> None:
        """Every offset must lie in the file, at a multiple of 4; a few must meet the magic."""
        wrong = np.flatnonzero((offsets < 0) | (offsets % 4 != 0) | (offsets + 8 > self.size))
        if len(wrong):
            raise SourceCorrupt(
                f"{self.index}, key {keys[wrong[0]]}: expected a multiple of 4 in the "
                f"{self.size} bytes of {self.path.name}, got byte {offsets[wrong[0]]}: the index "
                f"does not fit the records ({len(wrong)} of {len(keys)} offsets); copy both again"
            )
        words = np.frombuffer(self._data, "<u4", self.size // 4)
        some = np.unique(np.linspace(0, len(keys) - 1, min(len(keys), 64)).astype(np.int64))
        for place in some.tolist():
            if words[offsets[place] // 4] != MAGIC:
                self._offsets = {int(keys[place]): int(offsets[place])}
                self.read(int(keys[place]))  # raises, naming key and byte


def _read_index(path: Path) -> tuple[Integers, Integers]:
    """Keys and offsets (N,) of an .idx. Raises SourceCorrupt with the line's number."""
    lines = path.read_bytes().splitlines()
    pairs = np.empty((len(lines), 2), np.int64)
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if len(cells) != 2 or not all(cell.isdigit() for cell in cells):
            raise SourceCorrupt(
                f"{path}:{number}: expected a key and a byte offset, got {_shown(line)}"
            )
        pairs[number - 1] = int(cells[0]), int(cells[1])
    if not len(lines):
        raise SourceCorrupt(f"{path} is empty: expected a key and a byte offset per line")
    keys: npt.NDArray[np.int64] = pairs[:, 0]
    distinct, counts = np.unique(keys, return_counts=True)
    if len(distinct) < len(keys):
        key = distinct[counts > 1][0]
        first, second = np.flatnonzero(keys == key)[:2] + 1
        raise SourceCorrupt(f"{path}: key {key} is in line {first} and again in line {second}")
    return keys, pairs[:, 1]


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "replace"))
