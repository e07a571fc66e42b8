"""Frames in shared memory: seen in place, given back, and nothing else is ever read."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import PublishError
from facestream.models.align import ARCFACE_112, warp
from facestream.stream import ring
from facestream.stream.carriers import InMessage, WireError
from facestream.stream.flow import Work
from facestream.stream.packing import pack, unpack
from facestream.stream.records import Frame
from facestream.stream.ring import HEAD, RingReader, RingWriter, Slot

from .rings import holders, memory_of, picture, put


@pytest.fixture
def writer() -> Iterator[RingWriter]:
    writer = RingWriter(3)
    yield writer
    writer.close()


@pytest.fixture
def reader() -> Iterator[RingReader]:
    reader = RingReader()
    yield reader
    reader.close()


def changed(slot: Slot, **fields: object) -> Slot:
    return msgspec.structs.replace(slot, **fields)


def refusal(reader: RingReader, slot: Slot) -> WireError:
    with pytest.raises(WireError) as caught:
        reader.view(slot)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_frame_is_seen_where_it_was_put(writer: RingWriter, reader: RingReader) -> None:
    image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)[:, ::-1]
    slot = writer.put(image, "door", "a1")
    assert slot is not None
    view = reader.view(slot)
    assert (view == image).all()
    assert view.base is not None
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        view.flags.writeable = True


def test_frames_are_cropped_from_the_view(writer: RingWriter, reader: RingReader) -> None:
    """OpenCV takes read-only pictures."""
    points = np.array([[20, 20], [40, 20], [30, 28], [22, 36], [38, 36]], np.float32)
    crop = warp(reader.view(put(writer, 9)), points, ARCFACE_112)
    assert crop.shape == (112, 112, 3)


def test_a_work_goes_through_the_wire_form(writer: RingWriter, reader: RingReader) -> None:
    work = Work("door", "a1", 7, Frame("door", 7, 0.5, 1000.5, picture(7)))
    parts = pack(work, writer)
    assert parts is not None
    assert sum(map(len, parts)) < 200
    back = unpack(parts, reader)
    assert isinstance(back, Work)
    assert isinstance(back.item, Frame)
    assert (back.camera, back.attempt, back.position) == ("door", "a1", 7)
    assert (back.item.sequence, back.item.pts, back.item.captured_at) == (7, 0.5, 1000.5)
    assert (back.item.image == 7).all()
    with pytest.raises(WireError, match="no memory is shared on this hop"):
        unpack(parts, InMessage())


def test_no_slot_is_free_until_one_comes_back(writer: RingWriter, reader: RingReader) -> None:
    slots = [put(writer, value) for value in range(3)]
    work = Work("door", "a1", 7, Frame("door", 7, 0.5, 1000.5, picture(7)))
    assert pack(work, writer) is None
    for slot in slots[:2]:
        reader.view(slot)
    tokens = reader.spent()
    assert tokens == [slot.number for slot in slots[:2]]
    assert reader.spent() == []
    writer.release(tokens)
    assert writer.given == 1
    assert pack(work, writer)
    assert (reader.view(slots[2]) == 2).all()


def test_a_number_that_comes_back_twice_frees_one_slot(writer: RingWriter) -> None:
    first = put(writer, 1)
    writer.release([first.number])
    second = put(writer, 2)
    assert second.index == first.index
    writer.release([first.number, 0, -1, 2**70])
    assert writer.given == 1


def test_an_attempt_that_is_over_gives_its_slots_back(writer: RingWriter) -> None:
    old, new = put(writer, 1, attempt="a1"), put(writer, 2, attempt="a2")
    put(writer, 3, attempt="a1")
    writer.reclaim("door", "a1")
    assert writer.given == 1
    writer.release([old.number])
    assert writer.given == 1
    writer.release([new.number])
    assert writer.given == 0


def test_cameras_of_all_sizes_share_the_slots(writer: RingWriter, reader: RingReader) -> None:
    small, none = put(writer, 1, (8, 8)), put(writer, 2, (0, 0))
    small_memory = memory_of(small)
    assert (reader.view(small) == 1).all()
    large = put(writer, 3, (480, 640))
    assert large.segment != small.segment
    assert writer.put(picture(4), "door", "a1") is None  # old and new memory count together
    assert holders(small_memory) == {os.getpid()}
    assert (reader.view(large) == 3).all()
    assert reader.view(none).shape == (0, 0, 3)
    assert (reader.view(small) == 1).all()
    writer.release([small.number, none.number])
    assert (reader.view(large) == 3).all()  # the reader lets the old memory go, as the writer did
    assert holders(small_memory) == set()
    later = put(writer, 5, (8, 8))
    assert later.segment == large.segment
    assert (reader.view(later) == 5).all()


def test_a_view_outlives_the_ring(writer: RingWriter, reader: RingReader) -> None:
    slot = put(writer, 5)
    memory, view = memory_of(slot), reader.view(slot)
    reader.close()
    writer.close()
    assert (view == 5).all()
    assert holders(memory) == {os.getpid()}
    del view
    assert holders(memory) == set()


def test_closing_may_be_followed_by_use(writer: RingWriter, reader: RingReader) -> None:
    reader.view(put(writer, 5))
    reader.close()
    writer.close()
    assert reader.spent() == []
    assert (reader.view(put(writer, 6)) == 6).all()


def test_memory_that_cannot_be_had_is_named(
    writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(PublishError, match=r"for 3 frames: Too many open files; lower topology"):
        put(writer, 1)


def test_the_reader_cannot_write(writer: RingWriter) -> None:
    """What it maps is mapped for reading."""
    slot = put(writer, 1)
    mapped = ring._map(slot)
    assert isinstance(mapped, mmap.mmap)
    with pytest.raises(TypeError):
        mapped[0] = 1
    mapped.close()


# What a stale or hostile peer may say.


def test_a_slot_that_was_given_to_another_frame_is_stale(
    writer: RingWriter, reader: RingReader
) -> None:
    old = put(writer, 1)
    writer.reclaim("door", "a1")
    assert put(writer, 2).index == old.index
    error = refusal(reader, old)
    assert error.reason == "stale"
    assert f"holds frame {old.number + 1} by now" in str(error)


def test_what_lies_outside_is_refused(writer: RingWriter, reader: RingReader) -> None:
    slot = put(writer, 1)
    for wrong in (
        {"index": 3},
        {"index": 2**31 - 1},
        {"height": 49},
        {"width": 2**31 - 1, "height": 2**31 - 1},
    ):
        error = refusal(reader, changed(slot, **wrong))
        assert error.reason == "malformed"
        assert "expected one of 3 slots of 9216 bytes" in str(error)
    assert (reader.view(slot) == 1).all()
    assert reader.spent() == [slot.number]


def test_a_descriptor_or_process_used_anew_is_refused(
    writer: RingWriter, reader: RingReader
) -> None:
    """Numbers of processes and descriptors come round again; the token does not."""
    slot = put(writer, 1)
    good = reader.view(slot)
    error = refusal(reader, changed(slot, segment=bytes(16)))
    assert error.reason == "stale"
    assert "not the memory that the message means" in str(error)
    for wrong in ({"pid": 2**31 - 1}, {"fd": 2**31 - 1}, {"pid": 0}):
        error = refusal(reader, changed(slot, **wrong))
        assert error.reason == "stale"
        assert "No such file or directory; both nodes must run on one machine" in str(error)
    assert (reader.view(slot) == good).all()


def test_nothing_but_our_memory_is_opened(reader: RingReader, tmp_path: Path) -> None:
    """A pipe would block, a device might act, a file might be anybody's."""
    os.mkfifo(tmp_path / ring.NAME)
    fifo = os.open(tmp_path / ring.NAME, os.O_RDONLY | os.O_NONBLOCK)
    file = os.open(tmp_path / f"memfd:{ring.NAME} (deleted)", os.O_RDWR | os.O_CREAT)
    other = os.memfd_create("somebody-elses")
    try:
        for fd in (fifo, file, other):
            error = refusal(reader, Slot(os.getpid(), fd, bytes(16), 0, 1, 8, 8))
            assert error.reason == "stale"
            assert "something else is there" in str(error)
    finally:
        for fd in (fifo, file, other):
            os.close(fd)


