"""LightQNet's small network: shapes, and the published weights in it give the published scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facestream import ConfigError, RecordError
from facestream.models.networks.lightqnet import Bottleneck, LightQNet
from facestream.models.networks.quality_losses import distillation_loss

PUBLISHED = "lightqnet-dm100.onnx"


def test_parameters_and_shapes() -> None:
    with torch.device("meta"):
        sizes = {width: LightQNet(width) for width in (1.0, 0.5, 0.25)}
    counts = {width: sum(p.numel() for p in net.parameters()) for width, net in sizes.items()}
    assert counts == {1.0: 429_465, 0.5: 124_449, 0.25: 43_513}
    inner = [block.filter.conv.in_channels for block in sizes[1.0].blocks]
    assert inner == [16, 72, 88, 96, 240, 240, 120, 144, 288, 576, 576]


def test_one_logit_per_face_whatever_the_batch() -> None:
    torch.manual_seed(0)
    network = LightQNet(0.25).eval()
    images = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert together.shape == (3,)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_a_teacher_is_learned() -> None:
    torch.manual_seed(0)
    network = LightQNet(0.25)
    images = torch.randn(8, 3, 96, 96) * torch.linspace(0.1, 2, 8)[:, None, None, None]
    teacher = torch.linspace(-2, 2, 8)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = distillation_loss(network(images), teacher)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_published_weights_give_published_scores(assets: Path) -> None:
    """The published file has its batch norms folded into the convolutions, in the same order."""
    import onnx
    import onnxruntime

    path = assets / "models" / PUBLISHED
    graph = onnx.load(path).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    network = LightQNet().eval()
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    ours = [one for one in network.modules() if isinstance(one, nn.Conv2d)]
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    assert len(convolutions) == len(ours) == len(norms)
    with torch.no_grad():
        for node, convolution, norm in zip(convolutions, ours, norms, strict=True):
            weight, bias = (torch.tensor(arrays[name]) for name in node.input[1:])
            assert weight.shape == convolution.weight.shape
            convolution.weight.copy_(weight)
            norm.running_var.fill_(1 - norm.eps)
            norm.bias.copy_(bias)
        product = next(node for node in graph.node if node.op_type == "MatMul")
        add = graph.node[-2]
        network.linear.weight.copy_(torch.tensor(arrays[product.input[1]]).T)
        network.linear.bias.copy_(
            torch.tensor(next(arrays[name] for name in add.input if name in arrays))
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    pixels = random.uniform(-1, 1, (4, 96, 96, 3)).astype(np.float32)
    pixels *= np.linspace(0.05, 1, 4, dtype=np.float32)[:, None, None, None]
    (expected,) = session.run(None, {"input:0": pixels})
    with torch.no_grad():
        found = torch.sigmoid(network(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
    np.testing.assert_allclose(found.numpy(), expected[:, 0], atol=1e-5)


def test_a_bottleneck_adds_its_input_only_where_it_fits() -> None:
    assert Bottleneck(8, 16, 8, 1).residual
    assert not Bottleneck(8, 16, 8, 2).residual
    assert not Bottleneck(8, 16, 16, 1).residual


def test_refusals() -> None:
    with pytest.raises(RecordError, match=r"\(B, 3, 96, 96\), got \(1, 3, 112, 112\)"):
        LightQNet(0.25)(torch.zeros(1, 3, 112, 112))
    with pytest.raises(ConfigError, match=r"in \(0, 1\], got 1.5"):
        LightQNet(1.5)
