"""Gallery rows in a temporary file without a name, for a machine that does not search them."""

from __future__ import annotations

import tempfile
import weakref

import numpy as np

from .. import GalleryError
from ..models.fusion import Doubles
from ..models.ida import Integers
from ..models.search_layers import find_numbers
from ..models.search_rows import blocks_of
from .search_actor import Piece

_COPIED = 1 << 20  # numbers copied at once: 4 MiB


class RowFile:
    """Rows by their numbers. Nobody else can open the file; it is gone with the process."""

    def __init__(self, dimension: int) -> None:
        """dimension: C of the rows. Raises GalleryError where no file can be made."""
        self._dimension = dimension
        try:
            self._file = tempfile.TemporaryFile(prefix="facestream-")  # noqa: SIM115
        except OSError as error:
            raise self._full(error, 0) from None
        self._end = weakref.finalize(self, self._file.close)
        self.numbers: Integers = np.empty(0, np.int64)
        """Of all rows, in the order of the file."""
        self._densities: Doubles = np.empty(0)

    def add(self, piece: Piece) -> None:
        """Append rows; those that are here already are left out.

        Raises GalleryError where they do not fit on the disk; the file is as before then.
        """
        new = ~np.isin(piece.numbers, self.numbers)
        try:
            self._file.seek(4 * self._dimension * len(self.numbers))
            self._file.write(np.ascontiguousarray(piece.vectors[new]).data)
            self._file.flush()
        except OSError as error:
            raise self._full(error, len(self.numbers) + int(new.sum())) from None
        self.numbers = np.concatenate([self.numbers, piece.numbers[new]])
        self._densities = np.concatenate([self._densities, piece.densities[new]])

    def take(self, numbers: Integers) -> Piece:
        """The rows of these numbers (n,), which must be here."""
        places = find_numbers(self.numbers, numbers)
        shape = len(self.numbers), self._dimension
        if not len(places):
            return Piece(numbers, np.empty((0, self._dimension), np.float32), np.empty(0))
        vectors = np.memmap(self._file, np.float32, "r", shape=shape)
        return Piece(numbers, np.asarray(vectors[places]), self._densities[places])

    def forget(self, but: Integers) -> None:
        """Drop all rows but those of these numbers, once they are more than those that stay.

        Until then they take room on the disk. Where the disk is too full for the copy, all stay.
        """
        stay = self.numbers[np.isin(self.numbers, but)]
        if 2 * len(stay) >= len(self.numbers):
            return
        other = RowFile(self._dimension)
        try:
            for block in blocks_of(len(stay), self._dimension, _COPIED):
                other.add(self.take(stay[block]))
        except GalleryError:
            return
        self._end()
        other._end.detach()
        self._file, self.numbers, self._densities = other._file, other.numbers, other._densities
        self._end = weakref.finalize(self, self._file.close)

    def _full(self, error: OSError, rows: int) -> GalleryError:
        return GalleryError(
            f"match.cluster needs {4e-6 * self._dimension * rows:,.0f} MB for a temporary file in "
            f"{tempfile.gettempdir()}, got: {error.strerror}; free some space, or set TMPDIR to "
            "another folder"
        )
