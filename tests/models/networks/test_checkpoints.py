"""Published checkpoints: names, shapes and prefixes as their programs write them, and what fails.

Nobody ships the real files, so the names and shapes are written down here from the published
architectures, and the expected embeddings are computed here from those names alone.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facestream import ConfigError, CorruptModelFile, MissingModelFile
from facestream.models.networks.checkpoint_keys import LAYOUTS
from facestream.models.networks.checkpoints import (
    export_weights,
    find_state,
    load_backbone,
    load_weights,
    read_checkpoint,
)
from facestream.models.networks.iresnet import ADAFACE, INSIGHTFACE, MAGFACE, Convention, IResNet

UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
Shapes = dict[str, tuple[int, ...]]
WIDTH = 8
"""Of the embeddings here: the linear layer is most of a checkpoint."""


def norm(name: str, channels: int, *, affine: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (channels,), f"{name}.bias": (channels,)} if affine else {}
    shapes |= {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return shapes | {f"{name}.num_batches_tracked": ()}


def arcface_shapes(depth: int, width: int = WIDTH) -> Shapes:
    """insightface's arcface_torch and MagFace: backbones/iresnet.py, models/iresnet.py."""
    shapes: Shapes = {"conv1.weight": (64, 3, 3, 3)} | norm("bn1", 64) | {"prelu.weight": (64,)}
    into = 64
    for stage, (units, out) in enumerate(zip(UNITS[depth], (64, 128, 256, 512), strict=True), 1):
        for unit in range(units):
            name = f"layer{stage}.{unit}"
            shapes |= norm(f"{name}.bn1", into)
            shapes[f"{name}.conv1.weight"] = (out, into, 3, 3)
            shapes |= norm(f"{name}.bn2", out)
            shapes[f"{name}.prelu.weight"] = (out,)
            shapes[f"{name}.conv2.weight"] = (out, out, 3, 3)
            shapes |= norm(f"{name}.bn3", out)
            if unit == 0:
                shapes[f"{name}.downsample.0.weight"] = (out, into, 1, 1)
                shapes |= norm(f"{name}.downsample.1", out)
            into = out
    shapes |= norm("bn2", 512) | {"fc.weight": (width, 25088), "fc.bias": (width,)}
    return shapes | norm("features", width)


def body_shapes(depth: int, width: int = WIDTH) -> Shapes:
    """AdaFace's, CAFace's and TFace's Backbone: net.py, tface_model.py."""
    shapes: Shapes = {"input_layer.0.weight": (64, 3, 3, 3)} | norm("input_layer.1", 64)
    shapes["input_layer.2.weight"] = (64,)
    into, index = 64, 0
    for units, out in zip(UNITS[depth], (64, 128, 256, 512), strict=True):
        for _ in range(units):
            name = f"body.{index}"
            if into != out:
                shapes[f"{name}.shortcut_layer.0.weight"] = (out, into, 1, 1)
                shapes |= norm(f"{name}.shortcut_layer.1", out)
            shapes |= norm(f"{name}.res_layer.0", into)
            shapes[f"{name}.res_layer.1.weight"] = (out, into, 3, 3)
            shapes |= norm(f"{name}.res_layer.2", out)
            shapes[f"{name}.res_layer.3.weight"] = (out,)
            shapes[f"{name}.res_layer.4.weight"] = (out, out, 3, 3)
            shapes |= norm(f"{name}.res_layer.5", out)
            into, index = out, index + 1
    shapes |= norm("output_layer.0", 512)
    shapes |= {"output_layer.3.weight": (width, 25088), "output_layer.3.bias": (width,)}
    return shapes | norm("output_layer.4", width, affine=False)


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            state[name] = 0.5 + torch.rand(shape, generator=draw)
        elif len(shape) == 4:
            fan = shape[1] * shape[2] * shape[3]
            state[name] = torch.randn(shape, generator=draw) / fan**0.5
        else:
            state[name] = 0.01 * torch.randn(shape, generator=draw)
    return state


