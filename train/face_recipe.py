"""What the recipes that learn from pictures share: batches, validation, and what they export."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from .. import ConfigError
from ..configs.face_training import FaceData
from ..configs.training import RunSettings
from ..models.align import ARCFACE_112
from ..models.feature_store import fingerprint_parts
from ..models.networks.backbone import Backbone, make_backbone
from ..models.networks.export import STYLE_TENSORS, export_backbone
from ..models.pixels import PixelFormat
from ..models.store import written_whole
from .face_batches import Ahead, FaceBatch, FaceReader, ScalePixels
from .face_lists import FacePairs, LabelledFaces, hold_out
from .face_validation import FaceValidation


class FaceSplit(NamedTuple):
    """Who trains, who validates (other people), and pairs that are measured beside them."""

    training: LabelledFaces
    validation: LabelledFaces
    pairs: Sequence[FacePairs] = ()


def split_faces(
    faces: LabelledFaces,
    data: FaceData,
    validation: LabelledFaces | None = None,
    pairs: Sequence[FacePairs] = (),
) -> FaceSplit:
    """The given validation faces, or a share of the identities held out (`hold_out`, ConfigError).

    The share is the same whatever the seed of the run, so that seeds can be compared. Raises
    ConfigError for validation faces of people who train: the same set, or a name that is in both.
    """
    if validation is not None:
        _require_others(faces, validation)
        return FaceSplit(faces, validation, pairs)
    return FaceSplit(*hold_out(faces, data.held_out), pairs)


def _require_others(training: LabelledFaces, validation: LabelledFaces) -> None:
    if training.fingerprint == validation.fingerprint:
        raise ConfigError(
            f"{validation.title}: expected validation faces of other people, got the faces that "
            "train: name another set, or none and a share of the identities is held out"
        )
    if not (training.named and validation.named):
        return
    shared = sorted(set(training.names) & set(validation.names))
    if shared:
        raise ConfigError(
            f"{validation.title}: expected validation faces of other people than "
            f"{training.title}, got {shared[0]!r} in both ({len(shared)} of {validation.classes} "
            "identities): take them out of one, or rename them where they are different people"
        )


class FaceTask(nn.Module):
    """A backbone that reads pictures as they are; a recipe adds its loss as `forward`."""

    def __init__(self, backbone: Backbone, pixels: PixelFormat) -> None:
        """pixels: what the backbone takes."""
        super().__init__()
        # Convolutions of a CPU are a sixth faster with the channels last.
        self.backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scale = ScalePixels(pixels)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, 112, 112) uint8 BGR, on any device -> raw embeddings (B, C) of the backbone."""
        device = next(self.backbone.parameters()).device
        embeddings: Tensor = self.backbone(self.scale(images.to(device)))
        return embeddings


class FaceRecipe:
    """A `engine.Recipe` over pictures: everything but the network and its loss."""

    higher = True

    def __init__(
        self, name: str, network: FaceTask, split: FaceSplit, data: FaceData, run: RunSettings
    ) -> None:
        """name: of the exported files. Reads the validation faces; raises as `FaceValidation`."""
        self.name, self.network = name, network
        self.validation = FaceValidation(
            split.validation, split.pairs, most=data.validation, fmr=data.fmr
        )
        self.watch = "tar_degraded" if data.degraded else "tar"
        parts = {"training": split.training.fingerprint, "held out": self.validation.fingerprint}
        self.fingerprint = fingerprint_parts((key, mark.encode()) for key, mark in parts.items())
        self._ahead = Ahead(FaceReader(split.training, data, run.batch, run.seed).read)

    def groups(self) -> list[dict[str, Any]]:
        """One group: decay on everything, batch norms and class weights too, as published."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]

    def batch(self, step: int, rank: int, ranks: int) -> FaceBatch:
        """One process's share of a step. Raises ConfigError and SourceError as `FaceReader`."""
        return self._ahead(step, rank, ranks)

    def validate(self) -> dict[str, float]:
        """What `FaceValidation.measure` says of the backbone."""
        return self.validation.measure(self.network.embed)

    def export(self, folder: Path) -> list[Path]:
        """Write NAME.onnx, NAME.pt and NAME.yaml.

        The network; its weights under the backbone's own names, for `export.load_state`; and the
        section `embedder` of a card that uses it.
        """
        backbone = copy.deepcopy(self.network.backbone).cpu().float().eval()
        paths = [folder / f"{self.name}{suffix}" for suffix in (".onnx", ".pt", ".yaml")]
        export_backbone(backbone, paths[0])
        with written_whole(paths[1]) as partial:
            torch.save(backbone.state_dict(), partial)
        section = {"embedder": describe_embedder(self.name, backbone, self.network.scale.pixels)}
        with written_whole(paths[2]) as partial:
            partial.write_text(yaml.safe_dump(section, sort_keys=False), encoding="utf-8")
        return paths


def describe_embedder(file: str, backbone: Backbone, pixels: PixelFormat) -> dict[str, Any]:
    """A card's `embedder`; file: the key under which its `files` name the network."""
    points = [[round(float(x), 4) for x in point] for point in ARCFACE_112.points]
    return {
        "file": file,
        "dimension": backbone.dimension,
        "template": {"size": ARCFACE_112.size, "points": points},
        "channel_order": pixels.channel_order,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "style_tensors": list(STYLE_TENSORS),
        "style_channels": backbone.style_channels,
    }


def build_backbone(name: str, dimension: int, convention: str) -> Backbone:
    """As `make_backbone`; only an IResNet has conventions to choose from."""
    chosen = convention if name.startswith("iresnet") else None
    return make_backbone(name, dimension=dimension, convention=chosen)
