"""`facestream train fiqa`: a quality head by label optimisation and transfer.

Babnik, Damer, Struc, "Optimization-Based Improvement of Face Image Quality Assessment Techniques"
(IWBF 2023): scores of any quality method are rearranged by what mated pairs say of the pack's own
features, then a network learns the labels by L1. Mated pairs are degraded views of one picture, so
single pictures of people do. What learns is a small network on what the embedder gives anyway
(models/quality_head), where the paper trains a whole recognition network
(models/networks/label_transfer).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from .. import RecordError
from ..configs.training import FIQATraining
from ..models.discard import area_under_discard, discard_fixed
from ..models.feature_store import fingerprint_parts
from ..models.fusion import Floats
from ..models.label_optimisation import LabelOptions, normalise_labels, optimise_labels
from ..models.label_ranks import rank_images
from ..models.networks.feature_quality import FeatureQuality
from ..models.networks.label_transfer import label_loss
from ..models.pooling import unit_rows
from ..models.quality_head import head_inputs, save_quality_head
from ..models.scores import Labels
from ..models.store import written_whole
from .feature_bank import Bank

FMR = 1e-3
DISCARDED = 0.3
"""Validation: false-match rate of the threshold, and share of mated pairs discarded at most."""


class QualityFaces(NamedTuple):
    """N degraded views of P pictures of different people, embedded by one pack; float32.

    embeddings (N, C) not normalised, styles (N, K, 2), quality (N,) as the pack says it, higher is
    better; pictures (N,) integers 0..P-1. clean (P, C): the pictures as taken, unit.
    """

    embeddings: Floats
    styles: Floats
    quality: Floats
    pictures: Labels
    clean: Floats

    @property
    def units(self) -> Floats:
        """The views' embeddings (N, C) at length 1."""
        return unit_rows(self.embeddings).astype(np.float32)

    @property
    def mated(self) -> Floats:
        """Cosines (N,) of the views with their own picture as taken."""
        return np.asarray(np.einsum("nc,nc->n", self.units, self.clean[self.pictures]))


class QualityBatch(NamedTuple):
    """inputs (B, W) float32 (`quality_head.head_inputs`), labels (B,) float32 in 0..1."""

    inputs: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> QualityBatch:
        """The same batch on another device."""
        return QualityBatch(self.inputs.to(device), self.labels.to(device))


class QualityTask(nn.Module):
    """A head and its loss."""

    def __init__(self, head: FeatureQuality) -> None:
        """head: the network that ships."""
        super().__init__()
        self.head = head

    def forward(self, batch: QualityBatch) -> dict[str, Tensor]:
        """loss: the mean absolute error of labels."""
        return {"loss": label_loss(self.head(batch.inputs), batch.labels)}


