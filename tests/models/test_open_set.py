"""Tails of strangers' maxima: fits of known laws, hand-computed cases, intervals that hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import genpareto

from facestream import ConfigError, RecordError
from facestream.models.open_set import (
    LEAST_PEOPLE,
    SHAPES,
    OpenSetFit,
    fit_open_set,
    fit_pareto,
    outlying_people,
)

PEOPLE, EACH = 200, 3


def world(seed: int, people: int = PEOPLE, each: int = EACH) -> tuple[np.ndarray, np.ndarray]:
    """Maxima of tracks: people differ, and so do the tracks of one. Known by `world_tail`."""
    draw = np.random.default_rng(seed)
    owners = np.repeat(np.arange(people), each)
    own = 0.05 * draw.standard_normal(people)
    return 0.3 + own[owners] + draw.gumbel(0.0, 0.03, len(owners)), owners


def world_tail(target: float) -> float:
    maxima, _ = world(99, 400_000, 1)
    return float(np.quantile(maxima, 1 - target))


def test_moments_give_back_the_law_that_was_drawn():
    for shape in (-0.15, 0.0, 0.05):
        peaks = np.sort(genpareto.rvs(shape, scale=0.05, size=20_000, random_state=1))[::-1]
        scale, found = fit_pareto(peaks, np.ones((1, len(peaks))))
        assert (scale[0], found[0]) == (
            pytest.approx(0.05, rel=0.05),
            pytest.approx(shape, abs=0.03),
        )


def test_moments_by_hand():
    # a0 = (3 + 1) / 2 = 2. Of peak 3 a quarter is above (half of itself), of peak 1 three quarters:
    # a1 = (3 * .25 + 1 * .75) / 2 = .75, so xi = 2 - 2 / (2 - 1.5) = -2, kept at SHAPES[0].
    scale, shape = fit_pareto(np.array([3.0, 1.0]), np.ones((1, 2)))
    assert (shape[0], scale[0]) == (SHAPES[0], pytest.approx(2.0 * (1 - SHAPES[0])))
    # A resample that drew nobody above the bar has no tail, and no NaN.
    scale, shape = fit_pareto(np.array([3.0, 1.0]), np.zeros((1, 2)))
    assert (shape[0], scale[0]) == (0.0, 1e-9)


@pytest.mark.parametrize("target", [0.3, 0.1, 0.02, 0.005])
def test_thresholds_keep_what_they_promise_on_other_people(target):
    held = []
    true = world_tail(target)
    for seed in range(40):
        fit = fit_open_set(*world(seed), 100, resamples=100)
        low, high = fit.threshold_interval(target)
        assert low <= fit.threshold(target) <= high
        held.append(low <= true <= high)
        assert fit.fpir(fit.threshold(target)) == pytest.approx(target, abs=1 / PEOPLE / EACH)
    assert sum(held) >= 36  # of intervals of 95 %, by 600 tracks of 200 people


def test_people_are_resampled_and_not_tracks():
    # Ten equal tracks of each person say no more than one: the interval stays.
    maxima, owners = world(3, each=1)
    one = fit_open_set(maxima, owners, 50)
    ten = fit_open_set(np.repeat(maxima, 10), np.repeat(owners, 10), 50)
    width = np.diff(one.threshold_interval(0.05))[0]
    assert np.diff(ten.threshold_interval(0.05))[0] == pytest.approx(width, rel=0.15)


def test_the_rate_of_the_sample_itself_below_the_bar():
    maxima = np.arange(100) / 100.0
    fit = fit_open_set(maxima, np.arange(100), 7)
    assert (fit.people, fit.identities, fit.bar) == (100, 7, pytest.approx(0.79))
    assert fit.fpir(0.5) == pytest.approx(0.5) and fit.fpir(-1.0) == 1.0
    assert fit.fpir(np.nextafter(0.5, 1)) == pytest.approx(0.49)
    assert fit.fpir(0.79) == pytest.approx(0.2) and fit.fpir(5.0) == 0.0
    assert fit.threshold(0.5) == pytest.approx(0.5, abs=0.011)


def test_a_larger_gallery_is_as_many_more_tries():
    fit = fit_open_set(*world(1), 100)
    ten = fit.scaled(1000)
    score = fit.threshold(0.01)
    assert ten.fpir(score) == pytest.approx(1 - 0.99**10)
    assert ten.threshold(1 - 0.99**10) == pytest.approx(score)
    back = ten.scaled(100)
    assert back.threshold(0.01) == pytest.approx(score) and back.power == pytest.approx(1.0)
    assert "until it is fitted itself" in ten.words and "until" not in fit.words


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), low=st.floats(1e-5, 0.5), factor=st.floats(1.01, 100.0))
def test_lower_rates_take_higher_thresholds(seed, low, factor):
    fit = fit_open_set(*world(seed, 40, 2), 100, resamples=20)
    high = min(low * factor, 0.9)
    if high > low:
        assert fit.threshold(low) >= fit.threshold(high)
    score = fit.threshold(low)
    assert fit.fpir(score) <= low + 1e-9
    assert 0.0 <= fit.fpir(score + 0.01) <= fit.fpir(score)


@pytest.mark.parametrize("larger", [1, 10])
def test_strangers_who_come_as_the_packs_do_move_nothing(larger):
    fit = fit_open_set(*world(3), 1000).scaled(1000 * larger)
    moved = fit.moved((np.arange(1000) + 0.5) / 1000)
    for target in (0.5, 0.1, 0.01):
        assert moved.threshold(target) == pytest.approx(fit.threshold(target), abs=0.01)


@pytest.mark.parametrize("larger", [1, 10])
def test_strangers_who_score_higher_here_raise_the_threshold_by_as_much(larger):
    maxima, owners = world(3)
    fit = fit_open_set(maxima, owners, 1000).scaled(1000 * larger)
    here = [fit.threshold(share) + 0.05 for share in (np.arange(1000) + 0.5) / 1000]
    moved = fit.moved(np.array([fit.fpir(score) for score in here]))
    assert moved.threshold(0.01) == pytest.approx(fit.threshold(0.01) + 0.05, abs=0.015)


@pytest.mark.parametrize("enrolled", [1, PEOPLE // 5])
def test_people_who_are_enrolled_after_all_stand_out(enrolled):
    maxima, owners = world(5)
    own = np.full(len(maxima), 0.9)
    assert not len(outlying_people(maxima, owners, own))
    maxima[owners < enrolled] = 0.85
    assert outlying_people(maxima, owners, own).tolist() == list(range(enrolled))
    # Far out, but nothing like the person's own tracks: a stranger who looks like somebody.
    assert not len(outlying_people(maxima, owners, np.full(len(maxima), 0.9999)))


def test_what_cannot_be_fitted_is_said():
    maxima, owners = world(1)
    few = owners < LEAST_PEOPLE - 1
    with pytest.raises(ConfigError, match="tracks of 19 and 100: set"):
        fit_open_set(maxima[few], owners[few], 100)
    with pytest.raises(ConfigError, match="a gallery of 1"):
        fit_open_set(maxima, owners, 0)
    with pytest.raises(RecordError, match="owners must be"):
        fit_open_set(maxima, owners[1:], 100)
    fit = fit_open_set(maxima, owners, 100)
    for target in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match="above 0 and below 1"):
            fit.threshold(target)


def test_equal_maxima_are_no_error():
    fit = fit_open_set(np.full(60, 0.25), np.arange(60), 3)
    assert isinstance(fit, OpenSetFit)
    assert fit.threshold(0.01) == pytest.approx(0.25, abs=1e-6)
    assert fit.fpir(0.26) == 0.0
