"""Reading arrays from a .npz without trust: no pickles, no bombs, one error."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from .. import CorruptModelFile


def read_arrays(path: Path, what: str, *, most: int) -> dict[str, np.ndarray]:
    """Every array of a .npz by name; a member that is no array comes as bytes.

    what: what it should be, with its article, for the error. most: bytes that it may unpack to.
    Raises CorruptModelFile for a file that is none, is damaged or unpacks to more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = sum(member.file_size for member in archive.infolist())
        if held > most:
            raise CorruptModelFile(
                f"{path} is not {what}: it unpacks to {held} bytes, at most {most} are expected"
            )
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except (
        OSError,
        ValueError,
        EOFError,
        MemoryError,  # a header that claims more numbers than any memory holds
        RuntimeError,  # packed by a method, or under a password, that zipfile does not have
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise CorruptModelFile(f"{path} is not {what} (.npz): {error}") from error
