"""IResNet: the residual network of ArcFace, MagFace, AdaFace and CAFace, in their conventions.

Deng et al., "ArcFace", CVPR 2019 (the "improved residual" unit). For 112 x 112 faces, B of them:

    conv 3x3, BN, PReLU                 (B,  64, 112, 112)
    stage 1  n1 units of 64 channels    (B,  64,  56,  56)
    stage 2  n2 units of 128            (B, 128,  28,  28)
    stage 3  n3 units of 256            (B, 256,  14,  14)
    stage 4  n4 units of 512, BN        (B, 512,   7,   7)   the last map
    dropout, flatten, linear, BN        (B, C)               the raw embedding

A unit is BN, conv 3x3, BN, PReLU, conv 3x3 (with the stride), BN, plus its shortcut. The first unit
of a stage has stride 2. Depth 18, 34, 50, 100 and 200 count the convolutions; AdaFace calls 100
"101". Modules have the names of insightface's arcface_torch, so its weights load without renaming.

Parameters at C = 512, insightface's convention, the frozen final scale included: 24,025,600,
34,139,328, 43,590,848, 65,156,160 and 118,833,920. AdaFace's have 5,248 fewer: no scale and shift
in the final BN (1,024), no convolution on the first shortcut (4,224).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from ... import ConfigError
from .backbone import MAP_SIDE, Backbone, Stages, project

DEPTHS: Mapping[int, tuple[int, int, int, int]] = MappingProxyType(
    {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 14, 3),
        100: (3, 13, 30, 3),
        200: (6, 26, 60, 6),
    }
)
"""Units per stage."""
STEM = 64
WIDTHS = (64, 128, 256, 512)
"""Channels per stage."""


@dataclass(frozen=True)
class Convention:
    """In what the published IResNets differ. The defaults are insightface's arcface_torch."""

    eps: float = 1e-5
    """Of every batch norm, > 0."""
    momentum: float = 0.1
    """Of every batch norm, in (0, 1]: running = (1 - momentum) running + momentum batch."""
    init: Literal["normal", "kaiming", "kaiming-linear"] = "normal"
    """Of the convolutions: N(0, 0.1), or N(0, 2 / fan_out); "kaiming-linear": the linear layer too,
    with bias 0. Otherwise the linear layer has torch's own."""
    final: Literal["frozen", "trained", "plain"] = "frozen"
    """Scale and shift of the final BN: the scale fixed at 1, both trained, or neither there."""
    dropout: float = 0.0
    """Probability in [0, 1), on the last map."""
    dropout_of: Literal["elements", "channels"] = "elements"
    shortcut: Literal["convolution", "subsample"] = "convolution"
    """Of a unit with stride 2 that keeps its channels (the network's first): conv 1x1 and BN, or
    every second pixel. Where the channels change it is always the convolution."""

    def __post_init__(self) -> None:
        """Raises ConfigError for a number out of its range."""
        if not (self.eps > 0 and 0 < self.momentum <= 1 and 0 <= self.dropout < 1):
            raise ConfigError(
                "an IResNet convention needs eps > 0, momentum in (0, 1] and dropout in [0, 1), "
                f"got {self.eps}, {self.momentum} and {self.dropout}"
            )


INSIGHTFACE = Convention()
MAGFACE = Convention(eps=2e-5, init="kaiming", final="trained", dropout=0.4, dropout_of="channels")
"""MagFace's, except for the momentum: see MAGFACE_PUBLISHED."""
MAGFACE_PUBLISHED = replace(MAGFACE, momentum=0.9)
"""MagFace's own momentum. It is MXNet's number, which there weighs the old value; in torch it
weighs the new one, so that running statistics are about those of the last batch."""
ADAFACE = Convention(init="kaiming-linear", final="plain", dropout=0.4, shortcut="subsample")
"""AdaFace's, CAFace's and TFace's "Backbone"."""
CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        "insightface": INSIGHTFACE,
        "magface": MAGFACE,
        "magface-published": MAGFACE_PUBLISHED,
        "adaface": ADAFACE,
    }
)


def find_convention(convention: Convention | str | None) -> Convention:
    """A convention by its name in CONVENTIONS; None is insightface's. Raises ConfigError."""
    if isinstance(convention, Convention):
        return convention
    name = "insightface" if convention is None else convention
    if name not in CONVENTIONS:
        raise ConfigError(f"convention must be one of {', '.join(CONVENTIONS)}, got {name!r}")
    return CONVENTIONS[name]


