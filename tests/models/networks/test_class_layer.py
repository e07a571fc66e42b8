"""The class layer in one process: its loss, sampling, precision and files."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from facestream import ConfigError, CorruptModelFile, RecordError
from facestream.models.networks.adaptive_margins import AdaFace, CurricularFace, ElasticArcFace
from facestream.models.networks.class_layer import ClassLayer
from facestream.models.networks.magface import MagFace
from facestream.models.networks.margins import ArcFace, CosFace, Margin
from facestream.models.networks.row_shards import RowSlice, take_rows

MARGINS = [ArcFace, CosFace, AdaFace, CurricularFace, ElasticArcFace, MagFace]


def some_batch(faces: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    features = 10 * torch.randn(faces, 8, generator=draw, dtype=dtype)
    return features, torch.randint(11, (faces,), generator=draw)


@pytest.mark.parametrize("margin", MARGINS)
def test_the_loss_is_cross_entropy_of_the_margin_s_logits(margin: type[Margin]) -> None:
    features, labels = some_batch()
    layer = ClassLayer(8, 11, margin()).double()
    twin = margin().double()
    norms = features.norm(dim=1)
    cosines = functional.normalize(features) @ functional.normalize(layer.weight).T
    torch.testing.assert_close(layer.cosines(features), cosines)
    logits = twin(cosines, labels, norms)
    expected = functional.cross_entropy(logits, labels) + twin.penalty(norms)
    torch.testing.assert_close(layer(features, labels), expected, rtol=1e-12, atol=1e-12)


def test_a_loss_near_zero_keeps_its_digits() -> None:
    # Three classes at right angles, faces on their own: log(1 + 2 exp(-64 (1 - 0.35))).
    layer = ClassLayer(3, 3, CosFace())
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    loss = layer(5 * torch.eye(3), torch.arange(3))
    assert float(loss.detach()) == pytest.approx(2 * 2.718281828459045 ** (-64 * 0.65), rel=1e-4)


def test_weights_depend_on_the_seed_and_start() -> None:
    unit = ClassLayer(16, 5000, ArcFace()).weight.detach()
    assert torch.equal(unit, ClassLayer(16, 5000, ArcFace()).weight)
    assert not torch.equal(unit, ClassLayer(16, 5000, ArcFace(), seed=1).weight)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(5000))
    normal = ClassLayer(16, 5000, ArcFace(), start="normal").weight.detach()
    assert float(normal.std()) == pytest.approx(0.01, rel=0.02)
    assert len(unit.unique(dim=0)) == 5000


def test_the_length_of_weights_does_not_matter() -> None:
    features, labels = some_batch()
    layer = ClassLayer(8, 11, ArcFace()).double()
    loss = layer(features, labels)
    with torch.no_grad():
        layer.weight *= torch.linspace(0.1, 9, 11)[:, None]
    torch.testing.assert_close(layer(features, labels), loss)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 1), st.integers(1, 40), st.integers(0, 10))
def test_a_sample_has_all_positives_and_its_share_of_negatives(
    rate: float, faces: int, seed: int
) -> None:
    layer = ClassLayer(2, 50, ArcFace(), sample_rate=rate, seed=seed)
    positive = torch.randint(50, (faces,), generator=torch.Generator().manual_seed(seed))
    kept = layer._sample(positive)
    assert set(positive.tolist()) <= set(kept.tolist())
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == max(2, int(rate * 50), len(set(positive.tolist())))


def test_negatives_are_drawn_anew_at_each_step_and_evenly() -> None:
    layer = ClassLayer(2, 40, ArcFace(), sample_rate=0.25)
    counts = torch.zeros(40)
    for _ in range(400):
        counts[layer._sample(torch.tensor([7]))] += 1
    assert counts[7] == 400
    others = torch.cat([counts[:7], counts[8:]])
    assert others.mean() == pytest.approx(400 * 9 / 39)
    assert others.min() > 55 and others.max() < 135


def test_a_sampled_step_is_a_step_with_the_other_classes_left_out() -> None:
    features, labels = some_batch()
    layer = ClassLayer(8, 11, CosFace(), sample_rate=0.6).double()
    twin = ClassLayer(8, 11, CosFace(), sample_rate=0.6).double()
    kept = twin._sample(labels)
    assert len(kept) < 11
    cosines = layer.cosines(features)[:, kept]
    logits = CosFace()(cosines, torch.searchsorted(kept, labels), features.norm(dim=1))
    expected = functional.cross_entropy(logits, torch.searchsorted(kept, labels))
    loss = layer(features, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert layer.weight.grad is not None
    touched = layer.weight.grad.abs().sum(dim=1).nonzero()[:, 0]
    assert touched.tolist() == kept.tolist()


def test_evaluation_uses_all_classes_and_changes_nothing() -> None:
    features, labels = some_batch()
    for margin in MARGINS:
        layer = ClassLayer(8, 11, margin(), sample_rate=0.2).double().eval()
        state = {name: value.clone() for name, value in layer.state_dict().items()}
        first = layer(features, labels)
        assert torch.equal(layer(features, labels), first)
        assert all(torch.equal(state[name], value) for name, value in layer.state_dict().items())
        full = ClassLayer(8, 11, margin()).double().eval()
        assert torch.equal(full(features, labels), first)


def test_sampling_goes_on_after_a_restart_as_it_would_have() -> None:
    features, labels = some_batch(dtype=torch.float32)
    one = ClassLayer(8, 11, ElasticArcFace(), sample_rate=0.5)
    one(features, labels)
    other = ClassLayer(8, 11, ElasticArcFace(), sample_rate=0.5)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(features, labels), other(features, labels))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("margin", MARGINS)
def test_the_head_works_in_float32_under_autocast(margin: type[Margin], kind: torch.dtype) -> None:
    features, labels = some_batch(dtype=torch.float32)
    reference = ClassLayer(8, 11, margin())
    expected = reference(features.to(kind).float(), labels)
    expected.backward()
    layer = ClassLayer(8, 11, margin())
    half = features.to(kind).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = layer(half, labels)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    assert layer.weight.grad is not None and reference.weight.grad is not None
    assert torch.equal(layer.weight.grad, reference.weight.grad)
    assert half.grad is not None and half.grad.dtype == kind and half.grad.isfinite().all()


def test_a_network_trained_under_autocast_learns_and_stays_finite() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(40, 12, generator=draw)
    labels = torch.arange(40) % 5
    images += 2 * torch.eye(5, 12)[labels]
    torch.manual_seed(0)
    network = torch.nn.Linear(12, 8)
    layer = ClassLayer(8, 5, MagFace(1, 51, 0.45, 1.0, 5.0))
    optimiser = torch.optim.SGD([*network.parameters(), *layer.parameters()], lr=0.02, momentum=0.9)
    losses = []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_rows_saved_in_parts_are_read_in_other_parts() -> None:
    matrix = torch.arange(22.0).reshape(11, 2)
    slices = [RowSlice(6, matrix[6:]), RowSlice(0, matrix[:3]), RowSlice(3, matrix[3:6])]
    for low in range(11):
        for high in range(low + 1, 12):
            assert torch.equal(take_rows(slices, low, high), matrix[low:high])
    with pytest.raises(CorruptModelFile, match=r"row 3 is in none of the slices 0\.\.3, 6\.\.11"):
        take_rows([slices[1], slices[0]], 2, 9)


def test_weights_go_to_a_file_and_back() -> None:
    layer = ClassLayer(8, 11, ArcFace())
    other = ClassLayer(8, 11, ArcFace(), seed=9)
    other.load_rows([layer.own_rows()])
    assert torch.equal(other.weight, layer.weight)
    with pytest.raises(RecordError, match="4 columns"):
        ClassLayer(4, 11, ArcFace()).load_rows([layer.own_rows()])
    with pytest.raises(CorruptModelFile):
        ClassLayer(8, 12, ArcFace()).load_rows([layer.own_rows()])
    with pytest.raises(RecordError, match="of 10 classes, got rows up to 11"):
        ClassLayer(8, 10, ArcFace()).load_rows([layer.own_rows()])


def test_what_cannot_be() -> None:
    for wrong in (
        lambda: ClassLayer(0, 5, ArcFace()),
        lambda: ClassLayer(8, 1, ArcFace()),
        lambda: ClassLayer(8, 5, ArcFace(), sample_rate=0),
        lambda: ClassLayer(8, 5, ArcFace(), sample_rate=1.1),
        lambda: ClassLayer(8, 5, ArcFace(), start="uniform"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError):
            wrong()
    layer = ClassLayer(8, 11, ArcFace())
    features, labels = some_batch(dtype=torch.float32)
    for bad_features, bad_labels in (
        (features[:, :7], labels),
        (features[:0], labels[:0]),
        (features, labels[:5]),
        (features, labels.int()),
        (features, labels - 12),
        (features, labels + 11),
    ):
        with pytest.raises(RecordError):
            layer(bad_features, bad_labels)
