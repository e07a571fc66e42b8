"""The filter behind the tracks: what it expects, and how sure it is of that."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.stream import motion

HEIGHT = 50.0


def box(x: float, y: float = 200.0) -> np.ndarray:
    """One face's box (1, 4) around a centre, px."""
    return np.array([[x - 20, y - HEIGHT / 2, x + 20, y + HEIGHT / 2]])


def watched(speed: float, frames: int = 25, interval: float = 0.04) -> motion.Motion:
    """Somebody seen in every frame while walking at `speed` px per second."""
    state = motion.start(box(100.0))
    for index in range(1, frames + 1):
        state = motion.predict(state, interval)
        state = motion.correct(state, box(100.0 + speed * interval * index))
    return state


@pytest.mark.parametrize("speed", [0.0, 100.0, -250.0])
def test_steady_walking_is_learnt(speed: float) -> None:
    later = motion.predict(watched(speed), 0.5)
    where = motion.boxes_of(later)
    assert where == pytest.approx(box(100.0 + speed * 1.5), abs=0.1 * HEIGHT)


def test_who_was_seen_just_now_is_looked_for_closely_and_who_was_not_farther_away() -> None:
    state = watched(100.0)
    reach = [motion.reach(motion.predict(state, t))[0] / HEIGHT for t in (0.04, 0.2, 1.0)]
    assert 0.2 < reach[0] < 0.4
    assert reach[0] < reach[1] < reach[2]
    assert reach[0] < motion.reach(motion.predict(motion.start(box(100.0)), 0.04))[0] / HEIGHT / 2


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 2.0), st.floats(0.01, 2.0))
def test_one_long_step_is_two_short_ones(first: float, second: float) -> None:
    state = watched(80.0, frames=5)
    together = motion.predict(state, first + second)
    apart = motion.predict(motion.predict(state, first), second)
    assert np.allclose(together.mean, apart.mean)
    assert np.allclose(together.covariance, apart.covariance)
    spread = np.linalg.eigvalsh(together.covariance)
    assert spread.min() >= -1e-9 * spread.max()
