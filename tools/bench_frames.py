"""Frames of 1920x1080 from one node to the next, ours and bare, for `bench transport`.

A round hands over frames, of which WINDOW are under way at most, and ends when the last of them was
acknowledged. Left sends, right looks at two pixels of each frame and acknowledges.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cache, partial
from itertools import cycle, islice
from typing import Literal

import numpy as np
import zmq

from .. import PublishError
from ..configs.schema import AccessConfig
from ..stream.access import Access
from ..stream.carriers import ByReference, InMessage
from ..stream.flow import Begin, Done, Resume, Up, Work
from ..stream.hop_in import HopIn
from ..stream.hop_out import HopOut
from ..stream.memory import keep_picture_memory
from ..stream.packing import Receiving, Sending
from ..stream.records import Frame, Image
from ..stream.ring import RingReader, RingWriter
from .bench_peers import WAIT, Link, Pair, rounds

Way = Literal["inproc", "ring", "ipc", "tcp"]
WAYS: dict[Way, tuple[str, str]] = {
    "inproc": ("threads, by reference", "PAIR inproc and a deque"),
    "ring": ("processes, ring", "shared memory, PAIR ipc"),
    "ipc": ("processes, in the message, ipc", "PAIR ipc, no copy"),
    "tcp": ("processes, in the message, tcp", "PAIR tcp, no copy"),
}
"""Each way with its name and what it is compared with."""

WINDOW = 8
SLOTS = 16
SHAPE = (1080, 1920, 3)
SIZE = 1080 * 1920 * 3
CAMERA, ATTEMPT = "bench", "1"


def ours(way: Way) -> Pair:
    """Two ends of a hop, as nodes have them."""
    return Pair(partial(send, way), partial(receive, way), threads=way == "inproc")


def bare(way: Way) -> Pair:
    """Two pyzmq sockets, and the pixels by the same way."""
    return Pair(partial(send_bare, way), partial(receive_bare, way), threads=way == "inproc")


def make_images() -> list[Image]:
    """A few frames (1080, 1920, 3) uint8 that differ."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, SHAPE, np.uint8) for _ in range(4)]


def look(image: Image) -> int:
    """Read a frame, a little."""
    return int(image[0, 0, 0]) + int(image[-1, -1, -1])


@cache
def _table() -> ByReference:
    """What the two threads of a hop within one process share."""
    return ByReference()


@cache
def _queue() -> deque[Image]:
    """The same without a hop."""
    return deque()


def send(way: Way, control: Link, peer: Link, scratch: str) -> None:
    """The left side of ours."""
    keep_picture_memory()  # as every node does; the bare sides too
    pixels: Sending = InMessage()
    if way in ("inproc", "ring"):
        pixels = _table() if way == "inproc" else RingWriter(SLOTS)
    images = make_images()
    with (
        _context(way) as context,
        Access(AccessConfig(keys=scratch), context) as access,
        closing(
            HopOut(
                access,
                context,
                peer.recv(),
                node="left",
                models="none",
                pixels=pixels,
            )
        ) as hop,
    ):
        hop.start()
        hop.send([Begin(CAMERA, ATTEMPT, False, "")])
        while not any(isinstance(up, Resume) for up in _answers(hop)):
            pass
        sent = done = 0
        for count in rounds(control):
            started = time.perf_counter()
            for image in islice(cycle(images), count):
                frame = Frame(CAMERA, sent, sent / 25, started, image)
                hop.send([Work(CAMERA, ATTEMPT, sent, frame)])
                sent += 1
                while sent - done >= WINDOW:
                    done = _newest(_answers(hop), done)
            while done < sent:
                done = _newest(_answers(hop), done)
            control.send(time.perf_counter() - started)


def _answers(hop: HopOut) -> list[Up]:
    """The answers that come next."""
    if not hop.socket.poll(int(WAIT * 1000)):
        raise PublishError("frames were lost: no answer came")
    hop.send([])
    return hop.collect()


def _newest(ups: Iterable[Up], done: int) -> int:
    """How many works are done; an answer of another kind would mean that the hop broke."""
    for up in ups:
        if not isinstance(up, Done):
            raise PublishError(f"expected frames to be acknowledged, got {up}")
        done = up.position + 1
    return done


