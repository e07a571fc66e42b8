"""Settings of the recipes that learn from pictures of faces: MagFace, CQA-Face, an embedder.

Presets are in configs/trainings/; `training.read_training` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .. import ConfigError
from .schema import Count, Range, Share
from .training import NotNegative, Positive, RunSettings

Backbone = Literal[
    "tiny", "mobile", "iresnet18", "iresnet34", "iresnet50", "iresnet100", "iresnet200"
]
Convention = Literal["insightface", "magface", "magface-published", "adaface"]
Chain = Literal["weak", "strong", "surveillance", "paper-weak", "paper-strong"]


@dataclass(frozen=True)
class FaceData:
    """How faces are read and who of them validates."""

    flip: Share = 0.5
    """Probability of a mirror image."""
    degraded: Share = 0.0
    """Share of the pictures that go through a chain of degradations (train/degrade)."""
    chain: Chain = "surveillance"
    """Which chain."""
    people: Annotated[int, Range(least=0)] = 0
    """Identities of a batch, each with as many faces as any other; 0 draws faces instead, each once
    per epoch."""
    least: Count = 1
    """Fewest pictures of an identity; a set with fewer of somebody is refused."""
    held_out: Annotated[float, Range(above=0, most=0.5)] = 0.05
    """Share of the identities that validate where no other faces are given for it."""
    validation: Annotated[int, Range(least=4)] = 1000
    """Most faces to validate on, two or more of each identity where there are."""
    fmr: Annotated[float, Range(above=0, most=0.5)] = 1e-2
    """False-match rate at which validation measures the true accept rate."""


@dataclass(frozen=True)
class MagFaceLoss:
    """Margins that grow with the magnitude, and the regulariser (MagFace, section 3.2)."""

    kind: Literal["magface", "mag-cosface"] = "magface"
    """On the angle, or on the cosine."""
    l_a: Positive = 10.0
    """Lower bound of the magnitude."""
    u_a: Positive = 110.0
    """Upper bound of the magnitude."""
    l_m: NotNegative = 0.45
    """Margin at l_a."""
    u_m: NotNegative = 0.8
    """Margin at u_a."""
    lambda_g: NotNegative = 35.0
    """Weight of the regulariser."""
    scale: Positive = 64.0
    """s, of the cosines."""
    easy_margin: bool = False
    """No margin beyond 90 degrees, as in the authors' code; magface only."""
    clamp_regulariser: bool = False
    """No gradient to magnitudes outside their bounds, as in the authors' code."""

    def __post_init__(self) -> None:
        """Refuse an easy margin where there are no angles."""
        if self.easy_margin and self.kind != "magface":
            raise ConfigError("easy_margin belongs to kind magface: leave it out for mag-cosface")


@dataclass(frozen=True)
class MagFaceTraining:
    """`facestream train magface`: an embedder whose magnitude is quality."""

    run: RunSettings
    """How it is trained."""
    data: FaceData = FaceData(flip=0.5)
    """What it sees."""
    loss: MagFaceLoss = MagFaceLoss()
    """What it minimises."""
    backbone: Backbone = "iresnet100"
    """The network."""
    convention: Convention = "magface"
    """Details of an IResNet; magface-published also has the authors' batch norm momentum."""
    dimension: Count = 512
    """Of an embedding."""
    sample_rate: Annotated[float, Range(above=0, most=1)] = 1.0
    """Share of the classes that a step compares with (partial FC)."""


@dataclass(frozen=True)
class CQATraining:
    """`facestream train cqa`: CQA-Face, branches that look at different parts and weigh them."""

    run: RunSettings
    """How it is trained."""
    data: FaceData = FaceData(flip=0.5)
    """What it sees."""
    backbone: Backbone = "iresnet100"
    """The stem."""
    convention: Convention = "insightface"
    """Details of an IResNet."""
    dimension: Count = 512
    """Of an embedding."""
    branches: Count = 4
    """b of the paper."""
    weigh: bool = True
    """Whether there is a quality network (QAN)."""
    contrast: NotNegative = 0.5
    """Weight of the loss on the attention maps (lambda of equation 9)."""
    attention: Literal["contrastive", "diverse"] = "contrastive"
    """Which: L_CAL of equation 2, or L_D of equation 3, which the paper compares with."""
    margin: NotNegative = 0.35
    """Margin of CosFace; the paper does not give it, this is CosFace's own."""
    scale: Positive = 64.0
    """Scale of CosFace."""
    sample_rate: Annotated[float, Range(above=0, most=1)] = 1.0
    """Share of the classes that a step compares with (partial FC)."""


@dataclass(frozen=True)
class EmbedderTraining:
    """`facestream train embedder`: a compact embedder, taught by another and by MagFace."""

    run: RunSettings
    """How it is trained."""
    data: FaceData = FaceData(degraded=0.8)
    """What it sees; the teacher sees the pictures as they are."""
    teacher: str = "omz"
    """Pack whose embeddings are to be met; empty for none."""
    distil: NotNegative = 1.0
    """Weight of 1 - cos(student of the degraded face, teacher of the clean one)."""
    blends: Annotated[int, Range(least=0)] = 0
    """Faces made of two training faces each, learned from as further identities (train/blends)."""
    classify: NotNegative = 0.0
    """Weight of the MagFace loss; identities of one picture are classes of its degraded views."""
    loss: MagFaceLoss = MagFaceLoss()
    """Of the classification."""
    backbone: Backbone = "mobile"
    """The network."""
    convention: Convention = "insightface"
    """Details of an IResNet."""
    attention: bool = False
    """Put CQA-Face's branches in the place of the backbone's head."""
    weigh: bool = True
    """Whether the branches have a quality network (QAN)."""
    contrast: NotNegative = 0.5
    """Weight of L_CAL, where there are branches."""
    dimension: Count = 256
    """Of an embedding; the teacher's, where there is one."""

    def __post_init__(self) -> None:
        """Refuse a run that would learn nothing."""
        if bool(self.teacher) != bool(self.distil):
            raise ConfigError(
                f"a teacher needs distil above 0, and distil a teacher, got teacher "
                f"{self.teacher!r} and distil {self.distil:g}"
            )
        if not self.distil and not self.classify:
            raise ConfigError("distil and classify are both 0: nothing would be learned")
