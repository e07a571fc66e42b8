"""A template's pooling by the name of a published variant, with single steps changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .. import ConfigError
from ..models.pooling import POOLINGS, Pooling

USUAL = "arcface"


def choose_pooling(name: str, steps: Mapping[str, bool | None], *, fused: bool = False) -> Pooling:
    """The variant with every step that is given put in the place of its own.

    steps: by the names of Pooling's fields; None leaves the variant's. fused: templates are fused
    and not pooled, so that all there is to say is that no picture is mirrored. Raises ConfigError
    for an unknown name, for steps that do not go together, and for any of them beside `fused`.
    """
    if name not in POOLINGS:
        raise ConfigError(f"--pooling must be one of {', '.join(POOLINGS)}, got {name}")
    given = {step: value for step, value in steps.items() if value is not None}
    if fused and (name != USUAL or given):
        raise ConfigError(
            "--fuse takes the place of pooling: leave out --pooling and its steps, or --fuse"
        )
    return dataclasses.replace(POOLINGS[name], **({"add_flip": False} if fused else given))
