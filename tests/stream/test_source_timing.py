"""Times of frames: the stream's own clock, always rising, mapped onto the wall clock."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.stream.timing import Timeline


class Clocks:
    """A wall clock and a steady clock that go on together when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def live(clocks: Clocks) -> Timeline:
    timeline = Timeline(live=True, wall=clocks, clock=clocks)
    timeline.begin(0.04)
    return timeline


def test_recorded_frames_keep_the_times_of_the_file() -> None:
    clocks = Clocks()
    timeline = Timeline(live=False, wall=clocks, clock=clocks)
    timeline.begin(0.04, origin=1.4)
    stamps = [timeline.stamp(raw) for raw in (1.4, 1.44, 2.0)]
    assert [s.sequence for s in stamps] == [0, 1, 2]
    assert [s.pts for s in stamps] == pytest.approx([0.0, 0.04, 0.6])
    assert [s.captured_at for s in stamps] == pytest.approx([1000.0, 1000.04, 1000.6])


def test_a_recording_whose_picture_begins_late_keeps_that_delay() -> None:
    clocks = Clocks()
    timeline = Timeline(live=False, wall=clocks, clock=clocks)
    timeline.begin(0.04, origin=1.0)  # sound begins at 1.0
    stamp = timeline.stamp(1.4)
    assert (stamp.pts, stamp.captured_at) == pytest.approx((0.4, 1000.4))


def test_a_recorded_frame_without_a_time_follows_at_the_frame_rate() -> None:
    timeline = Timeline(live=False)
    timeline.begin(0.1, origin=0.0)
    assert [timeline.stamp(raw).pts for raw in (None, None, 0.2)] == pytest.approx([0, 0.1, 0.2])


def test_a_reconnected_camera_goes_on_as_much_later_as_the_wall_clock() -> None:
    clocks = Clocks()
    timeline = live(clocks)
    timeline.stamp(77.0)
    clocks.now += 0.04
    before = timeline.stamp(77.04)
    clocks.now += 12.0
    timeline.begin(0.04)
    after = timeline.stamp(0.0)  # the camera restarted its clock
    assert (before.sequence, after.sequence) == (1, 2)
    assert after.pts - before.pts == pytest.approx(12.0)


def test_a_frame_held_up_by_the_network_keeps_its_capture_time() -> None:
    clocks = Clocks()
    timeline = live(clocks)
    for index in range(50):
        clocks.now = 1000.0 + 0.04 * index
        timeline.stamp(0.04 * index)
    clocks.now = 1000.0 + 2.0 + 0.3  # 300 ms late
    assert timeline.stamp(2.0).captured_at == pytest.approx(1002.0, abs=0.005)


def test_a_camera_whose_quartz_is_slow_is_followed() -> None:
    clocks = Clocks()
    timeline = live(clocks)
    for second in range(5000):
        clocks.now = 1000.0 + second
        captured = timeline.stamp(second * (1 - 2e-4)).captured_at
        assert clocks.now - captured < 0.01  # unfollowed, a second would be lost by now


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_wall_clock_that_is_set_is_followed_at_once(step: float) -> None:
    wall, steady = Clocks(), Clocks()
    timeline = Timeline(live=True, wall=wall, clock=steady)
    timeline.begin(0.04)
    before = timeline.stamp(0.0)
    steady.now += 0.04
    wall.now += 0.04 + step
    after = timeline.stamp(0.04)
    assert after.captured_at == pytest.approx(wall.now)
    assert after.pts - before.pts == pytest.approx(0.04)


def test_a_new_connection_has_a_delay_of_its_own() -> None:
    clocks = Clocks()
    timeline = live(clocks)
    timeline.stamp(0.0)
    clocks.now += 0.5
    timeline.stamp(0.04)  # held up: its pts is 0.46 s behind
    clocks.now += 3.0
    timeline.begin(0.04)
    assert timeline.stamp(0.0).captured_at == pytest.approx(clocks.now)


def test_a_live_stream_without_times_follows_the_wall_clock() -> None:
    clocks = Clocks()
    timeline = live(clocks)
    timeline.stamp(None)
    clocks.now += 0.25
    assert timeline.stamp(None).pts == pytest.approx(0.25)


def test_a_camera_that_sets_its_clock_does_not_leap() -> None:
    clocks = Clocks()
    timeline = live(clocks)
    timeline.stamp(5.0)
    clocks.now += 0.04
    assert timeline.stamp(90000.0).pts == pytest.approx(0.04)
    clocks.now += 0.04
    assert timeline.stamp(3.0).pts == pytest.approx(0.08)


RAW = st.none() | st.floats(-1e6, 1e6)


@settings(max_examples=100, deadline=None)
@given(st.lists(RAW, min_size=2, max_size=30), st.booleans())
def test_times_rise_and_numbers_count_whatever_the_stream_says(
    raws: list[float | None], is_live: bool
) -> None:
    clocks = Clocks()
    timeline = Timeline(live=is_live, wall=clocks, clock=clocks)
    timeline.begin(0.04, None)
    stamps = []
    for raw in raws:
        clocks.now += 0.03
        stamps.append(timeline.stamp(raw))
        if is_live:
            assert stamps[-1].captured_at <= clocks.now + 1e-6
    assert [s.sequence for s in stamps] == list(range(len(raws)))
    assert all(a.pts < b.pts for a, b in pairwise(stamps))
