"""How pixels cross a hop: in the message, or by reference between threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from facestream.stream.carriers import ByReference, InMessage, WireError
from facestream.stream.flow import Begin, Finish, Work
from facestream.stream.packing import pack, unpack
from facestream.stream.records import Frame


def framed(position: int = 0, camera: str = "door", attempt: str = "a1") -> Work:
    picture = np.full((1080, 1920, 3), position % 256, np.uint8)
    return Work(camera, attempt, position, Frame(camera, position, 0.1, 1000.0, picture))


def test_a_reference_brings_the_very_same_work_in_a_few_bytes() -> None:
    table, work = ByReference(), framed()
    parts = pack(work, table)
    assert parts is not None
    assert sum(map(len, parts)) < 50
    assert unpack(parts, table) is work


def test_what_is_no_work_is_encoded() -> None:
    table, begin = ByReference(most=0), Begin("door", "a1", False, "f")
    parts = pack(begin, table)
    assert parts is not None
    assert unpack(parts, table) == begin


def test_a_reference_is_taken_once() -> None:
    table = ByReference()
    parts = pack(framed(), table)
    assert parts is not None
    unpack(parts, table)
    with pytest.raises(WireError, match="taken before") as caught:
        unpack(parts, table)
    assert caught.value.reason == "stale"


def test_a_full_table_has_no_room_until_a_work_is_taken() -> None:
    table = ByReference(most=2)
    first = pack(framed(0), table)
    assert pack(framed(1), table)
    assert pack(framed(2), table) is None
    assert first is not None
    unpack(first, table)
    assert pack(framed(2), table)


def test_reclaiming_forgets_one_attempt_of_one_camera() -> None:
    table = ByReference()
    names = [("door", "a1"), ("door", "a2"), ("hall", "a1")]
    sent = [pack(framed(0, *name), table) for name in names]
    table.reclaim("door", "a1")
    with pytest.raises(WireError, match="its attempt is over"):
        unpack(sent[0] or [], table)
    for parts, (camera, attempt) in zip(sent[1:], names[1:], strict=True):
        work = unpack(parts or [], table)
        assert (work.camera, work.attempt) == (camera, attempt)


def test_one_end_may_close_while_works_wait_for_the_other() -> None:
    table, work = ByReference(), framed()
    parts = pack(work, table)
    table.close()
    assert unpack(parts or [], table) is work


def test_a_token_under_another_name_is_refused() -> None:
    """The message says whose work it is; what follows it by name must be able to rely on that."""
    table = ByReference()
    header = (pack(framed(), table) or [b""])[0]
    with pytest.raises(WireError, match="got another's"):
        unpack([bytes(header).replace(b"door", b"hall")], table)


def test_a_reference_means_nothing_to_another_process() -> None:
    parts = pack(framed(), ByReference())
    assert parts is not None
    with pytest.raises(WireError, match="only threads of one process") as caught:
        unpack(parts, InMessage())
    assert caught.value.reason == "malformed"
    with pytest.raises(WireError, match="no work waits"):
        unpack(parts, ByReference())


def test_two_threads_hand_over_everything_once_and_in_order() -> None:
    table = ByReference(most=8)
    sent: list[list[bytes | memoryview]] = []
    ready, taken = threading.Condition(), threading.Semaphore(8)
    got: list[int] = []

    def take() -> None:
        while len(got) < 500:
            with ready:
                assert ready.wait_for(lambda: sent, 60)
                parts = sent.pop(0)
            work = unpack(parts, table)
            assert isinstance(work, Work)
            got.append(work.position)
            taken.release()

    reader = threading.Thread(target=take, daemon=True)
    reader.start()
    for position in range(500):
        assert taken.acquire(timeout=60)
        parts = pack(Work("door", "a1", position, Finish("end")), table)
        assert parts is not None
        with ready:
            sent.append(parts)
            ready.notify()
    reader.join(60)
    assert got == list(range(500))
