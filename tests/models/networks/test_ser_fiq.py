"""SER-FIQ: the formula in numbers, and what the score of a network must and must not depend on.

Terhoerst et al., "SER-FIQ", CVPR 2020.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from facestream import ConfigError, RecordError
from facestream.models.networks.backbone import Backbone, Stages, make_backbone
from facestream.models.networks.ser_fiq import (
    Dropout,
    embedding_robustness,
    find_dropout,
    ser_fiq,
    stretch_scores,
)


class Small(Backbone):
    """A stem that is one convolution, and a head with dropout like IResNet's."""

    def __init__(self, dropout: nn.Module | None = None) -> None:
        super().__init__()
        self.dimension, self.map_channels, self.style_channels = 32, 8, 16
        self.stem_calls = 0
        self.conv1 = nn.Conv2d(3, 8, 16, stride=16)  # (B, 8, 7, 7)
        self.dropout = nn.Dropout(0.4) if dropout is None else dropout
        self.fc = nn.Linear(8 * 49, self.dimension)
        self.features = nn.BatchNorm1d(self.dimension)

    def _stages(self, images: Tensor) -> Stages:
        self.stem_calls += 1
        x = self.conv1(images)
        return Stages(x, x, x)

    def _embed(self, last_map: Tensor) -> Tensor:
        embeddings: Tensor = self.features(self.fc(self.dropout(last_map).flatten(1)))
        return embeddings


def make_small(dropout: nn.Module | None = None) -> Small:
    torch.manual_seed(0)
    return Small(dropout).eval()


def make_images(count: int) -> Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(1))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_three_embeddings_by_hand() -> None:
    # Directions e1, e2, e1: distances sqrt(2), 0 and sqrt(2).
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 0.5], [1.0, 0.0]])
    total = 2 * math.sqrt(2)
    assert embedding_robustness(embeddings).item() == pytest.approx(2 * sigmoid(-total / 3))
    paper = 2 * sigmoid(-2 / 9 * total)
    assert embedding_robustness(embeddings, "paper").item() == pytest.approx(paper)


def test_the_papers_factor_is_short_of_the_mean_by_one_pass() -> None:
    embeddings = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    mean, paper = (
        -torch.logit(embedding_robustness(embeddings, factor) / 2) for factor in ("mean", "paper")
    )
    assert (paper / mean).item() == pytest.approx(19 / 20)


def test_equal_embeddings_have_quality_1_exactly_and_opposite_ones_the_least() -> None:
    one = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    assert embedding_robustness(one.expand(50, -1)).item() == 1.0
    assert embedding_robustness(torch.cat([one, -one])).item() == pytest.approx(2 * sigmoid(-2))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 1000))
def test_range_and_order_of_any_embeddings(passes: int, dimension: int, seed: int) -> None:
    embeddings = torch.randn(passes, dimension, generator=torch.Generator().manual_seed(seed))
    mean = embedding_robustness(embeddings).item()
    paper = embedding_robustness(embeddings, "paper").item()
    assert 2 * sigmoid(-2) <= mean + 1e-12
    assert mean <= paper <= 1
    shuffled = embedding_robustness(embeddings.flip(0) * 7.0).item()
    assert shuffled == pytest.approx(mean)


def test_stretching_keeps_the_order_and_centres_at_088() -> None:
    quality = torch.linspace(0.24, 1, 500, dtype=torch.float64)
    stretched = stretch_scores(quality)
    assert (stretched.diff() > 0).all()
    assert stretch_scores(torch.tensor(0.88, dtype=torch.float64)).item() == pytest.approx(0.5)
    assert stretch_scores(torch.tensor(0.9, dtype=torch.float64)).item() == pytest.approx(
        sigmoid(130 * 0.02)
    )


def test_the_stem_runs_once_and_the_network_stays_as_it_was() -> None:
    network = make_small().train()
    network.conv1.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    quality = ser_fiq(network, make_images(3), passes=10)
    assert network.stem_calls == 1
    assert quality.shape == (3,)
    assert quality.dtype == torch.float64
    assert not quality.requires_grad
    assert ((quality > 0) & (quality < 1)).all()
    assert network.training
    assert network.dropout.training
    assert not network.conv1.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_dropout_quality_is_1() -> None:
    quality = ser_fiq(make_small(), make_images(2), passes=10, dropout=Dropout(0.0))
    torch.testing.assert_close(quality, torch.ones(2).double(), rtol=0, atol=1e-6)


def test_more_dropout_lowers_quality() -> None:
    network, images = make_small(), make_images(4)
    scores = [ser_fiq(network, images, dropout=Dropout(rate)) for rate in (0.05, 0.2, 0.5, 0.8)]
    assert (torch.stack(scores).diff(dim=0) < 0).all()


def test_scores_are_seeded_and_do_not_depend_on_the_batch() -> None:
    network, images = make_small(), make_images(4)
    together = ser_fiq(network, images, passes=20)
    torch.manual_seed(99)
    assert torch.equal(ser_fiq(network, images, passes=20), together)
    alone = torch.cat([ser_fiq(network, image[None], passes=20) for image in images])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    assert not torch.equal(ser_fiq(network, images, passes=20, seed=1), together)
    assert ser_fiq(network, images[:0], passes=20).shape == (0,)


def test_masks_do_what_torchs_dropout_does() -> None:
    # 2,000 passes with dropout switched on in the network itself.
    network, image = make_small(), make_images(1)
    network.dropout.train()
    torch.manual_seed(5)
    with torch.no_grad():
        last = network.feature_map(image)
        slow = embedding_robustness(network.head(last.expand(2000, -1, -1, -1)))
    network.eval()
    fast = ser_fiq(network, image, passes=2000)
    assert fast.item() == pytest.approx(slow.item(), abs=2e-3)


def test_dropout_is_taken_from_the_backbone() -> None:
    assert find_dropout(make_small()) == Dropout(0.4, "elements")
    with torch.device("meta"):
        magface = make_backbone("iresnet18", convention="magface")
        adaface = make_backbone("iresnet18", convention="adaface")
    assert find_dropout(magface) == Dropout(0.4, "channels")
    assert find_dropout(adaface) == Dropout(0.4, "elements")


def test_channels_are_dropped_whole_where_the_network_was_trained_so() -> None:
    by_channel = make_small(nn.Dropout2d(0.4))
    channels = ser_fiq(by_channel, make_images(2))
    elements = ser_fiq(by_channel, make_images(2), dropout=Dropout(0.4))
    # Eight channels leave far less to average over than 392 elements.
    assert not torch.allclose(channels, elements, atol=1e-3)


def test_a_network_without_dropout_needs_to_be_told() -> None:
    network = make_backbone("mobile", dimension=16).eval()
    with pytest.raises(ConfigError, match="one dropout layer, got 0"):
        ser_fiq(network, make_images(1))
    quality = ser_fiq(network, make_images(1), passes=4, dropout=Dropout(0.4))
    assert 0 < quality.item() < 1


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="2 or more, got 1"):
        ser_fiq(make_small(), make_images(1), passes=1)
    with pytest.raises(ConfigError, match=r"in \[0, 1\), got 1.0"):
        ser_fiq(make_small(), make_images(1), dropout=Dropout(1.0))
    with pytest.raises(RecordError, match="images"):
        ser_fiq(make_small(), torch.zeros(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="factor must be mean or paper, got 'sum'"):
        ser_fiq(make_small(), make_images(1), factor="sum")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"got \(1, 4\)"):
        embedding_robustness(torch.zeros(1, 4))
