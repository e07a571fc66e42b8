"""Trained quality scores: losses by hand and by finite differences, and who is trained by them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from facestream import ConfigError, RecordError
from facestream.models.networks.backbone import Backbone, Stages
from facestream.models.networks.quality_heads import (
    EmbeddingHead,
    EmbeddingQuality,
    MapQuality,
    SddHead,
    TeacherHead,
)
from facestream.models.networks.quality_losses import (
    CERTAINTY_WEIGHT,
    Pairs,
    centred_labels,
    certainty_loss,
    certainty_ratio,
    class_cosines,
    distillation_loss,
    genuine_pairs,
    iq_loss,
    iq_targets,
    pair_cosines,
    pcnet_loss,
    sdd_loss,
)

ONE_PAIR = Pairs(torch.tensor([0]), torch.tensor([1]))


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class Small(Backbone):
    """A backbone of milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.dimension, self.map_channels, self.style_channels = 16, 8, 16
        self.conv1 = nn.Conv2d(3, 8, 16, stride=16)  # (B, 8, 7, 7)
        self.fc = nn.Linear(8 * 49, self.dimension)

    def _stages(self, images: Tensor) -> Stages:
        x = torch.tanh(self.conv1(images))
        return Stages(x, x, x)

    def _embed(self, last_map: Tensor) -> Tensor:
        embeddings: Tensor = self.fc(last_map.flatten(1))
        return embeddings


@pytest.fixture
def backbone() -> Small:
    torch.manual_seed(0)
    return Small()


def make_images(count: int) -> Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(1))


# CR-FIQA


def test_class_cosines_and_ratios_by_hand() -> None:
    cosines = torch.tensor([[0.6, 0.2, -0.1], [0.3, 0.1, 0.5]], dtype=torch.float64)
    found = class_cosines(cosines, torch.tensor([0, 1]))
    assert found.own.tolist() == [0.6, 0.1]
    assert found.nearest.tolist() == [0.2, 0.5]
    paper = certainty_ratio(*found)
    assert paper.tolist() == pytest.approx([0.6 / 1.2, 0.1 / 1.5], rel=1e-8)
    released = certainty_ratio(*found, divisor="released")
    assert released.tolist() == pytest.approx([3.0, 0.2])


def test_the_papers_ratio_is_finite_where_all_other_classes_are_opposite() -> None:
    ratio = certainty_ratio(torch.tensor([1.0]), torch.tensor([-1.0]))
    assert ratio.item() == pytest.approx(1e9)
    assert certainty_ratio(torch.tensor([1.0]), torch.tensor([-1.0000002])).item() > 0


