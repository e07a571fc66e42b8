"""Reading: works as many as may be under way, from where the part that decides says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from facestream import ConfigError, RecordError, SourceMissing, SourceUnreachable
from facestream.configs.schema import CameraConfig, Config, TopologyConfig
from facestream.stream.flow import (
    Begin,
    Done,
    Down,
    Finish,
    Item,
    Mark,
    Refuse,
    Restart,
    Resume,
    StateChange,
    Work,
)
from facestream.stream.meter import Meter
from facestream.stream.reading import Reading
from facestream.stream.records import Frame
from facestream.stream.watcher import SourceInfo

from .conftest import write_clip

PATIENCE = 40.0
CLIP = "synthetic:?faces=0&size=64x64&fps=10&seconds=5"
LIVE = "synthetic:?faces=0&size=64x64&fps=100&seconds=0&live=1"
Make = Callable[..., Reading]


@pytest.fixture
def make() -> Iterator[Make]:
    """Start to read cameras given by name; what is left at the end is closed."""
    opened: list[Reading] = []

    def start(window: int = 128, live_window: int = 8, mark: int = 10, **urls: str) -> Reading:
        cameras = tuple(CameraConfig(name, url) for name, url in urls.items())
        topology = TopologyConfig(window=window, live_window=live_window, mark_frames=mark)
        opened.append(Reading(Config(cameras=cameras, topology=topology), Meter()))
        opened[-1].start()
        return opened[-1]

    yield start
    for reading in opened:
        reading.close()


def begin(reading: Reading, states: dict[str, bytes] | None = None) -> list[Begin]:
    """Answer the beginnings that come next with Resume."""
    begins = receive(reading, 1)
    for begun in begins:
        assert isinstance(begun, Begin)
        resume = Resume(begun.camera, begun.attempt, "epoch", "1", 1, states or {})
        reading.answer([resume])
    return [begun for begun in begins if isinstance(begun, Begin)]


def receive(reading: Reading, least: int) -> list[Down]:
    """At least so many works or beginnings."""
    downs: list[Down] = []
    deadline = time.monotonic() + PATIENCE
    while len(downs) < least:
        downs += reading.receive(0.1)
        assert time.monotonic() < deadline, downs
    return downs


def read_out(reading: Reading, *, done: bool = True) -> list[Work]:
    """All works to the end, each done at once, or as many as may be under way."""
    works: list[Work] = []
    deadline = time.monotonic() + PATIENCE
    quiet = 0
    while not reading.finished and quiet < 3:
        assert time.monotonic() < deadline, works[-3:]
        downs = reading.receive(0.2)
        quiet = 0 if downs or done else quiet + 1
        for down in downs:
            assert isinstance(down, Work)
            works.append(down)
            if done:
                reading.answer([Done(down.camera, down.attempt, down.position)])
    return works


def names(works: Sequence[Work]) -> list[str]:
    """What the works hold; frames by number."""

    def name(item: Item) -> str:
        if isinstance(item, Frame):
            return str(item.sequence)
        return item.state if isinstance(item, StateChange) else type(item).__name__

    return [name(work.item) for work in works]


def frames(works: Sequence[Work]) -> list[Frame]:
    return [work.item for work in works if isinstance(work.item, Frame)]


def marks(works: Sequence[Work]) -> list[Mark]:
    return [work.item for work in works if isinstance(work.item, Mark)]


# --- recorded ---


def test_a_recording_is_works_in_order_with_marks_between_them(make: Make) -> None:
    reading = make(door=CLIP, mark=20)
    (begun,) = begin(reading)
    assert (begun.camera, begun.live, len(begun.fingerprint)) == ("door", False, 32)
    works = read_out(reading)
    numbers = [str(n) for n in range(50)]
    assert names(works) == [
        *("Mark", "connecting", "SourceInfo", "running"),
        *(*numbers[:20], "Mark", *numbers[20:40], "Mark", *numbers[40:]),
        *("ended", "Finish"),
    ]
    assert [work.position for work in works] == list(range(len(works)))
    assert {(work.camera, work.attempt) for work in works} == {("door", begun.attempt)}


def test_nothing_but_the_beginning_comes_before_the_answer(make: Make) -> None:
    reading = make(a=CLIP, b=LIVE)
    assert {type(down) for down in receive(reading, 2)} == {Begin}
    assert [reading.receive(0.05) for _ in range(3)] == [[], [], []]


def test_a_window_of_frames_is_under_way_and_no_more(make: Make) -> None:
    reading = make(door=CLIP, window=32)
    (begun,) = begin(reading)
    works = read_out(reading, done=False)
    assert [frame.sequence for frame in frames(works)] == list(range(32))
    tenth = next(w for w in works if isinstance(w.item, Frame) and w.item.sequence == 9)
    reading.answer([Done("door", begun.attempt, tenth.position)])
    more = read_out(reading, done=False)
    assert [frame.sequence for frame in frames(more)] == list(range(32, 42))


def test_one_camera_with_a_full_window_does_not_hold_up_another(make: Make) -> None:
    reading = make(a=CLIP, b=CLIP, window=32)
    a, b = begin(reading)
    works: list[Work] = []

    def of(camera: str) -> list[Work]:
        return [work for work in works if work.camera == camera]

    while "Finish" not in names(of("b")) or len(frames(of("a"))) < 32:
        for down in receive(reading, 1):
            assert isinstance(down, Work)
            works.append(down)
            if down.camera == "b":
                reading.answer([Done("b", b.attempt, down.position)])
    reading.answer([Done("a", "another attempt", 10_000), Done("nobody", a.attempt, 10_000)])
    assert read_out(reading, done=False) == []


def test_it_goes_on_after_a_mark_as_if_it_had_never_stopped(make: Make) -> None:
    whole = make(door=CLIP)
    begin(whole)
    works = read_out(whole)
    for mark in marks(works)[1:]:
        again = make(door=CLIP)
        begin(again, mark.states)
        rest = read_out(again)
        after = next(n for n, work in enumerate(works) if work.item is mark)
        told = ["connecting", "SourceInfo", "running"]
        assert names(rest) == [*told, *names(works[after + 1 :])]
        for one, other in zip(frames(rest), frames(works[after:]), strict=True):
            assert (one.pts, one.captured_at) == (other.pts, other.captured_at)
            assert (one.image == other.image).all()
        (end,) = (
            w.item for w in rest if isinstance(w.item, StateChange) and w.item.state == "ended"
        )
        assert end.frames == 50
        assert marks(rest) == marks(works[after + 1 :])


def test_a_film_goes_on_with_the_same_pictures(make: Make, tmp_path: Path) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", 40))
    whole = make(door=clip)
    begin(whole)
    works = read_out(whole)
    again = make(door=clip)
    begin(again, marks(works)[2].states)
    rest = frames(read_out(again))
    assert [frame.sequence for frame in rest] == list(range(20, 40))
    for one, other in zip(rest, frames(works)[20:], strict=True):
        assert (one.pts, one.captured_at) == (other.pts, other.captured_at)
        assert (one.image == other.image).all()


def test_a_restart_begins_again_where_it_is_told(make: Make) -> None:
    reading = make(door=CLIP, window=32)
    (first,) = begin(reading)
    works = read_out(reading, done=False)
    reading.answer([Restart("door", first.attempt, "why not")] * 3)
    (second,) = begin(reading, marks(works)[1].states)
    assert second.attempt != first.attempt and second.fingerprint == first.fingerprint
    reading.answer([Restart("door", first.attempt, "late")])
    rest = read_out(reading)
    assert names(rest)[:4] == ["connecting", "SourceInfo", "running", "10"]
    assert names(rest)[-4:] == ["49", "Mark", "ended", "Finish"]
    assert {work.attempt for work in rest} == {second.attempt}
    assert reading.finished


def test_a_source_that_is_gone_when_it_is_to_begin_again_has_failed(
    make: Make, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    reading = make(door=str(clip))
    (begun,) = begin(reading)
    clip.unlink()
    reading.answer([Restart("door", begun.attempt, "why not")])
    begin(reading)
    with pytest.raises(SourceMissing, match=r"clip\.mp4"):
        read_out(reading)
    assert reading.finished


@pytest.mark.parametrize("state", [b"garbage", b"\x94\x63\xcb\0\0\0\0\0\0\0\0\0\0"])
def test_a_state_of_another_kind_is_refused(make: Make, state: bytes) -> None:
    with pytest.raises(RecordError, match="state of a source"):
        begin(make(door=CLIP), {"source": state})


# --- live ---


def test_live_frames_replace_each_other_while_the_window_is_full(make: Make) -> None:
    reading = make(door=LIVE, live_window=3)
    (begun,) = begin(reading)
    assert begun.live and begun.fingerprint == ""
    works: list[Work] = []
    while len(frames(works)) < 3:
        works += [down for down in receive(reading, 1) if isinstance(down, Work)]
    deadline = time.monotonic() + PATIENCE
    while reading.feeds.dropped["door"].get("newer", 0) < 20:
        assert reading.receive(0.01) == []
        assert time.monotonic() < deadline
    reading.answer([Done("door", begun.attempt, works[-1].position)])
    newest = frames([down for down in receive(reading, 1) if isinstance(down, Work)])[0]
    assert newest.sequence > 20
    assert not marks(works)


def test_a_live_camera_tells_again_what_it_is_and_counts_what_was_lost(make: Make) -> None:
    reading = make(door=LIVE, live_window=4)
    (first,) = begin(reading)
    works: list[Work] = []
    while len(frames(works)) < 4:
        works += [down for down in receive(reading, 1) if isinstance(down, Work)]
    reading.answer([Restart("door", first.attempt, "why not")])
    (second,) = begin(reading)
    info, state = [down for down in receive(reading, 2) if isinstance(down, Work)][:2]
    assert isinstance(info.item, SourceInfo) and (info.attempt, info.position) == (
        second.attempt,
        0,
    )
    assert isinstance(state.item, StateChange) and state.item.state == "running"
    assert state.item.dropped["node restarted"] == 4
    assert frames([down for down in receive(reading, 1) if isinstance(down, Work)])


# --- ends ---


def test_stopping_finishes_what_has_begun_and_gives_nothing_more(make: Make) -> None:
    reading = make(a=CLIP, b=LIVE)
    begin(reading)
    receive(reading, 8)
    reading.stop("interrupted")
    works = read_out(reading)
    assert {work.camera: work.item for work in works} == {
        "a": Finish("interrupted", {}),
        "b": Finish("interrupted", reading.feeds.dropped["b"]),
    }
    assert reading.finished


def test_stopping_before_anything_was_answered_is_the_end(make: Make) -> None:
    reading = make(door=CLIP)
    reading.stop("interrupted")
    assert reading.finished


def test_cameras_that_have_all_failed_are_an_error_once_that_was_decided() -> None:
    camera = CameraConfig("a", "rtsp://127.0.0.1:9/cam", retry_attempts=1)
    reading = Reading(Config(cameras=(camera,)), Meter())
    reading.start()
    begin(reading)
    works: list[Work] = []
    while "Finish" not in names(works):
        works += [down for down in receive(reading, 1) if isinstance(down, Work)]
    assert names(works) == ["connecting", "failed", "Finish"]
    assert reading.receive(0.05) == [] and not reading.finished
    reading.answer([Done("a", works[-1].attempt, works[-1].position)])
    with pytest.raises(SourceUnreachable, match="given up"):
        read_out(reading)
    assert reading.finished
    reading.close()


def test_a_camera_that_is_refused_is_a_mistake_of_the_configuration(make: Make) -> None:
    reading = make(door=CLIP)
    (begun,) = receive(reading, 1)
    assert isinstance(begun, Begin)
    with pytest.raises(ConfigError, match="camera door is refused: nobody knows it"):
        reading.answer([Refuse("door", begun.attempt, "nobody knows it")])


def test_only_the_cameras_named_are_read() -> None:
    cameras = (CameraConfig("a", CLIP), CameraConfig("b", CLIP))
    reading = Reading(Config(cameras=cameras), Meter(), ["b"])
    reading.start()
    assert [down.camera for down in reading.receive(0.0)] == ["b"]
    reading.close()
