"""Margins that follow the batch: AdaFace, CurricularFace and ElasticFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ... import ConfigError
from .margins import Margin, add_angle, angle_of

_NORMS = (0.001, 100.0)  # AdaFace's limits to norms
_STEADY = 0.001  # AdaFace's epsilon: beside the deviation of norms, and before angles 0 and pi


def _follow(running: Tensor, batch: Tensor, momentum: float) -> None:
    """Move a running statistic towards that of a batch; one that is not finite is passed over.

    Mixed precision now and then overflows in a batch. Its step is skipped, but a NaN in a running
    statistic would stay there and in every later loss.
    """
    batch = batch.to(running)
    running.lerp_(torch.where(batch.isfinite(), batch, running), momentum)


class AdaFace(Margin):
    """cos(theta - m z) - (m + m z) with z from the embedding's norm (Kim et al., CVPR 2022).

    z = clip(h (||f|| - mean) / deviation, -1, 1), without gradient; mean and deviation of norms are
    running ones over batches: new = momentum * batch + (1 - momentum) * old. z = -1 is ArcFace with
    margin m, z = 0 CosFace, z = 1 a negative angle with cosine margin 2 m. The angle is kept in
    [0.001, pi - 0.001], where its gradient ends, as in the authors' code.
    """

    norm_mean: Tensor
    norm_deviation: Tensor

    def __init__(
        self,
        margin: float = 0.4,
        h: float = 0.333,
        *,
        momentum: float = 0.01,
        scale: float = 64.0,
    ) -> None:
        """margin m in [0, pi), h > 0, momentum in (0, 1] (0.01 is the paper's alpha of 0.99).

        Raises ConfigError for values outside.
        """
        super().__init__(scale)
        if not 0 <= margin < math.pi or h <= 0 or not 0 < momentum <= 1:
            raise ConfigError(
                "AdaFace needs margin in [0, pi), h > 0 and momentum in (0, 1], got "
                f"{margin}, {h}, {momentum}: the paper has 0.4, 0.333, 0.01"
            )
        self.margin = margin
        self.h = h
        self.momentum = momentum
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_deviation", torch.tensor(100.0))

    def move_targets(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """cos(theta - m z) - (m + m z) (B,); in training the statistics take in the batch first."""
        with torch.no_grad():
            sane = norms.clamp(*_NORMS)
            if self.training and len(sane) > 1:  # one norm has no deviation
                _follow(self.norm_mean, sane.mean(), self.momentum)
                _follow(self.norm_deviation, sane.std(), self.momentum)
            z = self.h * (sane - self.norm_mean) / (self.norm_deviation + _STEADY)
            shifts = self.margin * z.clamp(-1, 1)
        angles = (angle_of(cosines) - shifts).clamp(_STEADY, math.pi - _STEADY)
        return angles.cos() - (self.margin + shifts)


class CurricularFace(Margin):
    """ArcFace whose hard negatives gain weight as training goes on (Huang et al., CVPR 2020).

    A negative with cos(theta_j) > cos(theta_y + m) becomes cos(theta_j) (t + cos(theta_j)). t is
    the running mean of target cosines, new = momentum * batch + (1 - momentum) * old, from 0; a
    batch counts before its own negatives are moved.
    """

    t: Tensor

    def __init__(self, margin: float = 0.5, *, momentum: float = 0.01, scale: float = 64.0) -> None:
        """margin in [0, pi) radians, momentum in (0, 1]; ConfigError for values outside."""
        super().__init__(scale)
        if not 0 <= margin < math.pi or not 0 < momentum <= 1:
            raise ConfigError(
                "CurricularFace needs margin in [0, pi) and momentum in (0, 1], got "
                f"{margin}, {momentum}: the paper has 0.5, 0.01"
            )
        self.margin = margin
        self.momentum = momentum
        self.register_buffer("t", torch.tensor(0.0))

    def move_targets(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """cos(theta + m) (B,); in training t takes in the batch first."""
        if self.training:
            _follow(self.t, cosines.detach().mean(), self.momentum)
        return add_angle(cosines, torch.full_like(cosines, self.margin))

    def move_others(self, cosines: Tensor, targets: Tensor) -> Tensor:
        """Hard negatives times (t + cosine) (B, C), easy ones as they are."""
        hard = cosines > targets[:, None]
        return torch.where(hard, cosines * (self.t + cosines), cosines)


class _ElasticMargin(Margin):
    """Margins drawn for each face from N(margin, deviation^2) (Boutros et al., CVPRW 2022).

    sort_margins (ElasticFace+): the batch's draws are handed out so that the further a face is from
    its class centre, the larger its margin. In evaluation every margin is the mean.
    Draws depend on the seed and on the number of training steps only, so processes that hold parts
    of the classes draw the same, and a resumed training goes on as it would have.
    """

    steps: Tensor

    def __init__(
        self, margin: float, deviation: float, sort_margins: bool, seed: int, scale: float
    ) -> None:
        super().__init__(scale)
        if not 0 <= margin < math.pi or deviation < 0:
            raise ConfigError(
                "ElasticFace needs margin in [0, pi) and deviation >= 0, "
                f"got {margin}, {deviation}: the authors use 0.5 or 0.35, and 0.05"
            )
        self.margin = margin
        self.deviation = deviation
        self.sort_margins = sort_margins
        self.seed = seed
        self.register_buffer("steps", torch.tensor(0))

    def draw_margins(self, cosines: Tensor) -> Tensor:
        """One margin per face (B,), in the unit of the margin; counts a step in training."""
        if not self.training:
            return torch.full_like(cosines, self.margin)
        source = torch.Generator().manual_seed(self.seed + int(self.steps))
        self.steps += 1
        draws = torch.randn(len(cosines), generator=source, dtype=torch.float64)
        margins = (self.margin + self.deviation * draws).to(cosines)
        if not self.sort_margins:
            return margins
        nearest_first = cosines.detach().argsort(descending=True, stable=True)
        return torch.empty_like(margins).scatter(0, nearest_first, margins.sort().values)


class ElasticArcFace(_ElasticMargin):
    """cos(theta + E(m, sigma)) (ElasticFace-Arc, Boutros et al., CVPRW 2022).

    The authors' deviation is 0.05, and 0.0175 with sort_margins.
    """

    def __init__(
        self,
        margin: float = 0.5,
        deviation: float = 0.05,
        *,
        sort_margins: bool = False,
        seed: int = 0,
        scale: float = 64.0,
    ) -> None:
        """margin and deviation in radians; sort_margins: ElasticFace+. ConfigError if < 0."""
        super().__init__(margin, deviation, sort_margins, seed, scale)

    def move_targets(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """cos(theta + m_i) (B,), m_i drawn."""
        return add_angle(cosines, self.draw_margins(cosines).clamp(0, math.pi))


class ElasticCosFace(_ElasticMargin):
    """cos(theta) - E(m, sigma) (ElasticFace-Cos, Boutros et al., CVPRW 2022).

    The authors' deviation is 0.05, and 0.02 with sort_margins.
    """

    def __init__(
        self,
        margin: float = 0.35,
        deviation: float = 0.05,
        *,
        sort_margins: bool = False,
        seed: int = 0,
        scale: float = 64.0,
    ) -> None:
        """margin and deviation as cosines; sort_margins: ElasticFace+. ConfigError if < 0."""
        super().__init__(margin, deviation, sort_margins, seed, scale)

    def move_targets(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """cos(theta) - m_i (B,), m_i drawn."""
        return cosines - self.draw_margins(cosines)
