"""Feeds: several cameras at once, nothing lost from files, the newest frame from cameras."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facestream import ConfigError, SourceCorrupt, SourceMissing, SourceUnreachable
from facestream.configs.schema import CameraConfig
from facestream.stream.camera import Item, backoff
from facestream.stream.feed import Feeds
from facestream.stream.flow import StateChange
from facestream.stream.records import Frame
from facestream.stream.watcher import SourceInfo

from .conftest import index_of, write_clip

ENDLESS = "synthetic:?live=1&seconds=0&size=96x64&faces=0&fps=100"


@pytest.fixture
def feeds() -> Iterator[list[Feeds]]:
    """Feeds to stop after the test, in less than their bound."""
    running: list[Feeds] = []
    yield running
    for feed in running:
        started = time.monotonic()
        feed.stop()
        assert time.monotonic() - started < 10  # two seconds, and what a busy machine adds


def drain(feed: Feeds, seconds: float = 30.0) -> list[Item]:
    """Take until everything ended."""
    items: list[Item] = []
    deadline = time.monotonic() + seconds
    while not feed.finished:
        items += feed.take(4, 0.5)
        assert time.monotonic() < deadline, items[-3:]
    return items


def states(items: list[Item], camera: str | None = None) -> list[str]:
    changes = [item for item in items if isinstance(item, StateChange)]
    return [change.state for change in changes if camera in (None, change.camera)]


def test_recorded_sources_are_lossless_and_keep_their_order(
    clip: Path, tmp_path: Path, feeds: list[Feeds]
) -> None:
    other = write_clip(tmp_path / "other.mp4", 35, size=(96, 64))
    feeds.append(Feeds([CameraConfig("a", str(clip)), CameraConfig("b", str(other))], queue=3))
    feeds[0].start()
    items = drain(feeds[0])
    for name, count in (("a", 20), ("b", 35)):
        frames = [f for f in items if isinstance(f, Frame) and f.camera == name]
        assert [f.sequence for f in frames] == list(range(count))
        assert [index_of(f.image) for f in frames] == pytest.approx(list(range(count)), abs=1)
        assert states(items, name) == ["connecting", "running", "ended"]
    assert {i.camera for i in items if isinstance(i, SourceInfo)} == {"a", "b"}
    assert feeds[0].dropped == {"a": {}, "b": {}}


def test_a_slow_taker_makes_the_reader_wait(clip: Path, feeds: list[Feeds]) -> None:
    feeds.append(Feeds([CameraConfig("a", str(clip))], queue=4))
    feeds[0].start()
    time.sleep(0.3)
    assert len(feeds[0].take(100, 0.0)) <= 4
    assert sum(isinstance(item, Frame) for item in drain(feeds[0])) >= 16


def test_cameras_take_turns(clip: Path, feeds: list[Feeds]) -> None:
    feeds.append(Feeds([CameraConfig("a", str(clip)), CameraConfig("b", str(clip))], queue=8))
    feeds[0].start()
    cameras = [item.camera for item in feeds[0].take(6, 1.0)]
    assert cameras == ["a", "b"] * 3  # each has told its state, what it is, its state


def test_each_take_begins_with_another_camera(clip: Path, feeds: list[Feeds]) -> None:
    feeds.append(Feeds([CameraConfig(name, str(clip)) for name in "abc"], queue=8))
    feeds[0].start()
    assert [feeds[0].take(1, 5.0)[0].camera for _ in range(6)] == [*"abcabc"]


def test_the_newest_live_frame_wins_and_drops_are_counted(feeds: list[Feeds]) -> None:
    feeds.append(Feeds([CameraConfig("live", ENDLESS)]))
    feeds[0].start()
    deadline = time.monotonic() + 30
    while feeds[0].dropped["live"].get("newer", 0) <= 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    frames = [item for item in feeds[0].take(10, 2.0) if isinstance(item, Frame)]
    assert len(frames) == 1 and frames[0].sequence > 20
    assert abs(time.time() - frames[0].captured_at) < 5.0
    assert feeds[0].dropped["live"]["newer"] >= frames[0].sequence


def test_a_file_played_as_a_camera_keeps_its_pace(tmp_path: Path, feeds: list[Feeds]) -> None:
    clip = write_clip(tmp_path / "a.mp4", 20, fps=25)
    feeds.append(Feeds([CameraConfig("a", str(clip), mode="live")]))
    started = time.monotonic()
    feeds[0].start()
    items = drain(feeds[0])
    assert time.monotonic() - started > 0.7
    assert states(items) == ["connecting", "running", "ended"]
    taken = sum(isinstance(item, Frame) for item in items)
    assert taken + feeds[0].dropped["a"].get("newer", 0) == 20


def test_a_wrong_recorded_source_is_an_error_before_anything_starts(
    clip: Path, tmp_path: Path, feeds: list[Feeds]
) -> None:
    (tmp_path / "garbage.mp4").write_bytes(b"x" * 5000)
    for name, error in (("missing.mp4", SourceMissing), ("garbage.mp4", SourceCorrupt)):
        cameras = [CameraConfig("a", str(clip)), CameraConfig("b", str(tmp_path / name))]
        feeds.append(Feeds(cameras))
        with pytest.raises(error, match=name):
            feeds[-1].start()
    held = [path.readlink() for path in Path("/proc/self/fd").glob("*") if path.exists()]
    assert clip not in held  # what was opened before the error is closed


def test_settings_are_checked_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="different names"):
        Feeds([CameraConfig("a", "x.mp4"), CameraConfig("a", "y.mp4")])
    with pytest.raises(ConfigError, match="hardware"):
        Feeds([CameraConfig("a", "rtsp://127.0.0.1:9/x", hardware="warp9")]).start()


def test_a_camera_that_never_answers_is_given_up(feeds: list[Feeds]) -> None:
    url = "rtsp://me:secret@127.0.0.1:9/x"
    camera = CameraConfig("a", url, retry_attempts=3, retry_first_seconds=0.05)
    feeds.append(Feeds([camera], jitter=lambda: 1.0))
    feeds[0].start()
    items: list[Item] = []
    started = time.monotonic()
    with pytest.raises(SourceUnreachable, match="given up") as raised:
        while not feeds[0].finished and time.monotonic() - started < 30:
            items += feeds[0].take(10, 1.0)
    assert feeds[0].finished
    assert time.monotonic() - started > 0.1 + 0.2  # the pauses after the first two failures
    assert states(items) == ["connecting", "reconnecting", "failed"]
    told = [str(raised.value), *(repr(item) for item in items)]
    assert not any("secret" in line for line in told)
    assert isinstance(feeds[0].failures["a"], SourceUnreachable)


def test_one_lost_camera_does_not_stop_another(clip: Path, feeds: list[Feeds]) -> None:
    lost = CameraConfig("lost", "http://127.0.0.1:9/x", retry_attempts=1)
    feeds.append(Feeds([lost, CameraConfig("a", str(clip))]))
    feeds[0].start()
    items = drain(feeds[0])
    assert sum(isinstance(item, Frame) for item in items) == 20
    assert states(items, "lost") == ["connecting", "failed"]
    assert list(feeds[0].failures) == ["lost"]


def test_a_reader_that_is_blocked_is_told_as_a_stall(tmp_path: Path, feeds: list[Feeds]) -> None:
    """As by a webcam's driver; here by a pipe into which nobody writes for a while."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = write_clip(tmp_path / "a.ts", 50).read_bytes()
    flowing, over = threading.Event(), threading.Event()

    def write() -> None:
        with suppress(BrokenPipeError), pipe.open("wb", buffering=0) as out:
            while flowing.wait() and not over.wait(0.02):
                out.write(data)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    flowing.set()
    feeds.append(Feeds([CameraConfig("a", str(pipe), mode="live", stall_seconds=0.5)]))
    feeds[0].start()
    items: list[Item] = []

    def take_until(state: str, detail: str) -> None:
        deadline = time.monotonic() + 30
        while not any(
            isinstance(item, StateChange) and (item.state, item.detail) == (state, detail)
            for item in items
        ):
            assert time.monotonic() < deadline, states(items)
            items.extend(feeds[0].take(10, 0.1))

    try:
        take_until("running", "frames arrive")
        flowing.clear()
        take_until("stalled", "no picture for 0.5 s")
        flowing.set()
        take_until("running", "frames arrive again")
    finally:
        over.set()
        flowing.set()
        writer.join(10)
    take_until("ended", "the source is at its end")


