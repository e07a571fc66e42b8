"""`facestream train cqa`: branches that look at different parts of a face and weigh what they see.

Wang and Guo, "CQA-Face: Contrastive Quality-Aware Attentions for Face Recognition", AAAI 2022:
CosFace on the joined parts plus a loss that keeps the attention maps apart (equation 9). Pictures
are RGB in -1 .. 1.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from ..configs.face_training import CQATraining
from ..models.networks.class_layer import ClassLayer
from ..models.networks.cqa import CQAFace
from ..models.networks.cqa_losses import (
    active_fraction,
    contrastive_attention_loss,
    diverse_attention_loss,
    map_correlation,
)
from ..models.networks.margins import CosFace
from .engine import seeded
from .face_batches import SIGNED_RGB, FaceBatch
from .face_recipe import FaceRecipe, FaceSplit, FaceTask, build_backbone

DIVERSE_MARGIN = 2.0
"""t of L_D, which CQA-Face does not give: maps of 7 x 7 places differ by at most 7."""


class CQATask(FaceTask):
    """A CQA-Face, its classes, and the loss on its attention maps."""

    backbone: CQAFace

    def __init__(
        self, backbone: CQAFace, head: ClassLayer, contrast: float, *, diverse: bool = False
    ) -> None:
        """contrast: lambda of equation 9. diverse: L_D in place of L_CAL."""
        super().__init__(backbone, SIGNED_RGB)
        self.head, self.contrast, self.diverse = head, contrast, diverse

    def forward(self, batch: FaceBatch) -> dict[str, Tensor]:
        """loss: equation 9; classes and attention: its terms; active: places still pushed apart."""
        features, branches = self.backbone.with_branches(self.scale(batch.images))
        classes = self.head(features, batch.labels)
        if self.diverse:
            attention = diverse_attention_loss(branches.maps, margin=DIVERSE_MARGIN)
        else:
            attention = contrastive_attention_loss(branches.maps)
        return {
            "loss": classes + self.contrast * attention,
            "classes": classes,
            "attention": attention,
            "active": active_fraction(branches.maps),
        }


class CQARecipe(FaceRecipe):
    """A recipe that also says how alike the branches look."""

    network: CQATask

    def validate(self) -> dict[str, float]:
        """As `FaceRecipe`, and alike: mean correlation of two branches' maps, 1 for copies."""
        return {**super().validate(), **measure_branches(self.network, self.validation.sample())}


def measure_branches(task: FaceTask, images: Tensor) -> dict[str, float]:
    """alike: mean correlation of the maps of two branches on these faces (B, 3, 112, 112) uint8.

    0 where there is one branch, or maps that do not vary.
    """
    backbone = task.backbone
    assert isinstance(backbone, CQAFace)
    scaled = task.scale(images.to(next(backbone.parameters()).device))
    maps = backbone.branches(backbone.feature_map(scaled)).maps
    between = map_correlation(maps).cpu().numpy()
    pairs = between[np.triu_indices(len(between), 1)]
    alike = float(np.mean(pairs)) if len(pairs) else 0.0
    return {"alike": 0.0 if math.isnan(alike) else alike}


def cqa_recipe(config: CQATraining, split: FaceSplit) -> CQARecipe:
    """The recipe of `facestream train cqa`. Exports cqa.onnx, .pt and .yaml.

    Raises ConfigError for settings that do not fit and where nobody of validation has two pictures,
    and what reading the validation faces raises.
    """
    with seeded(config.run.seed):
        stem = build_backbone(config.backbone, config.dimension, config.convention)
        backbone = CQAFace(
            stem, branches=config.branches, weigh=config.weigh, dimension=config.dimension
        )
    head = ClassLayer(
        config.dimension,
        split.training.classes,
        CosFace(config.margin, scale=config.scale),
        sample_rate=config.sample_rate,
        seed=config.run.seed,
    )
    task = CQATask(backbone, head, config.contrast, diverse=config.attention == "diverse")
    recipe = CQARecipe("cqa", task, split, config.data, config.run)
    recipe.validation.require_pairs()
    return recipe