def test_the_released_ratio_is_guarded_against_no_and_negative_neighbours() -> None:
    own, nearest = doubles(0.5, 0.5, 0.5), doubles(0.2, 0.0, -0.3)
    guarded = certainty_ratio(own, nearest, divisor="released")
    assert guarded.tolist() == pytest.approx([2.5, 50.0, 50.0])
    other = certainty_ratio(own, nearest, divisor="released", least=0.1)
    assert other.tolist() == pytest.approx([2.5, 5.0, 5.0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_classes_of_several_processes_give_the_cosines_of_all(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    cosines = torch.rand(5, 7, generator=source) * 2 - 1
    labels = torch.randint(0, 7, (5,), generator=source)
    parts = []
    for low, high in ((0, 3), (3, 7)):
        here = (labels >= low) & (labels < high)
        parts.append(class_cosines(cosines[:, low:high], torch.where(here, labels - low, -1)))
    whole = class_cosines(cosines, labels)
    assert torch.equal(parts[0].own + parts[1].own, whole.own)
    assert torch.equal(torch.maximum(parts[0].nearest, parts[1].nearest), whole.nearest)


def test_certainty_loss_by_hand() -> None:
    # Below beta: 0.5 d^2 / beta; above: d - beta / 2.
    loss = certainty_loss(doubles(0.3, 1.0), doubles(0.5, 0.0))
    assert loss.item() == pytest.approx((0.5 * 0.04 / 0.5 + (1.0 - 0.25)) / 2)
    assert CERTAINTY_WEIGHT == 10


def test_quality_trains_the_backbone_and_the_target_trains_nothing(backbone: Small) -> None:
    model = EmbeddingQuality(backbone)
    centres = nn.Parameter(torch.randn(3, 16))
    scored = model(make_images(4))
    assert scored.embeddings.shape == (4, 16)
    assert scored.quality.shape == (4,)
    cosines = nn.functional.normalize(scored.embeddings) @ nn.functional.normalize(centres).T
    ratios = certainty_ratio(*class_cosines(cosines, torch.tensor([0, 1, 2, 0])))
    assert not ratios.requires_grad
    certainty_loss(scored.quality, ratios).backward()
    assert centres.grad is None
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_frozen_backbone_is_the_on_top_variant(backbone: Small) -> None:
    model = EmbeddingQuality(backbone.requires_grad_(False))
    certainty_loss(model(make_images(2)).quality, torch.tensor([0.3, 0.9])).backward()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(parameter.grad is not None for parameter in model.head.parameters())


# SDD-FIQA


def test_sdd_loss_by_hand() -> None:
    loss = sdd_loss(doubles(50.5, 90.0), doubles(50.0, 100.0))
    assert loss.item() == pytest.approx((0.5 * 0.25 + 9.5) / 2)


def test_sdd_head_is_the_released_one_and_learns_labels_up_to_100(backbone: Small) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in SddHead(512).parameters()) == 50_177
    model = MapQuality(backbone, SddHead(backbone.map_channels)).eval()
    images, labels = make_images(8), torch.linspace(0, 100, 8)
    first = sdd_loss(model(images), labels)
    first.backward()
    assert backbone.conv1.weight.grad is not None
    assert backbone.fc.weight.grad is None  # the stem alone is used
    optimiser = torch.optim.Adam(model.head.parameters(), 0.05, betas=(0.9, 0.99))
    maps = backbone.feature_map(images).detach()
    for _ in range(100):
        optimiser.zero_grad()
        sdd_loss(model.head(maps), labels).backward()
        optimiser.step()
    assert model(images).shape == (8,)
    assert sdd_loss(model(images), labels).item() < 0.1 * first.item()


# PCNet and LightQNet


def test_genuine_pairs_are_all_pairs_of_equal_labels_once() -> None:
    pairs = genuine_pairs(torch.tensor([7, 3, 7, 5, 7]))
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [
        (0, 2),
        (0, 4),
        (2, 4),
    ]
    assert len(genuine_pairs(torch.tensor([1, 2])).first) == 0


def test_cosines_of_pairs_have_no_gradient_and_no_length() -> None:
    embeddings = torch.tensor([[2.0, 0.0], [3.0, 4.0]], requires_grad=True)
    cosines = pair_cosines(embeddings, ONE_PAIR)
    assert cosines.tolist() == pytest.approx([0.6])
    assert not cosines.requires_grad


def test_pcnet_loss_by_hand_and_zero_when_the_lower_confidence_is_the_cosine() -> None:
    logits = doubles(0.0, 2.0)  # p = 0.5 and 0.88
    assert pcnet_loss(doubles(0.7), logits, ONE_PAIR).item() == pytest.approx(0.04)
    assert pcnet_loss(doubles(0.5), logits, ONE_PAIR).item() == 0.0


@settings(max_examples=25, deadline=None)
@given(st.floats(-1, 1), st.floats(-4, 4), st.floats(-4, 4))
def test_pcnet_loss_is_zero_only_when_equal(cosine: float, first: float, second: float) -> None:
    loss = pcnet_loss(doubles(cosine), doubles(first, second), ONE_PAIR).item()
    lower = sigmoid(min(first, second))
    assert loss == pytest.approx((cosine - lower) ** 2, abs=1e-12)


def test_only_the_less_confident_face_of_a_pair_is_trained() -> None:
    for loss_of in (pcnet_loss, iq_loss):
        logits = doubles(0.3, 1.0).requires_grad_()
        loss_of(doubles(0.9), logits, ONE_PAIR).backward()
        assert logits.grad is not None
        assert logits.grad[0] < 0  # the pair is alike: more confidence
        assert logits.grad[1] == 0


def test_iq_targets_by_hand() -> None:
    expected = [0.5, sigmoid(16 * 0.2), sigmoid(-16 * 0.4)]
    assert iq_targets(doubles(0.4, 0.6, 0.0)).tolist() == pytest.approx(expected)


def test_iq_loss_by_hand_and_least_where_the_lower_confidence_is_the_target() -> None:
    p, target = sigmoid(-1.0), sigmoid(16 * 0.1)
    by_hand = -target * math.log(p) - (1 - target) * math.log(1 - p)
    assert iq_loss(doubles(0.5), doubles(-1.0, 3.0), ONE_PAIR).item() == pytest.approx(by_hand)
    logits = doubles(1.6, 3.0).requires_grad_()
    iq_loss(doubles(0.5), logits, ONE_PAIR).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_batch_without_pairs_loses_nothing() -> None:
    for loss_of in (pcnet_loss, iq_loss):
        logits = torch.zeros(3, requires_grad=True)
        loss = loss_of(torch.zeros(0), logits, genuine_pairs(torch.arange(3)))
        loss.backward()
        assert loss.item() == 0.0
        assert logits.grad is not None
        assert not logits.grad.any()


def test_distillation_by_hand_and_zero_when_equal() -> None:
    teacher, student = doubles(0.0), doubles(math.log(3.0))  # 1/2 and 3/4
    by_hand = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert distillation_loss(student, teacher).item() == pytest.approx(by_hand)
    assert distillation_loss(teacher, teacher).item() == 0.0
    cool = distillation_loss(2 * student, 2 * teacher, temperature=2.0)
    assert cool.item() == pytest.approx(4 * by_hand)


def test_distillation_trains_the_student_alone_and_stays_finite() -> None:
    student = torch.tensor([-200.0, 200.0, 0.0], requires_grad=True)
    teacher = torch.tensor([200.0, 200.0, -200.0], requires_grad=True)
    loss = distillation_loss(student, teacher)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert math.isfinite(loss.item())


def test_teacher_head_gives_centred_logits(backbone: Small) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in TeacherHead(512).parameters()) == 6_423_296
    model = MapQuality(backbone, TeacherHead(backbone.map_channels))
    logits = model(make_images(8))
    assert logits.shape == (8,)
    # The last batch norm has no shift: a batch starts in the middle of the confidences.
    assert logits.mean().item() == pytest.approx(0.0, abs=1e-5)


# eDifFIQA


def test_labels_fall_with_the_distance_to_the_class_centre() -> None:
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    centres = torch.tensor([[1.0, 0.0]]).expand(3, -1)
    found = centred_labels(torch.tensor([0.8, 0.8, 0.8]), embeddings, centres)
    assert found.tolist() == pytest.approx([0.8, 0.3, 0.0])


# What all share

LOSSES: list[Callable[[Tensor], Tensor]] = [
    lambda x: certainty_loss(x, doubles(0.1, 0.5, 2.0, -0.4)),
    lambda x: sdd_loss(x, doubles(0.1, 0.5, 2.0, -0.4)),
    lambda x: pcnet_loss(doubles(0.2, 0.9), x, Pairs(torch.tensor([0, 1]), torch.tensor([2, 3]))),
    lambda x: iq_loss(doubles(0.2, 0.9), x, Pairs(torch.tensor([0, 1]), torch.tensor([2, 3]))),
    lambda x: distillation_loss(x, doubles(0.1, 0.5, 2.0, -0.4), temperature=2.0),
]


@pytest.mark.parametrize("loss_of", LOSSES)
def test_gradients_are_those_of_finite_differences(loss_of: Callable[[Tensor], Tensor]) -> None:
    assert gradcheck(loss_of, doubles(0.3, -0.7, 1.1, 0.4).requires_grad_())


@pytest.mark.parametrize("loss_of", LOSSES)
def test_half_precision_is_widened(loss_of: Callable[[Tensor], Tensor]) -> None:
    coarse = torch.tensor([0.3, -0.7, 1.1, 0.4], dtype=torch.bfloat16)
    assert loss_of(coarse).dtype in (torch.float32, torch.float64)
    assert loss_of(coarse).item() == pytest.approx(loss_of(coarse.double()).item(), rel=1e-5)


def test_heads_keep_float32_under_autocast() -> None:
    torch.manual_seed(0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        quality = EmbeddingHead(16)(torch.randn(64, 16))
        from_map = SddHead(2).eval()(torch.randn(64, 2, 7, 7))
    for scores in (quality, from_map):
        assert scores.dtype == torch.float32
        assert (scores != scores.bfloat16().float()).any()


def test_refusals(backbone: Small) -> None:
    with pytest.raises(RecordError, match=r"labels must lie in -1..2, got 0..3"):
        class_cosines(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(RecordError, match="K >= 2"):
        class_cosines(torch.zeros(2, 1), torch.tensor([0, 0]))
    with pytest.raises(ConfigError, match="least must be above 0"):
        certainty_ratio(torch.zeros(1), torch.zeros(1), divisor="released", least=0.0)
    with pytest.raises(ConfigError, match="divisor must be paper or released, got 'raw'"):
        certainty_ratio(torch.zeros(1), torch.zeros(1), divisor="raw")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"got \(4,\), \(4, 1\)"):
        certainty_loss(torch.zeros(4), torch.zeros(4, 1))
    with pytest.raises(RecordError, match="cosines and pairs"):
        pcnet_loss(torch.zeros(2), torch.zeros(2), ONE_PAIR)
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        distillation_loss(torch.zeros(1), torch.zeros(1), temperature=0.0)
    with pytest.raises(RecordError, match="centres"):
        centred_labels(torch.zeros(2), torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(RecordError, match=r"labels must be \(B,\)"):
        genuine_pairs(torch.zeros(2, 2))
    with pytest.raises(RecordError, match=r"embeddings \(B, 16\), got \(2, 8\)"):
        EmbeddingHead(16)(torch.zeros(2, 8))
    with pytest.raises(RecordError, match=r"maps \(B, 8, 7, 7\), got \(2, 8, 6, 6\)"):
        SddHead(8)(torch.zeros(2, 8, 6, 6))
    with pytest.raises(ConfigError, match="1 or more channels, got 0"):
        TeacherHead(0)
    with pytest.raises(RecordError, match="images"):
        EmbeddingQuality(backbone)(torch.zeros(1, 3, 64, 64))
