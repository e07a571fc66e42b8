"""The quality head on a recognition network: what is trained, how fast, and what stays still.

Babnik, Damer, Struc, "Optimization-Based Improvement of Face Image Quality Assessment Techniques",
IWBF 2023, section III-D and the published training code.
"""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from facestream import ConfigError, RecordError
from facestream.models.label_optimisation import normalise_labels, split_labels
from facestream.models.networks.backbone import Backbone, Stages, make_backbone
from facestream.models.networks.label_transfer import QualityRegressor, label_loss

UNITS = 40
CHANNELS = 8


class Tiny(Backbone):
    """A backbone of 126 parameter tensors that takes milliseconds: 26 are before the groups."""

    def __init__(self) -> None:
        super().__init__()
        self.dimension, self.map_channels, self.style_channels = 16, CHANNELS, 2 * CHANNELS
        self.conv1 = nn.Conv2d(3, CHANNELS, 16, stride=16, bias=False)  # (B, 8, 7, 7)
        self.bn1 = nn.BatchNorm2d(CHANNELS)
        self.units = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS)
                )
                for _ in range(UNITS)
            )
        )
        self.fc = nn.Linear(CHANNELS * 49, self.dimension, bias=False)
        self.features = nn.BatchNorm1d(self.dimension)

    def _stages(self, images: Tensor) -> Stages:
        x = self.bn1(self.conv1(images))
        for unit in self.units:
            x = x + 0.1 * unit(x)
        return Stages(x, x, x)

    def _embed(self, last_map: Tensor) -> Tensor:
        embeddings: Tensor = self.features(self.fc(last_map.flatten(1)))
        return embeddings


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def make_images(quality: Tensor, seed: int = 0) -> Tensor:
    """Pictures (B, 3, 112, 112) of stripes that fade into noise as quality falls."""
    draw = torch.Generator().manual_seed(seed)
    stripes = torch.linspace(0, 44, 112).sin().expand(len(quality), 3, 112, 112)
    noise = torch.randn(len(quality), 3, 112, 112, generator=draw)
    q = quality[:, None, None, None]
    return q * stripes + (1 - q) * noise


def test_the_head_has_513_parameters_on_a_512_d_network() -> None:
    with torch.device("meta"):
        model = QualityRegressor(make_backbone("iresnet18"))
    assert sum(parameter.numel() for parameter in model.head.parameters()) == 513


def test_iresnet100_is_cut_at_the_published_tensors() -> None:
    with torch.device("meta"):
        model = QualityRegressor(make_backbone("iresnet100"))
    names = {id(tensor): name for name, tensor in model.backbone.named_parameters()}
    assert len(names) == 463
    head, last, middle, early = model.groups()
    assert [id(tensor) for tensor in head["params"]] == [id(p) for p in model.head.parameters()]
    assert [names[id(group["params"][0])] for group in (last, middle, early)] == [
        "layer4.2.prelu.weight",
        "layer3.28.bn2.bias",
        "layer3.22.bn3.bias",
    ]
    # The tenth of the last ten is the fixed scale of the final batch norm.
    assert [len(group["params"]) for group in (head, last, middle, early)] == [2, 9, 40, 50]
    rates = [(group["lr"], group["weight_decay"]) for group in (head, last, middle, early)]
    expected = [(1e-3, 1e-4), (1e-3, 1e-5), (1e-4, 1e-6), (1e-5, 1e-6)]
    assert rates == [pytest.approx(pair) for pair in expected]
    assert sum(not p.requires_grad for p in model.backbone.parameters()) == 463 - 100 + 1


def test_a_network_of_fewer_tensors_is_trained_whole() -> None:
    with torch.device("meta"):
        model = QualityRegressor(make_backbone("iresnet18"))
    assert [len(group["params"]) for group in model.groups()] == [2, 9, 40, 44]