class ByName:
    """A network computed from the names of a checkpoint with torch's functions, in float64."""

    def __init__(self, state: dict[str, Tensor], eps: float) -> None:
        self.state = {name: value.double() for name, value in state.items()}
        self.eps = eps

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        scale, shift = self.state.get(f"{name}.weight"), self.state.get(f"{name}.bias")
        return F.batch_norm(x, mean, var, scale, shift, eps=self.eps)

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def unit(self, x: Tensor, names: tuple[str, ...], shortcut: str, stride: int) -> Tensor:
        first, conv1, second, prelu, conv2, third = names
        y = self.norm(self.conv(self.norm(x, first), conv1), second)
        y = self.norm(self.conv(F.prelu(y, self.state[f"{prelu}.weight"]), conv2, stride), third)
        if f"{shortcut}.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{shortcut}.0", stride), f"{shortcut}.1")
        elif stride == 2:
            x = F.max_pool2d(x, 1, 2)
        return x + y

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.linear(x.flatten(1), weight, bias)

    def arcface(self, x: Tensor, units: tuple[int, ...]) -> Tensor:
        x = F.prelu(self.norm(self.conv(x, "conv1"), "bn1"), self.state["prelu.weight"])
        for stage, number in enumerate(units, 1):
            for unit in range(number):
                name = f"layer{stage}.{unit}"
                parts = ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3")
                names = tuple(f"{name}.{part}" for part in parts)
                x = self.unit(x, names, f"{name}.downsample", 2 if unit == 0 else 1)
        return self.norm(self.linear(self.norm(x, "bn2"), "fc"), "features")

    def body(self, x: Tensor, units: tuple[int, ...]) -> Tensor:
        x = self.norm(self.conv(x, "input_layer.0"), "input_layer.1")
        x = F.prelu(x, self.state["input_layer.2.weight"])
        firsts = {sum(units[:stage]) for stage in range(4)}
        for index in range(sum(units)):
            names = tuple(f"body.{index}.res_layer.{part}" for part in range(6))
            x = self.unit(x, names, f"body.{index}.shortcut_layer", 2 if index in firsts else 1)
        return self.norm(
            self.linear(self.norm(x, "output_layer.0"), "output_layer.3"), "output_layer.4"
        )


@pytest.fixture(scope="module")
def arcface() -> dict[str, Tensor]:
    return random_state(arcface_shapes(18))


@pytest.fixture(scope="module")
def body() -> dict[str, Tensor]:
    return random_state(body_shapes(18))


def blank(convention: Convention = INSIGHTFACE) -> IResNet:
    """Depth 18 with whatever stands in its memory: drawing weights takes longer than a test."""
    with torch.device("meta"):
        network = IResNet(18, dimension=WIDTH, convention=convention)
    return network.to_empty(device="cpu")


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def head(prefix: str) -> dict[str, Tensor]:
    """A class layer of a training program."""
    return {f"{prefix}.weight": torch.zeros(WIDTH, 5)}


