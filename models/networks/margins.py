"""Margins of softmax losses on the sphere: how far the target cosine is moved before the softmax.

A margin sees the cosines of a whole batch to their own classes and the batch's norms; it never
sees how the classes are sampled or spread over processes (class_layer.py). Every margin here has
the true gradient and no infinite one: at cos = +-1, where the sine's slope is infinite, the sine
counts as a constant.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ... import ConfigError, RecordError


def sine_of(cosines: Tensor) -> Tensor:
    """sqrt(1 - cos^2) of the same shape, a constant for autograd below sqrt(eps) of the dtype.

    That is 3e-4 in float32 and 1.5e-8 in float64.
    """
    squares = (1 - cosines) * (1 + cosines)
    steep = squares <= torch.finfo(cosines.dtype).eps
    rooted = torch.where(steep, torch.ones_like(squares), squares).sqrt()
    return torch.where(steep, squares.detach().clamp_min(0).sqrt(), rooted)


def angle_of(cosines: Tensor) -> Tensor:
    """Angles in [0, pi], without acos's infinite gradient at cos = +-1."""
    return torch.atan2(sine_of(cosines), cosines)


def add_angle(cosines: Tensor, margins: Tensor, *, easy_margin: bool = False) -> Tensor:
    """cos(theta + m) where theta + m <= pi, and cos(theta) - m sin(m) beyond.

    cosines, margins (B,); margins in radians, [0, pi). Beyond pi the plain form would rise again
    and reward faces for being further from their class; the substitute keeps falling.
    easy_margin: cos(theta + m) where cos(theta) > 0 and plain cos(theta) elsewhere, as MagFace's
    released code does: there a face on the wrong side has no margin at all.
    """
    moved = cosines * margins.cos() - sine_of(cosines) * margins.sin()
    if easy_margin:
        return torch.where(cosines > 0, moved, cosines)
    return torch.where(cosines > -margins.cos(), moved, cosines - margins * margins.sin())


class Margin(nn.Module, ABC):
    """What every margin offers to a class layer.

    scale: s, by which cosines are multiplied before the softmax, > 0.
    Called with cosines (B, C), labels (B,) int64 and norms (B,) it returns the logits (B, C) of a
    plain cross entropy; a class layer calls the three methods instead. In training mode a call may
    update running statistics and draw random margins, which is why a call is one training step.
    """

    def __init__(self, scale: float = 64.0) -> None:
        """Raises ConfigError for a scale that is not positive."""
        super().__init__()
        if not 0 < scale < math.inf:
            raise ConfigError(f"scale must be positive, got {scale}: the papers use 64")
        self.scale = scale

    @abstractmethod
    def move_targets(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """Cosines (B,) of faces to their own classes, with the margin; norms (B,) of embeddings."""

    def move_others(self, cosines: Tensor, targets: Tensor) -> Tensor:
        """Cosines (B, C) to the other classes; targets (B,) as `move_targets` returned them.

        Columns of a face's own class are passed too, and ignored afterwards.
        """
        return cosines

    def penalty(self, norms: Tensor) -> Tensor:
        """What the loss adds for the norms (B,) alone: a scalar, 0 for most margins."""
        return norms.new_zeros(())

    def forward(self, cosines: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Logits (B, C), scaled. cosines (B, C), labels (B,) int64, norms (B,)."""
        if cosines.ndim != 2 or labels.shape != cosines.shape[:1] or norms.shape != labels.shape:
            raise RecordError(
                "cosines must be (B, C), labels and norms (B,), got "
                f"{tuple(cosines.shape)}, {tuple(labels.shape)} and {tuple(norms.shape)}"
            )
        columns = labels[:, None]
        targets = self.move_targets(cosines.gather(1, columns)[:, 0], norms)
        others = self.move_others(cosines, targets)
        return self.scale * others.scatter(1, columns, targets[:, None])


class CombinedMargin(Margin):
    """cos(m1 theta + m2) - m3 (ArcFace, Deng et al., CVPR 2019, Eq. 4).

    angle_factor m1 >= 1e-3, angle m2 in [0, pi) radians, cosine m3. With m1 = 1 angles beyond
    pi - m2 are handled as by `add_angle`; with another m1 as by SphereFace (Liu et al., CVPR 2017,
    Eq. 7): (-1)^k cos(phi) - 2k for phi = m1 theta + m2 in [k pi, (k + 1) pi].
    straight_through: take the slope of the moved by the plain cosine to be 1, as insightface's
    arcface_torch does (its margin is added under no_grad); the true slope at m1 = 1 is
    sin(theta + m2) / sin(theta), 1.154379 at cos = 0.5 and m2 = 0.5. Same values, other gradients.
    """

    def __init__(
        self,
        angle_factor: float = 1.0,
        angle: float = 0.3,
        cosine: float = 0.2,
        *,
        scale: float = 64.0,
        easy_margin: bool = False,
        straight_through: bool = False,
    ) -> None:
        """Defaults as in the paper's CM1. ConfigError for margins outside their ranges."""
        super().__init__(scale)
        if not (1e-3 <= angle_factor < math.inf and 0 <= angle < math.pi and math.isfinite(cosine)):
            raise ConfigError(
                "a margin needs angle_factor >= 0.001, angle in [0, pi) and a finite cosine, got "
                f"{angle_factor}, {angle} and {cosine}: ArcFace has 1, 0.5, 0, CosFace 1, 0, 0.35"
            )
        if easy_margin and angle_factor != 1:
            raise ConfigError(f"easy_margin needs angle_factor 1, got {angle_factor}: leave it out")
        self.angle_factor = angle_factor
        self.angle = angle
        self.cosine = cosine
        self.easy_margin = easy_margin
        self.straight_through = straight_through

    def move_targets(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """cos(m1 theta + m2) - m3 (B,)."""
        if self.angle_factor != 1:
            angles = self.angle_factor * angle_of(cosines) + self.angle
            turns = (angles.detach() / math.pi).floor()
            moved = (1 - 2 * (turns % 2)) * angles.cos() - 2 * turns
        elif self.angle != 0:
            margins = torch.full_like(cosines, self.angle)
            moved = add_angle(cosines, margins, easy_margin=self.easy_margin)
        else:
            moved = cosines
        moved = moved - self.cosine
        if self.straight_through:
            return moved.detach() + (cosines - cosines.detach())
        return moved


class ArcFace(CombinedMargin):
    """cos(theta + m), m in radians (Deng et al., CVPR 2019, Eq. 3)."""

    def __init__(
        self,
        margin: float = 0.5,
        *,
        scale: float = 64.0,
        easy_margin: bool = False,
        straight_through: bool = False,
    ) -> None:
        """Flags as in `CombinedMargin`. ConfigError for a margin outside [0, pi)."""
        super().__init__(
            1.0,
            margin,
            0.0,
            scale=scale,
            easy_margin=easy_margin,
            straight_through=straight_through,
        )


class CosFace(CombinedMargin):
    """cos(theta) - m (Wang et al., CVPR 2018, Eq. 4); insightface's configurations have m = 0.4."""

    def __init__(self, margin: float = 0.35, *, scale: float = 64.0) -> None:
        """ConfigError for a scale that is not positive."""
        super().__init__(1.0, 0.0, margin, scale=scale)
