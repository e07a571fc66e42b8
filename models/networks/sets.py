"""Batches of face sets: what every fusing network reads.

Sets differ in size, so a batch is padded to its largest set and a mask tells faces from padding.
The contract of every fuser: what stands in the padding never matters, not even when it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ... import RecordError


class FaceSets(NamedTuple):
    """A batch of B sets of at most N faces.

    features: (B, N, C) raw (not normalised) embeddings, no face all zero.
    mask: (B, N) bool, True where there is a face; every set has at least one.
    styles: (B, N, K, 2) per-channel spatial mean and unbiased deviation, mean first, or None.
    quality: (B, N) in the quality model's unit, higher is better, or None.
    maps: (B, N, D, H, W) last feature map of the backbone, or None.
    """

    features: Tensor
    mask: Tensor
    styles: Tensor | None = None
    quality: Tensor | None = None
    maps: Tensor | None = None

    def take(self, faces: slice) -> FaceSets:
        """The faces that a slice of the second axis picks, of every set."""
        return self._change(lambda field: field[:, faces])

    def to(self, device: torch.device | str) -> FaceSets:
        """The same batch on another device."""
        return self._change(lambda field: field.to(device))

    def _change(self, change: Callable[[Tensor], Tensor]) -> FaceSets:
        rest = (None if field is None else change(field) for field in self[2:])
        return FaceSets(change(self.features), change(self.mask), *rest)


class SetFuser(Protocol):
    """Turns every set of a batch into one embedding."""

    def __call__(self, sets: FaceSets) -> Tensor:
        """The fused embeddings (B, C), not normalised. Padding does not change them."""
        ...


def full_sets(
    features: Tensor,
    styles: Tensor | None = None,
    quality: Tensor | None = None,
    maps: Tensor | None = None,
) -> FaceSets:
    """A batch in which all sets have N faces: the mask is True everywhere."""
    mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    return FaceSets(features, mask, styles, quality, maps)


def pad_sets(batches: Sequence[FaceSets]) -> FaceSets:
    """Batches of different N as one batch, in order, padded with zeros to the largest N.

    Raises RecordError when there is none, or when one has a field that another lacks.
    """
    if not batches:
        raise RecordError("pad_sets needs at least one batch of sets, got none")
    widest = max(batch.mask.shape[1] for batch in batches)
    columns: list[Tensor | None] = []
    for name, column in zip(FaceSets._fields, zip(*batches, strict=True), strict=True):
        held = [part for part in column if part is not None]
        if held and len(held) < len(batches):
            raise RecordError(
                f"all batches or none must have {name}, got it in {len(held)} of {len(batches)}"
            )
        columns.append(torch.cat([_widen(part, widest) for part in held]) if held else None)
    features, mask, *rest = columns
    assert features is not None and mask is not None  # they are never None in a FaceSets
    return FaceSets(features, mask, *rest)


def clear_padding(sets: FaceSets) -> FaceSets:
    """The same batch with zeros in the padding, whatever stood there.

    Gradients of the padding are zero. Use it before arithmetic that a NaN would leak through:
    0 * NaN is NaN.
    """
    rest = (None if field is None else clear_field(field, sets.mask) for field in sets[2:])
    return FaceSets(clear_field(sets.features, sets.mask), sets.mask, *rest)


def clear_field(field: Tensor, mask: Tensor) -> Tensor:
    """One field (B, N, ...) with zeros where the mask (B, N) is False."""
    where = mask.reshape(*mask.shape, *(1,) * (field.ndim - 2))
    return torch.where(where, field, field.new_zeros(()))


def check_sets(
    sets: FaceSets,
    *,
    dimension: int | None = None,
    styles: int | None = None,
    needs: Sequence[str] = (),
) -> None:
    """Raise RecordError unless the batch is what FaceSets documents.

    dimension, styles: C and K that the caller was made for, None for any. needs: names of the
    optional fields that the caller reads.
    """
    for name in needs:
        if getattr(sets, name) is None:
            raise RecordError(f"this fuser reads {name}, the sets have none: extract it first")
    width, channels = dimension or "C", styles or "K"
    _check_shape("features", sets.features, ("B", "N", width))
    places = tuple(sets.features.shape[:2])
    _check_shape("mask", sets.mask, places)
    if sets.styles is not None:
        _check_shape("styles", sets.styles, (*places, channels, 2))
    if sets.quality is not None:
        _check_shape("quality", sets.quality, places)
    if sets.maps is not None:
        _check_shape("maps", sets.maps, (*places, "D", "H", "W"))
    if sets.mask.dtype != torch.bool:
        raise RecordError(f"mask must be bool, got {sets.mask.dtype}")
    if not bool(sets.mask.any(dim=1).all()):
        raise RecordError("every set must have at least one face, got one whose mask is all False")


def _check_shape(name: str, field: Tensor, wanted: tuple[int | str, ...]) -> None:
    """A letter in `wanted` stands for any length."""
    got = tuple(field.shape)
    if len(got) != len(wanted) or any(
        side != want for side, want in zip(got, wanted, strict=True) if isinstance(want, int)
    ):
        raise RecordError(f"{name} must be ({', '.join(map(str, wanted))}), got {got}")


def _widen(field: Tensor, width: int) -> Tensor:
    count, faces = field.shape[:2]
    return torch.cat([field, field.new_zeros(count, width - faces, *field.shape[2:])], dim=1)
