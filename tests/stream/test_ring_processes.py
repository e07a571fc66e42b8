"""The ring between real processes: however they end, nothing of it is left."""

from __future__ import annotations

import base64
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from facestream.stream.ring import RingWriter, Slot

from .rings import holders, memory_of, put

WRITER = """
import base64, sys, msgspec, numpy as np
from facestream.stream.ring import RingWriter
ring = RingWriter(4)
for line in sys.stdin:
    value, height, width = map(int, line.split())
    slot = ring.put(np.full((height, width, 3), value, np.uint8), "door", "a1")
    print(base64.b64encode(msgspec.msgpack.encode(slot)).decode(), flush=True)
"""
READER = """
import base64, sys, msgspec
from facestream.stream.carriers import WireError
from facestream.stream.ring import RingReader, Slot
ring, views = RingReader(), []
for line in sys.stdin:
    try:
        views.append(ring.view(msgspec.msgpack.decode(base64.b64decode(line), type=Slot)))
        print(views[-1].shape, int(views[-1].min()), int(views[-1].max()), flush=True)
    except WireError as error:
        print(error.reason, error, flush=True)
"""


class Child:
    """A real process that answers a line with a line."""

    def __init__(self, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], 120)[0], "the process does not answer"
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.finish()

    def finish(self) -> None:
        """Wait until it ended; its input is closed, which ends it when it was not killed."""
        _, errors = self.process.communicate(timeout=120)
        self.errors += errors

    def memory_outside(self) -> list[str]:
        """Files of /dev/shm that it has mapped or open."""
        process = Path(f"/proc/{self.process.pid}")
        mapped = process.joinpath("maps").read_text().splitlines()
        opened = [os.readlink(link) for link in process.joinpath("fd").iterdir()]
        return [line for line in mapped + opened if "/dev/shm" in line]


@pytest.fixture
def pair() -> Iterator[tuple[Child, Child]]:
    children = Child(WRITER), Child(READER)
    yield children
    for child in children:
        if child.process.returncode is None:
            child.kill()


def slot_in(line: str) -> Slot:
    return msgspec.msgpack.decode(base64.b64decode(line), type=Slot)


@pytest.mark.parametrize("order", ["writer reader", "reader writer", "writer", "reader", ""])
def test_nothing_is_left_however_the_two_end(pair: tuple[Child, Child], order: str) -> None:
    """Killed in any order, or killed alone while the other ends by itself, or neither."""
    writer, reader = pair
    line = writer.ask("7 1080 1920")
    memory = memory_of(slot_in(line))
    assert reader.ask(line) == "(1080, 1920, 3) 7 7"
    both = {writer.process.pid, reader.process.pid}
    assert holders(memory) == both
    assert writer.memory_outside() == reader.memory_outside() == []

    by_name = {"writer": writer, "reader": reader}
    for name in order.split():
        by_name[name].kill()
        both.discard(by_name[name].process.pid)
        assert holders(memory) == both
    for child in pair:
        if child.process.returncode is None:
            child.finish()
            both.discard(child.process.pid)
        assert child.errors == ""
    assert holders(memory) == set()
    assert not [name for name in os.listdir("/dev/shm") if "facestream" in name]


def test_a_reader_lives_on_when_its_writer_is_killed(pair: tuple[Child, Child]) -> None:
    writer, reader = pair
    seen, unseen = writer.ask("7 1080 1920"), writer.ask("8 2160 3840")
    assert reader.ask(seen) == "(1080, 1920, 3) 7 7"
    writer.kill()
    assert reader.ask(seen) == "(1080, 1920, 3) 7 7"  # what it has mapped stays
    assert reader.ask(unseen).startswith("stale no shared memory of the other node")

    again = Child(WRITER)
    try:
        assert reader.ask(again.ask("9 1080 1920")) == "(1080, 1920, 3) 9 9"
    finally:
        again.kill()
    reader.finish()
    assert (writer.errors, reader.errors, again.errors) == ("", "", "")


def test_a_writer_lives_on_when_its_reader_is_killed(
    pair: tuple[Child, Child],
) -> None:
    (_, reader), writer = pair, RingWriter(3)
    slots = [put(writer, value) for value in range(3)]
    memory = memory_of(slots[0])
    text = [base64.b64encode(msgspec.msgpack.encode(slot)).decode() for slot in slots]
    assert reader.ask(text[0]) == "(48, 64, 3) 0 0"
    assert holders(memory) == {os.getpid(), reader.process.pid}
    reader.kill()
    assert holders(memory) == {os.getpid()}
    writer.reclaim("door", "a1")
    assert writer.given == 0

    again = Child(READER)
    try:
        slot = base64.b64encode(msgspec.msgpack.encode(put(writer, 9))).decode()
        assert again.ask(slot) == "(48, 64, 3) 9 9"
    finally:
        again.kill()
    assert reader.errors == again.errors == ""
    writer.close()
