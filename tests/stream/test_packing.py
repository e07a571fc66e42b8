"""Records on the wire: what goes in comes out, and what is wrong is refused by name."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facestream import RecordError
from facestream.models.inference import Embedded
from facestream.stream import packing
from facestream.stream.carriers import ByReference, InMessage, WireError
from facestream.stream.embed import EmbedStage
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
from facestream.stream.packing import WIRE_VERSION, pack, unpack
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


def plain(value: Any) -> Any:
    """Everything in a record, arrays included, in a form that == compares."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, msgspec.Struct):
        return type(value), [plain(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return type(value), [plain(item) for item in value]
    return type(value), value


def refusal(parts: list[Any]) -> WireError:
    with pytest.raises(WireError) as caught:
        unpack(parts, MESSAGE)
    assert "\n" not in str(caught.value)
    return caught.value


@given(messages)
@settings(max_examples=150, deadline=None)
def test_every_kind_comes_out_as_it_went_in(item: Down | Up) -> None:
    assert plain(unpack(send(item), MESSAGE)) == plain(item)


def test_numpy_numbers_and_counters_go_as_plain_ones() -> None:
    """Stages compute with them."""
    ref = FrameRef("door", 3, np.float64(0.12), np.float32(0.5), np.int64(64), 48)
    item = Work("door", "a1", 0, Tracked(ref, (), rejected=Counter({"small": 2})))
    back = unpack(send(item), MESSAGE)
    assert plain(back.item.frame) == plain(FrameRef("door", 3, 0.12, 0.5, 64, 48))  # type: ignore[union-attr]
    assert back.item.rejected == {"small": 2}  # type: ignore[union-attr]


def test_pixels_are_sent_from_where_they_are() -> None:
    picture, crop = image(), image(112, 112)
    (_, sent), (_, cut) = pack(framed(picture), MESSAGE), pack(seen(face(embedder=crop)), MESSAGE)  # type: ignore[misc]
    assert np.shares_memory(np.frombuffer(sent, np.uint8), picture)
    assert np.shares_memory(np.frombuffer(cut, np.uint8), crop)


def test_what_is_not_contiguous_is_sent_all_the_same() -> None:
    flipped = image(112, 112)[:, ::-1]
    back = unpack(send(seen(face(embedder=flipped))), MESSAGE)
    assert (back.item.faces[0].face.crops["embedder"] == flipped).all()  # type: ignore[union-attr]


def test_an_array_that_appears_twice_is_sent_once() -> None:
    """A crop is in the tracked frame and, where pictures are kept, in the observation too."""
    crop = image(112, 112)
    parts = send(seen(face(embedder=crop, quality=crop)))
    assert len(parts) == 2
    crops = unpack(parts, MESSAGE).item.faces[0].face.crops  # type: ignore[union-attr]
    assert crops["embedder"] is crops["quality"]


def test_what_is_received_is_read_only_and_not_copied() -> None:
    parts = send(framed(image()))
    picture = unpack(parts, MESSAGE).item.image  # type: ignore[union-attr]
    assert np.shares_memory(picture, np.frombuffer(parts[1], np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        picture[0] = 0
    box = unpack(send(seen(face())), MESSAGE).item.faces[0].face.box  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="read-only"):
        box[0] = 0


def test_unaligned_numbers_are_made_fit_to_compute_with() -> None:
    embedding = np.arange(2048, dtype=np.float32)
    vector = Observation(
        TrackKey("door", "e", 0),
        FrameRef("door", 3, 0.12, 1000.5, 64, 48),
        0,
        embedding,
        1.0,
        1.0,
        np.zeros((0, 2), np.float32),
        np.zeros(4, np.float32),
    )
    tracked = seen().item
    assert isinstance(tracked, Tracked)
    header, data = send(Work("door", "a1", 3, Observed(tracked, (vector,))))
    odd = memoryview(b"x" + data)[1:]
    back = unpack([header, odd], MESSAGE).item.observations[0].embedding  # type: ignore[union-attr]
    assert back.flags.aligned
    assert (back == embedding).all()


class Brightness:
    """Stands where the networks stand; computes as they do, on stacked crops."""

    template = None

    def embed(self, crops: np.ndarray) -> Embedded:
        vectors = crops.reshape(len(crops), -1).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1).astype(np.float32)
        return Embedded(vectors, norms, np.zeros((len(crops), 0, 2), np.float32))

    def score(self, *, boxes: np.ndarray, **_: Any) -> np.ndarray:
        return boxes[:, 3]


def test_the_embedding_stage_takes_what_was_received() -> None:
    stage = EmbedStage(Brightness(), Brightness(), epoch="e", batch=8, keep_crops=True)  # type: ignore[arg-type]
    here = seen(face(embedder=image(8, 8)), face(embedder=image(8, 8)))
    there = unpack(send(here), MESSAGE)
    assert isinstance(there, Work)
    assert isinstance(here.item, Tracked)
    assert isinstance(there.item, Tracked)
    assert plain(stage.process([there.item])[0]) == plain(stage.process([here.item])[0])


def test_fields_may_be_added_within_a_version() -> None:
    header = msgspec.msgpack.decode(send(Done("door", "a1", 3))[0])
    header[3]["mood"] = "good"
    assert unpack([msgspec.msgpack.encode([*header, "more"])], MESSAGE) == Done("door", "a1", 3)


# What must be refused. `changed` takes a good message apart and spoils one thing.


def changed(path: tuple[Any, ...], value: Any, item: Down | Up | None = None) -> list[bytes]:
    header, *buffers = send(item or seen(face(embedder=image(112, 112))))
    tree = part = msgspec.msgpack.decode(header)
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    return [msgspec.msgpack.encode(tree), *buffers]


FACE = (3, "faces", 0, "face")
CROP = (*FACE, "crops", "embedder")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((*FACE, "box"), ["<f8", [4], bytes(32)], "expected ['<f4', shape, place]"),
        ((*FACE, "box"), ["|u1", [4], bytes(4)], "expected ['<f4', shape, place]"),
        ((*FACE, "box"), ["<f4", [4], bytes(15)], "got 15 bytes"),
        ((*FACE, "box"), ["<f4", [5], bytes(20)], "Face.box must be (4)"),
        ((*FACE, "box"), ["<f4", 4, bytes(16)], "expected ['<f4', shape, place]"),
        ((*FACE, "box"), [], "expected ['<f4', shape, place]"),
        ((*FACE, "box"), {"a": 1}, "expected ['<f4', shape, place]"),
        ((*FACE, "box"), None, "expected ['<f4', shape, place]"),
        ((*CROP, 0), "O", "expected ['|u1', shape, place]"),
        ((*CROP, 1), [112, 112, 4], "got 37632 bytes"),
        ((*CROP, 1), [-112, -112, 3], "lengths of axes"),
        ((*CROP, 1), [2**32, 2**32, 0], "lengths of axes"),
        ((*CROP, 1), [2**31 - 1] * 4, "got 37632 bytes"),
        ((*CROP, 1), [112.0, 112, 3], "lengths of axes"),
        ((*CROP, 1), [True, 37632], "lengths of axes"),
        ((*CROP, 1), [37632], "Face.crops['embedder'] must be"),
        ((*CROP, 1), [], "1 to 4 axes, got 0"),
        ((*CROP, 1), [112, 112, 3, 1, 1], "1 to 4 axes, got 5"),
        ((*CROP, 2), 1, "a buffer below 1, got 1"),
        ((*CROP, 2), -1, "a buffer below 1, got -1"),
        ((*CROP, 2), False, "expected ['|u1', shape, place]"),
        ((*CROP, 2), bytes(37632), "names 0 buffers, got 1"),
        ((*FACE, "crops", "quality"), ["|u1", [37632, 1, 1], 0], "two different arrays"),
        ((3, "frame"), ["door", 3, 0.12, 1000.5, 64], "length 6, got 5"),
        ((3, "detected"), "many", "Expected `int`"),
        ((2,), None, "unknown kind of message 'tracked'"),
        ((2,), ["door", "a1"], "none: Expected `array` of length 3"),
        ((2,), ["door", "a1", -1], "a position from 0, got -1"),
        ((2,), ["door", "a1", 2**64 - 1], "a position from 0"),
        ((1,), "frame", "frame does not fit"),
        ((1,), "reference", "only threads of one process"),
        ((0,), 0, "expected wire version 1, got 0"),
        ((0,), "1", "are none: Expected `int`"),
    ],
)
def test_what_is_malformed_is_refused(path: tuple[Any, ...], value: Any, says: str) -> None:
    error = refusal(changed(path, value))
    assert says in str(error)
    assert error.reason == ("unknown kind" if "unknown" in says else "malformed")


