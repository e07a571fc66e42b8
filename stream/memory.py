"""Keeping freed picture memory in the process."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's own numbers for mallopt, and limits that hold a few 4K pictures.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 256 * 1024 * 1024
_LARGEST = 32 * 1024 * 1024  # the most that glibc takes


def keep_picture_memory() -> bool:
    """Tell glibc not to give every freed picture back to the kernel; True where it obeys.

    A 1080p picture is 6 MB. By default glibc maps or trims such blocks again and again, and the
    page faults cost up to half as much as decoding. Changes nothing where the user has set
    MALLOC_* variables, or where the C library is another.
    """
    if not sys.platform.startswith("linux") or any(k.startswith("MALLOC_") for k in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
