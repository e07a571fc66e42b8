"""`facestream train embedder`: a compact embedder, distilled from another pack's and from MagFace.

Where faces are too few to learn identities from them, another embedder knows more than the labels:
the student of a degraded face is led to the direction that the teacher gives the clean one,

    distil (1 - cos(student(degraded), teacher(clean))) + classify L_MagFace,

which teaches it to see through the degradation as well. Directions carry no magnitude, so only the
MagFace term makes the norm a quality; identities of one picture are classes of its degraded views.
A teacher can be asked about any face, so faces made of two (train/blends) are learned from as well.
Pictures are RGB in -1 .. 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ConfigError, SourceCorrupt
from ..configs.face_training import EmbedderTraining
from ..models.align import ARCFACE_112, warp
from ..models.feature_store import fingerprint_parts
from ..models.fusion import Doubles, Floats
from ..models.inference import AlignTemplate, Embedded, Embedder, Image
from ..models.networks.backbone import Backbone
from ..models.networks.class_layer import ClassLayer
from ..models.networks.cqa import CQAFace
from ..models.networks.cqa_losses import contrastive_attention_loss
from ..models.store import written_whole
from .blends import add_blends
from .cqa import measure_branches
from .engine import seeded
from .face_batches import SIGNED_RGB, FaceBatch
from .face_lists import LabelledFaces
from .face_recipe import FaceRecipe, FaceSplit, FaceTask, build_backbone
from .face_validation import embed_images, tar_at
from .magface import make_margin

TAUGHT_TOGETHER = 32


class EmbedderTask(FaceTask):
    """A student; what its teacher says of every training face; classes, where it has them."""

    targets: Tensor

    def __init__(
        self,
        backbone: Backbone,
        targets: Floats | None,
        head: ClassLayer | None,
        config: EmbedderTraining,
    ) -> None:
        """targets: (N, C) float32 unit directions of the training faces, None without a teacher."""
        super().__init__(backbone, SIGNED_RGB)
        # Not part of the state: a checkpoint would carry every face's embedding.
        wanted = torch.zeros(0) if targets is None else torch.from_numpy(targets)
        self.register_buffer("targets", wanted, persistent=False)
        self.head, self.config = head, config

    def forward(self, batch: FaceBatch) -> dict[str, Tensor]:
        """loss: the weighted sum of its terms, distil, classes and attention, those in use."""
        values: dict[str, Tensor] = {}
        weights = {
            "distil": self.config.distil,
            "classes": self.config.classify,
            "attention": self.config.contrast,
        }
        if isinstance(self.backbone, CQAFace):
            features, branches = self.backbone.with_branches(self.scale(batch.images))
            values["attention"] = contrastive_attention_loss(branches.maps)
        else:
            features = self.embed(batch.images)
        features = features.float()
        if len(self.targets):
            cosines = F.cosine_similarity(features, self.targets[batch.rows], dim=1)
            values["distil"] = (1 - cosines).mean()
        if self.head is not None:
            values["classes"] = self.head(features, batch.labels)
            norms = torch.linalg.vector_norm(features.detach(), dim=1)
            values["magnitude"] = norms.mean()
        terms = [weight * values[name] for name, weight in weights.items() if name in values]
        return {"loss": torch.stack(terms).sum(), **values}


class EmbedderRecipe(FaceRecipe):
    """A recipe that is also judged by its teacher."""

    network: EmbedderTask

    def judge_by(self, teacher: Embedder) -> None:
        """Ask the teacher about the validation faces; where nobody has two pictures, it decides."""
        views = [
            _directions(images, teacher).astype(np.float64) for images in self.validation.views
        ]
        self._gallery = views[0]
        self._teachers = self._agree(views[1:])
        if not self.validation.has_pairs:
            self.watch = "agreement"

    _gallery: Doubles | None = None
    _teachers: tuple[float, float] = (0.0, 0.0)

    def validate(self) -> dict[str, float]:
        """As `FaceRecipe`, and more.

        agreement: mean cosine of degraded faces to the teacher's clean ones. found: TAR of degraded
        faces against them. teacher_agreement, teacher_found: what the teacher itself reaches there.
        alike: see `cqa.measure_branches`, where there are branches.
        """
        values = super().validate()
        if self._gallery is not None:
            seen = self.validation.views[1:]
            units = [embed_images(images, self.network.embed).units for images in seen]
            values["agreement"], values["found"] = self._agree(units)
            values["teacher_agreement"], values["teacher_found"] = self._teachers
        if isinstance(self.network.backbone, CQAFace):
            values.update(measure_branches(self.network, self.validation.sample()))
        return values

    def _agree(self, views: Sequence[Doubles]) -> tuple[float, float]:
        """Mean cosine of faces (N, C) per view to the gallery's, and TAR among them."""
        assert self._gallery is not None
        scores = np.stack([view @ self._gallery.T for view in views])  # (V, N, N)
        labels = self.validation.labels
        same = np.broadcast_to(labels[:, None] == labels[None], scores.shape)
        found = tar_at(scores.ravel(), same.ravel(), self.validation.fmr)
        return float(np.einsum("vnn->vn", scores).mean()), found


