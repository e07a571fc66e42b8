"""Settings of training runs: what `facestream train RECIPE CONFIG` reads.

The YAML files are in configs/trainings/. What a file leaves out keeps the default written here.
`RunSettings` is what the engine reads, the same for every recipe; each recipe adds its own.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from .. import ConfigError
from .load import read_dataclass
from .schema import Count, Range, Share

Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Built = TypeVar("Built")


@dataclass(frozen=True)
class RunSettings:
    """How long, how fast and how exactly a network is trained."""

    steps: Count
    """Optimiser steps in all."""
    batch: Count = 64
    """Items of one step, over all processes together."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    """adam adds weight decay to the gradient, adamw does not; sgd has momentum."""
    rate: Positive = 1e-3
    """Learning rate after warm-up."""
    schedule: Literal["constant", "milestones", "cosine"] = "cosine"
    """How the rate falls: not at all, by `factor` at each of `milestones`, or to 0 as a cosine."""
    milestones: tuple[Count, ...] = ()
    """Steps from which on the rate is multiplied by `factor`, once for each."""
    factor: Positive = 0.1
    """See `milestones`."""
    warmup: Annotated[int, Range(least=0)] = 0
    """Steps over which the rate rises from 0 in a straight line."""
    decay: NotNegative = 5e-4
    """Weight decay."""
    momentum: Share = 0.9
    """Momentum of sgd."""
    clip: NotNegative = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic; losses, sums and weights are float32 at least."""
    validate_every: Count = 200
    """Steps between validations; the best one's weights are kept, and a checkpoint is written."""
    seed: Annotated[int, Range(least=0)] = 1
    """Of weights, batches and dropout. The same seed on the same machine gives the same curve."""

    def __post_init__(self) -> None:
        """Refuse settings that do not fit each other."""
        if (self.schedule == "milestones") != bool(self.milestones):
            raise ConfigError(
                f"milestones belong to schedule milestones and to no other, got schedule "
                f"{self.schedule} with {len(self.milestones)} of them"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones must rise, got {', '.join(map(str, self.milestones))}")
        if self.warmup >= self.steps > 0:  # 0 is out of range, which is said elsewhere
            raise ConfigError(f"warmup must end before steps ({self.steps}), got {self.warmup}")


def preset_names(recipe: str) -> list[str]:
    """The presets of one recipe: files of configs/trainings that begin with its name and a dash."""
    folder = importlib.resources.files(__package__) / "trainings"
    names = (Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))
    return sorted(name for name in names if name.startswith(f"{recipe}-"))


def read_training(kind: type[Built], recipe: str, name: str) -> tuple[Built, str]:
    """The settings of a recipe and their text: a preset by name, or a YAML file by its path.

    Raises ConfigError for an unknown name, an unknown key, and a value out of its range.
    """
    if name in preset_names(recipe):
        file = importlib.resources.files(__package__) / "trainings" / f"{name}.yaml"
        text = file.read_text(encoding="utf-8")
    elif Path(name).suffix in (".yaml", ".yml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name} cannot be read as a text file ({error})") from error
    else:
        raise ConfigError(
            f"{recipe} has no preset {name!r}; there are {', '.join(preset_names(recipe))}, or "
            "give a .yaml file"
        )
    try:
        return read_dataclass(kind, text), text
    except ConfigError as error:
        raise ConfigError(f"training {name}: {error}") from error


@dataclass(frozen=True)
class IDATraining:
    """`facestream train ida`: a network (SSR) that predicts density in place of anchors."""

    run: RunSettings
    """How it is trained."""
    pack: str = "open"
    """Pack whose embeddings are read and whose anchors teach."""
    hidden: Count = 256
    """Width of the hidden layer; the paper does not give it."""
    target: Literal["density", "discrepancy"] = "density"
    """density: the standardised logarithm of F; discrepancy: F itself, equation 6 to the letter."""
    views: Count = 16
    """Degraded views of each face, beside the face as it is."""
    mixed: Share = 0.5
    """Share of a batch that is moved some way towards another face: the anchors measure any unit
    vector, so these cost no faces."""


@dataclass(frozen=True)
class BankSettings:
    """Degraded views of each picture, in runs like those of a track (train/track_views)."""

    runs: Count = 5
    """Runs of each picture."""
    frames: Count = 6
    """Frames of a run."""
    strength: tuple[Share, Share] = (0.05, 0.9)
    """Between which strengths of damage, 0 to 1, runs are spread."""
    seed: Annotated[int, Range(least=0)] = 1
    """Of all that is drawn."""
