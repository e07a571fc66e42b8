"""Memory that two nodes share: given back when cameras are over, refused where it cannot be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from facestream.configs.schema import AccessConfig
from facestream.stream import ring
from facestream.stream.access import Access
from facestream.stream.flow import Begin, Done, Down, Finish, Refuse, Resume, Up, Work
from facestream.stream.hop_in import HopIn
from facestream.stream.hop_out import HopOut
from facestream.stream.records import Frame
from facestream.stream.ring import RingReader, RingWriter

PATIENCE = 30.0


class Hop:
    """Both ends of a hop whose frames lie in shared memory."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self.access = Access(AccessConfig(), context)
        place = f"ipc://{folder}/later"
        self.later = HopIn(
            self.access, context, place, node="later", models="m", pixels=RingReader, most=16
        )
        self.later.start()
        self.earlier = HopOut(
            self.access, context, place, node="earlier", models="m", pixels=RingWriter(4)
        )
        self.earlier.start()
        self.downs: list[Down] = []
        self.ups: list[Up] = []

    def turn_until(self, enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not enough():
            assert time.monotonic() < deadline, (self.downs, self.ups)
            self.downs += self.later.receive(0.01)
            self.earlier.send([])
            self.ups += self.earlier.collect()

    def close(self) -> None:
        self.earlier.close()
        self.later.close()
        self.access.close()


@pytest.fixture
def hop(tmp_path: Path) -> Iterator[Hop]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    hop = Hop(context, tmp_path)
    yield hop
    hop.close()
    context.destroy(linger=0)


def works(camera: str, count: int) -> list[Work]:
    image = np.zeros((64, 64, 3), np.uint8)
    return [Work(camera, "a", n, Frame(camera, n, 0.0, 0.0, image)) for n in range(count)]


def mapped_to_read() -> int:
    """How often this process maps memory of another one's frames."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(ring.NAME in line and " r--s " in line for line in lines)


@pytest.mark.parametrize("last", ["done", "over", "refused"])
def test_a_node_without_cameras_left_is_not_mapped_any_more(hop: Hop, last: str) -> None:
    """It may be gone by now, and what it shared would stay: 100 MB for every one that ever ran."""
    before = mapped_to_read()
    hop.earlier.send([Begin("door", "a", False, "f"), Begin("gate", "a", False, "f")])
    hop.earlier.send([*works("door", 2), *works("gate", 2), Work("door", "a", 2, Finish("over"))])
    hop.turn_until(lambda: len(hop.downs) == 7)
    assert mapped_to_read() == before + 1
    hop.downs.clear()
    hop.later.answer([Done("door", "a", 2)])
    assert mapped_to_read() == before + 1  # the other camera goes on
    answers: dict[str, Up] = {
        "done": Done("gate", "a", 2),
        "over": Resume("gate", "a", "e", "1", 1, over=True),
        "refused": Refuse("gate", "a", "no such camera"),
    }
    hop.earlier.send([Work("gate", "a", 2, Finish("over"))])
    hop.turn_until(lambda: len(hop.downs) == 1)
    hop.later.answer([answers[last]])
    assert mapped_to_read() == before
    # Its next camera is read as the first one was, and all slots are free again.
    hop.downs.clear()
    hop.earlier.send([Begin("door", "a", False, "f"), *works("door", 4)])
    hop.turn_until(lambda: len(hop.downs) == 5)


def test_memory_that_cannot_be_opened_is_an_error_and_not_a_clip_without_frames(
    hop: Hop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As between containers: a process id means another process there, or none."""
    monkeypatch.setattr(
        "facestream.stream.ring.os.getpid", lambda: 2**22 + 1
    )  # above any process id
    assert not os.path.exists("/proc/4194305")
    hop.earlier.send([Begin("door", "a", False, "f"), *works("door", 4)])
    hop.turn_until(lambda: bool(hop.ups))
    (refuse,) = hop.ups
    assert isinstance(refuse, Refuse)
    assert refuse.why.startswith("later: no shared memory of the other node")
    assert "as one user, with the same /proc" in refuse.why
