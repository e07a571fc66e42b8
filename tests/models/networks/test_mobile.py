"""The compact backbone: its documented sizes, and the interface of the large ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facestream import RecordError
from facestream.models.networks.backbone import (
    Backbone,
    make_backbone,
    stages_to_styles,
)
from facestream.models.networks.mobile import MobileBackbone


def faces(batch: int) -> Tensor:
    return torch.rand(batch, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("dimension", "parameters"), [(512, 1_200_512), (128, 1_003_136)])
def test_parameters(dimension: int, parameters: int) -> None:
    network = make_backbone("mobile", dimension=dimension)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_shapes_of_every_stage() -> None:
    network, images = MobileBackbone(), faces(3)
    stages = network.stages(images)
    assert network.stem(images).shape == (3, 64, 56, 56)
    assert stages.second.shape == (3, 64, 28, 28)
    assert stages.third.shape == (3, 128, 14, 14)
    assert stages.last.shape == (3, network.map_channels, 7, 7) == (3, 512, 7, 7)
    embeddings, styles = network.with_styles(images)
    assert embeddings.shape == (3, 512)
    assert styles.shape == (3, network.style_channels, 2) == (3, 192, 2)


def test_it_is_a_backbone_of_any_dimension() -> None:
    network = make_backbone("mobile", dimension=64).eval()
    assert isinstance(network, Backbone) and network.dimension == 64
    with torch.no_grad():
        embeddings, styles = network.with_styles(faces(2))
        assert torch.equal(embeddings, network(faces(2)))
        assert torch.equal(styles, stages_to_styles(network.stages(faces(2))))
    assert embeddings.isfinite().all() and embeddings.norm(dim=1).min() > 0


def test_untrained_signals_keep_their_size() -> None:
    """So that a first forward in half precision neither overflows nor vanishes."""
    torch.manual_seed(0)
    network = make_backbone("mobile").eval()
    with torch.no_grad():
        last = network.feature_map(faces(4))
    assert 1e-2 < last.std().item() < 1e2


def test_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = make_backbone("mobile", dimension=32)
    embeddings = network(faces(4))
    (embeddings * torch.randn(embeddings.shape)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_other_images_are_refused() -> None:
    network = make_backbone("mobile")
    with pytest.raises(RecordError, match=r"got \(2, 3, 96, 96\)"):
        network(torch.zeros(2, 3, 96, 96))
