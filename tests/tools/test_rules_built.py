"""What a configuration's thresholds rest on, and when they say less than they seem to."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from facestream.configs.schema import CameraConfig, Config, FuseConfig, MatchConfig
from facestream.models.pack import Pack
from facestream.models.search import SearchIndex
from facestream.tools.build import doubts_of, rules_for

DEFAULTS = Config(cameras=(CameraConfig("door", "door.mp4"),))
BY_MEAN = dataclasses.replace(DEFAULTS, fuse=FuseConfig(aggregator="mean"))
EARLY = dataclasses.replace(DEFAULTS, match=MatchConfig(least_frames=1))


def test_a_run_that_decides_as_the_strangers_were_decided_has_no_doubts(open_models: Pack) -> None:
    assert open_models.strangers is not None
    assert doubts_of(open_models.strangers, open_models.card, DEFAULTS) == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BY_MEAN, "the strangers were fused by learned, this run fuses by mean"),
        (EARLY, "the strangers were decided from 3 faces on, this run decides from 1"),
    ],
)
def test_what_a_run_does_otherwise_is_said_with_every_threshold(
    open_models: Pack, config: Config, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    rules = rules_for(open_models.card, open_models.strangers, config)
    assert words in caplog.text
    people = np.random.default_rng(1).standard_normal((20, 128)).astype(np.float32)
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    rule = rules(SearchIndex(people, np.arange(20)), None)
    assert rule.why.startswith("fitted for FPIR 1 %") and rule.why.endswith(words)
