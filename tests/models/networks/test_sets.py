"""Batches of face sets: padding, masks and what a fuser may rely on."""

import pytest
import torch

from facestream import RecordError
from facestream.models.networks.sets import FaceSets, check_sets, clear_padding, full_sets, pad_sets


def one_set(count: int, seed: int = 0) -> FaceSets:
    draw = torch.Generator().manual_seed(seed)
    return full_sets(
        torch.randn(1, count, 6, generator=draw),
        styles=torch.randn(1, count, 3, 2, generator=draw),
        quality=torch.rand(1, count, generator=draw),
    )


def test_padding_fills_up_to_the_largest_set():
    batch = pad_sets([one_set(2), one_set(5, seed=1)])
    check_sets(batch, dimension=6, styles=3, needs=("styles", "quality"))
    assert batch.features.shape == (2, 5, 6) and batch.styles.shape == (2, 5, 3, 2)
    assert batch.mask.sum(dim=1).tolist() == [2, 5]
    assert batch.maps is None
    torch.testing.assert_close(batch.features[0, :2], one_set(2).features[0])
    assert not batch.features[0, 2:].any()


def test_a_slice_of_faces_keeps_every_field():
    part = one_set(5).take(slice(1, 3))
    assert part.features.shape == (1, 2, 6) and part.mask.shape == (1, 2)
    torch.testing.assert_close(part.quality, one_set(5).quality[:, 1:3])


def test_cleared_padding_lets_neither_nan_nor_gradient_through():
    batch = pad_sets([one_set(2), one_set(4)])
    features = batch.features.masked_fill(~batch.mask[..., None], float("nan")).requires_grad_()
    cleared = clear_padding(batch._replace(features=features))
    assert not cleared.features[0, 2:].any()
    cleared.features.square().sum().backward()
    assert not features.grad[0, 2:].any() and features.grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(1, 6)}, r"features must be \(B, N, 6\), got \(1, 6\)"),
        ({"features": torch.zeros(1, 4, 7)}, r"features must be \(B, N, 6\), got \(1, 4, 7\)"),
        ({"mask": torch.ones(1, 3, dtype=torch.bool)}, r"mask must be \(1, 4\), got \(1, 3\)"),
        ({"mask": torch.ones(1, 4)}, "mask must be bool"),
        ({"mask": torch.zeros(1, 4, dtype=torch.bool)}, "at least one face"),
        ({"styles": torch.zeros(1, 4, 5, 2)}, r"styles must be \(1, 4, 3, 2\)"),
        ({"styles": torch.zeros(1, 4, 3)}, r"styles must be \(1, 4, 3, 2\)"),
        ({"styles": None}, "reads styles"),
        ({"quality": torch.zeros(4)}, r"quality must be \(1, 4\), got \(4,\)"),
        ({"maps": torch.zeros(1, 3, 8, 7, 7)}, r"maps must be \(1, 4, D, H, W\)"),
        ({"maps": torch.zeros(1, 4, 8)}, r"maps must be \(1, 4, D, H, W\), got \(1, 4, 8\)"),
    ],
)
def test_what_is_no_batch_of_sets_is_refused(change, message):
    with pytest.raises(RecordError, match=message):
        check_sets(one_set(4)._replace(**change), dimension=6, styles=3, needs=("styles",))


def test_batches_must_agree_on_their_fields():
    with pytest.raises(RecordError, match="quality, got it in 1 of 2"):
        pad_sets([one_set(2), one_set(3)._replace(quality=None)])
    with pytest.raises(RecordError, match="at least one batch"):
        pad_sets([])