class FIQARecipe:
    """What the engine trains; see `fiqa_recipe`."""

    watch = "area"
    higher = False

    def __init__(
        self, config: FIQATraining, training: QualityFaces, validation: QualityFaces
    ) -> None:
        """Raises RecordError for shapes that do not fit and scores that are all equal."""
        if training.embeddings.shape[1:] != validation.embeddings.shape[1:]:
            raise RecordError(
                "training and validation faces must be of one pack, got embeddings of "
                f"{training.embeddings.shape[1:]} and {validation.embeddings.shape[1:]}"
            )
        self.config = config
        self.fingerprint = fingerprint_parts(
            (f"{part} {name}", np.ascontiguousarray(array).tobytes())
            for part, faces in (("training", training), ("validation", validation))
            for name, array in zip(faces._fields, faces, strict=True)
        )
        self.labels = make_labels(config, training)
        inputs = head_inputs(training.embeddings, training.styles)
        self._inputs = inputs.astype(np.float32)
        self._judged = head_inputs(validation.embeddings, validation.styles).astype(np.float32)
        self._pairs = DiscardPairs.of(validation)
        self._judged_labels = make_labels(config, validation)
        torch.manual_seed(config.run.seed)
        head = FeatureQuality(
            training.embeddings.shape[1], training.styles.shape[1], hidden=config.hidden
        )
        head.fit_scale(inputs)
        self.network = QualityTask(head)

    def groups(self) -> list[dict[str, Any]]:
        """One group."""
        return [{"params": list(self.network.parameters())}]

    def batch(self, step: int, rank: int, ranks: int) -> QualityBatch:
        """Faces of one step for one process, drawn anew from (seed, step)."""
        run = self.config.run
        drawn = np.random.default_rng((run.seed, step)).integers(0, len(self._inputs), run.batch)
        rows = drawn[rank::ranks]
        return QualityBatch(
            torch.from_numpy(self._inputs[rows]), torch.from_numpy(self.labels[rows])
        )

    def validate(self) -> dict[str, float]:
        """How labels of other people are met, and what discarding by the head's quality does.

        error: mean absolute, of their labels. correlation: Spearman's with them. area: under FNMR
        against the share of mated pairs discarded (`DiscardPairs`), whatever the labels were.
        """
        device = next(self.network.parameters()).device
        with torch.no_grad():
            found = self.network.head(torch.from_numpy(self._judged).to(device)).cpu().numpy()
        return {
            "error": float(np.abs(found - self._judged_labels).mean()),
            "correlation": float(spearmanr(found, self._judged_labels).statistic),
            "area": self._pairs.area(found),
        }

    def export(self, folder: Path) -> list[Path]:
        """Write PACK.quality.npz."""
        path = folder / f"{self.config.pack}.quality.npz"
        with written_whole(path) as partial:
            save_quality_head(partial, self.network.head.export())
        return [path]


class DiscardPairs(NamedTuple):
    """Every view with every picture as taken, for error versus discard ("fixed", models/discard).

    scores (N, P) cosines, same (N, P) bool.
    """

    scores: Floats
    same: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, faces: QualityFaces) -> DiscardPairs:
        """The pairs of these faces."""
        scores = faces.units @ faces.clean.T
        return cls(scores, faces.pictures[:, None] == np.arange(len(faces.clean)))

    def area(self, quality: npt.ArrayLike) -> float:
        """Area to DISCARDED of the genuine pairs, threshold at FMR; lower is better.

        quality (N,) of the views: those as taken are taken for perfect.
        """
        wide = np.broadcast_to(np.asarray(quality, np.float64)[:, None], self.same.shape)
        curve = discard_fixed(self.scores.ravel(), self.same.ravel(), wide.ravel(), FMR)
        return area_under_discard(curve, DISCARDED)


def fiqa_recipe(
    config: FIQATraining, training: QualityFaces, validation: QualityFaces
) -> FIQARecipe:
    """The recipe of `facestream train fiqa`; raises RecordError as `FIQARecipe` does."""
    return FIQARecipe(config, training, validation)


def make_labels(config: FIQATraining, faces: QualityFaces) -> Floats:
    """Labels (N,) float32 from 0 to 1: scores of a method, rearranged unless config says raw.

    Raises RecordError as `optimise_labels` does.
    """
    if config.scores == "pack":
        scores = faces.quality
    elif config.scores == "norm":
        scores = np.linalg.norm(faces.embeddings, axis=1).astype(np.float32)
    else:
        scores = faces.mated
    if config.even:
        scores = rank_images(scores).astype(np.float32)
    if config.labels == "optimised":
        options = LabelOptions(theta=config.theta, seed=config.run.seed, repeats=config.repeats)
        found = optimise_labels(faces.embeddings, scores, faces.pictures, options=options)
        scores = found.labels.astype(np.float32)
    return normalise_labels(scores)


def faces_of_bank(bank: Bank) -> QualityFaces:
    """Every view of a bank that was found; clean ones serve as references alone."""
    found: npt.NDArray[np.bool_] = bank.found
    whose = np.broadcast_to(np.arange(len(found))[:, None, None], found.shape)[found]
    return QualityFaces(
        bank.embeddings[found],
        bank.styles[found],
        bank.quality[found],
        whose.astype(np.int64),
        bank.centres.astype(np.float32),
    )
