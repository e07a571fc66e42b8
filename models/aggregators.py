"""The aggregators there are, by the names that configurations and cards give them."""

from __future__ import annotations

from pathlib import Path

from .. import ConfigError, MissingModelFile
from .caface import CAFace
from .caface_head import load_head
from .fusion import Aggregator
from .mean_fusion import Mean, QualityMean


def make_aggregator(name: str, *, dimension: int, head_path: Path | None = None) -> Aggregator:
    """The aggregator called mean, quality or caface, for embeddings (C,) with C = dimension.

    head_path: CAFace's weights (see caface_head). Raises ConfigError for an unknown name and
    ModelError for a head that is missing, broken or made for another embedder.
    """
    if name == "mean":
        return Mean(dimension)
    if name == "quality":
        return QualityMean(dimension)
    if name == "caface":
        if head_path is None:
            raise MissingModelFile(
                "aggregator caface needs a head fitted to the embedder, and this pack carries "
                "none: choose fuse.aggregator: quality, or a pack with a fusion head"
            )
        return CAFace(load_head(head_path, dimension=dimension))
    raise ConfigError(f"aggregator must be mean, quality or caface, got {name!r}")
