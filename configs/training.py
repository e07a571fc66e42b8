"""Settings of training runs: what `facestream train RECIPE CONFIG` reads.

The YAML files are in configs/trainings/. What a file leaves out keeps the default written here.
`RunSettings` is what the engine reads, the same for every recipe; each recipe adds its own.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml

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
    """How the rate falls: not at all, in steps at `milestones`, or to 0 as a cosine."""
    milestones: tuple[Count, ...] = ()
    """Steps from which on another rate is taken."""
    rates: tuple[Positive, ...] = ()
    """The rate from each of `milestones` on; left out, each is a tenth of the one before."""
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
        if self.rates and len(self.rates) != len(self.milestones):
            raise ConfigError(
                f"expected a rate for each of {len(self.milestones)} milestones, or none at all, "
                f"got {len(self.rates)} rates"
            )
        if self.warmup >= self.steps > 0:  # 0 is out of range, which is said elsewhere
            raise ConfigError(f"warmup must end before steps ({self.steps}), got {self.warmup}")


def preset_names(recipe: str) -> list[str]:
    """The presets of one recipe: files of configs/trainings that begin with its name and a dash."""
    folder = importlib.resources.files(__package__) / "trainings"
    names = (Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))
    return sorted(name for name in names if name.startswith(f"{recipe}-"))


def read_training(kind: type[Built], recipe: str, name: str) -> tuple[Built, str]:
    """The settings of a recipe (a preset by name, or a YAML file by its path), and as text.

    The text has every value, defaults included, so that two runs with the same are the same run.

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
        settings = read_dataclass(kind, text)
    except ConfigError as error:
        raise ConfigError(f"training {name}: {error}") from error
    return settings, yaml.safe_dump(asdict(settings), sort_keys=False)  # type: ignore[call-overload]


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
    bank: BankSettings = BankSettings(runs=6, frames=1, strength=(0.0, 0.9))
    """Degraded views of each face, beside the face as it is."""
    mixed: Share = 0.5
    """Share of a batch that is moved some way towards another face: the anchors measure any unit
    vector, so these cost no faces."""


@dataclass(frozen=True)
class FIQATraining:
    """`facestream train fiqa`: a quality head by label optimisation and transfer."""

    run: RunSettings
    """How the transfer is trained."""
    pack: str = "open"
    """Pack whose embeddings and styles are read."""
    scores: Literal["pack", "norm", "mated"] = "pack"
    """Quality that is optimised: the pack's own; the norm of the embedding; the cosine of a view
    with its picture as taken, which only training knows."""
    labels: Literal["optimised", "raw"] = "optimised"
    """raw: the scores as they are, to compare with."""
    theta: Share = 0.0187
    """How far ranks move towards those of the mated pairs; the default is the published one."""
    repeats: Count = 10
    """Times that pairs are drawn."""
    even: bool = True
    """Spread labels evenly by rank; false: as the scores lie between the lowest and the highest."""
    hidden: Count = 64
    """Width of the hidden layer."""
    bank: BankSettings = BankSettings(runs=6, frames=1, strength=(0.0, 0.9))
    """Degraded views of each picture: they are each other's mates."""


@dataclass(frozen=True)
class TrackSettings:
    """How sets with the structure of tracks are drawn (train/track_sets)."""

    sizes: tuple[Count, ...] = (2, 4, 8, 16, 24)
    """Faces in a set; each step draws one of them."""
    independent: Share = 0.25
    """Share of the sets whose faces have nothing to do with each other."""
    mostly_bad: Share = 0.5
    """Of the others, share in which the longest stretch is the worst one."""
    sources: Count = 3
    """Pseudo-sources of a set at the most."""
    spread: NotNegative = 1.2
    """Largest distance of a pseudo-source from the centre, before it is brought to length 1. The
    distance between people is the measure: 1.2 fits packs whose cosines of different people are
    about 0, 0.6 one where they are about 0.84."""


@dataclass(frozen=True)
class CAFaceTraining:
    """`facestream train caface`: a fuser on a pack's own features of degraded views."""

    run: RunSettings
    """How it is trained; a step is `run.batch` sets."""
    pack: str = "open"
    """Pack whose embeddings, styles and qualities are fused."""
    fuser: Literal[
        "caface",
        "learned",
        "learned-embedding",
        "nan",
        "cfan",
        "pfe",
        "caface-quality",
        "caface-guided",
    ] = "caface"
    """CAFace, or the learned mean: one weight per face from a small network. The others are to
    compare with and do not run live: NAN; CFAN and PFE on style statistics in place of feature
    maps; CAFace with the quality as one more style channel; CAFace on top of the learned mean; the
    learned mean that also reads the embedding."""
    keys: Literal["style", "style+norm", "style+quality", "style+norm+quality"] = "style+norm"
    """What the learned means weigh a face by, alone or under caface-guided; CAFace itself has
    style+norm."""
    centres: Count = 4
    """M of CAFace."""
    code: Count = 32
    """Width of CAFace's style code, and of its norm code."""
    hidden: Count = 64
    """Width of the learned mean's hidden layer."""
    loss: Literal["identity", "template"] = "identity"
    """identity: whose is the set, among everybody of the training split; template: the paper's
    1 - cosine with the centre."""
    scale: Positive = 16.0
    """Of the cosines in the loss identity; larger where those of different people lie close."""
    consistency: NotNegative = 1.0
    """Weight of CAFace's consistency loss."""
    tracks: TrackSettings = TrackSettings()
    """How sets are drawn."""
    bank: BankSettings = BankSettings()
    """Degraded views of each picture."""
    training_pictures: Count = 240
    """So many people of the role training, the first in the order of the split."""
    validation_pictures: Count = 162
    """So many of the role validation."""

    def __post_init__(self) -> None:
        """Refuse what CAFace does not read, and sets that cannot be cut in two."""
        guided = self.fuser in ("learned", "learned-embedding", "caface-guided")
        if not guided and self.keys != "style+norm":
            raise ConfigError(f"keys of {self.fuser} must be style+norm, got {self.keys}")
        if self.fuser.startswith("caface") and any(size % 2 for size in self.tracks.sizes):
            raise ConfigError(
                "sizes of caface must be even, for the consistency of two halves, got "
                f"{', '.join(map(str, self.tracks.sizes))}"
            )
