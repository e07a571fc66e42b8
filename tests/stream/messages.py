"""Messages between nodes for tests: a few by hand, and strategies that make all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facestream.stream.carriers import InMessage
from facestream.stream.flow import (
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
from facestream.stream.packing import pack
from facestream.stream.records import (
    Face,
    Frame,
    FrameRef,
    Observation,
    Observed,
    Tracked,
    TrackedFace,
    TrackEnd,
    TrackKey,
)
from facestream.stream.watcher import SourceInfo

MESSAGE = InMessage()

names = st.text(max_size=20)
counts = st.integers(0, 2**53)
numbers = st.floats(allow_nan=False)
reasons = st.dictionaries(names, counts, max_size=3)
states = st.dictionaries(names, st.binary(max_size=100), max_size=3)
refs = st.builds(FrameRef, names, counts, numbers, numbers, counts, counts)
keys = st.builds(TrackKey, names, names, counts)
ends = st.builds(TrackEnd, keys, refs, refs, counts)


def floats(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False))


def crops() -> st.SearchStrategy[np.ndarray]:
    """Of both sides of the size from which a crop has a buffer of its own."""
    return st.sampled_from([8, 112]).map(lambda n: np.full((n, n, 3), n, np.uint8))


def many(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


faces = st.builds(
    Face, floats(4), floats(5, 2), numbers, st.dictionaries(names, crops(), max_size=2)
)
tracked = st.builds(
    Tracked,
    refs,
    many(st.builds(TrackedFace, counts, counts, faces)),
    many(keys),
    many(ends),
    counts,
    reasons,
)
observations = st.builds(
    Observation,
    keys,
    refs,
    counts,
    st.sampled_from([2, 512, 2048]).flatmap(lambda n: floats(n)),
    numbers,
    numbers,
    st.sampled_from([0, 3]).flatmap(lambda n: floats(n, 2)),
    floats(4),
    st.none() | crops(),
)
frames = st.builds(
    Frame,
    names,
    counts,
    numbers,
    numbers,
    st.sampled_from([(0, 0), (1, 1), (48, 64)]).map(lambda s: np.full((*s, 3), 7, np.uint8)),
)
some = st.none() | counts
items = st.one_of(
    frames,
    tracked,
    st.builds(Observed, tracked, many(observations), reasons),
    st.builds(
        SourceInfo,
        names,
        names,
        st.booleans(),
        counts,
        counts,
        st.none() | numbers,
        some,
        st.none() | numbers,
    ),
    st.builds(StateChange, names, st.sampled_from(["running", "ended"]), names, counts, reasons),
    st.builds(TracksEnded, names, many(ends)),
    st.builds(Mark, states),
    st.builds(Finish, names),
)
messages = st.one_of(
    st.builds(Work, names, names, counts, items),
    st.builds(Begin, names, names, st.booleans(), names),
    st.builds(Resume, names, names, names, names, counts, states),
    st.builds(Done, names, names, counts),
    st.builds(Restart, names, names, names),
    st.builds(Refuse, names, names, names),
)


def image(height: int = 48, width: int = 64) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def face(**crops: np.ndarray) -> Face:
    return Face(np.arange(4, dtype=np.float32), np.zeros((5, 2), np.float32), 0.9, crops)


def framed(picture: np.ndarray) -> Work:
    return Work("door", "a1", 3, Frame("door", 3, 0.12, 1000.5, picture))


def seen(*faces: Face) -> Work:
    tracked = tuple(TrackedFace(n, 0, face) for n, face in enumerate(faces))
    return Work("door", "a1", 3, Tracked(FrameRef("door", 3, 0.12, 1000.5, 64, 48), tracked))


def send(item: Down | Up) -> list[bytes]:
    """The parts of a message as the other node receives them."""
    parts = pack(item, MESSAGE)
    assert parts is not None
    return [bytes(part) for part in parts]
