"""`facestream train magface`: an embedder whose magnitude is the quality of the face.

Meng et al., "MagFace: A Universal Representation for Face Recognition and Quality Assessment", CVPR
2021: margins that grow with the magnitude (models/networks/magface) on a class layer over all
identities. Pictures are BGR in 0 .. 1, as the authors' networks take them, only mirrored.

Every process holds all class weights, and gradients are averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..configs.face_training import MagFaceLoss, MagFaceTraining
from ..models.networks.backbone import Backbone
from ..models.networks.class_layer import ClassLayer
from ..models.networks.magface import MagCosFace, MagFace
from ..models.networks.margins import Margin
from .engine import seeded
from .face_batches import UNIT_BGR, FaceBatch
from .face_recipe import FaceRecipe, FaceSplit, FaceTask, build_backbone


class MagFaceTask(FaceTask):
    """A backbone and the classes of its training faces."""

    def __init__(self, backbone: Backbone, head: ClassLayer) -> None:
        """head: of the backbone's dimension."""
        super().__init__(backbone, UNIT_BGR)
        self.head = head

    def forward(self, batch: FaceBatch) -> dict[str, Tensor]:
        """loss: equation 2; magnitude: the mean norm of the batch's embeddings."""
        features = self.embed(batch.images)
        norms = torch.linalg.vector_norm(features.detach().float(), dim=1)
        return {"loss": self.head(features, batch.labels), "magnitude": norms.mean()}


def make_margin(loss: MagFaceLoss) -> Margin:
    """The margin of these settings. Raises ConfigError for bounds out of order.

    Warns (UserWarning) where lambda_g is below what the theory needs.
    """
    bounds = (loss.l_a, loss.u_a, loss.l_m, loss.u_m, loss.lambda_g)
    if loss.kind == "mag-cosface":
        return MagCosFace(*bounds, scale=loss.scale, clamp_regulariser=loss.clamp_regulariser)
    return MagFace(
        *bounds,
        scale=loss.scale,
        easy_margin=loss.easy_margin,
        clamp_regulariser=loss.clamp_regulariser,
    )


def magface_recipe(config: MagFaceTraining, split: FaceSplit) -> FaceRecipe:
    """The recipe of `facestream train magface`. Exports magface.onnx, .pt and .yaml.

    Raises ConfigError for settings that do not fit and where nobody of validation has two pictures,
    and what reading the validation faces raises.
    """
    with seeded(config.run.seed):
        backbone = build_backbone(config.backbone, config.dimension, config.convention)
    head = ClassLayer(
        config.dimension,
        split.training.classes,
        make_margin(config.loss),
        sample_rate=config.sample_rate,
        seed=config.run.seed,
    )
    recipe = FaceRecipe("magface", MagFaceTask(backbone, head), split, config.data, config.run)
    recipe.validation.require_pairs()
    return recipe
