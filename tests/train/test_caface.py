"""The recipe of fusers: the loss falls, batches are pure, a run goes on, heads fuse as trained."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from facestream import ConfigError
from facestream.configs.training import CAFaceTraining, RunSettings, TrackSettings, read_training
from facestream.models.aggregators import make_aggregator
from facestream.models.feature_store import FeatureStore
from facestream.models.fusion import Aggregator, Members
from facestream.train.caface import CAFaceRecipe, caface_recipe
from facestream.train.checkpoint import Origin
from facestream.train.engine import train
from facestream.train.feature_bank import Bank
from facestream.train.fusers import fuse_sets
from facestream.train.track_sets import TrackSampler

from .made_bank import SETTINGS, C, make_store

RUN = RunSettings(steps=24, batch=10, rate=3e-3, validate_every=12, schedule="constant")
SMALL = CAFaceTraining(
    RUN, centres=2, code=8, hidden=8, tracks=TrackSettings(sizes=(4, 8)), bank=SETTINGS
)
LEARNED = dataclasses.replace(SMALL, fuser="learned", keys="style+norm+quality")
CONFIGS = {"caface": SMALL, "learned": LEARNED}


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bank, Bank]:
    """Other people in training than in validation."""
    folder = tmp_path_factory.mktemp("banks")
    stores = (make_store(folder / name, seed=i, prefix=name) for i, name in enumerate("ab"))
    training, validation = (Bank(FeatureStore(store), SETTINGS) for store in stores)
    return training, validation


def losses(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    return [(line["step"], line["values"]["loss"]) for line in lines if "loss" in line["values"]]


@torch.no_grad()
def loss_of(recipe: CAFaceRecipe) -> float:
    """The mean loss of the same batches."""
    return float(np.mean([recipe.network(recipe.batch(step, 0, 1))["loss"] for step in range(8)]))


def run(recipe: CAFaceRecipe, out: Path, settings: RunSettings = RUN) -> list[Path]:
    origin = Origin("caface", "text", recipe.fingerprint, "test")
    return train(recipe, settings, out, origin).files


def members_of(bank: Bank, person: int) -> Members:
    found = bank.found[person]
    embeddings = bank.embeddings[person][found]
    return Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1),
        bank.quality[person][found],
        bank.styles[person][found],
    )


def fuse(one: Aggregator, members: Members) -> np.ndarray:
    return one.read(one.update(one.empty(), members))


@pytest.mark.parametrize("fuser", ["caface", "learned"])
def test_the_loss_falls_below_that_of_the_plain_mean_and_one_face_stays_itself(
    banks: tuple[Bank, Bank], tmp_path: Path, fuser: str
) -> None:
    recipe = caface_recipe(CONFIGS[fuser], *banks)
    recipe.network.eval()  # untrained, the learned mean is the plain one
    before, hard = recipe.validate(), loss_of(recipe)
    (path,) = run(recipe, tmp_path)
    assert path.name == f"open.{fuser}.npz"
    assert loss_of(recipe) < hard
    after = recipe.validate()
    assert after["identity"] < before["identity"] and set(after) == set(before)
    head = make_aggregator(fuser, dimension=C, head_path=path)
    single = members_of(banks[1], 0).take(slice(1))
    unit = single.embeddings[0] / np.linalg.norm(single.embeddings[0])
    np.testing.assert_allclose(fuse(head, single), unit, atol=1e-6)


@pytest.mark.parametrize("fuser", ["caface", "learned"])
def test_what_ships_fuses_as_the_network_does(
    banks: tuple[Bank, Bank], tmp_path: Path, fuser: str
) -> None:
    recipe = caface_recipe(CONFIGS[fuser], *banks)
    run(recipe, tmp_path / "run", dataclasses.replace(RUN, steps=3, validate_every=3))
    (path,) = recipe.export(tmp_path)
    drawn = TrackSampler(banks[1], SMALL.tracks).draw(np.random.default_rng(0), 4, 24)
    recipe.network.eval()
    with torch.no_grad():
        expected = torch.nn.functional.normalize(
            fuse_sets(recipe.network.fuser, drawn.sets).double(), dim=1
        )
    one = make_aggregator(fuser, dimension=C, head_path=path)
    sets = drawn.sets
    assert sets.styles is not None and sets.quality is not None
    for row in range(4):
        features = sets.features[row].numpy()
        members = Members(
            features,
            np.linalg.norm(features, axis=1),
            sets.quality[row].numpy(),
            sets.styles[row].numpy(),
        )
        np.testing.assert_allclose(fuse(one, members), expected[row].numpy(), atol=2e-5)


def test_a_batch_is_a_pure_function_of_the_step_and_is_shared_out(
    banks: tuple[Bank, Bank],
) -> None:
    one, two = (caface_recipe(SMALL, *banks) for _ in range(2))
    two.batch(3, 0, 1)
    first, again = one.batch(7, 0, 1), two.batch(7, 0, 1)
    assert torch.equal(first.sets.features, again.sets.features)
    assert not torch.equal(first.people, one.batch(8, 0, 1).people)
    halves = [one.batch(7, rank, 2) for rank in range(2)]
    together = sorted(person for half in halves for person in half.people.tolist())
    assert together == sorted(first.people.tolist())


@pytest.mark.parametrize("fuser", ["caface", "learned"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(
    banks: tuple[Bank, Bank], tmp_path: Path, fuser: str
) -> None:
    short = dataclasses.replace(RUN, steps=6, validate_every=2)
    whole = caface_recipe(CONFIGS[fuser], *banks)
    run(whole, tmp_path / "whole", short)

    class Cut(Exception):
        pass

    def cut(step: int) -> None:
        if step == 5:
            raise Cut

    first = caface_recipe(CONFIGS[fuser], *banks)
    origin = Origin("caface", "text", first.fingerprint, "test")
    with pytest.raises(Cut):
        train(first, short, tmp_path / "parts", origin, on_step=cut)
    second = caface_recipe(CONFIGS[fuser], *banks)
    run(second, tmp_path / "parts", short)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name])


@pytest.mark.parametrize("name", ["clean", "embeddings", "styles", "quality", "found"])
def test_the_fingerprint_covers_the_features_of_both_banks(
    banks: tuple[Bank, Bank], name: str
) -> None:
    def changed(bank: Bank) -> Bank:
        other = copy.copy(bank)
        vars(other).pop("fingerprint", None)  # it is worked out once
        array = getattr(bank, name).copy()
        array.flat[-1] = ~array.flat[-1] if name == "found" else array.flat[-1] + 1
        setattr(other, name, array)
        return other

    training, validation = banks
    pairs = [banks, (changed(training), validation), (training, changed(validation))]
    prints = [caface_recipe(SMALL, *pair).fingerprint for pair in pairs]
    assert len(set(prints)) == 3 and caface_recipe(SMALL, *banks).fingerprint == prints[0]


def test_a_person_in_both_splits_is_refused(banks: tuple[Bank, Bank]) -> None:
    with pytest.raises(ConfigError, match="a/00 is both in training and in validation"):
        caface_recipe(SMALL, banks[0], banks[0])


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"keys of caface must be style\+norm"):
        CAFaceTraining(RUN, keys="style")
    with pytest.raises(ConfigError, match="sizes of caface must be even"):
        CAFaceTraining(RUN, tracks=TrackSettings(sizes=(2, 3)))


@pytest.mark.parametrize(
    "name",
    [
        "omz",
        "open",
        "learned-omz",
        "learned-open",
        "nan-omz",
        "cfan-omz",
        "pfe-omz",
        "quality-omz",
        "guided-omz",
        "embedding-omz",
        "nan-open",
        "cfan-open",
        "pfe-open",
        "quality-open",
        "guided-open",
        "embedding-open",
        "paper",
    ],
)
def test_presets_load(name: str) -> None:
    config, text = read_training(CAFaceTraining, "caface", f"caface-{name}")
    assert config.run.steps >= 400 and "run:" in text
    if name == "paper":
        assert (config.loss, config.code, config.run.batch) == ("template", 64, 512)
