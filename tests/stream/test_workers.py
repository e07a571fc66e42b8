"""Detecting and Embedding: what they keep between works, and what they throw away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from facestream.configs.schema import (
    CameraConfig,
    Config,
    DetectConfig,
    EmbedConfig,
    TrackConfig,
)
from facestream.models.pack import Pack
from facestream.stream.flow import (
    Begin,
    Down,
    Finish,
    Item,
    Mark,
    Resume,
    StateChange,
    TracksEnded,
    Work,
)
from facestream.stream.meter import Meter
from facestream.stream.records import Frame, Observed, Tracked
from facestream.stream.source import open_source
from facestream.stream.watcher import SourceInfo
from facestream.stream.workers import HELD_FRAMES, Attempts, Detecting, Embedding, Frames

SCENE = "synthetic:?seed=2&faces=2&seconds=0&size=320x240&fps=10"


def change(state: str, camera: str = "a") -> StateChange:
    return StateChange(camera, state, "detail", 0, {})  # type: ignore[arg-type]


class Stream:
    """The works of a camera that shows two drawn faces."""

    def __init__(self, camera: str = "a", attempt: str = "1", *, live: bool = False) -> None:
        self.camera, self.attempt, self.live = camera, attempt, live
        self.position = -1
        self.frames: Iterator[Frame] = iter(open_source(CameraConfig(camera, SCENE)))

    def begin(self) -> Begin:
        return Begin(self.camera, self.attempt, self.live, "")

    def resume(self, first: int = 1, **states: bytes) -> Resume:
        return Resume(self.camera, self.attempt, "epoch", "1", first, states)

    def work(self, item: Item) -> Work:
        self.position += 1
        return Work(self.camera, self.attempt, self.position, item)

    def show(self, count: int) -> list[Work]:
        return [self.work(next(self.frames)) for _ in range(count)]


def settings(**embed: float) -> Config:
    return Config(
        cameras=(CameraConfig("a", SCENE), CameraConfig("b", SCENE)),
        detect=DetectConfig(batch=4),
        track=TrackConfig(confirm_faces=2),
        embed=EmbedConfig(**embed),  # type: ignore[arg-type]
    )


@pytest.fixture
def detecting(open_models: Pack) -> Detecting:
    return Detecting(settings(), open_models, Meter())


def started(worker: Detecting | Embedding, *streams: Stream) -> None:
    for stream in streams:
        assert worker.take([stream.begin()]) == [stream.begin()]
        worker.resume(stream.resume())


def items(downs: list[Down]) -> list[object]:
    return [type(down.item) if isinstance(down, Work) else type(down) for down in downs]


def tracked(downs: list[Down]) -> list[Tracked]:
    return [w.item for w in downs if isinstance(w, Work) and isinstance(w.item, Tracked)]


# --- attempts ---


def test_only_works_of_the_newest_attempt_that_was_answered_pass() -> None:
    attempts = Attempts()
    old, new = Stream(attempt="1"), Stream(attempt="2")
    mark = old.work(Mark())
    assert attempts.sift([mark]) == []
    assert attempts.sift([old.begin(), mark]) == [old.begin()]
    assert not attempts.resume(new.resume()) and attempts.resume(old.resume())
    assert attempts.sift([mark]) == [mark]
    assert attempts.sift([mark, new.begin(), new.work(Mark())]) == [new.begin()]
    assert attempts.sift([mark]) == []
    assert not attempts.resume(old.resume()) and attempts.resume(new.resume())
    assert not attempts.any_live
    attempts.begin(Stream("b", live=True).begin())
    assert attempts.any_live


# --- detecting ---


def test_what_is_made_of_a_work_keeps_its_place(detecting: Detecting) -> None:
    stream = Stream()
    started(detecting, stream)
    info = SourceInfo("a", "x", False, 320, 240, 10.0, None, None)
    works = [stream.work(info), stream.work(change("running")), *stream.show(3)]
    out = detecting.take(works)
    assert items(out) == [SourceInfo, StateChange, Tracked, Tracked, Tracked]
    assert [work.position for work in out if isinstance(work, Work)] == [0, 1, 2, 3, 4]
    assert [len(one.started) for one in tracked(out)] == [0, 2, 0]
    assert [one.detected for one in tracked(out)] == [2, 2, 2]
    assert detecting.idle() == []


def test_marks_gain_the_tracker_and_a_tracker_goes_on_from_one(
    detecting: Detecting, open_models: Pack
) -> None:
    stream = Stream()
    started(detecting, stream)
    *_, mark = detecting.take([*stream.show(3), stream.work(Mark({"source": b"s"}))])
    rest = stream.show(3)
    whole = detecting.take(rest)
    assert isinstance(mark, Work) and isinstance(mark.item, Mark)
    assert set(mark.item.states) == {"source", "detect"} and mark.item.states["source"] == b"s"
    other = Detecting(settings(), open_models, Meter())
    other.take([stream.begin()])
    other.resume(stream.resume(**mark.item.states))
    again = other.take(rest)
    for one, two in zip(tracked(again), tracked(whole), strict=True):
        assert [(f.track, f.ordinal) for f in one.faces] == [
            (f.track, f.ordinal) for f in two.faces
        ]


def test_tracks_end_before_the_work_that_ends_their_source(detecting: Detecting) -> None:
    stream = Stream()
    started(detecting, stream)
    out = detecting.take([*stream.show(3), stream.work(change("reconnecting"))])
    assert items(out[3:]) == [TracksEnded, StateChange]
    assert isinstance(out[3], Work) and isinstance(out[4], Work)
    assert out[3].position == out[4].position == 3
    assert isinstance(out[3].item, TracksEnded)
    assert [end.key.track for end in out[3].item.ends] == [1, 2]
    more = detecting.take([*stream.show(2), stream.work(Finish("over"))])
    assert items(more) == [Tracked, Tracked, TracksEnded, Finish]
    assert [key.track for one in tracked(more) for key in one.started] == [3, 4]
    assert items(detecting.take([stream.work(Finish("again"))])) == [Finish]


def test_another_attempt_begins_with_nobody_and_the_track_it_is_told(detecting: Detecting) -> None:
    first, second = Stream(attempt="1"), Stream(attempt="2")
    started(detecting, first)
    detecting.take(first.show(3))
    detecting.take([second.begin()])
    assert detecting.take(first.show(1)) == []
    assert detecting.take(second.show(1)) == []
    detecting.resume(second.resume(first=10))
    out = detecting.take(second.show(2))
    assert [key.track for one in tracked(out) for key in one.started] == [10, 11]


def test_frames_are_kept_for_watchers_only_where_asked_for(open_models: Pack) -> None:
    frames: Frames = {}
    keeping = Detecting(settings(), open_models, Meter(), frames=frames)
    stream = Stream()
    started(keeping, stream)
    shown = stream.show(2)
    keeping.take(shown)
    assert list(frames) == [("a", 0), ("a", 1)] and frames["a", 0] is shown[0].item


# --- embedding ---


@pytest.fixture
def show(detecting: Detecting) -> Iterator[list[Work]]:
    """Tracked frames of the cameras a and b by turns, each with two faces from its second on."""
    streams = Stream("a"), Stream("b")
    started(detecting, *streams)
    works = [work for _ in range(20) for stream in streams for work in stream.show(1)]
    yield [work for work in detecting.take(works) if isinstance(work, Work)]


def test_works_are_held_until_a_batch_is_full_and_keep_their_order(
    show: list[Work], open_models: Pack
) -> None:
    embedding = Embedding(settings(batch=6), open_models, Meter())
    started(embedding, Stream("a"), Stream("b"))
    assert embedding.take(show[:2]) == []  # not believed yet: nobody to embed
    running = Work("a", "1", 1000, change("running"))
    assert embedding.take([show[2], running, show[3]]) == []
    out = embedding.take(show[4:6])
    assert items(out) == [Observed, Observed, Observed, StateChange, *[Observed] * 3]
    assert embedding.idle() == []
    assert embedding.take(show[6:7]) == [] and items(embedding.idle()) == [Observed]


def test_what_comes_while_nothing_is_held_passes_at_once(open_models: Pack) -> None:
    embedding = Embedding(settings(), open_models, Meter())
    stream = Stream()
    started(embedding, stream)
    assert items(embedding.take([stream.work(change("running"))])) == [StateChange]


def test_frames_that_show_nobody_are_not_held_without_end(
    show: list[Work], open_models: Pack
) -> None:
    embedding = Embedding(settings(), open_models, Meter())
    started(embedding, Stream("a"))
    empty = Tracked(show[0].item.frame, ())  # type: ignore[union-attr]
    sizes = [
        len(embedding.take([Work("a", "1", number, empty)])) for number in range(2 * HELD_FRAMES)
    ]
    assert sizes == 2 * [*[0] * (HELD_FRAMES - 1), HELD_FRAMES]


@pytest.mark.parametrize(("live", "passed"), [(True, 3), (False, 0)])
def test_live_works_are_held_no_longer_than_they_may(
    show: list[Work], open_models: Pack, live: bool, passed: int
) -> None:
    now = 0.0
    embedding = Embedding(settings(wait_ms=20), open_models, Meter(), clock=lambda: now)
    started(embedding, Stream("a", live=live), Stream("b"))
    assert embedding.take(show[:1]) == []
    now = 0.019
    assert embedding.take(show[1:2]) == []
    now = 0.021
    assert len(embedding.take(show[2:3])) == passed


def test_a_new_attempt_drops_what_is_held_of_the_camera_before(
    show: list[Work], open_models: Pack
) -> None:
    embedding = Embedding(settings(), open_models, Meter())
    started(embedding, Stream("a"), Stream("b"))
    assert embedding.take(show[:4]) == []
    again = Stream("a", attempt="2")
    assert embedding.take([again.begin(), *show[4:6]]) == [again.begin()]
    out = embedding.idle()
    assert [work.camera for work in out if isinstance(work, Work)] == ["b"] * 3


def test_batches_change_nothing(show: list[Work], open_models: Pack) -> None:
    outcomes = []
    for batch in (1, 7, 64):
        embedding = Embedding(settings(batch=batch), open_models, Meter())
        started(embedding, Stream("a"), Stream("b"))
        out = [down for work in show for down in embedding.take([work])] + embedding.idle()
        assert [(w.camera, w.position) for w in out if isinstance(w, Work)] == [
            (work.camera, work.position) for work in show
        ]
        outcomes.append(
            [
                observation
                for work in out
                if isinstance(work, Work) and isinstance(work.item, Observed)
                for observation in work.item.observations
            ]
        )
    for other in outcomes[1:]:
        for one, two in zip(outcomes[0], other, strict=True):
            assert (one.key, one.ordinal, one.frame) == (two.key, two.ordinal, two.frame)
            cosine = np.dot(one.embedding, two.embedding) / (one.norm * two.norm)
            assert cosine == pytest.approx(1.0, abs=1e-5)
