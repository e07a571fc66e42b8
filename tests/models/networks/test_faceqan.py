"""FaceQAN: the formula in numbers, gradient steps that reach the picture, and a network left alone.

Babnik, Peer, Struc, "FaceQAN", ICPR 2022.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from facestream import ConfigError, RecordError
from facestream.models.networks.backbone import Backbone, Stages, make_backbone
from facestream.models.networks.faceqan import FaceQANOptions, combine, faceqan

FEW = FaceQANOptions(copies=4, steps=3)


class Recording(Backbone):
    """A small smooth network that keeps the pictures it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.dimension, self.map_channels, self.style_channels = 16, 8, 16
        self.seen: list[Tensor] = []
        self.conv1 = nn.Conv2d(3, 8, 16, stride=16)  # (B, 8, 7, 7)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(8 * 49, self.dimension)
        self.features = nn.BatchNorm1d(self.dimension)

    def _stages(self, images: Tensor) -> Stages:
        self.seen.append(images.detach().clone())
        x = torch.tanh(self.conv1(images))
        return Stages(x, x, x)

    def _embed(self, last_map: Tensor) -> Tensor:
        embeddings: Tensor = self.features(self.fc(self.dropout(last_map).flatten(1)))
        return embeddings


@pytest.fixture
def network() -> Recording:
    torch.manual_seed(0)
    return Recording().eval()


def make_images(count: int) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 112, 112, generator=source) * 1.8 - 0.9


def test_combination_by_hand() -> None:
    # Mean 0.9, deviation 0.1 over all four cosines of two steps.
    cosines = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    expected = (1.9 / 2 * 0.9 * 0.5) ** 5
    assert combine(cosines, torch.tensor(0.5)).item() == pytest.approx(expected, rel=1e-6)
    plain = 1.9 / 2 * 0.9 * 0.5
    assert combine(cosines, torch.tensor(0.5), 1).item() == pytest.approx(plain, rel=1e-6)


def test_an_unmoved_symmetric_face_has_quality_1_and_an_inverted_one_keeps_its_sign() -> None:
    still = torch.ones(5, 10)
    assert combine(still, torch.tensor(1.0)).item() == 1.0
    for exponent in (2.0, 5.0):
        expected = -(0.5**exponent)
        assert combine(still, torch.tensor(-0.5), exponent).item() == pytest.approx(expected)


def test_deviation_is_clipped() -> None:
    assert combine(torch.tensor([1.0, -1.0]), torch.tensor(1.0)).item() == 0.0


def test_every_step_moves_every_pixel_by_epsilon_and_lowers_the_cosine(network: Recording) -> None:
    images = make_images(1)
    faceqan(network, images, FEW)
    pair, *copies = network.seen
    torch.testing.assert_close(pair, torch.stack([images[0], images[0].flip(2)]))
    assert [len(batch) for batch in copies] == [4, 4, 4]
    size = 0.001 * 2  # epsilon of the range -1..1
    assert 0.9 * size < (copies[0] - images).abs().max() <= size * 1.001
    for before, after in pairwise(copies):
        moves = (after - before).abs()
        torch.testing.assert_close(moves, torch.full_like(moves, size), rtol=0, atol=1e-6)
    with torch.no_grad():
        own = network(images)
        cosines = [
            torch.cosine_similarity(network(batch).double(), own.double()) for batch in copies
        ]
    assert (torch.stack(cosines).diff(dim=0) < 0).all()


def test_the_score_is_that_of_the_copies_and_the_mirror_image(network: Recording) -> None:
    quality = faceqan(network, make_images(1), FEW)
    pair, *copies = list(network.seen)
    with torch.no_grad():
        own, mirrored = network(pair).double()
        cosines = [torch.cosine_similarity(network(one).double(), own[None]) for one in copies]
    expected = combine(torch.stack(cosines), torch.cosine_similarity(own, mirrored, dim=0))
    assert quality.item() == pytest.approx(expected.item(), rel=1e-6)


def test_each_parameter_counts(network: Recording) -> None:
    images = make_images(1)
    base = faceqan(network, images, FEW)
    others = [
        replace(FEW, copies=5),
        replace(FEW, steps=4),
        replace(FEW, exponent=1.0),
        replace(FEW, epsilon=0.01),
        replace(FEW, low=-2.0, high=2.0),
    ]
    for options in others:
        assert faceqan(network, images, options).item() != base.item()
    powered = faceqan(network, images, replace(FEW, exponent=3.0)).item()
    plain = faceqan(network, images, replace(FEW, exponent=1.0)).item()
    assert powered == pytest.approx(math.copysign(abs(plain) ** 3, plain))


def test_stronger_noise_lowers_a_positive_score(network: Recording) -> None:
    # A mirror image of itself, so that symmetry is 1.
    half = make_images(1)
    images = (half + half.flip(3)) / 2
    scores = [
        faceqan(network, images, replace(FEW, epsilon=epsilon)).item()
        for epsilon in (1e-4, 1e-2, 3e-2)
    ]
    assert 1 > scores[0] > scores[1] > scores[2] > 0


def test_copies_stay_in_the_range_of_pixels(network: Recording) -> None:
    black = torch.zeros(1, 3, 112, 112)
    faceqan(network, black, replace(FEW, low=0.0, high=1.0))
    for copies in network.seen:
        assert copies.min() >= 0
        assert copies.max() <= 1


def test_scores_are_seeded_and_do_not_depend_on_the_batch(network: Recording) -> None:
    images = make_images(3)
    together = faceqan(network, images, FEW)
    assert together.dtype == torch.float64
    torch.manual_seed(99)
    assert torch.equal(faceqan(network, images, FEW), together)
    alone = torch.cat([faceqan(network, image[None], FEW) for image in images])
    assert torch.equal(alone, together)
    assert not torch.equal(faceqan(network, images, FEW, seed=1), together)
    assert faceqan(network, images[:0], FEW).shape == (0,)


def test_the_network_and_the_images_stay_as_they_were(network: Recording) -> None:
    network.train()
    network.conv1.eval()
    images = make_images(2)
    kept = images.clone()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    quality = faceqan(network, images, FEW)
    assert not quality.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.training
    assert network.dropout.training
    assert not network.conv1.training
    assert torch.equal(images, kept)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_gradients_are_there_for_callers_without(network: Recording) -> None:
    images = make_images(1)
    expected = faceqan(network, images, FEW)
    with torch.no_grad():
        assert torch.equal(faceqan(network, images, FEW), expected)
    with torch.inference_mode():
        assert torch.equal(faceqan(network, images.clone(), FEW), expected)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(faceqan(network, images, FEW), expected)


def test_the_mobile_backbone_has_a_score() -> None:
    torch.manual_seed(0)
    backbone = make_backbone("mobile", dimension=16).eval()
    quality = faceqan(backbone, make_images(1), FaceQANOptions(copies=2, steps=2))
    assert -1 <= quality.item() <= 1


def test_refusals(network: Recording) -> None:
    with pytest.raises(RecordError, match=r"pixels lie in -1.0..1.0, got .*..255: give low"):
        faceqan(network, torch.full((1, 3, 112, 112), 255.0))
    with pytest.raises(RecordError, match="got nan"):
        faceqan(network, torch.full((1, 3, 112, 112), torch.nan))
    with pytest.raises(RecordError, match="images"):
        faceqan(network, torch.zeros(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="2 or more copies"):
        FaceQANOptions(copies=1)
    with pytest.raises(ConfigError, match="low < high"):
        FaceQANOptions(low=1.0, high=1.0)
