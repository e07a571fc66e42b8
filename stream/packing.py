"""The wire form of what passes between nodes: one header in msgpack, then raw buffers.

The header is the array [version, kind, of, body]: `of` is [camera, attempt, position] of a Work and
nil otherwise, `body` is the item as msgspec writes it. In it an array is [dtype, shape, place]:
place is the number of the buffer that holds it (0 is the first one behind the header) or, up to
INLINE bytes, the bytes themselves. Nothing is ever pickled.

Packing copies no pixels, so what was packed must not change until it is sent. Unpacked arrays are
views of the buffers received, read-only, as records are never changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

import msgspec
import numpy as np

from .. import RecordError
from .carriers import ByReference, InMessage, WireError
from .flow import (
    Begin,
    Done,
    Down,
    Finish,
    Mark,
    Refuse,
    Restart,
    Resume,
    StateChange,
    TracksEnded,
    Up,
    Work,
)
from .records import Frame, Observed, Tracked
from .ring import RingReader, RingWriter, Slot
from .watcher import SourceInfo

WIRE_VERSION = 1
INLINE = 4096
"""Largest array in bytes that travels in the header: a part of its own would cost more."""
LARGEST_HEADER = 16 * 2**20
LARGEST_MESSAGE = 256 * 2**20
"""Bytes of a whole message: an 8K frame is 100 MB."""
MOST_BUFFERS = 4096

Buffer = bytes | memoryview
Sending = InMessage | ByReference | RingWriter
"""How the earlier end of a hop sends pixels."""
Receiving = InMessage | ByReference | RingReader
"""How the later end of a hop gets pixels: the counterpart of Sending."""

REFERENCE, SLOT = "reference", "frame in slot"
_MESSAGES: dict[str, Any] = {
    "begin": Begin,
    "resume": Resume,
    "done": Done,
    "restart": Restart,
    "refuse": Refuse,
}
_WORKS: dict[str, Any] = {
    "frame": Frame,
    "tracked": Tracked,
    "observed": Observed,
    "source": SourceInfo,
    "state": StateChange,
    "tracks ended": TracksEnded,
    "mark": Mark,
    "finish": Finish,
}
_KINDS = {record: kind for kind, record in (_MESSAGES | _WORKS).items()}
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DTYPES = {"|u1": np.dtype(np.uint8), "<f4": np.dtype(np.float32)}
_MOST_AXES = 4


class _FrameInSlot(msgspec.Struct):
    """A Frame whose pixels are in shared memory."""

    camera: str
    sequence: int
    pts: float
    captured_at: float
    slot: Slot


class _Header(msgspec.Struct, array_like=True):
    """The first part of a message."""

    version: int
    kind: str
    of: tuple[str, str, int] | None
    body: msgspec.Raw


class _Version(msgspec.Struct, array_like=True):
    """As much of a header as every version has."""

    version: int


def pack(item: Down | Up, pixels: Sending) -> list[Buffer] | None:
    """The parts of a message, header first; None while `pixels` has no room for a Work.

    None is the answer to a Work alone. Raises RecordError for an item that has no wire form: an
    array of another dtype than uint8 or float32, or more than a message may hold.
    """
    if not isinstance(item, Work):
        return _encode(_KINDS[type(item)], None, item)
    of = (item.camera, item.attempt, item.position)
    if isinstance(pixels, ByReference):
        token = pixels.put(item)
        return None if token is None else _encode(REFERENCE, of, token)
    if isinstance(pixels, RingWriter) and isinstance(frame := item.item, Frame):
        slot = pixels.put(frame.image, item.camera, item.attempt)
        if slot is None:
            return None
        body = _FrameInSlot(frame.camera, frame.sequence, frame.pts, frame.captured_at, slot)
        return _encode(SLOT, of, body)
    return _encode(_KINDS[type(item.item)], of, item.item)


def unpack(parts: Sequence[Buffer], pixels: Receiving) -> Down | Up:
    """The item in the parts of a message.

    Raises WireError, and nothing else, for whatever is not a message that `pack` made.
    """
    header = _decode_header(parts)
    if header.of is not None and header.kind == REFERENCE:
        return _take(header, parts, pixels)
    if header.of is not None and header.kind == SLOT:
        return Work(*header.of, _view_slot(header, parts, pixels))
    record = (_MESSAGES if header.of is None else _WORKS).get(header.kind)
    if record is None:
        raise _unknown(header)
    body = _Buffers(parts[1:]).decode(header.body, record, header.kind)
    if header.of is None:
        return body  # type: ignore[no-any-return]
    return Work(*header.of, body)


def _encode(kind: str, of: tuple[str, str, int] | None, body: object) -> list[Buffer]:
    buffers: list[Buffer] = []
    places: dict[int, int] = {}  # id of an array -> its buffer; the item keeps the array alive

    def encode_array(value: object) -> object:
        if isinstance(value, np.floating | np.integer):
            return value.item()
        if not isinstance(value, np.ndarray) or value.dtype.str not in _DTYPES:
            what = getattr(value, "dtype", type(value).__name__)
            raise RecordError(f"{kind} must hold uint8 and float32 arrays, got {what}")
        place: int | bytes
        if value.nbytes <= INLINE:
            place = value.tobytes()
        elif id(value) in places:
            place = places[id(value)]
        else:
            place = places[id(value)] = len(buffers)
            buffers.append(np.ascontiguousarray(value).data.cast("B"))
        return value.dtype.str, value.shape, place

    header = msgspec.msgpack.encode((WIRE_VERSION, kind, of, body), enc_hook=encode_array)
    parts = [header, *buffers]
    excess = _excess(parts)
    if excess:
        raise RecordError(f"{kind} is too large for a message: {excess}")
    return parts


def _decode_header(parts: Sequence[Buffer]) -> _Header:
    if not parts:
        raise WireError("expected a header and buffers, got a message without parts")
    excess = _excess(parts)
    if excess:
        raise WireError(excess)
    try:
        header = msgspec.msgpack.decode(parts[0], type=_Header)
    except _UNREADABLE as error:
        if (version := _version(parts[0])) > WIRE_VERSION:
            raise _too_new(version) from None
        raise WireError(
            f"expected a node's message, got {_size(parts[0])} bytes that are none: {_brief(error)}"
        ) from None
    if header.version > WIRE_VERSION:
        raise _too_new(header.version)
    if header.version != WIRE_VERSION:
        raise WireError(f"expected wire version {WIRE_VERSION}, got {header.version}")
    if header.of is not None and not 0 <= header.of[2] < 2**63:
        raise WireError(f"expected a position from 0, got {header.of[2]}")
    return header


def _version(header: Buffer) -> int:
    """The version that a header claims; 0 where it does not even have one."""
    try:
        return msgspec.msgpack.decode(header, type=_Version).version
    except _UNREADABLE:
        return 0


def _excess(parts: Sequence[Buffer]) -> str | None:
    """In what the parts exceed the limits of a message."""
    if len(parts) - 1 > MOST_BUFFERS:
        return f"expected {MOST_BUFFERS} buffers at most, got {len(parts) - 1}"
    if (size := _size(parts[0])) > LARGEST_HEADER:
        return f"expected a header of {LARGEST_HEADER} bytes at most, got {size}"
    if (size := sum(map(_size, parts))) > LARGEST_MESSAGE:
        return f"expected a message of {LARGEST_MESSAGE} bytes at most, got {size}"
    return None


def _size(part: Buffer) -> int:
    return memoryview(part).nbytes


def _brief(error: Exception) -> str:
    """What was wrong, on one line of bounded length, whatever the message held."""
    return ascii(str(error))[1:-1][:200]


def _too_new(version: int) -> WireError:
    return WireError(
        f"expected wire version {WIRE_VERSION}, got {version}: the other node is newer; install "
        "the same facestream for all nodes",
        "newer version",
    )


def _unknown(header: _Header) -> WireError:
    kinds, what = (_MESSAGES, "message") if header.of is None else (_WORKS, "work")
    return WireError(
        f"unknown kind of {what} {header.kind[:40]!r}; this version knows {', '.join(kinds)}",
        "unknown kind",
    )


def _take(header: _Header, parts: Sequence[Buffer], pixels: Receiving) -> Work:
    """The work that waits in the table of a hop within this process."""
    if not isinstance(pixels, ByReference):
        raise WireError("expected the work itself: only threads of one process share references")
    work = pixels.take(_Buffers(parts[1:]).decode(header.body, int, header.kind))
    if (work.camera, work.attempt, work.position) != header.of:
        raise WireError("expected a token with its own work's name, got another's")
    return work


def _view_slot(header: _Header, parts: Sequence[Buffer], pixels: Receiving) -> Frame:
    """The frame whose pixels are in memory shared with the other node."""
    if not isinstance(pixels, RingReader):
        raise WireError("expected a frame with its pixels: no memory is shared on this hop")
    there: _FrameInSlot = _Buffers(parts[1:]).decode(header.body, _FrameInSlot, header.kind)
    image = pixels.view(there.slot)
    return Frame(there.camera, there.sequence, there.pts, there.captured_at, image)


class _Buffers:
    """The buffers of one message while its body is decoded."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._arrays: dict[int, np.ndarray] = {}

    def decode(self, body: msgspec.Raw, record: Any, kind: str) -> Any:
        """The record in a body. Raises WireError unless it fits and uses every buffer."""
        try:
            decoded = msgspec.msgpack.decode(body, type=record, dec_hook=self._array)
        except _UNREADABLE as error:
            raise WireError(f"{kind} does not fit its record: {_brief(error)}") from None
        if len(self._arrays) != len(self._buffers):
            raise WireError(
                f"{kind} names {len(self._arrays)} buffers, got {len(self._buffers)} with it"
            )
        return decoded

    def _array(self, annotation: Any, value: Any) -> np.ndarray:
        """The array that [dtype, shape, place] describes; msgspec wraps what is raised here."""
        dtype = _dtype_of(annotation)
        if type(value) is not list or len(value) != 3:
            raise WireError(f"expected [{dtype.str!r}, shape, place]")
        name, shape, place = value
        if name != dtype.str or type(shape) is not list or type(place) not in (bytes, int):
            raise WireError(f"expected [{dtype.str!r}, shape, place]")
        if not 1 <= len(shape) <= _MOST_AXES:
            raise WireError(f"expected 1 to {_MOST_AXES} axes, got {len(shape)}")
        if not all(type(length) is int and 0 <= length < 2**31 for length in shape):
            raise WireError("expected lengths of axes from 0 to 2**31 - 1")
        if type(place) is bytes:
            return _view(place, dtype, shape)
        if not 0 <= place < len(self._buffers):
            raise WireError(f"expected a buffer below {len(self._buffers)}, got {place}")
        array = self._arrays.get(place)
        if array is None:
            array = self._arrays[place] = _view(self._buffers[place], dtype, shape)
        elif array.dtype != dtype or list(array.shape) != shape:
            raise WireError(f"buffer {place} is named as two different arrays")
        return array


@cache
def _dtype_of(annotation: Any) -> np.dtype[Any]:
    """The dtype in an npt.NDArray[...]."""
    scalar: type[np.generic] = get_args(get_args(annotation)[1])[0]
    return np.dtype(scalar)


def _view(data: Buffer, dtype: np.dtype[Any], shape: list[int]) -> np.ndarray:
    """A read-only array over the bytes; a copy only where they lie unaligned."""
    if math.prod(shape) * dtype.itemsize != _size(data):
        raise WireError(f"expected {dtype.name} of shape {tuple(shape)}, got {_size(data)} bytes")
    array: np.ndarray = np.ndarray(shape, dtype, data)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array