def test_missing_and_surplus_buffers_are_refused() -> None:
    header, crop = send(seen(face(embedder=image(112, 112))))
    assert "a buffer below 0" in str(refusal([header]))
    assert "names 1 buffers, got 2" in str(refusal([header, crop, crop]))
    assert "got 37631 bytes" in str(refusal([header, crop[:-1]]))
    assert "without parts" in str(refusal([]))
    assert "0 bytes that are none" in str(refusal([b""]))


def test_a_kind_that_is_not_known_is_named() -> None:
    error = refusal(changed((1,), "weather"))
    assert error.reason == "unknown kind"
    assert "'weather'; this version knows frame, tracked" in str(error)


@pytest.mark.parametrize("rest", [[], ["x", None, 1], [{"quite": "another form"}]])
def test_a_newer_version_is_told_from_garbage_whatever_its_form(rest: list[Any]) -> None:
    error = refusal([msgspec.msgpack.encode([WIRE_VERSION + 1, *rest]), b"more"])
    assert error.reason == "newer version"
    assert "install the same facestream for all nodes" in str(error)


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa1a", b"\x81\x91", b"\x81\x81"])
def test_deep_nesting_is_refused(nest: bytes) -> None:
    assert refusal([nest * 100_000]).reason == "malformed"
    assert refusal([b"\x94\x01\xa4done\xc0" + nest * 100_000]).reason == "malformed"
    good = send(seen(face()))[0]
    box = msgspec.msgpack.encode(msgspec.msgpack.decode(good)[3]["faces"][0]["face"]["box"])
    for depth in (1, 2, 100_000):
        assert refusal([good.replace(box, nest * depth + b"\x01")]).reason == "malformed"


