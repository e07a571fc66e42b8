"""LightQNet's small network: a face of 96 x 96 pixels to one confidence.

Chen, Yi, Lv, "LightQNet: Lightweight Deep Face Quality Assessment for Risk-Controlled Face
Recognition", IEEE Signal Processing Letters 28, 2021; layout of the released networks, the small
"minimalistic" MobileNetV3 with stride 1 in its first layer. For B faces; every convolution is
followed by BN, and by ReLU but for the last of a bottleneck:

    conv 3x3                        (B,  16, 96, 96)
    bottleneck  16 in, stride 2     (B,  16, 48, 48)
    bottlenecks 72 stride 2, 88     (B,  24, 24, 24)
    bottlenecks 96 stride 2, 240 x2 (B,  40, 12, 12)
    bottlenecks 120, 144            (B,  48, 12, 12)
    bottlenecks 288 stride 2, 576 x2 (B, 96,  6,  6)
    conv 1x1                        (B, 576,  6,  6)
    mean over pixels, linear        (B,)              the logit

The numbers of bottlenecks are their inner channels. 429,465 parameters at width 1.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ... import ConfigError, RecordError
from .quality_heads import score_rows

SIDE = 96
"""Height and width of a face, px."""
_EPS, _MOMENTUM = 2e-5, 5e-3
_STEM, _LAST = 16, 576
_BOTTLENECKS = (
    (1.0, 16, 2),
    (72 / 16, 24, 2),
    (88 / 24, 24, 1),
    (4.0, 40, 2),
    (6.0, 40, 1),
    (6.0, 40, 1),
    (3.0, 48, 1),
    (3.0, 48, 1),
    (6.0, 96, 2),
    (6.0, 96, 1),
    (6.0, 96, 1),
)
"""Expansion, output channels, stride."""


class Convolution(nn.Module):
    """Convolution, BN and, if active, ReLU: (B, into, H, W) -> (B, out, H / s, W / s)."""

    def __init__(
        self,
        into: int,
        out: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        """H and W must be even where the stride is 2."""
        super().__init__()
        # As TensorFlow pads: with stride 2 on even sides, nothing to the left and above.
        total = max(0, kernel - stride)
        self.padding = (total // 2, total - total // 2) * 2
        self.conv = nn.Conv2d(into, out, kernel, stride=stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=_EPS, momentum=_MOMENTUM)
        self.active = active
        nn.init.xavier_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, into, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.norm(self.conv(functional.pad(x, self.padding)))
        return functional.relu(y) if self.active else y


class Bottleneck(nn.Module):
    """Expand 1x1 where it widens, filter 3x3 per channel, project 1x1; plus the input if it fits.

    (B, into, H, W) -> (B, out, H / stride, W / stride).
    """

    def __init__(self, into: int, inner: int, out: int, stride: int) -> None:
        """inner: channels of the filter."""
        super().__init__()
        self.expand = Convolution(into, inner, 1) if inner > into else nn.Identity()
        self.filter = Convolution(inner, inner, 3, stride=stride, groups=inner)
        self.project = Convolution(inner, out, 1, active=False)
        self.residual = into == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, into, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.project(self.filter(self.expand(x)))
        return x + y if self.residual else y


class LightQNet(nn.Module):
    """Faces (B, 3, 96, 96) -> logits (B,); their sigmoid is the confidence, higher is better.

    The released networks take BGR, (value - 128) / 128, faces in the ArcFace position.
    """

    def __init__(self, width: float = 1.0) -> None:
        """width: share of the channels, rounded to multiples of 8; released are 1, 0.5 and 0.25.

        Raises ConfigError outside (0, 1].
        """
        super().__init__()
        if not 0 < width <= 1:
            raise ConfigError(f"width must be in (0, 1], got {width}")
        channels = _round_to_8(_STEM * width)
        self.stem = Convolution(3, channels, 3)
        blocks = []
        for expansion, out, stride in _BOTTLENECKS:
            inner, narrow = _round_to_8(channels * expansion), _round_to_8(out * width)
            blocks.append(Bottleneck(channels, inner, narrow, stride))
            channels = narrow
        self.blocks = nn.Sequential(*blocks)
        last = _round_to_8(_LAST * width)
        self.last = Convolution(channels, last, 1)
        self.linear = nn.Linear(last, 1)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, 96, 96) floating point -> (B,). Raises RecordError on other shapes."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIDE, SIDE):
            raise RecordError(
                f"LightQNet takes images (B, 3, {SIDE}, {SIDE}), got {tuple(images.shape)}: scale "
                "aligned faces to that size"
            )
        pooled = self.last(self.blocks(self.stem(images))).mean(dim=(2, 3))  # (B, 576)
        return score_rows(self.linear, pooled)


def _round_to_8(channels: float) -> int:
    """The nearest multiple of 8 from 8 up that is not below 90% of channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
