"""What every face backbone is: aligned faces in, raw embeddings out, with two stops on the way.

The stops are the last feature map (CQA-Face reads it) and the style statistics of two middle
stages (CAFace reads them). A concrete backbone gives `_stages` and `_embed`; shapes are checked
here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ... import ConfigError, RecordError

if TYPE_CHECKING:
    from .iresnet import Convention

SIDE = 112
"""Height and width of an aligned face, px."""
MAP_SIDE = 7
"""Height and width of the last feature map."""


class Stages(NamedTuple):
    """What one pass through the stem leaves behind; B faces."""

    second: Tensor
    """Output of stage 2, (B, K2, 28, 28)."""
    third: Tensor
    """Output of stage 3, (B, K3, 14, 14)."""
    last: Tensor
    """The last feature map, (B, D, 7, 7), after the stem's last batch norm."""


class Backbone(nn.Module, ABC):
    """Aligned faces to raw (not normalised) embeddings.

    images everywhere: (B, 3, 112, 112) floating point, of the dtype and on the device of the
    weights, with the channel order and the pixel scale that the weights were trained with
    (models.pixels.PixelFormat; `checkpoints.LAYOUTS` for the published ones). B may be 0 in eval
    mode; in training mode the last batch norm needs B >= 2.
    """

    side: int = SIDE
    dimension: int
    """C, the width of an embedding."""
    map_channels: int
    """D, the channels of the last feature map."""
    style_channels: int
    """K = K2 + K3, the channels of stages 2 and 3 together."""

    @abstractmethod
    def _stages(self, images: Tensor) -> Stages:
        """The stem; images are checked."""

    @abstractmethod
    def _embed(self, last_map: Tensor) -> Tensor:
        """The head: dropout, flatten, linear layer, batch norm; the map is checked."""

    def stages(self, images: Tensor) -> Stages:
        """Both middle stages and the last map of one pass: for a caller that needs all of them.

        Raises RecordError when images are not (B, 3, 112, 112) floating point.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, self.side, self.side):
            raise RecordError(
                f"a backbone takes images (B, 3, {self.side}, {self.side}), got "
                f"{tuple(images.shape)}: align the faces first"
            )
        if not images.is_floating_point():
            raise RecordError(
                f"a backbone takes floating point images, got {images.dtype}: "
                "scale the pixels as the network's PixelFormat says"
            )
        return self._stages(images)

    def feature_map(self, images: Tensor) -> Tensor:
        """images (B, 3, 112, 112) -> the last map (B, D, 7, 7), before dropout and flatten.

        Raises RecordError as `stages` does.
        """
        return self.stages(images).last

    def head(self, last_map: Tensor) -> Tensor:
        """The last map (B, D, 7, 7) -> raw embeddings (B, C). Raises RecordError on other shapes.

        The linear layer and the batch norm behind it run in the precision of their weights, also
        under autocast: the norm of an embedding is a measurement (MagFace, CAFace).
        """
        expected = (self.map_channels, MAP_SIDE, MAP_SIDE)
        if last_map.ndim != 4 or tuple(last_map.shape[1:]) != expected:
            raise RecordError(
                f"the head takes maps (B, {', '.join(map(str, expected))}), got "
                f"{tuple(last_map.shape)}"
            )
        return self._embed(last_map)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, 112, 112) -> raw embeddings (B, C). Raises RecordError as `stages` does."""
        return self.head(self.feature_map(images))

    def with_styles(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, 112, 112) -> raw embeddings (B, C) and styles (B, K, 2).

        styles are those of stage 2, then of stage 3 (CAFace, sec. 3.2, where the stem counts as
        block 1 and these as blocks 3 and 4); see `style_statistics`. Raises RecordError as
        `stages` does.
        """
        stages = self.stages(images)
        return self.head(stages.last), stages_to_styles(stages)


def stages_to_styles(stages: Stages) -> Tensor:
    """Style statistics of stage 2, then of stage 3: (B, K2 + K3, 2)."""
    return torch.cat([style_statistics(stages.second), style_statistics(stages.third)], dim=1)


def style_statistics(feature_map: Tensor) -> Tensor:
    """Maps (B, K, H, W), H * W >= 2 -> (B, K, 2): spatial mean and unbiased deviation, mean first.

    CAFace, sec. 3.2. float32 for half precision maps, else of the map's dtype. The gradient of the
    deviation of a constant map is 0.
    """
    flat = feature_map.flatten(2)  # (B, K, H * W)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    return torch.stack([flat.mean(dim=2), flat.std(dim=2, correction=1)], dim=2)


def project(layer: nn.Linear, norm: nn.BatchNorm1d, flat: Tensor) -> Tensor:
    """(B, F) -> (B, C) through a linear layer and a batch norm, in their weights' precision.

    Autocast is switched off for them where it is on; elsewhere nothing of it is traced, so that
    exported graphs stay plain.
    """
    device = flat.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _project(layer, norm, flat)
    return _project(layer, norm, flat)


def _project(layer: nn.Linear, norm: nn.BatchNorm1d, flat: Tensor) -> Tensor:
    embeddings: Tensor = norm(layer(flat.to(layer.weight.dtype)))
    return embeddings


def make_backbone(
    name: str, *, dimension: int = 512, convention: Convention | str | None = None
) -> Backbone:
    """A freshly initialised backbone in training mode.

    name: iresnet18, iresnet34, iresnet50, iresnet100, iresnet200, mobile or tiny. dimension: C.
    convention: for an IResNet, how it is initialised, normalised and dropped out: a
    `iresnet.Convention` or a name of `iresnet.CONVENTIONS`; None is insightface's. Raises
    ConfigError for an unknown name or convention, a dimension below 1, or a convention for mobile
    or tiny.
    """
    # Imported here: all build on the class above.
    from .iresnet import DEPTHS, IResNet, find_convention
    from .mobile import MobileBackbone
    from .tiny import TinyBackbone

    if dimension < 1:
        raise ConfigError(f"the dimension of an embedding must be 1 or more, got {dimension}")
    if name in ("mobile", "tiny"):
        if convention is not None:
            raise ConfigError(f"backbone {name} has one convention: leave it out")
        kind = MobileBackbone if name == "mobile" else TinyBackbone
        return kind(dimension=dimension)
    depths = {f"iresnet{depth}": depth for depth in DEPTHS}
    if name not in depths:
        raise ConfigError(
            f"backbone must be one of {', '.join(depths)}, mobile or tiny, got {name!r}"
        )
    return IResNet(depths[name], dimension=dimension, convention=find_convention(convention))