def test_nothing_to_take_returns_in_time(feeds: list[Feeds]) -> None:
    camera = CameraConfig("a", "rtsp://127.0.0.1:9/x", retry_first_seconds=30.0)
    feeds.append(Feeds([camera], jitter=lambda: 1.0))
    feeds[0].start()
    while feeds[0].take(10, 0.5):
        pass
    started = time.monotonic()
    assert feeds[0].take(10, 0.2) == []
    assert 0.15 < time.monotonic() - started < 10.0


def test_http_file_as_a_recording(http: str, feeds: list[Feeds]) -> None:
    feeds.append(Feeds([CameraConfig("a", f"{http}/clip", mode="recorded")]))
    feeds[0].start()
    frames = [item for item in drain(feeds[0]) if isinstance(item, Frame)]
    assert [f.sequence for f in frames] == list(range(20))


def test_http_motion_jpeg_is_live(http: str, feeds: list[Feeds]) -> None:
    feeds.append(Feeds([CameraConfig("a", f"{http}/mjpeg")]))
    feeds[0].start()
    frames: list[Frame] = []
    deadline = time.monotonic() + 30
    while len(frames) < 20 and time.monotonic() < deadline:
        frames += [item for item in feeds[0].take(10, 1.0) if isinstance(item, Frame)]
    assert len(frames) == 20
    # Its pictures carry no times: ten arrive in a second by the wall clock, not FFmpeg's 25.
    assert frames[-1].pts - frames[-11].pts > 0.6
    assert index_of(frames[-1].image) == pytest.approx(frames[-1].sequence % 50, abs=1)


