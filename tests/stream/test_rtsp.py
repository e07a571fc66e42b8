"""Cameras over RTSP: a real server that is killed, frozen, silent, restarted."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from facestream import SourceUnreachable
from facestream.configs.schema import CameraConfig
from facestream.stream.camera import Item
from facestream.stream.feed import Feeds
from facestream.stream.flow import StateChange
from facestream.stream.records import Frame
from facestream.stream.source import open_source

from .conftest import RtspServer, index_of

STALL = 1.0
Start = Callable[..., RtspServer]


class Watch:
    """Takes from feeds and remembers what came."""

    def __init__(self, *cameras: CameraConfig) -> None:
        self.feeds = Feeds(cameras, jitter=lambda: 0.5)
        self.items: list[Item] = []
        self.feeds.start()

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> float:
        """Take until the condition holds; returns how long it took."""
        started = time.monotonic()
        while not condition():
            taken = time.monotonic() - started
            assert taken < seconds, [i for i in self.items if isinstance(i, StateChange)]
            self.items += self.feeds.take(8, 0.1)
        return time.monotonic() - started

    def frames(self, camera: str = "a") -> list[Frame]:
        return [i for i in self.items if isinstance(i, Frame) and i.camera == camera]

    def states(self, camera: str = "a") -> list[str]:
        return [i.state for i in self.items if isinstance(i, StateChange) and i.camera == camera]


@pytest.fixture
def watch() -> Iterator[Callable[..., Watch]]:
    """Start watching cameras; their feeds must stop in time after the test."""
    watches: list[Watch] = []

    def start(*cameras: CameraConfig) -> Watch:
        watches.append(Watch(*cameras))
        return watches[-1]

    yield start
    for each in watches:
        started = time.monotonic()
        each.feeds.stop()
        assert time.monotonic() - started < 10  # two seconds, and what a busy machine adds


def camera(url: str, name: str = "a", **settings: object) -> CameraConfig:
    return CameraConfig(
        name,
        url,
        stall_seconds=STALL,
        retry_first_seconds=0.2,
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_arrive_with_the_time_of_the_stream(rtsp: Start, transport: str) -> None:
    source = open_source(camera(rtsp("--only", transport).url(), transport=transport))
    frames = []
    for frame in source:
        frames.append(frame)
        if len(frames) == 40:
            break
    source.close()
    assert [f.sequence for f in frames] == list(range(40))
    assert frames[0].pts == 0.0
    assert frames[-1].pts - frames[20].pts == pytest.approx(19 / 25, abs=0.1)
    numbers = [index_of(f.image) for f in frames]
    assert [b - a for a, b in pairwise(numbers[:20])].count(1) >= 15
    assert 0 <= time.time() - frames[-1].captured_at < 5.0
    assert source.info.live and source.info.duration is None


def test_a_killed_server_is_lost_and_found_again(rtsp: Start, watch: Callable[..., Watch]) -> None:
    server = rtsp()
    seen = watch(camera(server.url()))
    seen.until(lambda: len(seen.frames()) >= 5)
    server.stop()
    seen.until(lambda: "reconnecting" in seen.states())
    before = len(seen.frames())
    server.start()
    seen.until(lambda: len(seen.frames()) >= before + 5)
    assert seen.states()[:2] == ["connecting", "running"]
    assert seen.states()[-1] == "running"
    frames = seen.frames()
    assert all(x.sequence < y.sequence for x, y in pairwise(frames))
    assert all(x.pts < y.pts for x, y in pairwise(frames))
    gap = frames[before].pts - frames[before - 1].pts
    wall = frames[before].captured_at - frames[before - 1].captured_at
    assert gap == pytest.approx(wall, abs=2.0)


def test_a_frozen_server_is_noticed_and_thawed(rtsp: Start, watch: Callable[..., Watch]) -> None:
    server = rtsp()
    seen = watch(camera(server.url()))
    seen.until(lambda: len(seen.frames()) >= 5)
    server.freeze()
    try:
        took = seen.until(lambda: "stalled" in seen.states())
        assert took > 0.5 * STALL
        seen.until(lambda: "reconnecting" in seen.states())
    finally:
        server.thaw()
    before = len(seen.frames())
    seen.until(lambda: len(seen.frames()) >= before + 3)
    assert seen.states()[-1] == "running"


def test_a_connected_server_that_sends_nothing_is_noticed(
    rtsp: Start, watch: Callable[..., Watch]
) -> None:
    seen = watch(camera(rtsp("--silent-after", "30").url()))
    seen.until(lambda: len(seen.frames()) >= 1)
    seen.until(lambda: "stalled" in seen.states())


def test_stopping_does_not_wait_for_a_frozen_server(
    rtsp: Start, watch: Callable[..., Watch]
) -> None:
    server = rtsp()
    seen = watch(CameraConfig("a", server.url(), stall_seconds=20.0))
    seen.until(lambda: len(seen.frames()) >= 2)
    server.freeze()
    started = time.monotonic()
    seen.feeds.stop()
    assert time.monotonic() - started < 10.0  # well before the 20 s of the stall
    server.thaw()


def test_several_cameras_at_once(rtsp: Start, watch: Callable[..., Watch]) -> None:
    url = rtsp().url()
    seen = watch(camera(url, "a"), camera(url, "b", transport="udp"), camera(url, "c", stride=5))
    seen.until(lambda: all(len(seen.frames(name)) >= 5 for name in "abc"))
    assert all(frame.sequence % 5 == 0 for frame in seen.frames("c"))


def test_a_wrong_password_is_told_and_none_is_shown(
    rtsp: Start, watch: Callable[..., Watch], capfd: pytest.CaptureFixture[str]
) -> None:
    server = rtsp("--user", "me", "--password", "right-one")
    source = open_source(camera(server.url(login="me:right-one@")))
    assert next(iter(source)).image.size
    source.close()
    assert "right-one" not in source.info.url
    seen = watch(camera(server.url(login="me:wrong-one@"), retry_attempts=1))
    with pytest.raises(SourceUnreachable, match="check user name and password") as raised:
        seen.until(lambda: seen.feeds.finished)
    shown = [str(raised.value), repr(raised.value.__cause__), *map(repr, seen.items)]
    shown += list(capfd.readouterr())
    assert not any("wrong-one" in line or "right-one" in line for line in shown)