def receive(way: Way, control: Link, peer: Link, scratch: str) -> None:
    """The right side of ours."""
    keep_picture_memory()

    def pixels() -> Receiving:
        if way == "inproc":
            return _table()
        return RingReader() if way == "ring" else InMessage()

    with (
        _context(way) as context,
        Access(AccessConfig(keys=scratch), context) as access,
        closing(
            HopIn(
                access,
                context,
                _endpoint(way, scratch),
                node="right",
                models="none",
                pixels=pixels,
                most=WINDOW,
            )
        ) as hop,
    ):
        hop.start()
        peer.send(hop.endpoint)
        while True:
            downs = hop.receive(0.2)
            for down in downs:
                if isinstance(down, Begin):
                    hop.answer([Resume(CAMERA, ATTEMPT, "epoch", "run", 1)])
                elif isinstance(down.item, Frame):
                    look(down.item.image)
            last = downs[-1] if downs else None
            if isinstance(last, Work):
                hop.answer([Done(CAMERA, ATTEMPT, last.position)])
            elif last is None and _over(control):
                return


def send_bare(way: Way, control: Link, peer: Link, scratch: str) -> None:
    """The left side of bare."""
    keep_picture_memory()
    images = make_images()
    with _context(way) as context, context.socket(zmq.PAIR) as socket:
        socket.linger = 0
        socket.connect(peer.recv())
        shared = mmap.mmap(-1, 1)
        if way == "ring":
            file = os.memfd_create("bench")
            os.ftruncate(file, SLOTS * SIZE)
            shared = mmap.mmap(file, SLOTS * SIZE)
            peer.send(f"/proc/{os.getpid()}/fd/{file}")
        sent = done = 0
        for count in rounds(control):
            started = time.perf_counter()
            for image in islice(cycle(images), count):
                head = sent.to_bytes(8, "little")
                if way == "ring":
                    np.copyto(_slot(shared, sent), image)
                    socket.send(head)
                elif way == "inproc":
                    _queue().append(image)
                    socket.send(head)
                else:
                    socket.send_multipart([head, image.data.cast("B")], copy=False)
                sent += 1
                while sent - done >= WINDOW:
                    done = _acknowledged(socket)
            while done < sent:
                done = _acknowledged(socket)
            control.send(time.perf_counter() - started)


def _acknowledged(socket: zmq.Socket[bytes]) -> int:
    if not socket.poll(int(WAIT * 1000)):
        raise PublishError("frames were lost: no answer came")
    return int.from_bytes(socket.recv(), "little") + 1


def receive_bare(way: Way, control: Link, peer: Link, scratch: str) -> None:
    """The right side of bare."""
    keep_picture_memory()
    with _context(way) as context, context.socket(zmq.PAIR) as socket:
        socket.linger = 0
        socket.bind(_endpoint(way, scratch))
        peer.send(socket.get_string(zmq.LAST_ENDPOINT))
        shared = mmap.mmap(-1, 1)
        if way == "ring":
            with open(peer.recv(), "rb") as file:
                shared = mmap.mmap(file.fileno(), SLOTS * SIZE, prot=mmap.PROT_READ)
        while True:
            if not socket.poll(200):
                if _over(control):
                    return
                continue
            head, *pixels = socket.recv_multipart(copy=False)
            if way == "ring":
                look(_slot(shared, int.from_bytes(head.bytes, "little")))
            elif way == "inproc":
                look(_queue().popleft())
            else:
                look(np.frombuffer(pixels[0].buffer, np.uint8).reshape(SHAPE))
            socket.send(head.bytes)


def _slot(shared: mmap.mmap, number: int) -> Image:
    return np.ndarray(SHAPE, np.uint8, shared, number % SLOTS * SIZE)


@contextmanager
def _context(way: Way) -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """Threads share one, which lives as long as their process."""
    if way == "inproc":
        yield zmq.Context.instance()
    else:
        with zmq.Context() as context:
            yield context


def _endpoint(way: Way, scratch: str) -> str:
    if way == "inproc":
        return "inproc://bench"
    return "tcp://127.0.0.1:*" if way == "tcp" else f"ipc://{scratch}/hop"


def _over(control: Link) -> bool:
    """Whether the measuring process hung up; how many frames it asks for is no matter here."""
    try:
        while control.poll():
            control.recv()
    except (EOFError, OSError):
        return True
    return False
