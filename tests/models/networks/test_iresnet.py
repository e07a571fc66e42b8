"""IResNet: the published sizes, shapes and conventions; what every backbone promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from facestream import ConfigError, RecordError
from facestream.models.networks.backbone import (
    Stages,
    make_backbone,
    stages_to_styles,
    style_statistics,
)
from facestream.models.networks.iresnet import (
    ADAFACE,
    CONVENTIONS,
    INSIGHTFACE,
    MAGFACE,
    MAGFACE_PUBLISHED,
    Convention,
    IResNet,
)

PARAMETERS = {18: 24_025_600, 34: 34_139_328, 50: 43_590_848, 100: 65_156_160, 200: 118_833_920}


def count(module: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def on_meta(depth: int, convention: Convention = INSIGHTFACE) -> IResNet:
    with torch.device("meta"):
        return IResNet(depth, convention=convention)


def faces(batch: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, 112, 112, generator=draw) * 2 - 1


@pytest.fixture(scope="module")
def small() -> IResNet:
    """Depth 18 with 16-d embeddings, whose running statistics have seen a few images."""
    torch.manual_seed(0)
    network = IResNet(18, dimension=16, convention=replace(MAGFACE, momentum=1.0))
    with torch.no_grad():
        network(faces(4))
    return network.eval()


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameters_are_the_published_number(depth: int) -> None:
    network = on_meta(depth)
    assert count(network) == PARAMETERS[depth]
    assert count(network, trained=True) == PARAMETERS[depth] - 512
    magface = on_meta(depth, MAGFACE)
    assert count(magface) == count(magface, trained=True) == PARAMETERS[depth]
    # No convolution and BN on the first shortcut, no scale and shift at the end.
    assert count(on_meta(depth, ADAFACE)) == PARAMETERS[depth] - (64 * 64 + 2 * 64) - 2 * 512


@pytest.mark.parametrize("depth", [18, 100])
def test_shapes_of_every_stage(depth: int) -> None:
    network = on_meta(depth)
    images = torch.empty(3, 3, 112, 112, device="meta")
    stages = network.stages(images)
    assert stages.second.shape == (3, 128, 28, 28)
    assert stages.third.shape == (3, 256, 14, 14)
    assert stages.last.shape == (3, network.map_channels, 7, 7)
    embeddings, styles = network.head(stages.last), stages_to_styles(stages)
    assert embeddings.shape == (3, network.dimension) == (3, 512)
    assert styles.shape == (3, network.style_channels, 2) == (3, 384, 2)


def test_depth_100_has_463_tensors_and_49_units() -> None:
    network = on_meta(100)
    names = [name for name, _ in network.named_parameters()]
    assert len(names) == 463
    assert names[-10] == "layer4.2.prelu.weight"
    assert names[-50] == "layer3.28.bn2.bias"
    assert names[-100] == "layer3.22.bn3.bias"
    assert sum(len(getattr(network, f"layer{stage}")) for stage in range(1, 5)) == 49


def test_styles_are_mean_and_unbiased_deviation_of_stages_2_and_3(small: IResNet) -> None:
    images = faces(2, seed=1)
    with torch.no_grad():
        embeddings, styles = small.with_styles(images)
        stages = small.stages(images)
    by_hand = torch.empty(2, 384, 2, dtype=torch.float64)
    for face in range(2):
        channels = [*stages.second[face], *stages.third[face]]
        for channel, values in enumerate(channels):
            x = values.double()
            by_hand[face, channel, 0] = x.sum() / x.numel()
            by_hand[face, channel, 1] = (((x - x.mean()) ** 2).sum() / (x.numel() - 1)).sqrt()
    torch.testing.assert_close(styles.double(), by_hand, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings, small(images))
    torch.testing.assert_close(styles, stages_to_styles(stages))


def test_style_statistics_of_known_maps() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 5.0], [5.0, 5.0]]]], dtype=torch.float64)
    expected = torch.tensor([[[2.5, (5 / 3) ** 0.5], [5.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(style_statistics(maps), expected, rtol=1e-15, atol=0.0)
    half = style_statistics(maps.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected.float())


def test_a_constant_map_has_a_finite_style_gradient() -> None:
    maps = torch.full((1, 2, 3, 3), 5.0, requires_grad=True)
    style_statistics(maps).sum().backward()
    assert maps.grad is not None
    torch.testing.assert_close(maps.grad, torch.full_like(maps, 1 / 9))


def test_head_after_the_map_is_forward(small: IResNet) -> None:
    images = faces(3)
    with torch.no_grad():
        last = small.feature_map(images)
        assert torch.equal(small.head(last), small(images))


def test_eval_is_deterministic_and_images_do_not_mix(small: IResNet) -> None:
    images = faces(3)
    with torch.no_grad():
        once, again = small(images), small(images)
        alone = small(images[1:2])
        none = small(images[:0])
    assert torch.equal(once, again)
    torch.testing.assert_close(alone, once[1:2], rtol=1e-4, atol=1e-4)
    assert none.shape == (0, 16)


def test_training_mode_drops_out_and_eval_does_not(small: IResNet) -> None:
    last = torch.ones(8, 512, 7, 7)
    for kind, drops_channels in (("elements", False), ("channels", True)):
        convention = Convention(dropout=0.4, dropout_of=kind)  # type: ignore[arg-type]
        dropout = IResNet(18, dimension=2, convention=convention).dropout
        torch.manual_seed(0)
        zeros = (dropout.train()(last) == 0).flatten(2)  # (8, 512, 49)
        assert zeros.float().mean().item() == pytest.approx(0.4, abs=0.05)
        assert bool((zeros.all(2) | ~zeros.any(2)).all()) == drops_channels
        assert torch.equal(dropout.eval()(last), last)
    assert isinstance(small.dropout, nn.Dropout2d) and small.dropout.p == 0.4


@pytest.mark.parametrize(
    ("name", "eps", "momentum"),
    [
        ("insightface", 1e-5, 0.1),
        ("magface", 2e-5, 0.1),
        ("magface-published", 2e-5, 0.9),
        ("adaface", 1e-5, 0.1),
    ],
)
def test_every_norm_follows_the_convention(name: str, eps: float, momentum: float) -> None:
    with torch.device("meta"):
        network = make_backbone("iresnet18", convention=name)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 2 + 8 * 3 + (3 if name == "adaface" else 4) + 1
    assert {(norm.eps, norm.momentum) for norm in norms} == {(eps, momentum)}


def test_published_momentum_keeps_a_tenth_of_the_old_statistics() -> None:
    network = IResNet(18, dimension=4, convention=MAGFACE_PUBLISHED)
    images = faces(2)
    with torch.no_grad():
        batch_mean = network.conv1(images).mean(dim=(0, 2, 3))
        network(images)
    torch.testing.assert_close(network.bn1.running_mean, 0.9 * batch_mean)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_initial_weights_and_the_final_norm(name: str) -> None:
    torch.manual_seed(0)
    network = IResNet(18, dimension=64, convention=CONVENTIONS[name])
    conv = network.layer4[1].conv1.weight  # 512 channels of 3 x 3: fan out 4608
    insightface = name == "insightface"
    assert conv.std().item() == pytest.approx(0.1 if insightface else (2 / 4608) ** 0.5, rel=0.01)
    if name == "adaface":
        assert network.features.weight is None and network.features.bias is None
        assert network.fc.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.01)
        assert not network.fc.bias.any()
    else:
        assert network.features.weight.requires_grad == (not insightface)
        assert network.features.bias.requires_grad
        assert bool((network.features.weight == 1).all())
        assert network.fc.weight.abs().max().item() <= 25088**-0.5


def test_gradient_reaches_every_parameter_but_the_frozen_one() -> None:
    torch.manual_seed(0)
    network = IResNet(18, dimension=16)
    embeddings, styles = network.with_styles(faces(2))
    draw = torch.Generator().manual_seed(1)
    (embeddings * torch.randn(embeddings.shape, generator=draw)).sum().backward(retain_graph=True)
    for name, parameter in network.named_parameters():
        if name == "features.weight":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
    network.zero_grad()
    styles.sum().backward()
    assert network.conv1.weight.grad is not None and network.conv1.weight.grad.any()
    assert network.layer4[0].conv1.weight.grad is None


def test_half_precision_agrees_with_float32(small: IResNet) -> None:
    images, dtype = faces(1), torch.bfloat16  # float16 takes a CPU ten times as long
    half = IResNet(18, dimension=16, convention=small.convention).eval()
    half.load_state_dict(small.state_dict())
    half.to(dtype)
    with torch.no_grad():
        exact, exact_styles = small.with_styles(images)
        rough, styles = half.with_styles(images.to(dtype))
    assert rough.dtype == dtype and styles.dtype == torch.float32
    assert torch.cosine_similarity(rough.float(), exact).min() > 0.99
    torch.testing.assert_close(styles, exact_styles, rtol=0.1, atol=0.1)


def test_under_autocast_the_embedding_stays_float32(small: IResNet) -> None:
    images = faces(1)
    inside: list[torch.dtype] = []
    hook = small.layer4.register_forward_hook(lambda *called: inside.append(called[-1].dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings, styles = small.with_styles(images)
    hook.remove()
    assert inside == [torch.bfloat16]
    assert embeddings.dtype == styles.dtype == torch.float32
    with torch.no_grad():
        assert torch.cosine_similarity(embeddings, small(images)).min() > 0.99


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((3, 112, 112), torch.float32),
        ((2, 1, 112, 112), torch.float32),
        ((2, 3, 112, 96), torch.float32),
        ((2, 3, 224, 224), torch.float32),
        ((2, 112, 112, 3), torch.float32),
        ((2, 3, 112, 112), torch.uint8),
    ],
)
def test_other_images_are_refused(
    small: IResNet, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    told = "uint8" if dtype == torch.uint8 else str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(RecordError, match=told):
        small(torch.zeros(shape, dtype=dtype))


def test_other_maps_are_refused(small: IResNet) -> None:
    with pytest.raises(RecordError, match=r"\(B, 512, 7, 7\), got \(2, 512, 49\)"):
        small.head(torch.zeros(2, 512, 49))


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"iresnet18.*mobile or tiny, got 'iresnet101'"):
        make_backbone("iresnet101")
    with pytest.raises(ConfigError, match="depth must be one of"):
        IResNet(101)
    with pytest.raises(ConfigError, match=r"convention must be one of insightface.*'arcface'"):
        make_backbone("iresnet18", convention="arcface")
    with pytest.raises(ConfigError, match="got 0"):
        make_backbone("iresnet18", dimension=0)
    with pytest.raises(ConfigError, match="leave it out"):
        make_backbone("mobile", convention="adaface")
    for wrong in ({"dropout": 1.0}, {"momentum": 0.0}, {"eps": 0.0}, {"dropout": float("nan")}):
        with pytest.raises(ConfigError, match="needs eps > 0"):
            Convention(**wrong)  # type: ignore[arg-type]


def test_make_backbone_takes_a_changed_convention() -> None:
    with torch.device("meta"):
        network = make_backbone(
            "iresnet34", dimension=128, convention=replace(INSIGHTFACE, dropout=0.2)
        )
    assert isinstance(network, IResNet) and network.dropout.p == 0.2
    assert network(torch.empty(1, 3, 112, 112, device="meta").expand(2, -1, -1, -1)).shape == (
        2,
        128,
    )


def test_styles_of_stages_keep_their_order() -> None:
    stages = Stages(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, 2), torch.empty(0))
    assert stages_to_styles(stages)[0, :, 0].tolist() == [0.0, 1.0, 1.0]
