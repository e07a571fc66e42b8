"""Meter: calls, items and seconds per stage."""

from __future__ import annotations

import time

import pytest

from facestream.stream.meter import Meter


def test_calls_items_and_seconds_add_up() -> None:
    meter = Meter()
    for items in (3, 5):
        with meter.measure("detect", items):
            time.sleep(0.01)
    with meter.measure("track"):
        pass
    assert (meter.stages["detect"].calls, meter.stages["detect"].items) == (2, 8)
    assert meter.stages["detect"].seconds >= 0.02
    assert (meter.stages["track"].calls, meter.stages["track"].items) == (1, 1)


def test_a_call_that_fails_is_counted_and_its_error_goes_on() -> None:
    meter = Meter()
    with pytest.raises(ValueError, match="as raised"), meter.measure("embed", 2):
        raise ValueError("as raised")
    assert meter.stages["embed"].calls == 1


def test_a_stage_within_a_stage_is_measured_by_itself() -> None:
    meter = Meter()
    with meter.measure("decide"), meter.measure("publish"):
        pass
    assert meter.stages["decide"].seconds >= meter.stages["publish"].seconds
