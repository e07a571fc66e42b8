"""IDA-L: what the network is, that it learns what anchors measure, and that it leaves torch."""

import functools

import numpy as np
import pytest
import torch

from facestream import ConfigError, RecordError
from facestream.models.ida import Anchors
from facestream.models.networks.ssr import SSR, ssr_from

C = 32


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def crowded_faces() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings and r of 4,000 training and 1,000 other faces, from domains of all densities."""
    draw = np.random.default_rng(0)
    shared, crowding = unit(draw.standard_normal((5, C))), np.linspace(0, 1.3, 5)

    def photos(count: int) -> np.ndarray:
        domain = draw.integers(0, 5, count)
        own = unit(draw.standard_normal((count, C)))
        return unit(crowding[domain, None] * shared[domain] + own)

    anchors, training, others = Anchors(photos(2000), "a"), photos(4000), photos(1000)
    return (
        torch.from_numpy(training),
        torch.from_numpy(anchors.density(training)),
        torch.from_numpy(others),
        torch.from_numpy(anchors.density(others)),
    )


def train(network: SSR, steps: int, rate: float) -> float:
    """The share of the variance of r among other faces that is explained after training."""
    embeddings, densities, others, true = crowded_faces()
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        batch = torch.randint(len(embeddings), (128,), generator=draw)
        optimiser.zero_grad()
        network.loss(embeddings[batch], densities[batch]).backward()
        optimiser.step()
    return float(1 - (network.density(others) - true).square().mean() / true.var(correction=0))


def make(seed: int = 0, **more) -> SSR:
    torch.manual_seed(seed)
    return SSR(C, **more)


def test_two_linear_layers_and_nothing_else():
    assert sum(weight.numel() for weight in SSR(512).parameters()) == 512 * 256 + 256 + 256 + 1
    assert SSR(8, hidden=3)(torch.randn(5, 8)).shape == (5,)


def test_the_length_of_an_embedding_does_not_matter():
    network, embeddings = make(), torch.randn(4, C, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(7 * embeddings), network(embeddings), rtol=1e-5, atol=1e-6)


def test_it_learns_what_anchors_measure():
    network = make()
    network.fit_scale(crowded_faces()[1])
    assert train(network, 400, 0.03) > 0.8


def test_equation_6_to_the_letter_does_not_at_the_published_rate():
    # A squared error of 1e-5 has no gradient to speak of: worse than saying the mean of all faces.
    standardised, literal = make(), make(target="discrepancy")
    standardised.fit_scale(crowded_faces()[1])
    assert train(standardised, 400, 1e-3) > 0.3
    assert train(literal, 400, 1e-3) < 0.0


def test_the_losses_by_hand():
    embeddings, densities = torch.eye(2, C), torch.tensor([0.2, 0.4])
    network = make()
    network.fit_scale(densities)  # mean .3, deviation .1: the goals are -1 and 1
    with torch.no_grad():
        network.fc2.weight.zero_()
        network.fc2.bias.fill_(0.5)
    assert network.loss(embeddings, densities).item() == pytest.approx((1.5**2 + 0.5**2) / 2)
    assert network.density(embeddings).tolist() == pytest.approx([0.35, 0.35])
    literal = make(target="discrepancy", k=2)
    with torch.no_grad():
        literal.fc2.weight.zero_()
        literal.fc2.bias.fill_(0.5)
    errors = 0.5 - np.exp([-0.2, -0.4]) / 2
    assert literal.loss(embeddings, densities).item() == pytest.approx((errors**2).mean())
    assert literal.density(embeddings).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("target", ["density", "discrepancy"])
def test_the_exported_network_is_the_same(target):
    network = make(3, target=target, k=4, tau=2.0)
    if target == "density":
        network.fit_scale(crowded_faces()[1])
    with torch.no_grad():
        network.fc2.bias.fill_(0.2)
    faces = crowded_faces()[2][:50]
    exported = network.export()
    got = exported.density(faces.numpy())
    np.testing.assert_allclose(got, network.density(faces).numpy(), rtol=0, atol=1e-5)
    again = ssr_from(exported)
    torch.testing.assert_close(again.density(faces), network.density(faces), rtol=0, atol=0)
    assert again.export().version == exported.version


def test_the_scale_is_kept_with_the_weights():
    network, other = make(), make(1)
    network.fit_scale(torch.tensor([0.1, 0.5]))
    other.load_state_dict(network.state_dict())
    assert (other.mean.item(), other.deviation.item()) == pytest.approx((0.3, 0.2))


def test_no_gradient_is_nan_for_an_embedding_of_zero():
    embeddings = torch.zeros(2, C, requires_grad=True)
    make().loss(embeddings, torch.zeros(2)).backward()
    assert embeddings.grad.isfinite().all()


def test_the_loss_of_half_precision_is_float32():
    network = make().bfloat16()
    loss = network.loss(torch.randn(3, C).bfloat16(), torch.zeros(3))
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="target must be density"):
        SSR(C, target="F")
    with pytest.raises(ConfigError, match="must be positive and finite, got 0"):
        SSR(0)
    with pytest.raises(ConfigError, match="256, 10 and inf"):
        SSR(C, tau=float("inf"))
    with pytest.raises(ConfigError, match="leave fit_scale out"):
        make(target="discrepancy").fit_scale(torch.tensor([0.1, 0.2]))
    with pytest.raises(RecordError, match="differ"):
        make().fit_scale(torch.full((4,), 0.3))
    for bad in (float("inf"), float("nan")):
        with pytest.raises(RecordError, match="must be finite"):
            make().fit_scale(torch.tensor([0.1, 0.2, bad]))
    with pytest.raises(RecordError, match=r"got \(3, 32\) and \(2,\)"):
        make().loss(torch.randn(3, C), torch.zeros(2))
