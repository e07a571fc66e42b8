"""`facestream train ida`: a network that predicts density in place of a pack's anchors (IDA-L).

Liu et al., "Inter-class Discrepancy Alignment for Face Recognition", section 3.2: FC-ReLU-FC on the
embedding (models/networks/ssr) learns what the anchors measure. Nobody has to label anything: the
anchors say r of any unit vector, so a batch is faces and, since faces are few where only clean
licences count, points between two faces on the sphere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from .. import RecordError
from ..configs.training import IDATraining
from ..models.feature_store import fingerprint_parts
from ..models.fusion import Doubles, Floats
from ..models.ida import Anchors, check_unit_rows
from ..models.ida_learned import save_learned_density
from ..models.networks.ssr import SSR
from ..models.pooling import unit_rows
from ..models.store import written_whole
from .feature_bank import Bank


class DensityFaces(NamedTuple):
    """Unit embeddings float32 to learn from (N, C) and to choose by (M, C), of different people."""

    training: Floats
    validation: Floats


class DensityBatch(NamedTuple):
    """embeddings (B, C) float32, unit; densities r (B,) float64, as the anchors measure them."""

    embeddings: Tensor
    densities: Tensor

    def to(self, device: torch.device | str) -> DensityBatch:
        """The same batch on another device."""
        return DensityBatch(self.embeddings.to(device), self.densities.to(device))


class DensityTask(nn.Module):
    """An SSR and its loss."""

    def __init__(self, ssr: SSR) -> None:
        """ssr: the network that ships."""
        super().__init__()
        self.ssr = ssr

    def forward(self, batch: DensityBatch) -> dict[str, Tensor]:
        """loss: equation 6, or its standardised logarithm (`SSR.loss`)."""
        return {"loss": self.ssr.loss(batch.embeddings, batch.densities)}


class IDARecipe:
    """What the engine trains; see `ida_recipe`."""

    watch = "error"
    higher = False

    def __init__(self, config: IDATraining, anchors: Anchors, faces: DensityFaces) -> None:
        """Raises RecordError for faces that are not unit rows of the anchors' dimension."""
        for name, rows in zip(DensityFaces._fields, faces, strict=True):
            if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != anchors.vectors.shape[1]:
                raise RecordError(
                    f"{name} embeddings must be (N, {anchors.vectors.shape[1]}) as the anchors "
                    f"are, two at least, got {rows.shape}: embed faces with the anchors' pack"
                )
            check_unit_rows(f"{name} embeddings", rows)
        self.config = config
        self.anchors = anchors
        self.faces = faces
        self.fingerprint = fingerprint_parts(
            [
                ("anchors", f"{anchors.version} {anchors.k} {anchors.tau!r}".encode()),
                *((name, rows.tobytes()) for name, rows in zip(faces._fields, faces, strict=True)),
            ]
        )
        torch.manual_seed(config.run.seed)
        ssr = SSR(
            anchors.vectors.shape[1],
            hidden=config.hidden,
            target=config.target,
            k=anchors.k,
            tau=anchors.tau,
        )
        if config.target == "density":
            ssr.fit_scale(torch.from_numpy(anchors.density(faces.training)))
        self.network = DensityTask(ssr)
        self._true: Doubles = anchors.density(faces.validation)

    def groups(self) -> list[dict[str, Any]]:
        """One group: weight decay on both layers, as published."""
        return [{"params": list(self.network.parameters())}]

    def batch(self, step: int, rank: int, ranks: int) -> DensityBatch:
        """Faces of one step for one process, drawn anew from (seed, step).

        A share `mixed` of them is moved towards another face: slerp in a straight line, scaled to
        length 1, by a share of 0 to 1 of the way.
        """
        run = self.config.run
        draw = np.random.default_rng((run.seed, step))
        first, second = draw.integers(0, len(self.faces.training), (2, run.batch))
        way = draw.random(run.batch) * (draw.random(run.batch) < self.config.mixed)
        mine = slice(rank, None, ranks)
        ours, others = self.faces.training[first[mine]], self.faces.training[second[mine]]
        share = way[mine, None].astype(np.float32)
        points = (1 - share) * ours + share * others
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        # Opposite faces meet in the middle at length 0, which has no direction.
        units = np.where(lengths > 1e-3, points / np.maximum(lengths, 1e-3), ours)
        embeddings = units.astype(np.float32)
        return DensityBatch(
            torch.from_numpy(embeddings), torch.from_numpy(self.anchors.density(embeddings))
        )

    def validate(self) -> dict[str, float]:
        """How r of the validation faces is met.

        error: root of the mean square. explained: 1 - error^2 / variance, 0 for a constant.
        correlation: Spearman's.
        """
        rows = torch.from_numpy(self.faces.validation)
        device = next(self.network.parameters()).device
        found = self.network.ssr.density(rows.to(device)).cpu().numpy()
        square = float(np.square(found - self._true).mean())
        return {
            "error": square**0.5,
            "explained": 1.0 - square / max(float(self._true.var()), 1e-12),
            "correlation": float(spearmanr(found, self._true).statistic),
        }

    def export(self, folder: Path) -> list[Path]:
        """Write PACK.ssr.npz."""
        path = folder / f"{self.config.pack}.ssr.npz"
        with written_whole(path) as partial:
            save_learned_density(partial, self.network.ssr.export())
        return [path]


def faces_of_banks(training: Bank, validation: Bank) -> DensityFaces:
    """Every face of two banks that was found, as taken and degraded, at unit length."""

    def units(bank: Bank) -> Floats:
        rows = np.concatenate([bank.clean, bank.embeddings[bank.found]])
        return unit_rows(rows).astype(np.float32)

    return DensityFaces(units(training), units(validation))


def ida_recipe(config: IDATraining, anchors: Anchors, faces: DensityFaces) -> IDARecipe:
    """The recipe of `facestream train ida`.

    anchors: the pack's, which teach. faces: embedded by that pack; a person of validation is in
    neither training nor anchors. Raises RecordError as `IDARecipe` does.
    """
    return IDARecipe(config, anchors, faces)