def test_only_the_groups_move_in_a_training_step(tiny: Tiny) -> None:
    model = QualityRegressor(tiny)
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.Adam(model.groups(0.1))
    quality = torch.linspace(0, 1, 8)
    label_loss(model(make_images(quality)), quality).backward()
    optimiser.step()
    moved = {name for name, tensor in model.named_parameters() if (tensor != before[name]).any()}
    frozen = {name for name, tensor in model.named_parameters() if not tensor.requires_grad}
    assert len(frozen) == 26
    assert moved.isdisjoint(frozen)
    # Steps of Adam begin at the learning rate: 0.1, 0.1, 0.01 and 0.001 of it.
    steps = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    assert steps["head.weight"] == pytest.approx(0.1, rel=1e-2)
    assert steps["backbone.features.weight"] == pytest.approx(0.1, rel=1e-2)
    assert steps["backbone.units.30.1.weight"] == pytest.approx(0.01, rel=1e-2)
    assert steps["backbone.units.15.1.weight"] == pytest.approx(0.001, rel=1e-2)


@pytest.mark.parametrize("move_statistics", [False, True])
def test_frozen_layers_stay_those_of_the_recognition_network(
    tiny: Tiny, move_statistics: bool
) -> None:
    model = QualityRegressor(tiny, move_statistics=move_statistics)
    before = copy.deepcopy(tiny.state_dict())
    model.eval().train()
    model(make_images(torch.linspace(0, 1, 8)))
    still = [
        name
        for name, values in tiny.state_dict().items()
        if name.endswith("running_mean") and torch.equal(values, before[name])
    ]
    # 26 tensors: conv1 and bn1 with three, seven units with three, one convolution and one scale.
    # The norm of which the shift is trained, the scale not, counts as trained.
    expected = ["bn1.running_mean", *(f"units.{unit}.1.running_mean" for unit in range(7))]
    assert still == ([] if move_statistics else expected)


def test_output_is_one_number_per_face_and_does_not_depend_on_the_batch(tiny: Tiny) -> None:
    model = QualityRegressor(tiny).eval()
    images = make_images(torch.linspace(0, 1, 4))
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert together.shape == (4,)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


def test_the_head_keeps_float32_under_autocast(tiny: Tiny) -> None:
    class Embedded(Tiny):
        def _embed(self, last_map: Tensor) -> Tensor:
            return super()._embed(last_map).float()

    torch.manual_seed(0)
    model = QualityRegressor(Embedded()).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        quality = model(make_images(torch.linspace(0, 1, 64)))
    assert quality.dtype == torch.float32
    assert (quality != quality.bfloat16().float()).any()


def test_l1_on_one_picture_drives_to_the_median_of_its_labels(tiny: Tiny) -> None:
    model = QualityRegressor(tiny.requires_grad_(False)).eval()
    images = make_images(torch.zeros(1)).expand(5, -1, -1, -1)
    labels = torch.tensor([0.0, 0.1, 0.3, 0.9, 1.0])
    optimiser = torch.optim.Adam(model.head.parameters(), 0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.97)
    for _ in range(200):
        optimiser.zero_grad()
        label_loss(model(images), labels).backward()
        optimiser.step()
        schedule.step()
    torch.testing.assert_close(model(images), torch.full((5,), 0.3), rtol=0, atol=2e-3)


def test_a_network_learns_to_rank_pictures_it_has_not_seen(tiny: Tiny) -> None:
    truth = torch.rand(320, generator=torch.Generator().manual_seed(1))
    labels = torch.from_numpy(normalise_labels(40 * truth.numpy() - 3))
    images = make_images(truth)
    split = split_labels(labels.numpy())
    training, validation = torch.from_numpy(split.training), torch.from_numpy(split.validation)
    model = QualityRegressor(tiny)
    optimiser = torch.optim.Adam(model.groups(1e-2))
    for step in range(40):
        batch = training[torch.arange(step * 32, step * 32 + 32) % len(training)]
        optimiser.zero_grad()
        label_loss(model(images[batch]), labels[batch]).backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        found = model(images[validation])
    assert len(found) == 16
    assert spearmanr(found, truth[validation]).statistic > 0.9


def test_refusals(tiny: Tiny) -> None:
    with pytest.raises(RecordError, match=r"must both be \(B,\), got \(4,\) and \(4, 1\)"):
        label_loss(torch.zeros(4), torch.zeros(4, 1))
    with pytest.raises(ConfigError, match="learning_rate must be above 0, got 0"):
        QualityRegressor(tiny).groups(0)
    with pytest.raises(RecordError, match="images"):
        QualityRegressor(tiny)(torch.zeros(1, 3, 64, 64))
