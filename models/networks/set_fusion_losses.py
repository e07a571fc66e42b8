"""What PFE is trained with: the likelihood that two Gaussians are of one face.

Shi and Jain, "Probabilistic Face Embeddings", ICCV 2019. NAN, CFAN, RSA and the rest are trained
with CAFace's template loss (caface_losses.template_loss), as its authors did to compare them.
Published training: backbone frozen, 12,000 steps of 256 faces (64 people, 4 each), SGD with
momentum, learning rate 1e-3, divided by 10 after 8,000, weight decay 5e-4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import RecordError
from .set_fusion import widen


def mutual_likelihood(
    first: Tensor, first_logs: Tensor, second: Tensor, second_logs: Tensor
) -> Tensor:
    """PFE's score (equation 3), higher is more alike, of means and log variances (..., C): (...).

    s = -1/2 sum_j [(m1_j - m2_j)^2 / (s1_j + s2_j) + log(s1_j + s2_j)] - C/2 log 2 pi.
    Means are used as they are given: pass unit ones. Computed in float32 at least.
    """
    misfit = _misfit(first, first_logs, second, second_logs)
    return -0.5 * (misfit + first.shape[-1] * math.log(2.0 * math.pi))


def pfe_loss(embeddings: Tensor, log_variances: Tensor, labels: Tensor) -> Tensor:
    """Mean over all genuine pairs of the batch of sum_j [(m1 - m2)^2 / (s1 + s2) + log(s1 + s2)].

    It is -2 times the mean score of `mutual_likelihood`, but for its constant. embeddings (B, C) of
    any length, log_variances (B, C), labels (B,) integers. Computed in float32 at least.
    Raises RecordError when shapes do not fit or no two faces have the same label.
    """
    if embeddings.ndim != 2 or log_variances.shape != embeddings.shape:
        raise RecordError(
            "embeddings and log variances must be (B, C) both, "
            f"got {tuple(embeddings.shape)} and {tuple(log_variances.shape)}"
        )
    if labels.shape != embeddings.shape[:1]:
        raise RecordError(
            f"labels must be ({len(embeddings)},), one per embedding, got {tuple(labels.shape)}"
        )
    same = (labels[:, None] == labels).triu(diagonal=1)
    first, second = same.nonzero(as_tuple=True)
    if not len(first):
        raise RecordError("a batch needs at least two faces of one person, got none: sample pairs")
    means = F.normalize(widen(embeddings), dim=1)
    return _misfit(means[first], log_variances[first], means[second], log_variances[second]).mean()


def _misfit(first: Tensor, first_logs: Tensor, second: Tensor, second_logs: Tensor) -> Tensor:
    logs = torch.logaddexp(widen(first_logs), widen(second_logs))
    return ((widen(first) - widen(second)).square() * torch.exp(-logs) + logs).sum(dim=-1)