def image() -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(1, 3, 112, 112, generator=draw, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_shapes_of_every_depth(layout: str) -> None:
    """Those written down above; there is no Backbone of basic units with depth 200."""
    body = LAYOUTS[layout].convention == ADAFACE
    assert LAYOUTS[layout].depths == ((18, 34, 50, 100) if body else tuple(UNITS))
    for depth in LAYOUTS[layout].depths:
        with torch.device("meta"):
            network = IResNet(depth, convention=LAYOUTS[layout].convention)
        exported = export_weights(network, layout).items()
        written = body_shapes(depth, 512) if body else arcface_shapes(depth, 512)
        assert {name: tuple(value.shape) for name, value in exported} == written


def test_stages_of_depth_100_end_where_caface_takes_its_styles() -> None:
    names = body_shapes(100)
    shortcuts = [int(name.split(".")[1]) for name in names if "shortcut_layer.0" in name]
    assert shortcuts == [3, 16, 46]  # each follows the end of a stage: 2, 15, 45
    assert LAYOUTS["caface"].rename("layer2.12.bn3.bias", 100) == "body.15.res_layer.5.bias"
    assert LAYOUTS["caface"].rename("layer3.29.bn3.bias", 100) == "body.45.res_layer.5.bias"
    assert LAYOUTS["caface"].rename("layer4.2.bn3.bias", 100) == "body.48.res_layer.5.bias"


def test_insightface_backbone_file(tmp_path: Path, arcface: dict[str, Tensor]) -> None:
    path = tmp_path / "backbone.pth"
    torch.save(arcface, path)
    network, pixels = load_backbone(path, "iresnet18", "arcface_torch", dimension=WIDTH)
    assert not network.training and network.convention == INSIGHTFACE
    assert network.fc.weight.dtype == torch.float32 and network.fc.weight.device.type == "cpu"
    assert not network.features.weight.requires_grad and network.features.bias.requires_grad
    state = network.state_dict()
    assert state.keys() == arcface.keys()
    assert all(torch.equal(state[name], arcface[name]) for name in state)
    assert pixels.channel_order == "RGB" and pixels.mean == pixels.std == (127.5,) * 3
    expected = ByName(arcface, 1e-5).arcface(image(), UNITS[18])
    with torch.no_grad():
        torch.testing.assert_close(network.double()(image()), expected, rtol=1e-9, atol=1e-9)


def test_magface_file(tmp_path: Path, arcface: dict[str, Tensor]) -> None:
    path = tmp_path / "magface.pth"
    state = prefixed("features.module.", arcface) | head("parallel_fc")
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    torch.save(
        {"epoch": 25, "arch": "iresnet18", "state_dict": state, "optimizer": optimizer}, path
    )
    network, pixels = load_backbone(path, "iresnet18", "magface", dimension=WIDTH)
    assert network.convention == MAGFACE and network.features.weight.requires_grad
    assert (pixels.channel_order, pixels.mean, pixels.std) == ("BGR", (0,) * 3, (255,) * 3)
    expected = ByName(arcface, 2e-5).arcface(image(), UNITS[18])
    with torch.no_grad():
        torch.testing.assert_close(network.double()(image()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("layout", "others"), [("adaface", "head.kernel"), ("caface", "aggregator.agn.fc1")]
)
def test_lightning_file(tmp_path: Path, body: dict[str, Tensor], layout: str, others: str) -> None:
    path = tmp_path / "last.ckpt"
    state = prefixed("model.", body) | head(others)
    if layout == "caface":
        state["center.weight"] = torch.zeros(5, WIDTH)
    torch.save(
        {"epoch": 20, "state_dict": OrderedDict(state), "hyper_parameters": {"m": 0.4}}, path
    )
    network, pixels = load_backbone(path, "iresnet18", layout, dimension=WIDTH)
    assert network.convention == ADAFACE
    assert (pixels.channel_order, pixels.mean, pixels.std) == ("BGR", (127.5,) * 3, (127.5,) * 3)
    loaded = export_weights(network, layout)
    assert loaded.keys() == body.keys()
    assert all(torch.equal(loaded[name], body[name]) for name in body)
    expected = ByName(body, 1e-5).body(image(), UNITS[18])
    with torch.no_grad():
        torch.testing.assert_close(network.double()(image()), expected, rtol=1e-9, atol=1e-9)


def test_caface_with_an_arcface_backbone_takes_rgb(arcface: dict[str, Tensor]) -> None:
    network = blank()
    state = prefixed("model.", arcface) | head("center") | head("aggregator.sim")
    load_weights(network, state, "caface-arcface")
    assert torch.equal(network.fc.weight, arcface["fc.weight"])
    assert LAYOUTS["caface-arcface"].pixels.channel_order == "RGB"


@pytest.mark.parametrize(
    ("layout", "prefix", "others"),
    [
        ("arcface_torch", "", None),
        ("arcface_torch", "module.", None),
        ("magface", "module.features.", "module.fc"),
        ("magface", "features.", "fc"),
        ("magface", "", None),
        ("adaface", "module.", None),
        ("adaface", "", None),
    ],
)
def test_every_prefix(
    layout: str,
    prefix: str,
    others: str | None,
    arcface: dict[str, Tensor],
    body: dict[str, Tensor],
) -> None:
    network = blank(LAYOUTS[layout].convention)
    state = body if layout == "adaface" else arcface
    load_weights(network, prefixed(prefix, state) | (head(others) if others else {}), layout)
    exported = export_weights(network, layout)
    assert exported.keys() == state.keys()
    assert all(torch.equal(exported[name], state[name]) for name in state)


def test_exported_weights_load_again(body: dict[str, Tensor]) -> None:
    first = IResNet(18, dimension=WIDTH, convention=ADAFACE)
    second = blank(ADAFACE)
    load_weights(second, export_weights(first, "adaface"), "adaface")
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(ConfigError, match="cannot be written in layout arcface_torch"):
        export_weights(first, "arcface_torch")


def test_full_training_state_of_arcface_torch(tmp_path: Path, arcface: dict[str, Tensor]) -> None:
    path = tmp_path / "checkpoint_gpu_0.pt"
    torch.save({"epoch": 3, "state_dict_backbone": arcface, "state_dict_softmax_fc": {}}, path)
    assert find_state(read_checkpoint(path)).keys() == arcface.keys()


def test_half_precision_and_missing_counters_are_taken(arcface: dict[str, Tensor]) -> None:
    network = blank()
    state = {n: v.half() for n, v in arcface.items() if not n.endswith("num_batches_tracked")}
    load_weights(network, state, "arcface_torch")
    assert torch.equal(network.fc.weight, state["fc.weight"].float())
    assert network.bn1.num_batches_tracked == 0


def test_a_mismatch_names_the_keys_and_copies_nothing(arcface: dict[str, Tensor]) -> None:
    network = IResNet(18, dimension=WIDTH)
    before = network.conv1.weight.clone()
    state = dict(arcface)
    for unit in range(2):
        del state[f"layer1.{unit}.bn3.bias"], state[f"layer2.{unit}.bn3.bias"]
    state["se.fc1.weight"] = torch.zeros(2)
    state["fc.weight"] = torch.zeros(WIDTH, 25087)
    with pytest.raises(CorruptModelFile) as told:
        load_weights(network, state, "arcface_torch", source="odd.pth")
    message = str(told.value)
    assert message.startswith("odd.pth does not hold the weights of iresnet18: it lacks 4 (")
    assert "layer1.0.bn3.bias, layer1.1.bn3.bias, layer2.0.bn3.bias, ..." in message
    assert "unknown 1 (se.fc1.weight)" in message
    assert "other shapes in 1 (fc.weight (8, 25087) for (8, 25088))" in message
    assert "\n" not in message
    assert torch.equal(network.conv1.weight, before)


@pytest.mark.parametrize(
    ("layout", "depth", "hint"),
    [
        ("arcface_torch", 18, "an iresnet50 in layout arcface_torch"),
        ("adaface", 50, "an iresnet50 in layout arcface_torch"),
    ],
)
def test_a_mismatch_says_what_the_file_looks_like(layout: str, depth: int, hint: str) -> None:
    state = {name: torch.zeros(()).expand(shape) for name, shape in arcface_shapes(50).items()}
    with torch.device("meta"):
        network = IResNet(depth, dimension=WIDTH, convention=LAYOUTS[layout].convention)
    with pytest.raises(CorruptModelFile, match=f"; by its names it is {hint}"):
        load_weights(network, state, layout)


def test_a_magface_file_is_not_taken_for_insightface(arcface: dict[str, Tensor]) -> None:
    state = prefixed("features.module.", arcface) | head("parallel_fc")
    with pytest.raises(CorruptModelFile, match="an iresnet18 in layout magface"):
        load_weights(blank(), state, "arcface_torch")


def test_something_else_is_in_no_layout() -> None:
    with pytest.raises(
        CorruptModelFile, match=r"it lacks 1[0-9]+ \(conv1.weight, .* in no known layout"
    ):
        load_weights(blank(), {"a": torch.zeros(1)}, "arcface_torch")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(arcface: dict[str, Tensor], value: float) -> None:
    state = arcface | {"bn2.bias": torch.full((512,), value)}
    with pytest.raises(CorruptModelFile, match=r"bn2.bias must hold finite"):
        load_weights(blank(), state, "arcface_torch")


def test_integers_are_no_weights(arcface: dict[str, Tensor]) -> None:
    state = arcface | {"bn2.bias": torch.zeros(512, dtype=torch.int64)}
    with pytest.raises(CorruptModelFile, match=r"bn2.bias must hold finite floating point"):
        load_weights(blank(), state, "arcface_torch")


def test_settings_that_cannot_be(tmp_path: Path, arcface: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"layout must be one of arcface_torch.*'tface'"):
        load_backbone(tmp_path / "x", "iresnet18", "tface")
    with pytest.raises(ConfigError, match=r"adaface has iresnet18, .* got 'iresnet200'"):
        load_backbone(tmp_path / "x", "iresnet200", "adaface")
    with pytest.raises(ConfigError, match="eps 1e-05, the network has 2e-05"):
        load_weights(blank(MAGFACE), arcface, "arcface_torch")
    with pytest.raises(MissingModelFile, match="no checkpoint at"):
        load_backbone(tmp_path / "x", "iresnet18", "adaface")
