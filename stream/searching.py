"""Which index a configuration searches the gallery with."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .. import ConfigError
from ..configs.schema import MatchConfig
from ..models.fusion import Doubles, Floats
from ..models.ida import DensityModel
from ..models.search import SearchIndex
from ..models.search_gpu import require_gpu
from ..models.search_versions import IndexVersions


class IndexMaker(Protocol):
    """Makes the index of one version of the gallery."""

    def __call__(
        self,
        vectors: Floats,
        owners: npt.NDArray[np.integer],
        /,
        *,
        anchors: DensityModel | None,
        densities: Doubles | None,
    ) -> SearchIndex:
        """Arguments as of `SearchIndex`."""
        ...


def index_maker(config: MatchConfig) -> IndexMaker:
    """The maker that match.search, precision, device and cluster ask for, for one gallery.

    Raises ConfigError where they exclude each other, or need what is not installed.
    """
    if config.search == "approximate":
        if config.cluster or config.precision != "float32" or config.device == "cuda":
            raise ConfigError(
                "match.search: approximate keeps float32 vectors in this machine's memory: leave "
                "match.precision, match.device and match.cluster out, or set match.search: exact"
            )
        from ..models.search_approximate import DEPTH, ApproximateIndex, require_faiss

        require_faiss()
        return partial(ApproximateIndex, depth=max(DEPTH, config.top_k))
    if config.cluster:
        from .ray_cluster import require_ray
        from .search_lead import OPTION
        from .search_shards import ShardedGallery

        require_ray(OPTION)
        return ShardedGallery(config.cluster, precision=config.precision, device=config.device)
    if config.device == "cuda":
        require_gpu()
    return IndexVersions(config.precision, config.device)
