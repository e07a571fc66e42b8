"""MagFace's loss in torch against its closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional

from facestream import ConfigError
from facestream.models.magface_law import MagFaceLaw
from facestream.models.networks.class_layer import ClassLayer
from facestream.models.networks.magface import MagCosFace, MagFace
from facestream.models.networks.margins import ArcFace, Margin

LAW = MagFaceLaw()
LEVEL = math.acos(0)


def loss_of(margin: Margin, angle: float, a: Tensor, log_others: float) -> Tensor:
    """Loss of one face at an angle to its class, of magnitude a, against one other class."""
    target = torch.tensor([math.cos(angle)], dtype=torch.float64)
    moved = margin.move_targets(target, a[None])
    excess = log_others - margin.scale * moved
    return functional.softplus(excess, threshold=1e4).sum() + margin.penalty(a[None])


@pytest.mark.parametrize("others", [5.0, 15.472, 40.0])
@pytest.mark.parametrize("angle", [0.05, 0.6, 1.1, LEVEL])
@pytest.mark.parametrize("magnitude", [10.5, 24.0, 60.0, 109.0])
def test_loss_and_derivatives_are_the_closed_forms(
    angle: float, magnitude: float, others: float
) -> None:
    a = torch.tensor(magnitude, dtype=torch.float64, requires_grad=True)
    loss = loss_of(MagFace(), angle, a, others)
    (slope,) = torch.autograd.grad(loss, a, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, a)
    where = (angle, magnitude, others)
    assert float(loss.detach()) == pytest.approx(float(LAW.loss(*where)), abs=1e-10)
    assert float(slope.detach()) == pytest.approx(float(LAW.loss_slope(*where)), abs=1e-10)
    assert float(curvature) == pytest.approx(float(LAW.loss_curvature(*where)), abs=1e-10)


def test_margins_and_regulariser() -> None:
    margin = MagFace()
    norms = torch.tensor([10, 24.2857142857, 60, 110], dtype=torch.float64)
    expected = torch.tensor([0.45, 0.5, 0.625, 0.8], dtype=torch.float64)
    torch.testing.assert_close(margin.margins_of(norms), expected, rtol=0, atol=1e-10)
    for a, g in ((10.0, 0.1008264463), (110.0, 0.0181818182)):
        penalty = margin.penalty(torch.tensor([a], dtype=torch.float64))
        assert float(penalty) / 35 == pytest.approx(g, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_margin_without_regulariser_is_arcface(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    cosines = torch.rand(64, 9, generator=draw, dtype=dtype) * 2 - 1
    labels = torch.randint(9, (64,), generator=draw)
    norms = torch.rand(64, generator=draw, dtype=dtype) * 150
    same = MagFace(l_m=0.5, u_m=0.5, lambda_g=0)
    assert torch.equal(same(cosines, labels, norms), ArcFace()(cosines, labels, norms))
    assert float(same.penalty(norms)) == 0


def test_magcosface_takes_the_margin_from_the_cosine() -> None:
    cosines = torch.tensor([0.7, -0.2], dtype=torch.float64)
    norms = torch.tensor([10, 60], dtype=torch.float64)
    moved = MagCosFace().move_targets(cosines, norms)
    torch.testing.assert_close(moved, torch.tensor([0.35, -0.775], dtype=torch.float64))


def test_a_weight_below_the_minimum_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"at least 22\.586667"):
        MagFace(lambda_g=22.5)
    with pytest.warns(UserWarning, match=r"at least 29\.040000"):
        MagCosFace(lambda_g=29)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MagFace(lambda_g=22.6)
        MagCosFace(lambda_g=29.1)


def penalty_slope(margin: MagFace, norm: float) -> float:
    norms = torch.tensor([norm], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(margin.penalty(norms), norms)
    return float(slope)


def test_magnitudes_outside_their_bounds_find_back() -> None:
    at_l_a = 35 * float(LAW.regulariser_slope(10))
    assert penalty_slope(MagFace(), 9.999) == pytest.approx(at_l_a, rel=1e-3)
    assert penalty_slope(MagFace(), 2.0) == pytest.approx(at_l_a)  # bounded, and never to zero
    assert math.isfinite(penalty_slope(MagFace(), 0.0))
    assert penalty_slope(MagFace(), 200.0) == pytest.approx(35 * (1 / 110**2 - 1 / 200**2))
    published = MagFace(clamp_regulariser=True)
    assert penalty_slope(published, 2.0) == penalty_slope(published, 200.0) == 0
    assert penalty_slope(published, 50.0) == pytest.approx(penalty_slope(MagFace(), 50.0))


def test_the_margin_is_clamped_and_has_no_slope_outside() -> None:
    norms = torch.tensor([1.0, 300.0], dtype=torch.float64, requires_grad=True)
    moved = MagFace().move_targets(torch.tensor([0.3, 0.3], dtype=torch.float64), norms)
    expected = [math.cos(math.acos(0.3) + 0.45), math.cos(math.acos(0.3) + 0.8)]
    assert moved.tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.grad(moved.sum(), norms)[0].tolist() == [0, 0]


@pytest.mark.parametrize("degrees", [90.0, 120.0, 180.0])
def test_easy_margin_leads_the_worst_faces_to_the_largest_magnitude(degrees: float) -> None:
    magnitudes = np.linspace(10, 110, 101)
    losses: dict[bool, list[float]] = {True: [], False: []}
    for easy, found in losses.items():
        margin = MagFace(easy_margin=easy)
        for a in magnitudes:
            angle = math.radians(degrees) + 1e-9
            found.append(float(loss_of(margin, angle, torch.tensor(a).double(), 15.472)))
    assert magnitudes[np.argmin(losses[True])] == 110
    assert magnitudes[np.argmin(losses[False])] < 20


def test_a_larger_magnitude_lowers_the_target_logit_at_every_angle() -> None:
    angles = torch.linspace(0, math.pi, 300, dtype=torch.float64)
    cosines = angles.cos()
    before = torch.full_like(cosines, torch.inf)
    for a in range(10, 111, 5):
        moved = MagFace().move_targets(cosines, torch.full_like(cosines, float(a)))
        assert (moved <= before + 1e-12).all()
        before = moved


def some_batch() -> tuple[ClassLayer, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    layer = ClassLayer(6, 5, MagFace()).double()
    features = functional.normalize(torch.randn(7, 6, generator=draw, dtype=torch.float64))
    lengths = torch.tensor([12, 24, 60, 90, 15, 40, 100], dtype=torch.float64)
    return layer, features * lengths[:, None], torch.tensor([0, 1, 2, 3, 4, 0, 2])


def test_gradients_agree_with_differences() -> None:
    layer, features, labels = some_batch()
    weight = layer.weight.detach().clone().requires_grad_()

    def loss(features: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (features, labels))

    assert gradcheck(loss, (features.requires_grad_(), weight))


def test_scaling_a_face_moves_its_loss_by_the_closed_form() -> None:
    layer, features, labels = some_batch()
    cosines = layer.cosines(features).detach()
    for row in range(7):
        one = features[row : row + 1]
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(layer(factor * one, labels[row : row + 1]), factor)
        a = float(one.norm())
        others = np.delete(cosines[row].numpy(), int(labels[row]))
        log_others = float(np.logaddexp.reduce(64 * others))
        angle = math.acos(float(cosines[row, labels[row]]))
        expected = a * float(LAW.loss_slope(angle, a, log_others))
        assert float(slope) == pytest.approx(expected, abs=1e-9)


def pull_along(margin: Margin) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients along the features times their norms, the angles and the norms of a batch."""
    layer, features, labels = some_batch()
    layer = ClassLayer(6, 5, margin).double()
    (gradient,) = torch.autograd.grad(layer(features.requires_grad_(), labels), features)
    features = features.detach()
    cosines = layer.cosines(features).detach()
    others = cosines.scatter(1, labels[:, None], -torch.inf)
    angles = cosines.gather(1, labels[:, None])[:, 0].acos()
    return (gradient * features).sum(dim=1), angles, (64 * others).logsumexp(dim=1)


