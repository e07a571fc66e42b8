"""The learning rate of every step, and the optimisers that a run can ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..configs.training import RunSettings


def rate_at(settings: RunSettings, step: int) -> float:
    """Learning rate of a step, 0-based.

    It rises in a straight line over `warmup` steps, then stays, falls at milestones, or falls as
    half a cosine from the end of the warm-up to 0 after the last step.
    """
    if step < settings.warmup:
        return settings.rate * (step + 1) / (settings.warmup + 1)
    if settings.schedule == "milestones":
        passed = sum(step >= milestone for milestone in settings.milestones)
        if settings.rates:
            return (settings.rate, *settings.rates)[passed]
        return settings.rate * float(0.1**passed)
    if settings.schedule == "cosine":
        along = (step - settings.warmup) / (settings.steps - settings.warmup)
        return settings.rate * 0.5 * (1.0 + math.cos(math.pi * along))
    return settings.rate


def make_optimiser(
    settings: RunSettings, groups: Sequence[dict[str, Any]]
) -> torch.optim.Optimizer:
    """The optimiser over groups of `params`, with `weight_decay` and `scale` where they differ.

    scale: the group's share of the learning rate, 1 where it is left out (see `set_rate`).
    """
    kept = [{"scale": 1.0, **group} for group in groups]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            kept, lr=settings.rate, momentum=settings.momentum, weight_decay=settings.decay
        )
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(kept, lr=settings.rate, weight_decay=settings.decay)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
