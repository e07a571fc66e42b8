"""Verification sets as .bin files: a pickled pair of lists, read without running anything.

    (list of 2N encoded pictures, list of N flags): pair i is pictures 2i and 2i + 1

Pickles can name any function to be called on loading. Here only what such files hold can be built:
lists, bytes, flags and byte arrays; anything else is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError


class BinSet(NamedTuple):
    """pictures: 2N encoded pictures; same (N,) bool."""

    pictures: list[bytes]
    same: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BinPictures:
    """The pictures of a .bin file by row; each process reads the file once."""

    path: Path

    def read(self, row: int) -> bytes:
        """The encoded picture."""
        return read_bin(self.path).pictures[row]


@lru_cache(maxsize=1)
def read_bin(path: Path) -> BinSet:
    """The pictures and flags of a .bin file, written by Python 2 or 3.

    Raises ConfigError when it is no such file, is cut short, names anything but the types above,
    or when flags and pictures do not fit; OSError when it cannot be read.
    """
    data = path.read_bytes()
    try:
        content = _Restricted(io.BytesIO(data), encoding="bytes").load()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle fails in every way that Python can
        raise ConfigError(
            f"{path}: expected a pickled (pictures, flags) as verification sets come, got "
            f"{len(data):,} bytes that are none ({type(error).__name__}): copy the file again"
        ) from None
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise ConfigError(f"{path}: expected (pictures, flags), got {type(content).__name__}")
    pictures, flags = content
    if not isinstance(pictures, list) or len(pictures) != 2 * len(flags) or not len(flags):
        raise ConfigError(
            f"{path}: expected two pictures per flag, got {len(pictures)} pictures and "
            f"{len(flags)} flags"
        )
    return BinSet([_bytes(path, place, one) for place, one in enumerate(pictures)], _flags(flags))


def _bytes(path: Path, place: int, picture: object) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 1:
        return picture.tobytes()
    kind = type(picture).__name__
    raise ConfigError(f"{path}: expected picture {place} as bytes, got {kind}")


def _flags(flags: object) -> npt.NDArray[np.bool_]:
    array = np.asarray(flags)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise ConfigError(f"flags must be one list of 0 and 1, got {array.shape} {array.dtype}")
    return array.astype(np.bool_)


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 pickles bytes as in protocol 2: characters that stand for bytes."""
    if encoding not in ("latin1", b"latin1"):
        raise ConfigError(f"expected bytes as latin1 text, got {encoding!r}")
    return text.encode("latin1")


class _Restricted(pickle.Unpickler):
    """Builds lists, bytes, flags and NumPy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        """The few names that .bin files use; ConfigError for any other."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            if name in ("ndarray", "dtype"):
                return getattr(np, name)
            if name in ("_reconstruct", "scalar"):
                return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
        raise ConfigError(
            f"this pickle wants to use {module}.{name}, which no verification set needs: it may "
            "be harmful; do not open it with other programs"
        )
