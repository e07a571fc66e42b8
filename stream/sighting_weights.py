"""What every frame of a sighting weighs in its template, as a compact blob.

A frame's share of a template is its row times the gain (models/fusion), and the gain changes with
every further frame. So rows are stored once, as they settle, and the newest gain beside them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from .. import SightingsError
from ..models.fusion import Doubles
from .aggregate import FrameRow
from .sighting_records import FrameWeight

_HEAD = struct.Struct("<II")
_FRAME = np.dtype([("ordinal", "<u4"), ("quality", "<f4"), ("frame", "<i8"), ("pts", "<f8")])


def pack_rows(rows: Sequence[FrameRow]) -> bytes:
    """N rows of width R as bytes: 24 + 4 R each; none as no bytes."""
    if not rows:
        return b""
    width = len(rows[0].row)
    frames = np.array([(r.ordinal, r.quality, r.frame, r.pts) for r in rows], _FRAME)
    numbers = np.array([r.row for r in rows], "<f4").reshape(len(rows), width)
    return _HEAD.pack(len(rows), width) + frames.tobytes() + numbers.tobytes()


def pack_gain(gain: Doubles) -> bytes:
    """The gain (R,) as bytes."""
    return gain.astype("<f8").tobytes()


def weigh_frames(blobs: Iterable[bytes], gain: bytes) -> tuple[FrameWeight, ...]:
    """The share of every frame, in the track's order; rows that were stored twice count once.

    Shares sum to 1, also where frames have settled since the gain was read: those of mean and
    quality are exact, CAFace's as of that reading. Raises SightingsError for bytes that are no rows
    of this gain.
    """
    numbers = np.frombuffer(gain, "<f8")
    found: dict[int, tuple[np.void, float]] = {}
    for blob in blobs:
        if not blob:
            continue
        frames, rows = _unpack(blob)
        if rows.shape[1] != len(numbers):
            raise SightingsError(
                f"rows of a sighting have {rows.shape[1]} numbers, its gain {len(numbers)}: it was "
                "not written by facestream"
            )
        for frame, weight in zip(frames, rows @ numbers, strict=True):
            found[int(frame["ordinal"])] = frame, float(weight)
    total = sum(weight for _, weight in found.values()) or 1.0
    return tuple(
        FrameWeight(
            ordinal=ordinal,
            frame=int(frame["frame"]),
            pts=float(frame["pts"]),
            quality=float(frame["quality"]),
            weight=weight / total,
        )
        for ordinal, (frame, weight) in sorted(found.items(), key=lambda pair: pair[0])
    )


def _unpack(blob: bytes) -> tuple[np.ndarray, Doubles]:
    try:
        count, width = _HEAD.unpack_from(blob)
        frames = np.frombuffer(blob, _FRAME, count, _HEAD.size)
        numbers = np.frombuffer(blob, "<f4", count * width, _HEAD.size + count * _FRAME.itemsize)
    except (struct.error, ValueError) as error:
        raise SightingsError(f"expected the rows of a sighting, got other bytes: {error}") from None
    return frames, numbers.reshape(count, width).astype(np.float64)
