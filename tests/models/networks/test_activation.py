"""Class activation maps add up to the score that they explain."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from facestream import ConfigError, RecordError
from facestream.models.networks.activation import branch_activation, class_activation
from facestream.models.networks.backbone import Backbone, make_backbone
from facestream.models.networks.cqa import CQAFace

M = TypeVar("M", bound=nn.Module)


def as_trained(network: M) -> M:
    """float64 and eval mode, with batch norms that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.2, 1)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return network.double().eval()


@pytest.fixture(scope="module")
def branched() -> CQAFace:
    torch.manual_seed(0)
    return as_trained(CQAFace(make_backbone("mobile"), branches=3, dimension=16))


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", ["mobile", "iresnet18"])
def test_an_affine_head_is_split_over_places_without_remainder(name: str) -> None:
    torch.manual_seed(0)
    network = as_trained(make_backbone(name, dimension=8))
    last_map, directions = doubles(2, 512, 7, 7), doubles(2, 8)
    maps = class_activation(network, last_map, directions)
    assert maps.shape == (2, 7, 7) and not maps.requires_grad
    with torch.no_grad():
        change = network.head(last_map) - network.head(torch.zeros_like(last_map))
    assert torch.allclose(maps.sum(dim=(1, 2)), (directions * change).sum(dim=1), atol=1e-10)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_place_counts_for_itself() -> None:
    """For an affine head: emptying one place changes the score by that place's value."""
    torch.manual_seed(0)
    network = as_trained(make_backbone("mobile", dimension=8))
    last_map, direction = doubles(1, 512, 7, 7), doubles(1, 8)
    maps = class_activation(network, last_map, direction)
    emptied = last_map.clone()
    emptied[:, :, 2, 5] = 0
    with torch.no_grad():
        change = (network.head(last_map) - network.head(emptied)) @ direction[0]
    assert change.item() == pytest.approx(maps[0, 2, 5].item(), abs=1e-10)


def test_branches_split_the_score_over_parts_and_places(branched: CQAFace) -> None:
    last_map, directions = doubles(2, 512, 7, 7), doubles(2, 16)
    found = branch_activation(branched, last_map, directions)
    branches = branched.branches(last_map)
    assert torch.equal(found.attention, branches.maps)
    assert torch.equal(found.qualities, branches.qualities)
    for branch in range(3):
        without = branches.parts.clone()
        without[:, branch] = 0
        change = branched.join(branches) - branched.join(branches._replace(parts=without))
        expected = (directions * change).sum(dim=1)
        assert torch.allclose(found.activations[:, branch].sum(dim=(1, 2)), expected, atol=1e-12)
    whole = class_activation(branched, last_map, directions)
    assert torch.allclose(whole, found.activations.sum(dim=1), atol=1e-12)


def test_a_branch_is_silent_where_it_does_not_look(branched: CQAFace) -> None:
    last_map, directions = doubles(1, 512, 7, 7), doubles(1, 16)
    last_map[:, :, 0, 0] = 0
    found = branch_activation(branched, last_map, directions)
    assert not found.activations[:, :, 0, 0].any()
    assert found.activations[:, :, 1, 1].abs().min() > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_usable_where_gradients_are_off(branched: CQAFace, mode: type) -> None:
    torch.manual_seed(0)
    plain = as_trained(make_backbone("mobile", dimension=16))
    networks: list[Backbone] = [plain, branched]
    for network in networks:
        expected = class_activation(network, doubles(1, 512, 7, 7), doubles(1, 16))
        with mode():
            found = class_activation(network, doubles(1, 512, 7, 7), doubles(1, 16))
        assert torch.equal(found, expected)


def test_refusals(branched: CQAFace) -> None:
    training = CQAFace(make_backbone("mobile"), dimension=16)
    with pytest.raises(ConfigError, match=r"eval mode: call network\.eval\(\)"):
        class_activation(training, torch.zeros(1, 512, 7, 7), torch.zeros(1, 16))
    with pytest.raises(RecordError, match=r"one row per face, \(2, 16\), got \(1, 16\)"):
        branch_activation(branched, doubles(2, 512, 7, 7), doubles(1, 16))
    with pytest.raises(RecordError, match=r"last_map must be \(B, 512, H, W\), got \(1, 4, 7, 7\)"):
        branch_activation(branched, doubles(1, 4, 7, 7), doubles(1, 16))
