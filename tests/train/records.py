"""Writes RecordIO files as MXNet's own writer does, for tests of the reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from facestream.models.inference import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def pack(content: bytes, label: float | Sequence[float], number: int = 0) -> bytes:
    """A payload: header, labels where there are several (or one in a list), content."""
    if isinstance(label, float | int):
        return struct.pack("<IfQQ", 0, label, number, 0) + content
    labels = np.array(label, "<f4").tobytes()
    return struct.pack("<IfQQ", len(label), 0.0, number, 0) + labels + content


def frame(payload: bytes) -> bytes:
    """A record, cut into parts wherever the magic stands at a multiple of 4 bytes."""
    parts, start = [], 0
    for place in range(0, len(payload) - 3, 4):
        if payload[place : place + 4] == MAGIC:
            parts.append(payload[start:place])
            start = place + 4
    parts.append(payload[start:])
    framed = b""
    for number, part in enumerate(parts):
        kind = 0 if len(parts) == 1 else 1 if number == 0 else 3 if number == len(parts) - 1 else 2
        framed += MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
    return framed


def write_records(path: Path, payloads: Mapping[int, bytes]) -> Path:
    """PATH.rec and PATH.idx with these payloads by key."""
    data, index = b"", ""
    for key, payload in payloads.items():
        index += f"{key}\t{len(data)}\n"
        data += frame(payload)
    path.write_bytes(data)
    path.with_suffix(".idx").write_text(index)
    return path


def write_faces(path: Path, labels: Sequence[int], *, header: bool = True, seed: int = 0) -> Path:
    """A training set as insightface writes it: one picture for each label, keys from 1 on."""
    draw = np.random.default_rng(seed)
    payloads = {}
    if header:
        payloads[0] = pack(b"", [len(labels) + 1.0, len(labels) + 1.0 + len(set(labels))])
    for key, label in enumerate(labels, 1):
        payloads[key] = pack(encode(draw_face(draw)), [float(label)] if key % 2 else float(label))
    for key in range(len(set(labels)) if header else 0):
        payloads[len(labels) + 1 + key] = pack(b"", [0.0, 0.0])
    return write_records(path, payloads)


def draw_face(draw: np.random.Generator, side: int = 112) -> Image:
    """Smooth colours: (side, side, 3) uint8 BGR."""
    small = draw.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def encode(image: Image, suffix: str = ".png") -> bytes:
    """A picture file."""
    return bytes(cv2.imencode(suffix, image)[1])
