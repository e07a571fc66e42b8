"""The layouts of published IResNet checkpoints: key names, network convention, and pixels.

Three families name the same weights, two of them alike. Left our names, which are insightface's and
MagFace's (with a prefix); right those of AdaFace, CAFace and TFace ("Backbone"), where n counts the
units of all stages from 0 (depth 100 has 49: the stages end at 2, 15, 45 and 48):

    conv1, bn1, prelu                            input_layer.0, .1, .2
    layer{s}.{i}.bn1, conv1, bn2, prelu,         body.{n}.res_layer.0, .1, .2, .3,
                 conv2, bn3                                        .4, .5
    layer{s}.{i}.downsample.0, .1                body.{n}.shortcut_layer.0, .1
    bn2, fc, features                            output_layer.0, .3, .4

The pixels stand beside the names since the weights are worthless without them: MagFace's on LFW
give 61 % instead of 99.8 % with the scale of insightface, and nothing fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..pixels import PixelFormat
from .iresnet import ADAFACE, DEPTHS, INSIGHTFACE, MAGFACE, Convention

_SIGNED = (127.5, 127.5, 127.5)
_RGB_SIGNED = PixelFormat("RGB", mean=_SIGNED, std=_SIGNED)
_BGR_SIGNED = PixelFormat("BGR", mean=_SIGNED, std=_SIGNED)
_BGR_UNIT = PixelFormat("BGR", std=(255.0, 255.0, 255.0))

_ENDS = {
    "conv1": "input_layer.0",
    "bn1": "input_layer.1",
    "prelu": "input_layer.2",
    "bn2": "output_layer.0",
    "fc": "output_layer.3",
    "features": "output_layer.4",
}
_INNER = {
    "bn1": "res_layer.0",
    "conv1": "res_layer.1",
    "bn2": "res_layer.2",
    "prelu": "res_layer.3",
    "conv2": "res_layer.4",
    "bn3": "res_layer.5",
    "downsample": "shortcut_layer",
}


def _same_name(name: str, depth: int) -> str:
    """insightface's and MagFace's name of our weight."""
    return name


def _body_name(name: str, depth: int) -> str:
    """The name in AdaFace's "Backbone" of our weight of an IResNet of this depth."""
    first, *rest = name.split(".")
    if first in _ENDS:
        return ".".join([_ENDS[first], *rest])
    unit, part, *leaf = rest  # first is layer1 to layer4
    before = sum(DEPTHS[depth][: int(first.removeprefix("layer")) - 1])
    return ".".join([f"body.{before + int(unit)}", _INNER[part], *leaf])


class Layout(NamedTuple):
    """How one publisher's checkpoints are written, and what their network expects."""

    convention: Convention
    pixels: PixelFormat
    """What the loaded network takes."""
    depths: tuple[int, ...]
    rename: Callable[[str, int], str]
    """Our name of a weight and the depth -> the publisher's, without prefix."""
    unit_mark: str
    """How the name of exactly one weight of every unit ends."""
    prefixes: tuple[str, ...]
    """What may stand before every name of the network; the first that fits is taken."""
    others: tuple[str, ...] = ()
    """With a prefix: beginnings of names of what else the training program saved. Left unread."""

    def find_prefix(self, names: Mapping[str, object]) -> str | None:
        """The prefix under which the network's first weight lies; None when it is not there."""
        first = self.rename("conv1.weight", self.depths[0])
        return next((prefix for prefix in self.prefixes if prefix + first in names), None)

    def find_depth(self, names: Mapping[str, object]) -> int | None:
        """The depth of the network in a checkpoint, by its number of units; None: not a known one.

        For a helpful message, not for trust: the strict comparison of names and shapes follows.
        """
        units = sum(name.endswith(self.unit_mark) for name in names)
        return next((depth for depth in self.depths if sum(DEPTHS[depth]) == units), None)


# AdaFace's own network of 200 layers has bottleneck units and 2048 channels: another network.
_BODY_DEPTHS = (18, 34, 50, 100)

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "arcface_torch": Layout(
            INSIGHTFACE,
            _RGB_SIGNED,
            tuple(DEPTHS),
            _same_name,
            ".prelu.weight",
            prefixes=("", "module."),
        ),
        "magface": Layout(
            MAGFACE,
            _BGR_UNIT,
            tuple(DEPTHS),
            _same_name,
            ".prelu.weight",
            prefixes=("features.module.", "module.features.", "features.", ""),
            others=("fc.", "module.fc.", "parallel_fc.", "module.parallel_fc."),
        ),
        "adaface": Layout(
            ADAFACE,
            _BGR_SIGNED,
            _BODY_DEPTHS,
            _body_name,
            ".res_layer.3.weight",
            prefixes=("model.", "module.", ""),
            others=("head.",),
        ),
        "caface": Layout(
            ADAFACE,
            _BGR_SIGNED,
            _BODY_DEPTHS,
            _body_name,
            ".res_layer.3.weight",
            prefixes=("model.",),
            others=("aggregator.", "center."),
        ),
        # Its wrapper takes BGR and turns the channels around before the network: ours takes RGB.
        "caface-arcface": Layout(
            INSIGHTFACE,
            _RGB_SIGNED,
            tuple(DEPTHS),
            _same_name,
            ".prelu.weight",
            prefixes=("model.",),
            others=("aggregator.", "center."),
        ),
    }
)
"""By the name of the publisher's program."""
