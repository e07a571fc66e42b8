"""The tiny backbone: shapes and parameters by hand, and the interface of the large ones."""

from __future__ import annotations

import pytest
import torch

from facestream import ConfigError
from facestream.models.networks.backbone import make_backbone, stages_to_styles
from facestream.models.networks.cqa import CQAFace


def conv(into: int, out: int, kernel: int) -> int:
    """Weights of a convolution and its batch norm."""
    return into * out * kernel * kernel + 2 * out


def block(into: int, out: int) -> int:
    return conv(into, out, 3) + conv(out, out, 3) + conv(into, out, 1) + 2 * out


@pytest.mark.parametrize("dimension", [128, 256])
def test_parameters_are_those_of_its_text(dimension: int) -> None:
    stem = conv(3, 32, 8) + 32
    last = conv(128, 256, 1) + 256
    head = 256 * 49 + 2 * 256 + 256 * dimension + 2 * dimension
    expected = stem + block(32, 64) + block(64, 128) + last + head
    network = make_backbone("tiny", dimension=dimension)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert dimension != 256 or expected == 407_136


def test_maps_styles_and_embeddings_have_their_shapes() -> None:
    network = make_backbone("tiny", dimension=24).eval()
    images = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    stages = network.stages(images)
    assert [tuple(x.shape) for x in stages] == [(3, 32, 28, 28), (3, 64, 14, 14), (3, 256, 7, 7)]
    embeddings, styles = network.with_styles(images)
    assert embeddings.shape == (3, 24) and styles.shape == (3, network.style_channels, 2)
    assert torch.equal(styles, stages_to_styles(stages))
    assert network.map_channels == 256 and network.style_channels == 96
    torch.testing.assert_close(network.head(stages.last), embeddings)


def test_every_weight_learns() -> None:
    network = make_backbone("tiny", dimension=16)
    generator = torch.Generator().manual_seed(2)
    wanted = torch.randn(4, 16, generator=generator)
    (network(torch.randn(4, 3, 112, 112, generator=generator)) * wanted).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_branches_sit_on_it() -> None:
    network = CQAFace(make_backbone("tiny"), dimension=16).eval()
    embeddings, branches = network.with_branches(torch.zeros(2, 3, 112, 112))
    assert embeddings.shape == (2, 16) and branches.parts.shape == (2, 4, 256)


def test_a_convention_is_refused() -> None:
    with pytest.raises(ConfigError, match="backbone tiny has one convention"):
        make_backbone("tiny", convention="adaface")
