"""The aggregators there are, by the names that configurations and cards give them."""

from __future__ import annotations

from pathlib import Path

from .. import ConfigError, MissingModelFile
from .caface import CAFace
from .caface_head import load_head
from .fusion import Aggregator
from .mean_fusion import Mean, QualityMean
from .scalar_fusion import LearnedMean, load_scalar_head

HEADLESS = ("mean", "quality")
"""Those that every pack can fuse with."""
AGGREGATORS = (*HEADLESS, "learned", "caface")


def make_aggregator(name: str, *, dimension: int, head_path: Path | None = None) -> Aggregator:
    """The aggregator called mean, quality, learned or caface, for embeddings (C,), C = dimension.

    head_path: the weights of learned (see scalar_fusion) or caface (see caface_head). Raises
    ConfigError for an unknown name and ModelError for a head that is missing, broken or made for
    another embedder.
    """
    if name == "mean":
        return Mean(dimension)
    if name == "quality":
        return QualityMean(dimension)
    if name not in AGGREGATORS:
        raise ConfigError(f"aggregator must be one of {', '.join(AGGREGATORS)}, got {name!r}")
    if head_path is None:
        raise MissingModelFile(
            f"aggregator {name} needs a head fitted to the embedder, and this pack carries "
            "none: choose fuse.aggregator: quality, or a pack with a fusion head"
        )
    if name == "learned":
        return LearnedMean(load_scalar_head(head_path, dimension=dimension))
    return CAFace(load_head(head_path, dimension=dimension))
