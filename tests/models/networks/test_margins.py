"""Fixed margins: values, true gradients, and what happens at the edges of the circle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from facestream import ConfigError, RecordError
from facestream.models.networks.margins import (
    ArcFace,
    CombinedMargin,
    CosFace,
    Margin,
    add_angle,
    angle_of,
    sine_of,
)

ANGLES = torch.linspace(0.01, math.pi - 0.01, 200, dtype=torch.float64)


def move(margin: Margin, cosines: Tensor) -> Tensor:
    return margin.move_targets(cosines, torch.full_like(cosines, 20.0))


def slope(margin: Margin, cosine: float) -> float:
    at = torch.tensor([cosine], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(move(margin, at).sum(), at)
    return float(gradient)


def test_each_margin_is_its_formula() -> None:
    angles = ANGLES[: math.floor(200 * (math.pi - 0.5) / math.pi) - 1]
    cosines = angles.cos()
    for margin, expected in (
        (ArcFace(), (angles + 0.5).cos()),
        (CosFace(), cosines - 0.35),
        (CosFace(0.4), cosines - 0.4),
        (CombinedMargin(1, 0.3, 0.2), (angles + 0.3).cos() - 0.2),
        (CombinedMargin(0.9, 0.4, 0.15), (0.9 * angles + 0.4).cos() - 0.15),
    ):
        torch.testing.assert_close(move(margin, cosines), expected, rtol=0, atol=1e-12)


def test_logits_are_scaled_and_moved_in_the_own_column_only() -> None:
    cosines = torch.tensor([[0.5, 0.1, -0.3], [0.2, 0.6, 0.0]], dtype=torch.float64)
    logits = CosFace(0.25)(cosines, torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64))
    expected = 64 * torch.tensor([[0.25, 0.1, -0.3], [0.2, 0.35, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(logits, expected)


def test_without_a_margin_it_is_a_plain_softmax() -> None:
    cosines = torch.linspace(-1, 1, 12).reshape(3, 4)
    plain = CombinedMargin(1, 0, 0, scale=30)(cosines, torch.tensor([0, 1, 3]), torch.ones(3))
    assert torch.equal(plain, 30 * cosines)


def test_the_true_gradient_and_the_published_straight_through() -> None:
    # cos = 0.5, m = 0.5: sin(theta + m) / sin(theta) = 1.154379; straight through it is 1.
    ratio = math.sin(math.acos(0.5) + 0.5) / math.sin(math.acos(0.5))
    assert ratio == pytest.approx(1.154379, abs=1e-6)
    assert slope(ArcFace(), 0.5) == pytest.approx(ratio, abs=1e-12)
    assert slope(ArcFace(straight_through=True), 0.5) == 1.0


def test_gradient_of_a_loss_with_and_without_straight_through() -> None:
    # Two classes, the other one at cos = 0.5 too: p = 0.999..., and dL/dcos = -p s times the slope.
    gradients = []
    for flag in (True, False):
        cosines = torch.full((1, 2), 0.5, dtype=torch.float64, requires_grad=True)
        logits = ArcFace(straight_through=flag)(cosines, torch.tensor([0]), torch.ones(1))
        functional.cross_entropy(logits, torch.tensor([0])).backward()
        assert cosines.grad is not None
        gradients.append(float(cosines.grad[0, 0]))
    assert gradients[1] / gradients[0] == pytest.approx(1.154379, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_straight_through_gives_the_same_values_bit_for_bit(dtype: torch.dtype) -> None:
    cosines = ANGLES.cos().to(dtype)
    for plain, through in (
        (ArcFace(), ArcFace(straight_through=True)),
        (CombinedMargin(0.9, 0.4, 0.15), CombinedMargin(0.9, 0.4, 0.15, straight_through=True)),
    ):
        assert torch.equal(move(plain, cosines), move(through, cosines))


@pytest.mark.parametrize(
    "margin",
    [ArcFace(), ArcFace(1.2), CombinedMargin(1, 0.5, 0.1), CombinedMargin(4, 0.2, 0.0), CosFace()],
    ids=["arc", "wide arc", "combined", "sphere", "cos"],
)
def test_the_further_from_the_class_the_lower_the_logit(margin: Margin) -> None:
    moved = move(margin, ANGLES.cos())
    assert (moved.diff() < 0).all()


def test_beyond_pi_the_guard_stands_in_for_the_angle() -> None:
    angles = torch.tensor([math.pi - 0.5 + 1e-9, 2.9, math.pi], dtype=torch.float64)
    expected = angles.cos() - 0.5 * math.sin(math.pi - 0.5)
    torch.testing.assert_close(move(ArcFace(), angles.cos()), expected, rtol=0, atol=1e-8)
    # Just before it the angle counts, and -1 is the lowest value it reaches.
    before = torch.tensor([math.pi - 0.5 - 1e-4], dtype=torch.float64)
    assert float(move(ArcFace(), before.cos())) == pytest.approx(-1, abs=1e-7)


def test_easy_margin_has_none_where_the_cosine_is_not_positive() -> None:
    cosines = torch.tensor([0.9, 1e-6, 0.0, -0.4, -1.0], dtype=torch.float64)
    moved = move(ArcFace(easy_margin=True), cosines)
    torch.testing.assert_close(moved[2:], cosines[2:], rtol=0, atol=0)
    torch.testing.assert_close(moved[:2], move(ArcFace(), cosines[:2]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "margin",
    [ArcFace(), ArcFace(easy_margin=True), CombinedMargin(0.9, 0.4, 0.15), CombinedMargin(2, 0, 0)],
)
def test_no_gradient_is_infinite_at_the_poles(margin: Margin, dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).eps
    values = [1.0, -1.0, 1 + tiny, -1 - tiny, 1 - tiny, -1 + tiny]
    cosines = torch.tensor(values, dtype=dtype, requires_grad=True)
    moved = move(margin, cosines)
    (gradient,) = torch.autograd.grad(moved.sum(), cosines)
    assert moved.isfinite().all() and gradient.isfinite().all()
    exact = float(move(margin, torch.tensor([1.0], dtype=dtype)))
    assert float(moved[0].detach()) == exact


def test_sines_and_angles_are_exact_to_the_poles() -> None:
    angles = torch.tensor([0, 1e-9, 1e-4, 1.0, math.pi - 1e-4, math.pi], dtype=torch.float64)
    torch.testing.assert_close(sine_of(angles.cos()), angles.sin(), rtol=0, atol=2e-9)
    torch.testing.assert_close(angle_of(angles.cos()), angles, rtol=0, atol=2e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 3.09), st.floats(0, 1.5))
def test_angles_add_up(angle: float, margin: float) -> None:
    cosine = torch.tensor([math.cos(angle)], dtype=torch.float64)
    moved = float(add_angle(cosine, torch.tensor([margin], dtype=torch.float64)))
    if angle + margin <= math.pi - 1e-6:
        assert moved == pytest.approx(math.cos(angle + margin), abs=1e-12)
    elif angle + margin > math.pi + 1e-6:
        assert moved == pytest.approx(math.cos(angle) - margin * math.sin(margin), abs=1e-12)
    assert moved <= math.cos(angle) + 1e-12


def test_gradients_agree_with_differences() -> None:
    cosines = torch.tensor([-0.95, -0.3, 0.1, 0.7], dtype=torch.float64, requires_grad=True)
    for margin in (ArcFace(), CombinedMargin(0.9, 0.4, 0.15), CombinedMargin(3, 0.1, 0), CosFace()):
        assert torch.autograd.gradcheck(lambda c, m=margin: move(m, c), (cosines,))


def test_what_cannot_be() -> None:
    for wrong in (
        lambda: ArcFace(math.pi),
        lambda: ArcFace(-0.1),
        lambda: CombinedMargin(0, 0.5, 0),
        lambda: CombinedMargin(2, 0.5, 0, easy_margin=True),
        lambda: CombinedMargin(math.nan, 0.5, 0),
        lambda: CosFace(math.nan),
        lambda: CosFace(scale=0),
    ):
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(RecordError, match=r"\(2,\)"):
        ArcFace()(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64), torch.ones(3))
