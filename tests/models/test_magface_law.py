"""MagFace's theory in numbers: bounds, convexity, and the optimal magnitude of a face."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError
from facestream.models.magface_law import MagFaceLaw

LAW = MagFaceLaw()
OTHERS = 15.472  # log of the sum over 85,741 random negatives at s = 64
MAGNITUDES = np.linspace(10, 110, 2001)

OPTIMA = {
    20: 109.916,
    30: 88.186,
    35: 68.249,
    40: 48.029,
    45: 29.032,
    50: 15.008,
    55: 12.511,
    60: 12.433,
    65: 12.422,
    70: 12.457,
    80: 12.675,
    89.9: 13.108,
}
"""Optimal magnitude by angle in degrees, for OTHERS and lambda_g = 35."""


def test_margin_and_regulariser() -> None:
    assert LAW.slope == pytest.approx(0.0035, rel=1e-12)
    assert LAW.margin([5, 10, 60, 110, 200]).tolist() == pytest.approx(
        [0.45, 0.45, 0.625, 0.8, 0.8]
    )
    assert LAW.margin(24.2857142857) == pytest.approx(0.5, abs=1e-10)
    assert LAW.regulariser([10, 110]).tolist() == pytest.approx(
        [0.1008264463, 0.0181818182], abs=1e-10
    )
    assert LAW.regulariser_slope(110) == pytest.approx(0, abs=1e-18)


def test_least_weights_of_the_regulariser() -> None:
    assert pytest.approx(22.586667, abs=1e-6) == LAW.lambda_minimum
    assert MagFaceLaw(l_m=0.35).lambda_minimum == pytest.approx(29.04, abs=1e-9)  # Mag-CosFace
    fine_tuning = MagFaceLaw(1, 51, 0.45, 1.0, 5.0)
    assert fine_tuning.lambda_minimum < 1
    # There, and only from there on, no face's loss rises at l_a.
    worst = math.pi / 2 - 0.45
    for lambda_g, rises in ((22.58, True), (22.59, False)):
        slope = MagFaceLaw(lambda_g=lambda_g).loss_slope(worst, 10, 500)
        assert (slope > 0) == rises


def test_optimal_magnitudes() -> None:
    found = LAW.optimum(np.radians(list(OPTIMA)), OTHERS)
    assert found.tolist() == pytest.approx(list(OPTIMA.values()), abs=1e-3)


def test_optimal_magnitude_falls_as_other_classes_come_nearer() -> None:
    found = LAW.optimum(math.radians(40), [5, 10, 15, 20, 30, 40])
    expected = [86.722, 68.457, 49.778, 31.788, 13.048, 12.968]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


def test_optimal_magnitude_is_monotone_until_the_margin_reaches_a_right_angle() -> None:
    angles = np.radians(np.linspace(1, 89.9, 2000))
    found = LAW.optimum(angles, OTHERS)
    inside = angles + LAW.margin(found) <= math.pi / 2
    assert (np.diff(found[inside]) <= 1e-9).all()
    # Beyond, it rises again, by up to 0.69.
    lowest = np.argmin(found)
    assert np.degrees(angles[lowest]) == pytest.approx(63.71, abs=0.05)
    assert found[lowest] == pytest.approx(12.4201, abs=1e-4)
    assert found[-1] - found[lowest] == pytest.approx(0.69, abs=0.005)
    assert not inside[lowest + 20 :].any()


def test_floor_of_optimal_magnitudes() -> None:
    assert pytest.approx(12.4200, abs=1e-4) == LAW.floor
    angles = np.radians(np.linspace(0, 90, 500))
    assert (LAW.optimum(angles, 60) >= LAW.floor - 1e-6).all()
    assert MagFaceLaw(lambda_g=22.0).floor == 10


def test_convexity_is_certain_up_to_a_right_angle_less_the_margin() -> None:
    assert pytest.approx(0.770796, abs=1e-6) == LAW.convex_angle
    assert math.degrees(LAW.convex_angle) == pytest.approx(44.163, abs=1e-3)
    angles = np.linspace(0, LAW.convex_angle, 60)[:, None, None]
    others = np.linspace(0, 60, 60)[:, None]
    curvature = LAW.loss_curvature(angles, MAGNITUDES, others)
    assert LAW.lambda_g * 2 / LAW.u_a**3 == pytest.approx(5.2592e-5, rel=1e-4)
    assert curvature.min() == pytest.approx(5.2592e-5, rel=1e-4)


@pytest.mark.parametrize(("lambda_g", "degrees"), [(35, 48.0), (22.586667, 46.65)])
def test_where_convexity_first_fails(lambda_g: float, degrees: float) -> None:
    law = MagFaceLaw(lambda_g=lambda_g)
    angles = np.linspace(44, 60, 1601)
    curvature = law.loss_curvature(np.radians(angles)[:, None], MAGNITUDES, OTHERS)
    assert angles[np.argmax((curvature < 0).any(axis=1))] == pytest.approx(degrees, abs=0.05)


@pytest.mark.parametrize("lambda_g", [22.586667, 35, 50])
def test_there_is_one_optimum_even_where_convexity_fails(lambda_g: float) -> None:
    law = MagFaceLaw(lambda_g=lambda_g)
    angles = np.radians(np.linspace(0, 90, 46))[:, None, None]
    rising = law.loss_slope(angles, MAGNITUDES, np.linspace(0, 60, 31)[:, None]) > 1e-12
    assert (np.diff(rising.astype(int), axis=-1) >= 0).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(0, math.pi / 2), st.floats(11, 109), st.floats(0, 40))
def test_derivatives_agree_with_differences(angle: float, a: float, others: float) -> None:
    step = 1e-3
    around = np.array([a - step, a + step])
    slope = np.diff(LAW.loss(angle, around, others)) / (2 * step)
    assert LAW.loss_slope(angle, a, others) == pytest.approx(slope[0], rel=1e-5, abs=1e-8)
    curvature = np.diff(LAW.loss_slope(angle, around, others)) / (2 * step)
    assert LAW.loss_curvature(angle, a, others) == pytest.approx(curvature[0], rel=1e-4, abs=1e-8)


def test_the_optimum_is_where_the_loss_is_least() -> None:
    for degrees in (10, 30, 45, 60, 85):
        loss = LAW.loss(math.radians(degrees), MAGNITUDES, OTHERS)
        best = LAW.optimum(math.radians(degrees), OTHERS)
        assert MAGNITUDES[np.argmin(loss)] == pytest.approx(float(best), abs=0.05)


def test_what_cannot_be() -> None:
    for wrong in (
        {"l_a": 0.0},
        {"l_a": 110.0},
        {"l_m": 0.9},
        {"u_m": math.pi},
        {"lambda_g": -1.0},
        {"scale": 0.0},
    ):
        with pytest.raises(ConfigError):
            MagFaceLaw(**wrong)
