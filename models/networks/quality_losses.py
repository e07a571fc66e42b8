"""Losses and targets of trained quality scores: CR-FIQA, SDD-FIQA, PCNet, LightQNet, eDifFIQA.

Plain functions of tensors. Losses are means over the batch in float32 at least, also under
autocast; targets carry no gradient. `label_transfer.label_loss` is the one of optimised labels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ... import ConfigError, RecordError

CERTAINTY_BETA, CERTAINTY_WEIGHT = 0.5, 10.0
"""CR-FIQA (Boutros et al., "CR-FIQA", CVPR 2023, section 3): where its smooth L1 turns linear, and
its weight beside ArcFace with s 64 and m 0.5."""
IQ_SCALE, IQ_CENTRE = 16.0, 0.4
DISTILLATION_WEIGHT = 20.0
"""LightQNet: the weight of `distillation_loss` beside the `iq_loss` of teacher and of student."""
_EPSILON = 1e-9

Divisor = Literal["paper", "released"]


class ClassCosines(NamedTuple):
    """(B,) each. own: CCS, to the own class centre; nearest: NNCCS, the highest to another."""

    own: Tensor
    nearest: Tensor


class Pairs(NamedTuple):
    """Numbers (P,) int64 of two different faces of a batch, first < second."""

    first: Tensor
    second: Tensor


def class_cosines(cosines: Tensor, labels: Tensor) -> ClassCosines:
    """CCS and NNCCS, without gradient, of cosines (B, K) without margin, K >= 2.

    labels: (B,) int64; -1 for a face whose class is another process's, which gets own 0. Where
    classes are spread over processes, the sum of own and the maximum of nearest over them are those
    of all classes. Raises RecordError for other shapes or labels outside -1..K-1.
    """
    _expect_classes(cosines, labels)
    wide = _wide(cosines.detach())
    here = (labels >= 0).nonzero()[:, 0]
    places = (here, labels[here])
    own = wide.new_zeros(len(labels)).index_put((here,), wide[places])
    others = wide.index_put(places, wide.new_tensor(-torch.inf))
    return ClassCosines(own, others.amax(dim=1))


def certainty_ratio(
    own: Tensor, nearest: Tensor, *, divisor: Divisor = "paper", least: float = 0.01
) -> Tensor:
    """CR-FIQA's target (B,) without gradient: how certainly a face is classified.

    own, nearest: (B,) from `class_cosines`.
    divisor: "paper", CCS / (NNCCS + 1 + 1e-9); "released", CCS / NNCCS, with NNCCS
    taken as `least` where it is lower. In the released code it may be as low as -1e-12, so that the
    target of a face is as high as 1e12 when all other classes are on its far side, as can happen
    with few classes or early in training; with many, NNCCS is above `least` and nothing changes.
    Raises ConfigError for another divisor or unless least > 0, RecordError for other shapes.
    """
    if divisor not in ("paper", "released"):
        raise ConfigError(f"divisor must be paper or released, got {divisor!r}")
    if not least > 0:
        raise ConfigError(f"least must be above 0, got {least}: it is a divisor")
    _expect_vectors("own and nearest", own, nearest)
    target, other = _wide(own.detach()), _wide(nearest.detach())
    if divisor == "released":
        return target / other.clamp(min=least)
    # In this order: 1 + 1e-9 is 1 in float32. Rounding may put a cosine below -1.
    return target / ((other + 1).clamp(min=0) + _EPSILON)


def certainty_loss(quality: Tensor, ratios: Tensor) -> Tensor:
    """CR-FIQA's regression: smooth L1 with beta 0.5; not yet times CERTAINTY_WEIGHT.

    quality, ratios: (B,). As published, quality is a linear layer on embeddings that are not
    detached: the gradient of this loss also trains the backbone, that of the target nothing.
    Raises RecordError for other shapes.
    """
    return _smooth_l1(quality, ratios, CERTAINTY_BETA)


def sdd_loss(quality: Tensor, labels: Tensor) -> Tensor:
    """SDD-FIQA's regression: smooth L1 with beta 1 on labels in 0..100 (`models.sdd`), both (B,).

    Raises RecordError for other shapes.
    """
    return _smooth_l1(quality, labels, 1.0)


def genuine_pairs(labels: Tensor) -> Pairs:
    """All pairs of a batch whose labels (B,) are equal, each once; there may be none.

    Takes B * B flags. Raises RecordError unless labels are one axis.
    """
    if labels.ndim != 1:
        raise RecordError(f"labels must be (B,), got {tuple(labels.shape)}")
    same = (labels[:, None] == labels[None]).triu(diagonal=1)
    first, second = same.nonzero(as_tuple=True)
    return Pairs(first, second)


def pair_cosines(embeddings: Tensor, pairs: Pairs) -> Tensor:
    """Cosines (P,) of raw embeddings (B, C), without gradient: the recogniser is not trained."""
    units = functional.normalize(_wide(embeddings.detach()), dim=1)
    return (units[pairs.first] * units[pairs.second]).sum(dim=1)


def pcnet_loss(cosines: Tensor, logits: Tensor, pairs: Pairs) -> Tensor:
    """PCNet: mean over genuine pairs of (cos - min(p1, p2))^2; 0 without pairs.

    Xie, Byrne, Zisserman, "Inducing Predictive Uncertainty Estimation for Face Recognition", BMVC
    2020. cosines (P,) of the recogniser, taken as constant. logits (B,): p = sigmoid(logit).
    Raises RecordError for other shapes.
    """
    lower = _lower_logits(cosines, logits, pairs)
    return _mean((_wide(cosines.detach()) - torch.sigmoid(lower)) ** 2)


def iq_targets(cosines: Tensor, *, scale: float = IQ_SCALE, centre: float = IQ_CENTRE) -> Tensor:
    """sigmoid(scale (cos - centre)) of cosines of any shape, without gradient.

    How probably a genuine pair would be accepted by a soft threshold (LightQNet).
    """
    return torch.sigmoid(scale * (_wide(cosines.detach()) - centre))


def iq_loss(
    cosines: Tensor,
    logits: Tensor,
    pairs: Pairs,
    *,
    scale: float = IQ_SCALE,
    centre: float = IQ_CENTRE,
) -> Tensor:
    """LightQNet: mean over genuine pairs of the cross-entropy of min(p1, p2); 0 without pairs.

    Chen, Yi, Lv, "LightQNet", IEEE Signal Processing Letters 28, 2021. cosines (P,) of the
    recogniser, taken as constant; logits (B,): p = sigmoid(logit). Targets are `iq_targets`; the
    loss is least, not 0, where min(p1, p2) equals them. Raises RecordError for other shapes.
    """
    lower = _lower_logits(cosines, logits, pairs)
    targets = iq_targets(cosines, scale=scale, centre=centre).to(lower.dtype)
    return _mean(functional.binary_cross_entropy_with_logits(lower, targets, reduction="none"))


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """LightQNet: temperature^2 times the mean divergence KL(teacher || student); 0 when equal.

    Of two-valued distributions sigmoid(logit / temperature). logits (B,); the teacher's get no
    gradient. Goes into the sum times DISTILLATION_WEIGHT.
    Raises ConfigError unless temperature > 0, RecordError for other shapes.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    _expect_vectors("logits of student and teacher", student, teacher)
    ours, theirs = _wide(student) / temperature, _wide(teacher.detach()) / temperature
    excess = torch.sigmoid(theirs) * (functional.logsigmoid(theirs) - functional.logsigmoid(ours))
    rest = torch.sigmoid(-theirs) * (functional.logsigmoid(-theirs) - functional.logsigmoid(-ours))
    return _mean(excess + rest) * temperature**2


