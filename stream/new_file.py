"""A file that is there whole or not at all, and replaces none."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


@contextmanager
def write_new(path: Path) -> Iterator[BinaryIO]:
    """Write a new file, readable by its owner only; it gets its name when the block has ended.

    Raises FileExistsError where there is one already, also one that came meanwhile, and OSError
    where the folder cannot hold it.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    handle, part = _open_part(path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _give_name(file.fileno(), part, path)
    finally:
        if part is not None:
            with suppress(FileNotFoundError):
                os.unlink(part)


def _open_part(folder: Path) -> tuple[int, Path | None]:
    """A file to write into: one without a name, which nothing leaves behind, where it can be."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600), None
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    handle, name = tempfile.mkstemp(prefix=".facestream-", suffix=".part", dir=folder)
    return handle, Path(name)


def _give_name(handle: int, part: Path | None, path: Path) -> None:
    if part is None:
        # src_dir_fd says nothing of an absolute path; with it, the link's target is what is named.
        os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle, follow_symlinks=True)
        return
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):  # a file system without links cannot do better than look first
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(part, path)
