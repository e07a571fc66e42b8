"""Pixels between processes of one machine: slots of shared memory, named in messages.

The writer makes memory without a name (memfd_create) and tells where it is: its process id, the
file descriptor and a random token that stands at the head of the memory. The reader opens it
through /proc and maps it read-only. Nothing has to be tidied up: the kernel frees the memory when
the last process that maps it is gone, however it went.

Both processes must run as the same user and see each other in /proc. Linux only.

Layout: a head (magic, version, slots, stride, token) of HEAD bytes, then `slots` times `stride`
bytes: the number under which the slot was last given out, padded to HEAD, and the pixels.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import secrets
import struct
from collections.abc import Iterable
from typing import Annotated

import msgspec
import numpy as np

from .. import PublishError
from .carriers import WireError
from .records import Image

RING_VERSION = 1
NAME = "facestream-ring"
HEAD = 64
LARGEST_SEGMENT = 16 * 2**30
_MAGIC = b"fs-ring\0"
_HEAD = struct.Struct("<8sIIQ16s")
_NUMBER = struct.Struct("<Q")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
"""Memory that cannot shrink cannot be pulled away from under a reader."""

Small = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """Where a frame's pixels are, as the message tells it.

    pid, fd: of the writer's memory; segment: the 16 bytes at its head; index: of the slot; number:
    counts what the writer gave out, so that no two frames have the same; height, width: pixels.
    """

    pid: Small
    fd: Small
    segment: bytes
    index: Small
    number: Annotated[int, msgspec.Meta(ge=1)]
    height: Small
    width: Small


class _Written:
    """A segment on the writer's side."""

    def __init__(self, slots: int, capacity: int) -> None:
        """capacity: bytes of pixels per slot."""
        self.capacity = -(-capacity // HEAD) * HEAD
        self.stride = HEAD + self.capacity
        self.token = secrets.token_bytes(16)
        self.free = list(reversed(range(slots)))
        self.slots = slots
        size = HEAD + slots * self.stride
        try:
            self.fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with contextlib.ExitStack() as on_error:
                on_error.callback(os.close, self.fd)
                os.ftruncate(self.fd, size)
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
                self._memory = mmap.mmap(self.fd, size)
                on_error.pop_all()
        except OSError as error:
            raise PublishError(
                f"cannot make {size} bytes of shared memory for {slots} frames: {error.strerror}; "
                "lower topology.ring_frames"
            ) from error
        head = _HEAD.pack(_MAGIC, RING_VERSION, slots, self.stride, self.token)
        self._memory[: len(head)] = head

    def write(self, image: Image, number: int) -> int:
        """Copy an image (H, W, 3) uint8 into a free slot; gives the slot's index."""
        index = self.free.pop()
        start = HEAD + index * self.stride
        _NUMBER.pack_into(self._memory, start, number)
        np.copyto(np.ndarray(image.shape, np.uint8, self._memory, start + HEAD), image)
        return index

    @property
    def unused(self) -> bool:
        """Whether no slot is given out."""
        return len(self.free) == self.slots

    def close(self) -> None:
        """Let go of the memory; readers that map it keep it."""
        self._memory.close()
        os.close(self.fd)


class RingWriter:
    """The earlier end: copies frames into slots. To be used by one thread."""

    def __init__(self, slots: int) -> None:
        """slots: frames that are under way at most."""
        self._slots = slots
        self._numbers = itertools.count(1)
        self._given: dict[int, tuple[_Written, int, str, str]] = {}
        self._segments: list[_Written] = []  # the last one is written to

    @property
    def given(self) -> int:
        """Slots that were given out and did not come back."""
        return len(self._given)

    def put(self, image: Image, camera: str, attempt: str) -> Slot | None:
        """Copy an image (H, W, 3) uint8 into a slot; None while no slot is free.

        Raises PublishError when there is no memory for a frame of this size.
        """
        if len(self._given) >= self._slots:
            return None
        if not self._segments or image.nbytes > self._segments[-1].capacity:
            self._segments.append(_Written(self._slots, image.nbytes))
            self._retire()
        segment, number = self._segments[-1], next(self._numbers)
        index = segment.write(image, number)
        self._given[number] = segment, index, camera, attempt
        height, width = image.shape[:2]
        return Slot(os.getpid(), segment.fd, segment.token, index, number, height, width)

    def release(self, tokens: Iterable[int]) -> None:
        """Take back the slots of these numbers; numbers that are not out are ignored, as they may
        have been reclaimed meanwhile."""
        for number in tokens:
            given = self._given.pop(number, None)
            if given is not None:
                segment, index, _, _ = given
                segment.free.append(index)
        self._retire()

    def reclaim(self, camera: str, attempt: str) -> None:
        """Take back all slots of an attempt that is over, read or not."""
        whose = (camera, attempt)
        self.release([number for number, given in self._given.items() if given[2:] == whose])

    def spent(self) -> list[int]:
        """A writer borrows nothing."""
        return []

    def close(self) -> None:
        """Let go of all memory: what was not yet viewed is lost, so close when all is done."""
        self._given.clear()
        while self._segments:
            self._segments.pop().close()

    def _retire(self) -> None:
        """Close the segments that a larger frame has replaced, once nothing of them is out."""
        for segment in self._segments[:-1]:
            if segment.unused:
                segment.close()
                self._segments.remove(segment)


class RingReader:
    """The later end: views frames where they are. One per writer, to be used by one thread."""

    def __init__(self) -> None:
        """Nothing is opened before the first frame comes."""
        self._segment: _Read | None = None
        self._viewed: list[int] = []
        self.opened = False
        """Whether the writer's memory could be opened, once at least."""

    def view(self, slot: Slot) -> Image:
        """The frame in a slot: (H, W, 3) uint8, read-only, not a copy.

        It holds this frame until the slot is released to the writer, and is safe to read, but of
        no meaning, afterwards. Raises WireError, malformed or stale, when there is no such frame.
        """
        if self._segment is None or self._segment.name != (slot.pid, slot.fd, slot.segment):
            self._segment = _Read(slot)  # the writer has moved on; views of the old memory keep it
            self.opened = True
        image = self._segment.view(slot)
        self._viewed.append(slot.number)
        return image

    def spent(self) -> list[int]:
        """Numbers of the views given since the last call: call it when they are no longer used, and
        send the writer the answer for `release`."""
        viewed, self._viewed = self._viewed, []
        return viewed

    def release(self, tokens: Iterable[int]) -> None:
        """A reader lends nothing."""

    def reclaim(self, camera: str, attempt: str) -> None:
        """A reader lends nothing."""

    def close(self) -> None:
        """Let go of the memory; a view that is still used keeps it until then."""
        self._segment = None
        self._viewed.clear()


class _Read:
    """A segment on the reader's side, checked when it was opened."""

    def __init__(self, slot: Slot) -> None:
        self.name = (slot.pid, slot.fd, slot.segment)
        self._memory = _map(slot)
        _, _, self._slots, self._stride, _ = _HEAD.unpack_from(self._memory)
        try:
            self._check(slot)
        except WireError:
            self._memory.close()
            raise

    def _check(self, slot: Slot) -> None:
        """Raise WireError unless the head is that of the memory meant, and fits its size."""
        magic, version, slots, stride, token = _HEAD.unpack_from(self._memory)
        if magic != _MAGIC or token != slot.segment:
            raise _gone(slot, "it is not the memory that the message means")
        if version != RING_VERSION:
            raise WireError(
                f"expected shared memory of version {RING_VERSION}, got {version}: install the "
                "same facestream for all nodes",
                "newer version" if version > RING_VERSION else "malformed",
            )
        if stride < HEAD or HEAD + slots * stride != len(self._memory):
            raise WireError(
                f"expected shared memory of {slots} slots of {stride} bytes, "
                f"got {len(self._memory)} bytes"
            )

    def view(self, slot: Slot) -> Image:
        shape = (slot.height, slot.width, 3)
        if slot.index >= self._slots or HEAD + slot.height * slot.width * 3 > self._stride:
            raise WireError(
                f"expected one of {self._slots} slots of {self._stride - HEAD} bytes, got slot "
                f"{slot.index} for {slot.width}x{slot.height} pixels"
            )
        start = HEAD + slot.index * self._stride
        (number,) = _NUMBER.unpack_from(self._memory, start)
        if number != slot.number:
            raise WireError(
                f"slot {slot.index} holds frame {number} by now, not {slot.number}", "stale"
            )
        return np.ndarray(shape, np.uint8, self._memory, start + HEAD)


def _map(slot: Slot) -> mmap.mmap:
    """Map the memory that a slot is said to lie in, and nothing else that can be opened.

    The link is looked at before it is opened, since opening a pipe or a device may block or act.
    """
    path = f"/proc/{slot.pid}/fd/{slot.fd}"
    try:
        if os.readlink(path) != f"/memfd:{NAME} (deleted)":
            raise _gone(slot, "something else is there")
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise WireError("expected shared memory that cannot shrink, got some that can")
            size = os.fstat(fd).st_size
            if not HEAD <= size <= LARGEST_SEGMENT:
                raise WireError(f"expected shared memory of {HEAD} bytes or more, got {size}")
            return mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
    except OSError as error:
        raise _gone(slot, error.strerror or str(error)) from None


def _gone(slot: Slot, why: str) -> WireError:
    return WireError(
        f"no shared memory of the other node at descriptor {slot.fd} of process {slot.pid}: {why}; "
        "both nodes must run on one machine, as one user, with the same /proc",
        "stale",
    )
