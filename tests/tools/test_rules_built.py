"""What a configuration's thresholds rest on, and when they say less than they seem to."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from facestream.configs.schema import CameraConfig, Config, FuseConfig, MatchConfig
from facestream.models.aggregators import AGGREGATORS
from facestream.models.open_set_tracks import Strangers, to_steps
from facestream.models.pack import Pack
from facestream.models.search import SearchIndex
from facestream.stream.decide import is_due
from facestream.stream.thresholds import Rules
from facestream.tools.build import doubts_of, rules_for

DEFAULTS = Config(cameras=(CameraConfig("door", "door.mp4"),))
BY_MEAN = dataclasses.replace(DEFAULTS, fuse=FuseConfig(aggregator="mean"))
EARLY = dataclasses.replace(DEFAULTS, match=MatchConfig(least_frames=1))
LATE = dataclasses.replace(DEFAULTS, match=MatchConfig(least_frames=40))


def test_a_run_that_decides_as_the_strangers_were_decided_has_no_doubts(open_models: Pack) -> None:
    assert open_models.strangers is not None
    assert doubts_of(open_models.strangers, open_models.card, DEFAULTS) == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BY_MEAN, "the strangers were fused by learned, this run fuses by mean"),
        (EARLY, "the strangers were decided from 3 faces on, this run decides from 1"),
        (LATE, "the strangers' tracks have 32 faces at most, this run decides from 40"),
    ],
)
def test_what_a_run_does_otherwise_is_said_with_every_threshold(
    open_models: Pack, config: Config, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers as packs carried them before: of one aggregator, from 3 faces on."""
    rules = rules_for(open_models.card, as_before(open_models), config)
    assert words in caplog.text
    assert why_of(rules).startswith("fitted for FPIR 1 %") and why_of(rules).endswith(words)


def as_before(pack: Pack) -> Strangers:
    assert pack.strangers is not None
    own = pack.strangers.by("learned", 3)
    steps = to_steps(own.vectors[None])
    return Strangers((own.aggregator,), steps, *own[2:])


def why_of(rules: Rules) -> str:
    people = np.random.default_rng(1).standard_normal((20, 128)).astype(np.float32)
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    return rules(SearchIndex(people, np.arange(20)), None).why


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("least", [1, 2, 3, 6])
def test_a_run_is_fitted_to_strangers_who_were_fused_and_decided_as_it_does(
    open_models: Pack, name: Any, least: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = dataclasses.replace(
        DEFAULTS, fuse=FuseConfig(aggregator=name), match=MatchConfig(least_frames=least)
    )
    strangers = open_models.strangers
    assert strangers is not None
    rules = rules_for(open_models.card, strangers, config)
    assert not caplog.records and "people kept for calibration" in why_of(rules)
    tracks = strangers.by(name, least)
    assert (tracks.aggregator, tracks.frames.min()) == (name, least)
    for track in range(0, len(tracks.people), 50):
        counts = tracks.frames[tracks.tracks == track].tolist()
        due: list[int] = []
        for count in range(1, counts[-1] + 1):
            if is_due(count, due[-1] if due else 0, least) or count == counts[-1]:
                due.append(count)
        assert counts == due