def test_pickles_are_not_opened() -> None:
    assert refusal([pickle.dumps(Done("door", "a1", 3))]).reason == "malformed"


def test_messages_have_limits_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    item = seen(face(embedder=image(112, 112), quality=image(112, 112)))
    parts = send(item)
    for limit, value, says in [
        ("MOST_BUFFERS", 1, "1 buffers at most, got 2"),
        ("LARGEST_HEADER", 10, "a header of 10 bytes at most"),
        ("LARGEST_MESSAGE", 40_000, "a message of 40000 bytes at most"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(packing, limit, value)
            assert says in str(refusal(parts))
            with pytest.raises(RecordError, match="too large for a message"):
                pack(item, MESSAGE)


def test_arrays_of_other_types_have_no_wire_form() -> None:
    class Wide(msgspec.Struct):
        state: Any

    for value in (np.zeros(3), np.zeros(3, object), object()):
        with pytest.raises(RecordError, match="must hold uint8 and float32 arrays, got"):
            pack(Work("door", "a1", 0, Mark({"detect": value})), MESSAGE)  # type: ignore[dict-item]


@given(st.lists(st.binary(max_size=200), max_size=4))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(parts: list[bytes]) -> None:
    refusal(parts)


def tolerated(parts: list[Any], pixels: InMessage | ByReference = MESSAGE) -> None:
    """It is either refused by name or, by chance, a message."""
    try:
        unpack(parts, pixels)
    except WireError as error:
        assert error.reason in ("malformed", "unknown kind", "newer version", "stale")


@given(messages, st.data())
@settings(max_examples=300, deadline=None)
def test_spoilt_messages_are_refused_or_still_messages(
    item: Down | Up, data: st.DataObject
) -> None:
    parts = [bytearray(part) for part in send(item)]
    for _ in range(data.draw(st.integers(1, 4))):
        part = parts[data.draw(st.integers(0, len(parts) - 1))]
        at = data.draw(st.integers(0, len(part)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "double"])):
            case "flip" if at < len(part):
                part[at] = data.draw(st.integers(0, 255))
            case "cut":
                del part[at:]
            case "insert":
                part[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "drop" if len(parts) > 1:
                parts.remove(part)
            case "double":
                parts.append(part)
    tolerated([bytes(part) for part in parts])


wild = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | names
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@given(messages, wild, st.data())
@settings(max_examples=300, deadline=None)
def test_anything_in_the_place_of_anything_is_refused_or_still_a_message(
    item: Down | Up, value: Any, data: st.DataObject
) -> None:
    header, *buffers = send(item)
    tree = part = msgspec.msgpack.decode(header)
    while True:
        steps = list(part) if isinstance(part, dict) else list(range(len(part)))
        step = data.draw(st.sampled_from(steps))
        if isinstance(part[step], dict | list) and part[step] and data.draw(st.booleans()):
            part = part[step]
            continue
        part[step] = value
        break
    tolerated([msgspec.msgpack.encode(tree), *buffers])