def test_only_the_magnitude_margin_pulls_along_the_feature() -> None:
    along, _, _ = pull_along(ArcFace())
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-12)
    with pytest.warns(UserWarning, match="lambda_g"):
        bare = MagFace(lambda_g=0)
    along, angles, log_others = pull_along(bare)
    norms = some_batch()[1].norm(dim=1)
    slopes = MagFaceLaw(lambda_g=0).loss_slope(angles, norms, log_others)
    assert along.tolist() == pytest.approx((norms.numpy() * slopes / 7).tolist(), abs=1e-12)
    assert (along > 1e-6).any()


def test_order_of_faces_and_names_of_classes_do_not_matter() -> None:
    layer, features, labels = some_batch()
    loss = layer(features, labels)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    torch.testing.assert_close(layer(features[order], labels[order]), loss, rtol=1e-14, atol=0)
    names = torch.tensor([4, 2, 0, 1, 3])
    other = ClassLayer(6, 5, MagFace()).double()
    with torch.no_grad():
        other.weight[names] = layer.weight
    torch.testing.assert_close(other(features, names[labels]), loss, rtol=1e-14, atol=0)


@pytest.mark.parametrize("margin", [MagFace(), MagFace(easy_margin=True), MagCosFace()])
def test_no_gradient_is_infinite_at_the_poles(margin: Margin) -> None:
    layer = ClassLayer(4, 3, margin)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3, 4))
    features = torch.tensor([[30.0, 0, 0, 0], [-30, 0, 0, 0], [0, 0, 0, 0], [1e-3, 0, 0, 0]])
    features.requires_grad_()
    loss = layer(features, torch.tensor([0, 0, 1, 0]))
    loss.backward()
    assert loss.isfinite()
    assert features.grad is not None and features.grad.isfinite().all()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="l_a"):
        MagFace(l_a=120)
    with pytest.raises(ConfigError, match="margins"):
        MagCosFace(l_m=0.9)
