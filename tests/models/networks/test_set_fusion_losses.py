"""PFE's likelihood and the loss made of it."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from facestream import RecordError
from facestream.models.networks.set_fusion_losses import mutual_likelihood, pfe_loss


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_score_is_the_density_of_a_difference_of_zero():
    first, second = normal(5, 4), normal(5, 4, seed=1)
    logs, others = normal(5, 4, seed=2), normal(5, 4, seed=3)
    spread = (logs.exp() + others.exp()).sqrt()
    density = torch.distributions.Normal(first - second, spread).log_prob(torch.zeros(()))
    score = mutual_likelihood(first, logs, second, others)
    torch.testing.assert_close(score, density.sum(dim=1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mutual_likelihood(second, others, first, logs), score)


def test_the_loss_is_the_mean_over_genuine_pairs():
    embeddings, logs = normal(7, 4), normal(7, 4, seed=1)
    labels = torch.tensor([3, 5, 3, 9, 3, 5, 2])
    units = F.normalize(embeddings, dim=1)
    pairs = [(0, 2), (0, 4), (2, 4), (1, 5)]
    assert pairs == sorted(
        ((i, j) for i, j in itertools.combinations(range(7), 2) if labels[i] == labels[j]),
        key=lambda pair: (int(labels[pair[0]]), pair),
    )
    scores = [mutual_likelihood(units[i], logs[i], units[j], logs[j]) for i, j in pairs]
    expected = -2 * torch.stack(scores).mean() - 4 * math.log(2 * math.pi)
    torch.testing.assert_close(pfe_loss(embeddings, logs, labels), expected)
    order = torch.tensor([6, 2, 0, 5, 3, 1, 4])
    shuffled = pfe_loss(3 * embeddings[order], logs[order], labels[order])
    torch.testing.assert_close(shuffled, expected)


def test_by_hand_and_its_best_variance():
    # Two faces at a right angle: (1, 0) and (0, 1), each dimension 1 apart.
    embeddings, labels = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)

    def loss(variance: float) -> float:
        logs = torch.full((2, 2), math.log(variance), dtype=torch.float64)
        return float(pfe_loss(embeddings, logs, labels))

    assert loss(1.0) == pytest.approx(2 * (0.5 + math.log(2)), abs=1e-12)
    # d/ds of 1/(2 s) + log(2 s) is 0 at s = 1/2: the sum of variances is the squared distance.
    assert loss(0.5) == pytest.approx(2.0, abs=1e-12)
    assert loss(0.45) > loss(0.5) < loss(0.55)


def test_gradients_are_true_and_stay_finite_at_the_floor():
    embeddings, logs = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda x, y: pfe_loss(x, y, labels), (embeddings, logs))
    low = torch.full((2, 3), math.log(1e-6), requires_grad=True)
    zero = torch.zeros(2, 3, requires_grad=True)
    pfe_loss(zero, low, torch.zeros(2)).backward()
    assert low.grad.isfinite().all() and zero.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    loss = pfe_loss(normal(4, 3).half(), normal(4, 3).half(), torch.zeros(4))
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecordError, match=r"\(B, C\) both"):
        pfe_loss(normal(4, 3), normal(4, 2), torch.zeros(4))
    with pytest.raises(RecordError, match=r"labels must be \(4,\)"):
        pfe_loss(normal(4, 3), normal(4, 3), torch.zeros(3))
    with pytest.raises(RecordError, match="two faces of one person"):
        pfe_loss(normal(4, 3), normal(4, 3), torch.arange(4))
