"""AdaFace, CurricularFace and ElasticFace: their statistics, draws and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from facestream import ConfigError
from facestream.models.networks.adaptive_margins import (
    AdaFace,
    CurricularFace,
    ElasticArcFace,
    ElasticCosFace,
)
from facestream.models.networks.margins import ArcFace, CosFace, Margin


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


COSINES = doubles(0.9, 0.5, 0.1, -0.4)
NORMS = doubles(10, 20, 30, 24)


def test_adaface_is_its_formula() -> None:
    margin = AdaFace(momentum=1.0).double()  # statistics of the batch alone
    moved = margin.move_targets(COSINES, NORMS)
    z = 0.333 * (NORMS - NORMS.mean()) / (NORMS.std() + 1e-3)
    expected = (COSINES.acos() - 0.4 * z).cos() - (0.4 + 0.4 * z)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_adaface_between_arcface_and_a_negative_angle() -> None:
    # z = -1 is ArcFace, z = 0 is CosFace, z = 1 has angle -m and cosine margin 2 m.
    margin = AdaFace().eval()
    with torch.no_grad():
        margin.norm_mean.fill_(20)
        margin.norm_deviation.fill_(1e-3)
    cosines = doubles(0.5, 0.5, 0.5)
    moved = margin.move_targets(cosines, doubles(1, 20, 90))
    third = math.acos(0.5)
    torch.testing.assert_close(
        moved, doubles(math.cos(third + 0.4), 0.1, math.cos(third - 0.4) - 0.8)
    )


def test_adaface_statistics_move_by_the_momentum_and_only_in_training() -> None:
    margin = AdaFace()
    margin.move_targets(COSINES, NORMS)
    assert float(margin.norm_mean) == pytest.approx(20 * 0.99 + 21 * 0.01)
    spread = float(NORMS.std())
    assert float(margin.norm_deviation) == pytest.approx(100 * 0.99 + spread * 0.01)
    before = margin.norm_mean.clone()
    margin.eval().move_targets(COSINES, NORMS)
    margin.train().move_targets(COSINES[:1], NORMS[:1])  # one norm has no deviation
    assert torch.equal(margin.norm_mean, before) and margin.norm_deviation.isfinite()


@pytest.mark.parametrize("margin", [AdaFace(), CurricularFace()])
def test_a_batch_that_overflowed_leaves_no_trace_in_the_statistics(margin: Margin) -> None:
    before = {name: value.clone() for name, value in margin.state_dict().items()}
    broken = torch.full_like(COSINES, math.nan)
    assert margin.move_targets(broken, broken).isnan().all()
    assert all(torch.equal(value, before[name]) for name, value in margin.state_dict().items())
    assert margin.move_targets(COSINES, NORMS).isfinite().all()
    assert any((value != before[name]).any() for name, value in margin.state_dict().items())


def test_adaface_takes_no_gradient_through_norms() -> None:
    norms = NORMS.clone().requires_grad_()
    moved = AdaFace().move_targets(COSINES.clone().requires_grad_(), norms)
    assert torch.autograd.grad(moved.sum(), norms, allow_unused=True) == (None,)


def test_curricularface_changes_hard_negatives_only() -> None:
    margin = CurricularFace(momentum=0.5).double()
    cosines = doubles(0.8, 0.2, 0.7, -0.5).reshape(1, 4)
    logits = margin(cosines, torch.tensor([0]), doubles(20))
    assert float(margin.t) == pytest.approx(0.4)  # half of the target cosine
    target = math.cos(math.acos(0.8) + 0.5)  # 0.414: the third column is above it
    expected = 64 * doubles(target, 0.2, 0.7 * (0.4 + 0.7), -0.5).reshape(1, 4)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    again = margin.eval()(cosines, torch.tensor([0]), doubles(20))
    torch.testing.assert_close(again, logits)
    assert float(margin.t) == pytest.approx(0.4)


def test_curricularface_gradient_of_a_hard_negative() -> None:
    margin = CurricularFace().eval().double()
    margin.t.fill_(0.3)
    cosines = doubles(0.5, 0.6).reshape(1, 2).requires_grad_()
    logits = margin(cosines, torch.tensor([0]), doubles(20))
    (gradient,) = torch.autograd.grad(logits[0, 1], cosines)
    assert gradient[0].tolist() == pytest.approx([0, 64 * (0.3 + 2 * 0.6)])


@pytest.mark.parametrize(
    ("elastic", "fixed"), [(ElasticArcFace(), ArcFace()), (ElasticCosFace(), CosFace())]
)
def test_elastic_margins_are_the_mean_in_evaluation(elastic: Margin, fixed: Margin) -> None:
    moved = elastic.eval().move_targets(COSINES, NORMS)
    assert torch.equal(moved, fixed.move_targets(COSINES, NORMS))


def test_elastic_margins_are_normally_distributed_and_differ_from_step_to_step() -> None:
    margin = ElasticCosFace(0.35, 0.05)
    draws = torch.cat([margin.draw_margins(torch.zeros(500).double()) for _ in range(20)]).numpy()
    assert draws.mean() == pytest.approx(0.35, abs=0.002)
    assert draws.std() == pytest.approx(0.05, abs=0.002)
    assert len(np.unique(draws)) == len(draws)
    assert int(margin.steps) == 20


def test_elastic_margins_resume_where_they_were() -> None:
    one, other = ElasticArcFace(seed=3), ElasticArcFace(seed=3)
    first = one.draw_margins(COSINES)
    assert torch.equal(other.draw_margins(COSINES), first)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.draw_margins(COSINES), other.draw_margins(COSINES))
    assert not torch.equal(ElasticArcFace(seed=4).draw_margins(COSINES), first)


def test_elasticface_plus_gives_the_largest_margin_to_the_furthest_face() -> None:
    shuffled = doubles(0.1, 0.9, -0.4, 0.5, 0.7)
    plain = ElasticArcFace(seed=1).draw_margins(shuffled)
    plus = ElasticArcFace(seed=1, sort_margins=True).draw_margins(shuffled)
    assert torch.equal(plus.sort().values, plain.sort().values)
    by_cosine = plus[shuffled.argsort(descending=True)]
    assert (by_cosine.diff() > 0).all()


@pytest.mark.parametrize("margin", [AdaFace(), CurricularFace(), ElasticArcFace()])
def test_no_gradient_is_infinite_at_the_poles(margin: Margin) -> None:
    cosines = torch.tensor([1.0, -1.0, 0.3], requires_grad=True)
    moved = margin.move_targets(cosines, torch.tensor([0.0, 500.0, 20.0]))
    (gradient,) = torch.autograd.grad(moved.sum(), cosines)
    assert moved.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize(
    "margin",
    [AdaFace(), CurricularFace(), ElasticArcFace(), ElasticCosFace(sort_margins=True)],
    ids=lambda margin: type(margin).__name__,
)
def test_gradients_agree_with_differences(margin: Margin) -> None:
    margin.eval().double()
    cosines = COSINES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: margin.move_targets(c, NORMS), (cosines,))


def test_what_cannot_be() -> None:
    for wrong in (
        lambda: AdaFace(h=0),
        lambda: AdaFace(momentum=0),
        lambda: CurricularFace(4.0),
        lambda: ElasticArcFace(deviation=-0.1),
        lambda: ElasticCosFace(-0.1),
    ):
        with pytest.raises(ConfigError):
            wrong()
