"""Fusers to compare with: each learns, its file gives it back, and one face stays itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from facestream import ConfigError, CorruptModelFile, MissingModelFile
from facestream.configs.training import CAFaceTraining, RunSettings, TrackSettings
from facestream.models.feature_store import FeatureStore
from facestream.models.fusion import Members
from facestream.models.networks.caface_quality import GuidedCAFace, QualityCAFace
from facestream.train.caface import caface_recipe
from facestream.train.checkpoint import Origin
from facestream.train.engine import train
from facestream.train.feature_bank import Bank
from facestream.train.fusers import (
    Fuser,
    fuse_members,
    fuse_sets,
    load_fuser,
    make_fuser,
    plan_fuser,
    save_fuser,
)

from .made_bank import SETTINGS, C, K, make_store

RUN = RunSettings(steps=24, batch=10, rate=1e-2, validate_every=12, schedule="constant")
SMALL = CAFaceTraining(
    RUN, centres=2, code=8, hidden=8, tracks=TrackSettings(sizes=(4, 8)), bank=SETTINGS
)
RESEARCH = ("nan", "cfan", "pfe", "caface-quality", "caface-guided", "learned-embedding")
KEYED = ("caface-guided", "learned-embedding")
every_fuser = pytest.mark.parametrize("name", RESEARCH)


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bank, Bank]:
    """Other people in training than in validation."""
    folder = tmp_path_factory.mktemp("banks")
    stores = (make_store(folder / name, seed=i, prefix=name) for i, name in enumerate("ab"))
    training, validation = (Bank(FeatureStore(store), SETTINGS) for store in stores)
    return training, validation


def settings_of(name: str) -> CAFaceTraining:
    keys = "style+norm+quality" if name in KEYED else "style+norm"
    return dataclasses.replace(SMALL, fuser=name, keys=keys)  # type: ignore[arg-type]


def members_of(bank: Bank, person: int) -> Members:
    found = bank.found[person]
    embeddings = bank.embeddings[person][found]
    norms = np.linalg.norm(embeddings, axis=1)
    return Members(embeddings, norms, bank.quality[person][found], bank.styles[person][found])


def fuse(network: Fuser, members: Members) -> np.ndarray:
    first, second = fuse_members(network, [members, members])
    np.testing.assert_allclose(first, second, atol=1e-6)
    return first


@every_fuser
def test_a_fuser_learns_and_its_file_fuses_alike(
    banks: tuple[Bank, Bank], tmp_path: Path, name: str
) -> None:
    recipe = caface_recipe(settings_of(name), *banks)
    start = make_fuser(recipe.plan)
    origin = Origin("caface", "text", recipe.fingerprint, "test")
    (path,) = train(recipe, RUN, tmp_path, origin).files
    assert path.name == f"open.{name}.npz"
    loaded = load_fuser(path)
    recipe.network.eval()
    members = members_of(banks[1], 0)
    fused = fuse(loaded, members)
    assert np.linalg.norm(fused) == pytest.approx(1.0, abs=1e-6)
    single = members.take(slice(3, 4))
    unit = single.embeddings[0] / np.linalg.norm(single.embeddings[0])
    np.testing.assert_allclose(fuse(loaded, single), unit, atol=1e-5)
    assert not np.allclose(fused, fuse(start.eval(), members), atol=1e-4)
    order = np.random.default_rng(0).permutation(12)
    moved = Members(*(column[order] for column in members))
    np.testing.assert_allclose(fuse(loaded, moved), fused, atol=1e-5)


@pytest.mark.parametrize("name", ["nan", "cfan", "pfe", "caface-guided"])
def test_untrained_ones_are_about_the_plain_mean(banks: tuple[Bank, Bank], name: str) -> None:
    members = members_of(banks[0], 0)
    torch.manual_seed(0)
    fuser = make_fuser(plan_fuser(settings_of(name), C, K)).eval()
    units = members.embeddings / np.linalg.norm(members.embeddings, axis=1, keepdims=True)
    mean = units.mean(axis=0) / np.linalg.norm(units.mean(axis=0))
    np.testing.assert_allclose(fuse(fuser, members), mean, atol=0.02)


def test_the_guide_counts_a_face_as_often_as_its_score_says(banks: tuple[Bank, Bank]) -> None:
    torch.manual_seed(0)
    fuser = make_fuser(plan_fuser(settings_of("caface-guided"), C, K)).eval()
    assert isinstance(fuser, GuidedCAFace)
    with torch.no_grad():
        fuser.guide.fc2.weight.normal_()
    sets = next(iter(caface_recipe(SMALL, *banks)._sets)).sets
    with torch.no_grad():
        encoded = fuser.encode(sets)
        guided, scores = fuser.cluster(encoded), fuser.guide.score(sets)
        plain = fuser.cn(encoded.tokens[..., :-1], sets.mask).weights
        guided_mean = torch.nn.functional.normalize(fuse_sets(fuser.guide, sets), dim=1)
        fused = torch.nn.functional.normalize(fuse_sets(fuser, sets), dim=1)
    expected = torch.einsum("bmn,bn->bm", plain, scores.double().exp())
    torch.testing.assert_close(guided.mass, expected)
    # Untrained, centres are alike: what is left is the learned mean.
    assert (fused * guided_mean).sum(dim=1).min() > 0.99


def test_the_quality_is_read(banks: tuple[Bank, Bank]) -> None:
    torch.manual_seed(0)
    fuser = make_fuser(plan_fuser(settings_of("caface-quality"), C, K)).eval()
    assert isinstance(fuser, QualityCAFace)
    sets = next(iter(caface_recipe(SMALL, *banks)._sets)).sets
    assert sets.quality is not None
    other = sets._replace(quality=sets.quality.flip(1))
    with torch.no_grad():
        first, second = fuser.encode(sets), fuser.encode(other)
    assert not torch.allclose(first.tokens, second.tokens)
    torch.testing.assert_close(first.values, second.values)


def test_other_files_are_refused(banks: tuple[Bank, Bank], tmp_path: Path) -> None:
    with pytest.raises(MissingModelFile, match="no fuser at"):
        load_fuser(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", fuser=np.array("nan"))
    with pytest.raises(CorruptModelFile, match=r"other\.npz: expected a fuser"):
        load_fuser(tmp_path / "other.npz")
    plan = plan_fuser(settings_of("nan"), C, K)
    network = make_fuser(plan)
    save_fuser(tmp_path / "wrong.npz", plan._replace(dimension=C + 1), network)
    with pytest.raises(CorruptModelFile, match=r"RuntimeError"):
        load_fuser(tmp_path / "wrong.npz")


def test_keys_belong_to_the_learned_mean() -> None:
    with pytest.raises(ConfigError, match=r"keys of nan must be style\+norm"):
        CAFaceTraining(RUN, fuser="nan", keys="style")
