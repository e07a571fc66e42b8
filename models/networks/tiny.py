"""A backbone that a single CPU core can train: residual blocks on maps of 28 x 28 and below.

Most of what a small network costs on a CPU is its large first maps, and depthwise filters there
cost more than full ones, for they are bound by memory. So the first convolution goes to 28 x 28 at
once, and the others are full. For 112 x 112 faces, B of them; every convolution is followed by BN,
and by PReLU but for the last of a block, whose PReLU follows the sum:

    conv 8x8 stride 4                    (B,  32, 28, 28)   stage 2
    residual block, stride 2             (B,  64, 14, 14)   stage 3
    residual block, stride 2             (B, 128,  7,  7)
    conv 1x1                             (B, 256,  7,  7)   the last map
    depthwise conv 7x7, linear, BN       (B, C)             the raw embedding

Styles are those of stages 2 and 3: K = 32 + 64 = 96. Parameters: 407,136 at C = 256. There is no
dropout.
"""

from __future__ import annotations

from torch import Tensor, nn

from .backbone import MAP_SIDE, Backbone, Stages, project
from .mobile import active, linear

WIDTHS = (32, 64, 128)
MAP = 256


class Block(nn.Module):
    """Two convolutions 3x3 beside one of 1x1: (B, into, H, W) -> (B, out, H / 2, W / 2)."""

    def __init__(self, into: int, out: int) -> None:
        """Untrained; the network initialises it."""
        super().__init__()
        self.first = active(into, out, 3, stride=2)
        self.second = linear(out, out, 3)
        self.shortcut = linear(into, out, 1, stride=2)
        self.active = nn.PReLU(out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, into, H, W) -> (B, out, H / 2, W / 2)."""
        y: Tensor = self.active(self.second(self.first(x)) + self.shortcut(x))
        return y


class TinyBackbone(Backbone):
    """See the module's text for shapes. map_channels 256, style_channels 32 + 64 = 96."""

    def __init__(self, *, dimension: int = 256) -> None:
        """Freshly initialised, in training mode."""
        super().__init__()
        narrow, middle, wide = WIDTHS
        self.dimension = dimension
        self.map_channels = MAP
        self.style_channels = narrow + middle
        self.stage2 = active(3, narrow, 8, stride=4, padding=2)
        self.stage3 = Block(narrow, middle)
        self.stage4 = nn.Sequential(Block(middle, wide), active(wide, MAP, 1))
        self.pool = linear(MAP, MAP, MAP_SIDE, padding=0, groups=MAP)
        self.fc = nn.Linear(MAP, dimension, bias=False)
        self.features = nn.BatchNorm1d(dimension)
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="linear")

    def _stages(self, images: Tensor) -> Stages:
        second = self.stage2(images)  # (B, 32, 28, 28)
        third = self.stage3(second)  # (B, 64, 14, 14)
        return Stages(second, third, self.stage4(third))  # (B, 256, 7, 7)

    def _embed(self, last_map: Tensor) -> Tensor:
        return project(self.fc, self.features, self.pool(last_map).flatten(1))
