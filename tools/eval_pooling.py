"""A template's pooling by the name of a published variant, with single steps changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .. import ConfigError
from ..models.pooling import POOLINGS, Pooling


def choose_pooling(name: str, steps: Mapping[str, bool | None]) -> Pooling:
    """The variant with every step that is given put in the place of its own.

    steps: by the names of Pooling's fields; None leaves the variant's. Raises ConfigError for an
    unknown name and for steps that do not go together.
    """
    if name not in POOLINGS:
        raise ConfigError(f"--pooling must be one of {', '.join(POOLINGS)}, got {name}")
    given = {step: value for step, value in steps.items() if value is not None}
    return dataclasses.replace(POOLINGS[name], **given)
