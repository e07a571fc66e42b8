"""What the tests of the ring share: frames in slots, and who holds a memory."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from facestream.stream import ring
from facestream.stream.ring import RingWriter, Slot

SIZE = (48, 64)


def picture(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def put(writer: RingWriter, value: int, size: tuple[int, int] = SIZE, attempt: str = "a1") -> Slot:
    slot = writer.put(picture(value, size), "door", attempt)
    assert slot is not None
    return slot


def memory_of(slot: Slot) -> int:
    """What tells this memory from all other, in /proc/*/fd and /proc/*/maps."""
    return os.stat(f"/proc/{slot.pid}/fd/{slot.fd}").st_ino


def holders(memory: int) -> set[int]:
    """The processes that hold a memory: with an open descriptor, or mapped."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is not ours to look at
            if re.search(rf" {memory} +/memfd:{ring.NAME}", (process / "maps").read_text()):
                found.add(int(process.name))
            for link in (process / "fd").iterdir():
                with suppress(OSError):
                    if ring.NAME in os.readlink(link) and link.stat().st_ino == memory:
                        found.add(int(process.name))
    return found
