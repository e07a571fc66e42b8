"""What is no message of ours is refused, by name, and does nothing else."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import RecordError
from facestream.stream import packing
from facestream.stream.carriers import WireError
from facestream.stream.flow import Done, Down, Mark, Up, Work
from facestream.stream.packing import WIRE_VERSION, pack, unpack

from .messages import MESSAGE, face, image, messages, names, seen, send


def refusal(parts: list[Any]) -> WireError:
    with pytest.raises(WireError) as caught:
        unpack(parts, MESSAGE)
    assert "\n" not in str(caught.value)
    return caught.value


def changed(path: tuple[Any, ...], value: Any, item: Down | Up | None = None) -> list[bytes]:
    """A good message with one thing spoilt."""
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


def tolerated(parts: list[Any]) -> None:
    """It is either refused by name or, by chance, a message."""
    try:
        unpack(parts, MESSAGE)
    except WireError as error:
        assert error.reason in ("malformed", "unknown kind", "newer version")


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
