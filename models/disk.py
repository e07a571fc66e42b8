"""Room on a disk for files that are written through a map."""

from __future__ import annotations

import os
from pathlib import Path


def reserve_room(path: Path) -> None:
    """Take the room of a file that may be a hole. Raises OSError, with its name, for a full disk.

    Writing through a map where there is no room kills the process instead (SIGBUS).
    """
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