class Unit(nn.Module):
    """(B, into, H, W) -> (B, out, H / stride, W / stride)."""

    def __init__(self, into: int, out: int, stride: int, convention: Convention) -> None:
        """Untrained; the network initialises it."""
        super().__init__()
        self.bn1 = _norm(into, convention)
        self.conv1 = nn.Conv2d(into, out, 3, padding=1, bias=False)
        self.bn2 = _norm(out, convention)
        self.prelu = nn.PReLU(out)
        self.conv2 = nn.Conv2d(out, out, 3, stride=stride, padding=1, bias=False)
        self.bn3 = _norm(out, convention)
        self.downsample: nn.Module
        if into != out or (stride != 1 and convention.shortcut == "convolution"):
            self.downsample = nn.Sequential(
                nn.Conv2d(into, out, 1, stride=stride, bias=False), _norm(out, convention)
            )
        elif stride != 1:
            self.downsample = nn.MaxPool2d(1, stride)
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, into, H, W) -> (B, out, H / stride, W / stride)."""
        residual: Tensor = self.conv1(self.bn1(x))
        residual = self.conv2(self.prelu(self.bn2(residual)))
        residual = self.bn3(residual)
        shortcut: Tensor = self.downsample(x)
        return residual + shortcut


class IResNet(Backbone):
    """See the module's text for shapes. map_channels 512, style_channels 128 + 256 = 384."""

    def __init__(
        self, depth: int, *, dimension: int = 512, convention: Convention = INSIGHTFACE
    ) -> None:
        """Freshly initialised, in training mode. depth: a key of DEPTHS, else ConfigError."""
        super().__init__()
        if depth not in DEPTHS:
            raise ConfigError(f"IResNet depth must be one of {[*DEPTHS]}, got {depth}")
        self.depth = depth
        self.convention = convention
        self.dimension = dimension
        self.map_channels = WIDTHS[3]
        self.style_channels = WIDTHS[1] + WIDTHS[2]
        units = DEPTHS[depth]
        self.conv1 = nn.Conv2d(3, STEM, 3, padding=1, bias=False)
        self.bn1 = _norm(STEM, convention)
        self.prelu = nn.PReLU(STEM)
        self.layer1 = _stage(STEM, WIDTHS[0], units[0], convention)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], units[1], convention)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], units[2], convention)
        self.layer4 = _stage(WIDTHS[2], WIDTHS[3], units[3], convention)
        self.bn2 = _norm(WIDTHS[3], convention)
        drop = nn.Dropout2d if convention.dropout_of == "channels" else nn.Dropout
        self.dropout = drop(convention.dropout)
        self.fc = nn.Linear(WIDTHS[3] * MAP_SIDE * MAP_SIDE, dimension)
        self.features = nn.BatchNorm1d(
            dimension,
            eps=convention.eps,
            momentum=convention.momentum,
            affine=convention.final != "plain",
        )
        if convention.final == "frozen":
            self.features.weight.requires_grad_(False)
        self._initialise()

    def _initialise(self) -> None:
        if self.fc.weight.is_meta:
            # Its weights are to come from a file. To draw there would import torch's compiler.
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if self.convention.init == "normal":
                    nn.init.normal_(module.weight, std=0.1)
                else:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if self.convention.init == "kaiming-linear":
            nn.init.kaiming_normal_(self.fc.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(self.fc.bias)

    def _stages(self, images: Tensor) -> Stages:
        x = self.prelu(self.bn1(self.conv1(images)))  # (B, 64, 112, 112)
        second = self.layer2(self.layer1(x))  # (B, 128, 28, 28)
        third = self.layer3(second)  # (B, 256, 14, 14)
        last = self.bn2(self.layer4(third))  # (B, 512, 7, 7)
        return Stages(second, third, last)

    def _embed(self, last_map: Tensor) -> Tensor:
        return project(self.fc, self.features, self.dropout(last_map).flatten(1))


def _norm(channels: int, convention: Convention) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=convention.eps, momentum=convention.momentum)


def _stage(into: int, out: int, units: int, convention: Convention) -> nn.Sequential:
    return nn.Sequential(
        Unit(into, out, 2, convention),
        *(Unit(out, out, 1, convention) for _ in range(units - 1)),
    )
