"""`facestream bench labels`: one repeat of quality-label optimisation at the size of VGGFace2."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .. import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from ..models.label_pairs import Embeddings

CLUSTERED = 20
"""Identities on which K-Means is timed."""


class LabelTiming(NamedTuple):
    """What one repeat over N images and L pairs took, in seconds, and its peak memory in bytes.

    clustering is of one identity (K-Means runs once, not in every repeat). drawing: pairs and their
    cosines. ranking: sorting pairs, average ranks, new targets. processor: time of all threads,
    drawing and ranking together. memory: what arrays held, without the memory-mapped embeddings.
    """

    images: int
    pairs: int
    clustering: float
    drawing: float
    ranking: float
    processor: float
    memory: int


def bench_labels(
    images: Annotated[int, typer.Option(min=2, help="VGGFace2 has 3,141,890.")] = 3_141_890,
    people: Annotated[int, typer.Option(min=1, help="Identities.")] = 8631,
    dimension: Annotated[int, typer.Option(min=2, help="Of the embeddings, as float16.")] = 512,
    folder: Annotated[
        Path | None, typer.Option(help="Where the embeddings are written, and removed again.")
    ] = None,
) -> None:
    """Time one repeat of label optimisation on synthetic embeddings.

    Example: facestream bench labels --images 300000 --people 800
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        timing = time_label_repeat(images, people, dimension, Path(scratch))
    typer.echo(f"{timing.images:,} images, {timing.pairs:,} pairs")
    typer.echo(f"K-Means      {1000 * timing.clustering:8.1f} ms per identity, once")
    typer.echo(f"draw pairs   {timing.drawing:8.1f} s per repeat")
    typer.echo(f"rank pairs   {timing.ranking:8.1f} s per repeat")
    typer.echo(f"processor    {timing.processor:8.1f} s per repeat, all threads")
    typer.echo(f"memory       {timing.memory / 1e6:8,.0f} MB at most")


def time_label_repeat(
    images: int, people: int, dimension: int, folder: Path, *, clusters: int = 20, seed: int = 0
) -> LabelTiming:
    """Time one repeat. folder: takes 2 * images * dimension bytes of synthetic embeddings.

    The images of a person are spread evenly over `clusters` clusters. Raises ConfigError when there
    are more people than images.
    """
    import numpy as np

    from ..models.label_pairs import cluster_identities, draw_credited_pairs, group_images
    from ..models.label_ranks import (
        DEFAULT_THETA,
        average_pair_ranks,
        move_ranks,
        rank_images,
        reorder,
    )

    if people > images:
        raise ConfigError(f"expected at least one image per person, got {images} for {people}")
    identities = np.arange(images) * people // images
    scores = np.random.default_rng(seed).random(images, np.float32)
    embeddings = write_embeddings(folder / "embeddings.npy", identities, dimension, seed)
    few = int(np.searchsorted(identities, min(CLUSTERED, people)))
    start = time.perf_counter()
    cluster_identities(embeddings[:few], identities[:few], clusters=clusters, seed=seed)
    clustering = (time.perf_counter() - start) / min(CLUSTERED, people)

    mated = group_images(identities, np.arange(images) % clusters)
    before = rank_images(scores)
    tracemalloc.start()
    try:
        processor, start = time.process_time(), time.perf_counter()
        pairs = draw_credited_pairs(mated, embeddings, before, seed)
        drawn = time.perf_counter()
        ranks = average_pair_ranks(pairs, images)
        reorder(before, move_ranks(before, ranks, DEFAULT_THETA["common"]))
        stop, processor = time.perf_counter(), time.process_time() - processor
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return LabelTiming(
        images, mated.pairs, clustering, drawn - start, stop - drawn, processor, memory
    )


def write_embeddings(path: Path, identities: np.ndarray, dimension: int, seed: int) -> Embeddings:
    """Embeddings (N, dimension) float16 around one centre per person, memory-mapped.

    identities: (N,) integers, ascending.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    shape = (len(identities), dimension)
    written = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    borders = np.flatnonzero(np.diff(identities)) + 1
    for start, stop in zip([0, *borders], [*borders, len(identities)], strict=True):
        centre = random.standard_normal(dimension, np.float32)
        noise = random.standard_normal((stop - start, dimension), np.float32)
        written[start:stop] = centre + noise
    written.flush()
    return written
