"""Gallery vectors in memory at a precision of choice, and how far the stored ones are off.

float32 keeps every number as it is. bfloat16 (half the memory) and int8 (a quarter; one scale a
row) keep rounded ones to search with. The true rows then lie in a temporary file without a name,
which nobody else can open and which is gone with the process: the few finalists of a search are
read from there, so that the answer is that of the true vectors. Where temporary files are kept in
memory (tmpfs) nothing is saved: set TMPDIR to a folder on a disk.
"""

from __future__ import annotations

import tempfile
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from .. import GalleryError
from .fusion import Doubles, Floats
from .ida import Integers, row_lengths
from .search_kernels import Kernel

Precision = Literal["float32", "bfloat16", "int8"]

_ENCODED = 1 << 20  # numbers encoded at once: 4 MiB of float32
_DECODED = 1 << 23  # numbers decoded at once: 32 MiB of float32


class StoredRows:
    """Unit vectors (G, C), read-only, safe to share between threads."""

    def __init__(self, vectors: Floats, order: Integers, precision: Precision) -> None:
        """Row i is vectors[order[i]], order (G,); vectors (M, C) float32 are copied, not kept.

        Raises GalleryError where the temporary file does not fit.
        """
        count, self.dimension = len(order), vectors.shape[1]
        self.precision: Precision = precision
        kind = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}[precision]
        self.stored: npt.NDArray[np.generic] = np.empty((count, self.dimension), kind)
        """Rows (G, C) as they are kept: float32, upper halves of float32 (uint16), or int8."""
        self.scales: Floats | None = np.ones(count, np.float32) if precision == "int8" else None
        """What int8 rows are multiplied by, (G,)."""
        self.errors: Doubles | None = None if precision == "float32" else np.zeros(count)
        """Length (G,) of the true row less the stored one; None where that is 0."""
        blocks = blocks_of(count, self.dimension, _ENCODED)
        if self.errors is None:
            self._true = self.stored.view(np.float32)
            for block in blocks:
                self._true[block] = vectors[order[block]]
            return
        try:
            with tempfile.TemporaryFile(prefix="facestream-") as file:
                for block in blocks:
                    true = np.ascontiguousarray(vectors[order[block]])
                    self._encode(block, true, self.errors)
                    file.write(true.data)
                file.flush()
                self._true = _mapped(file, (count, self.dimension))
        except OSError as error:
            raise GalleryError(
                f"vectors kept as {precision} need {4e-6 * self.stored.size:,.0f} MB for a "
                f"temporary file in {tempfile.gettempdir()}, got: {error.strerror}; free some "
                "space, set TMPDIR to another folder, or match.precision to float32"
            ) from error

    def _encode(self, block: slice, true: Floats, errors: Doubles) -> None:
        if self.scales is None:
            self.stored[block] = _to_bfloat16(true)
        else:
            self.scales[block] = np.abs(true).max(axis=1) / 127
            self.stored[block] = np.rint(true / self.scales[block, None])
        stored = np.empty_like(true)
        self._decode(block, stored)
        if self.scales is not None:
            stored *= self.scales[block, None]
        # A little more, for what was rounded in between.
        errors[block] = row_lengths(stored.astype(np.float64) - true) + 1e-7

    def __len__(self) -> int:
        """G."""
        return len(self.stored)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the rows and what belongs to them take."""
        arrays = (self.stored, self.scales, self.errors)
        return sum(array.nbytes for array in arrays if array is not None)

    def blocks(self, most: int) -> list[slice]:
        """All rows, in blocks of `most` or of as many as are best decoded at once."""
        if self.errors is not None:
            most = min(most, max(1, _DECODED // self.dimension))
        return blocks_of(len(self), 1, most)

    def buffer(self, blocks: list[slice]) -> Floats:
        """Room for `cosines` to decode any of these blocks in; empty where nothing is decoded."""
        most = 0 if self.errors is None else max(block.stop - block.start for block in blocks)
        return np.empty((most, self.dimension), np.float32)

    def cosines(self, kernel: Kernel, probes: Floats, block: slice, buffer: Floats) -> Floats:
        """Inner products (Q, n) float32 of probes (Q, C) with the stored rows of a block."""
        if self.errors is None:
            return kernel(probes, self._true[block])
        decoded = buffer[: block.stop - block.start]
        self._decode(block, decoded)
        products = kernel(probes, decoded)
        if self.scales is not None:
            products *= self.scales[block]
        return products

    def _decode(self, block: slice, out: Floats) -> None:
        """Stored rows (n, C); of int8, the whole numbers before their scale."""
        if self.scales is not None:
            np.copyto(out, self.stored[block])
            return
        bits = out.view(np.uint32)
        np.copyto(bits, self.stored[block])
        np.left_shift(bits, 16, out=bits)

    def true_rows(self, rows: Integers | slice) -> Floats:
        """The true rows (n, C) float32 of these numbers (n,)."""
        return np.asarray(self._true[rows])


def _mapped(file: IO[bytes], shape: tuple[int, int]) -> Floats:
    """The rows (G, C) of a file, which may be closed: the mapping keeps it."""
    return np.memmap(file, np.float32, "r", shape=shape) if shape[0] else np.empty(shape, "f4")


def _to_bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def blocks_of(count: int, width: int, most: int) -> list[slice]:
    """0 .. count - 1 in blocks of rows of `width` numbers, at most `most` numbers each."""
    size = max(1, most // max(1, width))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
