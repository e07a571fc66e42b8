"""CAFace's losses: near the identity's centre, and the same in one go or in pieces (paper 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ConfigError, RecordError
from .caface import CAFace
from .sets import FaceSets


class CAFaceLoss(NamedTuple):
    """Scalars: total = template + weight * consistency (equation 11)."""

    total: Tensor
    template: Tensor
    consistency: Tensor


def template_loss(fused: Tensor, centres: Tensor) -> Tensor:
    """Equation 9: mean over the batch of 1 - cos(fused, centre), in [0, 2], at least float32.

    Both (B, C), any length. Raises RecordError when the shapes differ.
    """
    return _distance(fused, centres)


def consistency_loss(pieces: Tensor, whole: Tensor, *, divide_again: bool = False) -> Tensor:
    """Equation 10: mean over the batch of 1 - cos between two ways to fuse the same sets.

    Both (B, C), gradients flow into both. divide_again: by the batch size a second time, as the
    authors' code does. With their 256 sets per device that makes lambda_p = 1/256 of the paper's 1.
    Raises RecordError when the shapes differ.
    """
    loss = _distance(pieces, whole)
    return loss / len(pieces) if divide_again else loss


def caface_loss(
    network: CAFace,
    sets: FaceSets,
    centres: Tensor,
    *,
    sizes: Sequence[int],
    weight: float = 1.0,
    divide_again: bool = False,
) -> CAFaceLoss:
    """Both losses of one training step, for sets that are two groups of n faces: (B, 2n, ...).

    The template loss is the mean of four: of the first group and of the second, each averaged over
    fusing its first s faces for every s of `sizes`, of both groups one after the other, and of all
    2n faces at once. The consistency loss compares the last two. The paper draws one s from 2 to 16
    per step, the authors' code has n = 16 and sizes 2, 4, ..., 16.

    centres: f_GT (B, C), see identity_centres. weight: lambda_p. divide_again: see
    consistency_loss.
    The faces are encoded once, so the batch statistics of SIM are those of all B * 2n faces.

    Raises RecordError when the sets have padding or an odd number of faces: draw with replacement
    from smaller sets. Raises ConfigError when no size is given or one is not from 1 to n.
    """
    count = sets.mask.shape[1]
    if count % 2 or not bool(sets.mask.all()):
        raise RecordError(f"sets must be two full groups of faces, got {count} with or in padding")
    half = count // 2
    if not sizes or not all(1 <= size <= half for size in sizes):
        raise ConfigError(f"sizes must be from 1 to {half}, half of the set, got {list(sizes)}")
    encoded = network.encode(sets)
    first, second = encoded.take(slice(half)), encoded.take(slice(half, None))
    parts = []
    for group in (first, second):
        fused = [network.read(network.cluster(group.take(slice(size)))) for size in sizes]
        parts.append(torch.stack([template_loss(one, centres) for one in fused]).mean())
    pieces = network.read(network.cluster(first).merge(network.cluster(second)))
    whole = network.read(network.cluster(encoded))
    parts += [template_loss(pieces, centres), template_loss(whole, centres)]
    template = torch.stack(parts).mean()
    consistency = consistency_loss(pieces, whole, divide_again=divide_again)
    return CAFaceLoss(template + weight * consistency, template, consistency)


def identity_centres(embeddings: Tensor, labels: Tensor, identities: int) -> Tensor:
    """f_GT of every identity (K, C): the mean of its unit embeddings, at unit length.

    embeddings: (R, C), also those of the flipped images (supplement A). labels: (R,) int64 from 0
    to K - 1. Raises RecordError for other shapes and labels, and when an identity has no embedding,
    or ones that cancel out or are not finite.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise RecordError(
            f"embeddings must be (R, C) with one label each, got {tuple(embeddings.shape)} and "
            f"labels {tuple(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < identities:
        raise RecordError(
            f"labels must lie in 0..{identities - 1}, got {int(labels.min())}..{int(labels.max())}"
        )
    units = F.normalize(embeddings.double(), dim=1)
    sums = units.new_zeros(identities, units.shape[1]).index_add(0, labels, units)
    lengths: Tensor = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    if not bool((lengths > 1e-12).all()):
        lost = int((lengths.flatten() > 1e-12).logical_not().sum())
        raise RecordError(
            f"every identity must have embeddings that agree on a direction, {lost} of "
            f"{identities} have none: number the identities without gaps"
        )
    return (sums / lengths).to(embeddings.dtype)


def _distance(first: Tensor, second: Tensor) -> Tensor:
    if first.shape != second.shape or first.ndim != 2:
        raise RecordError(
            f"embeddings to compare must both be (B, C), got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    cosines: Tensor = F.cosine_similarity(first.to(wide), second.to(wide), dim=1)
    loss: Tensor = 1.0 - cosines.mean()
    return loss
