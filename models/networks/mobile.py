"""A compact backbone with the interface of the large ones: MobileFaceNet.

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile
Devices", CCBR 2018, table 1. For 112 x 112 faces, B of them; every convolution but the linear ones
(the last of a bottleneck and the two of the head) is followed by BN and PReLU, the linear ones by
BN; t is the expansion of a bottleneck:

    conv 3x3 stride 2                       (B,  64, 56, 56)
    depthwise conv 3x3                      (B,  64, 56, 56)
    stage 2  5 bottlenecks t 2, stride 2    (B,  64, 28, 28)
    stage 3  bottleneck t 4, stride 2       (B, 128, 14, 14)
             6 bottlenecks t 2              (B, 128, 14, 14)
    stage 4  bottleneck t 4, stride 2       (B, 128,  7,  7)
             2 bottlenecks t 2              (B, 128,  7,  7)
             conv 1x1                       (B, 512,  7,  7)   the last map
    depthwise conv 7x7, linear, BN          (B, C)             the raw embedding

Styles are those of stages 2 and 3: K = 64 + 128 = 192. Parameters: 1,200,512 at C = 512 and
1,003,136 at the paper's C = 128. There is no dropout.
"""

from __future__ import annotations

from torch import Tensor, nn

from .backbone import MAP_SIDE, Backbone, Stages, project

NARROW, WIDE, MAP = 64, 128, 512


class Bottleneck(nn.Module):
    """Expand 1x1, filter 3x3 per channel, project 1x1: (B, into, H, W) -> (B, out, H/s, W/s).

    The input is added where it has the shape of the output.
    """

    def __init__(self, into: int, out: int, expansion: int, stride: int = 1) -> None:
        """Untrained; the network initialises it."""
        super().__init__()
        inner = into * expansion
        self.expand = active(into, inner, 1)
        self.filter = active(inner, inner, 3, stride=stride, groups=inner)
        self.project = linear(inner, out, 1)
        self.residual = into == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, into, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.project(self.filter(self.expand(x)))
        return x + y if self.residual else y


class MobileBackbone(Backbone):
    """See the module's text for shapes. map_channels 512, style_channels 64 + 128 = 192."""

    def __init__(self, *, dimension: int = 512) -> None:
        """Freshly initialised, in training mode."""
        super().__init__()
        self.dimension = dimension
        self.map_channels = MAP
        self.style_channels = NARROW + WIDE
        self.stem = nn.Sequential(
            active(3, NARROW, 3, stride=2), active(NARROW, NARROW, 3, groups=NARROW)
        )
        self.stage2 = nn.Sequential(
            Bottleneck(NARROW, NARROW, 2, stride=2),
            *(Bottleneck(NARROW, NARROW, 2) for _ in range(4)),
        )
        self.stage3 = nn.Sequential(
            Bottleneck(NARROW, WIDE, 4, stride=2), *(Bottleneck(WIDE, WIDE, 2) for _ in range(6))
        )
        self.stage4 = nn.Sequential(
            Bottleneck(WIDE, WIDE, 4, stride=2),
            *(Bottleneck(WIDE, WIDE, 2) for _ in range(2)),
            active(WIDE, MAP, 1),
        )
        self.pool = linear(MAP, MAP, MAP_SIDE, padding=0, groups=MAP)
        self.fc = nn.Linear(MAP, dimension, bias=False)
        self.features = nn.BatchNorm1d(dimension)
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="linear")

    def _stages(self, images: Tensor) -> Stages:
        second = self.stage2(self.stem(images))  # (B, 64, 28, 28)
        third = self.stage3(second)  # (B, 128, 14, 14)
        last = self.stage4(third)  # (B, 512, 7, 7)
        return Stages(second, third, last)

    def _embed(self, last_map: Tensor) -> Tensor:
        return project(self.fc, self.features, self.pool(last_map).flatten(1))


def linear(
    into: int,
    out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution and BN, initialised so that signals keep their size.

    padding: None is half the kernel.
    """
    pad = kernel // 2 if padding is None else padding
    conv = nn.Conv2d(into, out, kernel, stride=stride, padding=pad, groups=groups, bias=False)
    # fan_in: that of a depthwise filter is its own 9 or 49 weights; its fan_out is not.
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="linear")
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def active(
    into: int,
    out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution, BN and PReLU; arguments as of `linear`."""
    convolved = linear(into, out, kernel, stride=stride, padding=padding, groups=groups)
    return nn.Sequential(*convolved, nn.PReLU(out))
