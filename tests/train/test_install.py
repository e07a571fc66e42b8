"""Trained networks are put beside a card whole, named in it, and nothing else changes."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from facestream import CorruptModelFile, ModelError
from facestream.models.caface_head import HeadSize, random_head, save_head
from facestream.models.card import Card
from facestream.models.card_file import read_card
from facestream.models.ida_learned import LearnedDensity, save_learned_density
from facestream.models.networks.feature_quality import FeatureQuality
from facestream.models.quality_head import save_quality_head
from facestream.models.store import CARDS
from facestream.train.install import Provenance, install_head

ORIGIN = Provenance("Apache-2.0", "nobody", "facestream train ida mine", {"error": 0.123456})


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """A copy of a card that ships, which may be written."""
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "open.yaml").write_text((CARDS / "open.yaml").read_text(encoding="utf-8"))
    return read_card(folder / "open.yaml")


@pytest.fixture
def density(tmp_path: Path) -> Path:
    """An exported IDA-L for embeddings of 128 numbers."""
    draw = np.random.default_rng(1)
    shapes = {"fc1.weight": (8, 128), "fc1.bias": (8,), "fc2.weight": (1, 8), "fc2.bias": (1,)}
    arrays = {
        name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    save_learned_density(
        tmp_path / "mine.npz", LearnedDensity(arrays, "density", 0.0, 1.0, 10, 1.0)
    )
    return tmp_path / "mine.npz"


def test_a_density_is_named_in_the_section_of_the_anchors(card: Card, density: Path) -> None:
    path = install_head(card, "density", density, ORIGIN)
    assert path == card.folder / "mine.npz" and path.read_bytes() == density.read_bytes()
    written = read_card(card.path)
    assert written.ida is not None and written.ida.learned is not None and card.ida is not None
    head = written.ida.learned
    assert head.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (head.licence, head.attribution, head.command) == ORIGIN[:3]
    assert head.validation == {"error": 0.1235}
    assert dataclasses.replace(written.ida, learned=card.ida.learned) == card.ida
    assert dataclasses.replace(written, ida=card.ida) == card
    assert "# The default pack" in card.path.read_text(encoding="utf-8")


def test_a_fusion_head_does_not_choose_the_aggregator(card: Card, tmp_path: Path) -> None:
    exported = tmp_path / "open.caface.npz"
    save_head(exported, random_head(1, HeadSize(128, 192, 2, 8, 8)))
    install_head(card, "caface", exported, ORIGIN)
    written = read_card(card.path)
    assert written.fusion.caface is not None and written.fusion.caface.file == exported.name
    assert dataclasses.replace(written.fusion, caface=card.fusion.caface) == card.fusion
    assert written.ida == card.ida


def test_a_quality_head_takes_the_place_of_the_source(card: Card, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = FeatureQuality(128, 192, hidden=4)
    network.fit_scale(np.random.default_rng(0).normal(size=(9, 128 + 1 + 2 * 192)))
    exported = tmp_path / "open.quality.npz"
    save_quality_head(exported, network.export())
    install_head(card, "quality", exported, ORIGIN)
    written = read_card(card.path)
    assert (card.quality.kind, written.quality.kind) == ("training_free", "head")
    assert written.quality.head is not None and written.quality.head.file == exported.name
    assert dataclasses.replace(written, quality=card.quality) == card


def test_a_density_needs_anchors(card: Card, density: Path) -> None:
    before = card.path.read_bytes()
    with pytest.raises(ModelError, match="has no anchors"):
        install_head(dataclasses.replace(card, ida=None), "density", density, ORIGIN)
    assert card.path.read_bytes() == before and not (card.folder / "mine.npz").exists()


@pytest.mark.parametrize("kind", ["density", "learned", "caface", "quality"])
def test_a_file_of_another_kind_changes_nothing(card: Card, tmp_path: Path, kind: str) -> None:
    (tmp_path / "odd.npz").write_bytes(b"PK")
    before = card.path.read_bytes()
    with pytest.raises(CorruptModelFile):
        install_head(card, kind, tmp_path / "odd.npz", ORIGIN)  # type: ignore[arg-type]
    assert card.path.read_bytes() == before and not (card.folder / "odd.npz").exists()