class Remembering:
    """An embedder that is asked about a crop once, whatever the number of runs that it teaches."""

    def __init__(self, embedder: Embedder, path: Path) -> None:
        """path: .npz of what it said in earlier runs, of this embedder alone; made by `save`."""
        self._embedder, self._path = embedder, path
        self._said: dict[bytes, Embedded] = {}
        self._unsaved = 0
        self.template: AlignTemplate = embedder.template
        self.dimension: int = embedder.dimension
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                rows = zip(*(kept[name] for name in Embedded._fields), strict=True)
                for key, row in zip(kept["crops"], rows, strict=True):
                    self._said[key.tobytes()] = Embedded(*row)

    def embed(self, crops: Image) -> Embedded:
        """As the embedder; crops (N, S, S, 3), N at least 1."""
        keys = [hashlib.sha256(crop.tobytes()).digest() for crop in crops]
        new = [place for place, key in enumerate(keys) if key not in self._said]
        if new:
            said = self._embedder.embed(crops[new])
            for row, place in enumerate(new):
                self._said[keys[place]] = Embedded(*(field[row] for field in said))
            self._unsaved += len(new)
        fields = zip(*(self._said[key] for key in keys), strict=True)
        return Embedded(*(np.stack(field) for field in fields))

    def save(self) -> None:
        """Keep what it said for other runs. Nothing is written where nothing is new."""
        if not self._unsaved:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(self._said), np.uint8).reshape(len(self._said), -1)
        columns = (np.stack(column) for column in zip(*self._said.values(), strict=True))
        embeddings, norms, styles = columns
        with written_whole(self._path) as partial, partial.open("wb") as file:
            np.savez(file, crops=keys, embeddings=embeddings, norms=norms, styles=styles)
        self._unsaved = 0


def teach(faces: LabelledFaces, teacher: Embedder) -> Floats:
    """What a teacher says of every face as it is: unit directions (N, C) float32.

    The sum of the directions of the face and of its mirror image, since the student sees either.
    The teacher's crop is cut from the aligned face by its own template. Raises SourceCorrupt where
    it gives no direction, naming the picture, and as `LabelledFaces.read`.
    """
    directions = np.empty((faces.count, teacher.dimension), np.float32)
    for start in range(0, faces.count, TAUGHT_TOGETHER):
        rows = range(start, min(start + TAUGHT_TOGETHER, faces.count))
        images = [faces.read(row) for row in rows]
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        total = _directions(images, teacher) + _directions(mirrored, teacher)
        directions[rows.start : rows.stop] = _unit(total)
    wrong = np.flatnonzero(~np.isfinite(directions).all(axis=1))
    if len(wrong):
        raise SourceCorrupt(
            f"{faces.pictures.name(int(wrong[0]))}: the teacher gave no direction "
            f"({len(wrong)} of {faces.count} faces): take such pictures out"
        )
    return directions


def embedder_recipe(
    config: EmbedderTraining,
    split: FaceSplit,
    teacher: Embedder | None = None,
    targets: Floats | None = None,
) -> EmbedderRecipe:
    """The recipe of `facestream train embedder`. Exports embedder.onnx, .pt and .yaml.

    teacher: the embedder of the pack config.teacher. targets: what `teach` says of the faces of
    split.training and their blends, where it was asked already. Raises ConfigError where teacher
    and settings do not fit, or its dimension is another than config.dimension; where nobody of
    validation has two pictures and there is no teacher; and what reading the faces raises.
    """
    split = split._replace(training=add_blends(split.training, config.blends))
    if teacher is not None and targets is None:
        targets = teach(split.training, teacher)
    _check_targets(config, split.training, targets)
    with seeded(config.run.seed):
        backbone = build_backbone(config.backbone, config.dimension, config.convention)
        if config.attention:
            backbone = CQAFace(backbone, weigh=config.weigh, dimension=config.dimension)
    head = None
    if config.classify:
        head = ClassLayer(
            config.dimension,
            split.training.classes,
            make_margin(config.loss),
            seed=config.run.seed,
        )
    task = EmbedderTask(backbone, targets, head, config)
    recipe = EmbedderRecipe("embedder", task, split, config.data, config.run)
    if teacher is None:
        recipe.validation.require_pairs(", or a teacher")
    else:
        recipe.judge_by(teacher)
    if targets is not None:
        parts = [("faces", recipe.fingerprint.encode()), ("teacher", targets.tobytes())]
        recipe.fingerprint = fingerprint_parts(parts)
    return recipe


def _directions(images: Sequence[Image], teacher: Embedder) -> Floats:
    """Of aligned faces, in the teacher's own crop: (N, C) unit; NaN where there is none."""
    crops = np.stack([warp(image, ARCFACE_112.points, teacher.template) for image in images])
    return _unit(teacher.embed(crops).embeddings)


def _check_targets(config: EmbedderTraining, faces: LabelledFaces, targets: Floats | None) -> None:
    if (targets is not None) != bool(config.teacher):
        raise ConfigError(
            f"teacher {config.teacher!r} of the settings, and "
            f"{'no embedder' if config.teacher else 'an embedder'} to ask: give both or neither"
        )
    expected = (faces.count, config.dimension)
    if targets is not None and targets.shape != expected:
        raise ConfigError(
            f"the teacher {config.teacher!r} gave {targets.shape}, expected {expected}: dimension "
            f"must be the teacher's ({targets.shape[-1]}), with one row for each of the faces"
        )


def _unit(rows: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
