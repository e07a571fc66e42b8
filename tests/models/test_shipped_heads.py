"""The fusion heads that ship: they load, keep one face, mind no order, and beat the plain mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facestream.configs.split import role_pictures
from facestream.configs.training import BankSettings
from facestream.models.aggregators import make_aggregator
from facestream.models.caface import CAFace
from facestream.models.fusion import Aggregator, Members
from facestream.models.pack import Pack, fusion_heads
from facestream.models.store import load_card
from facestream.train.feature_bank import Bank, make_bank

PEOPLE = 6
HEADS = [(pack, name) for pack in ("omz", "open") for name in ("learned", "caface")]


def head_of(pack: str, name: str) -> Aggregator:
    card = load_card(pack)
    return make_aggregator(
        name, dimension=card.embedder.dimension, head_path=fusion_heads(card)[name]
    )


def random_members(pack: str, count: int) -> Members:
    spec, draw = load_card(pack).embedder, np.random.default_rng(count)
    embeddings = draw.normal(size=(count, spec.dimension)).astype(np.float32)
    return Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1),
        draw.uniform(0.1, 0.9, count).astype(np.float32),
        draw.normal(size=(count, spec.style_channels, 2)).astype(np.float32),
    )


def fuse(one: Aggregator, members: Members) -> np.ndarray:
    return one.read(one.update(one.empty(), members))


@pytest.mark.parametrize(("pack", "name"), HEADS)
def test_every_head_says_where_it_comes_from(pack: str, name: str) -> None:
    spec = load_card(pack).fusion.heads[name]
    assert spec.file == f"{pack}.{name}.npz" and spec.licence == "Apache-2.0"
    assert "SFHQ" in spec.attribution and "facestream train caface" in spec.command
    assert set(spec.validation) >= {"identity", "rank-1", "TPIR"}


@pytest.mark.parametrize(("pack", "name"), HEADS)
def test_one_face_gives_itself_and_order_does_not_matter(pack: str, name: str) -> None:
    one = head_of(pack, name)
    single = random_members(pack, 1)
    unit = single.embeddings[0] / np.linalg.norm(single.embeddings[0])
    np.testing.assert_allclose(fuse(one, single), unit, atol=1e-6)
    members = random_members(pack, 12)  # one chunk of CAFace
    order = np.random.default_rng(0).permutation(12)
    mixed = Members(*(column[order] for column in members))
    np.testing.assert_allclose(fuse(one, mixed), fuse(one, members), atol=1e-6)
    assert isinstance(one, CAFace) == (name == "caface")


@pytest.fixture(scope="module")
def bank(assets: Path, omz_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """A few people of the role subject, from nearly clean to nearly lost."""
    people = list(role_pictures(assets, "subject", "london").items())[:PEOPLE]
    smiling = {who: paths[-1] for who, paths in people}
    settings = BankSettings(runs=4, frames=2, strength=(0.3, 0.9), seed=3)
    return make_bank(tmp_path_factory.mktemp("bank") / "store", smiling, settings, "omz")


@pytest.mark.parametrize("name", ["learned", "caface"])
def test_degraded_faces_come_nearer_to_their_person_than_by_the_mean(bank: Bank, name: str) -> None:
    one, mean = head_of("omz", name), make_aggregator("mean", dimension=bank.clean.shape[1])
    gain = []
    for person in range(len(bank.names)):
        found = bank.found[person]
        embeddings = bank.embeddings[person][found]
        members = Members(
            embeddings,
            np.linalg.norm(embeddings, axis=1),
            bank.quality[person][found],
            bank.styles[person][found],
        )
        gain.append((fuse(one, members) - fuse(mean, members)) @ bank.centres[person])
    assert np.mean(gain) > 0.02
