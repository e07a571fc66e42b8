"""Learning rates by hand, and what optimisers get."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facestream import ConfigError
from facestream.configs.face_training import CQATraining
from facestream.configs.training import RunSettings, read_training
from facestream.train.schedule import make_optimiser, rate_at, set_rate


def test_warm_up_rises_in_a_straight_line() -> None:
    settings = RunSettings(steps=10, rate=1.0, warmup=3, schedule="constant")
    assert [rate_at(settings, step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_milestones_are_magfaces_schedule() -> None:
    settings = RunSettings(steps=25, rate=0.1, schedule="milestones", milestones=(10, 18, 22))
    rates = [rate_at(settings, step) for step in (0, 9, 10, 17, 18, 21, 22, 24)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_cqa_face_ends_at_a_rate_of_its_own() -> None:
    settings, _ = read_training(CQATraining, "cqa", "cqa-ms1mv2")
    epoch = 5_822_653 / settings.run.batch
    rates = [rate_at(settings.run, round(epochs * epoch)) for epochs in (12, 14, 20, 23.5)]
    assert rates == [0.03, 0.003, 0.0003, 0.0001]


def test_cosine_falls_from_the_end_of_warm_up_to_zero() -> None:
    settings = RunSettings(steps=12, rate=2.0, warmup=2)
    assert rate_at(settings, 2) == 2.0 and rate_at(settings, 7) == pytest.approx(1.0)
    assert 0 < rate_at(settings, 11) < 0.06


def test_groups_keep_their_share_of_the_rate_and_their_decay() -> None:
    head, body = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [head]}, {"params": [body], "scale": 0.1, "weight_decay": 0.0}]
    optimiser = make_optimiser(RunSettings(steps=1, decay=0.5), groups)
    set_rate(optimiser, 0.2)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.2, 0.02])
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.5, 0.0]


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)]
)
def test_the_optimiser_asked_for(name: str, kind: type) -> None:
    settings = RunSettings(steps=1, optimiser=name)  # type: ignore[arg-type]
    assert type(make_optimiser(settings, [{"params": [nn.Parameter(torch.zeros(1))]}])) is kind


def test_momentum_is_sgds() -> None:
    settings = RunSettings(steps=1, optimiser="sgd", momentum=0.5)
    optimiser = make_optimiser(settings, [{"params": [nn.Parameter(torch.zeros(1))]}])
    assert optimiser.param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "milestones"},
        {"milestones": (3,)},
        {"schedule": "milestones", "milestones": (5, 3)},
        {"schedule": "milestones", "milestones": (3, 5), "rates": (0.1,)},
        {"rates": (0.1,)},
        {"warmup": 10},
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RunSettings(steps=10, **wrong)  # type: ignore[arg-type]


def test_a_file_of_ones_own_is_read_with_its_text(tmp_path: object) -> None:
    path = f"{tmp_path}/mine.yaml"
    text = "steps: 3\nrate: 1e-2\n"
    with open(path, "w") as file:
        file.write(text)
    settings, whole = read_training(RunSettings, "line", path)
    assert settings == RunSettings(steps=3, rate=0.01)
    assert "rate: 0.01" in whole and "batch: 64" in whole  # defaults included


@pytest.mark.parametrize(
    ("text", "words"),
    [("steps: 0", "steps must be 1 or more"), ("steps: 1\nstep: 2", "did you mean steps")],
)
def test_a_mistake_in_a_file_is_named_with_the_file(
    tmp_path: object, text: str, words: str
) -> None:
    path = f"{tmp_path}/mine.yaml"
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{words}"):
        read_training(RunSettings, "line", path)


def test_an_unknown_preset_and_a_missing_file_are_named() -> None:
    with pytest.raises(ConfigError, match="no preset 'nothing'"):
        read_training(RunSettings, "line", "nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_training(RunSettings, "line", "nothing.yaml")