@pytest.mark.parametrize(("path", "reason"), [("none", "check the path"), ("text", "with video")])
def test_http_without_video_says_why(http: str, path: str, reason: str, feeds: list[Feeds]) -> None:
    camera = CameraConfig("a", f"{http}/{path}?token=secret", retry_attempts=1)
    feeds.append(Feeds([camera]))
    feeds[0].start()
    with pytest.raises(SourceUnreachable, match=reason) as raised:
        drain(feeds[0])
    assert "secret" not in str(raised.value)


def test_a_camera_that_is_lost_at_once_again_and_again_is_left_alone_for_longer(
    http: str, feeds: list[Feeds], caplog: pytest.LogCaptureFixture
) -> None:
    camera = CameraConfig("a", f"{http}/brief", retry_first_seconds=0.05)
    feeds.append(Feeds([camera], jitter=lambda: 1.0))
    deadline = time.monotonic() + 30
    with caplog.at_level(logging.INFO):
        feeds[0].start()
        while len(caplog.messages) < 3 and time.monotonic() < deadline:
            feeds[0].take(10, 0.1)
    pauses = [message.rpartition(" in ")[2] for message in caplog.messages]
    assert pauses[:3] == ["0.1 s", "0.2 s", "0.4 s"]


def test_packets_without_pictures_are_a_stall(http: str, feeds: list[Feeds]) -> None:
    feeds.append(Feeds([CameraConfig("a", f"{http}/headless", stall_seconds=0.5)]))
    feeds[0].start()
    items: list[Item] = []
    deadline = time.monotonic() + 30
    while "reconnecting" not in states(items):
        assert time.monotonic() < deadline
        items += feeds[0].take(10, 0.1)
    assert states(items) == ["connecting", "stalled", "reconnecting"]
    assert not any(isinstance(item, Frame) for item in items)


def test_a_broken_file_played_as_a_camera_is_not_tried_again(
    tmp_path: Path, feeds: list[Feeds]
) -> None:
    (tmp_path / "garbage.mp4").write_bytes(b"x" * 5000)
    feeds.append(Feeds([CameraConfig("a", str(tmp_path / "garbage.mp4"), mode="live")]))
    feeds[0].start()
    with pytest.raises(SourceCorrupt, match=r"garbage.mp4: expected video"):
        drain(feeds[0])


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_doubles_up_to_its_limit_with_full_jitter(failures: int, draw: float) -> None:
    pause = backoff(failures, 0.5, 30.0, draw)
    assert pause == pytest.approx(draw * (30.0 if failures > 5 else 0.5 * 2**failures))