def centred_labels(
    labels: Tensor, embeddings: Tensor, centres: Tensor, *, weight: float = 0.5
) -> Tensor:
    """eDifFIQA's target (B,): labels lowered by distance to the class centre, within 0..1.

    Babnik, Peer, Struc, "eDifFIQA", IEEE T-BIOM 2024: clip(q - weight (1 - cos(e, centre)), 0, 1).
    labels (B,) in 0..1; embeddings, centres (B, C) raw, a row for each face; no gradient. A centre
    is the mean embedding of the best 20% of the class. Raises RecordError for other shapes.
    """
    if embeddings.ndim != 2 or embeddings.shape != centres.shape or labels.ndim != 1:
        raise RecordError(
            f"labels must be (B,), embeddings and centres (B, C), got {tuple(labels.shape)}, "
            f"{tuple(embeddings.shape)} and {tuple(centres.shape)}"
        )
    cosines = functional.cosine_similarity(
        _wide(embeddings.detach()), _wide(centres.detach()), dim=1
    )
    _expect_vectors("labels and embeddings", labels, cosines)
    return (_wide(labels.detach()) - weight * (1 - cosines)).clamp(0, 1)


def _smooth_l1(quality: Tensor, targets: Tensor, beta: float) -> Tensor:
    _expect_vectors("quality and targets", quality, targets)
    return functional.smooth_l1_loss(_wide(quality), _wide(targets.detach()), beta=beta)


def _lower_logits(cosines: Tensor, logits: Tensor, pairs: Pairs) -> Tensor:
    """Logit (P,) of min(p1, p2), which is the lower of both logits."""
    _expect_vectors("cosines and pairs", cosines, pairs.first, pairs.second)
    _expect_vectors("logits", logits)
    wide = _wide(logits)
    return torch.minimum(wide[pairs.first], wide[pairs.second])


def _mean(values: Tensor) -> Tensor:
    """Mean, and 0 with a gradient of 0 where there is nothing."""
    return values.sum() / max(1, len(values))


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _expect_vectors(names: str, *tensors: Tensor) -> None:
    """Others would be broadcast."""
    if any(one.ndim != 1 or one.shape != tensors[0].shape for one in tensors):
        shapes = ", ".join(str(tuple(one.shape)) for one in tensors)
        raise RecordError(f"{names} must be vectors of one length, got {shapes}")


def _expect_classes(cosines: Tensor, labels: Tensor) -> None:
    if cosines.ndim != 2 or cosines.shape[1] < 2 or labels.shape != cosines.shape[:1]:
        raise RecordError(
            f"cosines must be (B, K) with K >= 2 and labels (B,), got {tuple(cosines.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if not len(labels):
        return
    low, high = (int(value) for value in labels.aminmax())
    if low < -1 or high >= cosines.shape[1]:
        raise RecordError(f"labels must lie in -1..{cosines.shape[1] - 1}, got {low}..{high}")