def forged(head: bytes, size: int = 4096, seals: int = ring._SEALS) -> Slot:
    """Memory that a hostile peer made; to be closed by the caller."""
    fd = os.memfd_create(ring.NAME, os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, head, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return Slot(os.getpid(), fd, bytes(16), 0, 1, 8, 8)


def head(slots: int, stride: int, version: int = 1, magic: bytes = ring._MAGIC) -> bytes:
    return ring._HEAD.pack(magic, version, slots, stride, bytes(16))


@pytest.mark.parametrize(
    ("slot", "reason", "says"),
    [
        (lambda: forged(head(1, 4032), seals=0), "malformed", "cannot shrink"),
        (lambda: forged(head(1, 4032), seals=fcntl.F_SEAL_GROW), "malformed", "cannot shrink"),
        (lambda: forged(b"", 63), "malformed", "64 bytes or more, got 63"),
        (lambda: forged(b"", 0), "malformed", "64 bytes or more, got 0"),
        (lambda: forged(b"", 2**35), "malformed", "64 bytes or more, got 34359738368"),
        (lambda: forged(head(2, 4032)), "malformed", "2 slots of 4032 bytes, got 4096"),
        (lambda: forged(head(1, 2**63)), "malformed", "got 4096 bytes"),
        (lambda: forged(head(4032, 1)), "malformed", "got 4096 bytes"),
        (lambda: forged(head(0, 0), 64), "malformed", "0 slots of 0 bytes"),
        (lambda: forged(head(1, 4032, magic=b"whatever")), "stale", "not the memory"),
        (lambda: forged(head(1, 4032, version=2)), "newer version", "version 1, got 2"),
        (lambda: forged(head(1, 4032, version=0)), "malformed", "version 1, got 0"),
    ],
)
def test_forged_memory_is_refused(reader: RingReader, slot: object, reason: str, says: str) -> None:
    forgery = slot()  # type: ignore[operator]
    memory = memory_of(forgery)
    try:
        error = refusal(reader, forgery)
    finally:
        os.close(forgery.fd)
    assert error.reason == reason
    assert says in str(error)
    assert holders(memory) == set()


def test_memory_under_a_view_cannot_be_cut_off(writer: RingWriter, reader: RingReader) -> None:
    """Else reading it would kill the reader with SIGBUS."""
    slot = put(writer, 1)
    view = reader.view(slot)
    with pytest.raises(PermissionError):
        os.ftruncate(slot.fd, HEAD)
    assert (view == 1).all()


small = st.integers(0, 2**31 - 1)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "pid": small,
            "fd": st.integers(0, 40) | small,
            "segment": st.binary(max_size=20),
            "index": st.integers(0, 4) | small,
            "number": st.integers(1, 2**64 - 1),
            "height": st.integers(0, 60) | small,
            "width": st.integers(0, 80) | small,
        },
    )
)
@settings(max_examples=200, deadline=None)
def test_any_slot_is_refused_or_lies_inside(fields: dict[str, object]) -> None:
    writer, reader = RingWriter(3), RingReader()
    try:
        slot = changed(put(writer, 1), **fields)
        with suppress(WireError):
            assert int(reader.view(slot).max(initial=0)) <= 1
    finally:
        reader.close()
        writer.close()
