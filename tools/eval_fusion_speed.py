"""How fast aggregators are beside the embedder (CAFace, supplement D, tables 5 and 6)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..models.aggregators import make_aggregator
from ..models.fusion import Aggregator, Members
from ..models.pack import open_pack, self_test_crop
from .eval_fusion_measures import Bench, Part
from .report_record import Number, Row, Table

SET_SIZES = (16, 32, 64, 256, 512)
BATCHES = (1, 16)
"""Faces embedded at once; aggregators are compared with the last."""
LEAST_SECONDS = 0.3
ROUNDS = 5
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Timed(NamedTuple):
    """CPU seconds: of embedding a batch, by its size; of fusing a set, by aggregator and size."""

    embedding: dict[int, float]
    fusing: dict[str, list[float]]
    provider: str


def measure_speed(bench: Bench, backend: str) -> Part:
    """Faces fused per second, relative to faces embedded per second, by set size.

    CPU seconds of one thread, in a process of its own: threads that wait for each other on a busy
    machine would count for work. Raises what `open_pack` raises: this part needs the pack's
    networks.
    """
    names, layout = tuple(bench.aggregators), bench.store.layout
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # read when the process imports numpy
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            timed = alone.submit(
                time_all, bench.card.path, backend, names, bench.heads, layout.dimension
            ).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    largest = BATCHES[-1]
    rate = largest / timed.embedding[largest]
    rows = []
    for name, seconds in timed.fusing.items():
        pairs = zip(SET_SIZES, seconds, strict=True)
        rows.append(Row(name, [Number(size / spent / rate, "count") for size, spent in pairs]))
    note = (
        f"Random faces, one template read per set; CPU seconds of one thread, median of {ROUNDS} "
        f"rounds; embedder in batches of {largest}, {timed.provider}."
    )
    per_second = [Number(batch / spent, "count") for batch, spent in timed.embedding.items()]
    embedder = Table(
        "Embedder: faces per CPU second",
        "pack",
        [f"batches of {batch}" for batch in timed.embedding],
        [Row(bench.card.name, list(per_second))],
    )
    title, columns = "Fusion: speed relative to the embedder", [f"N={size}" for size in SET_SIZES]
    return Part([embedder, Table(title, "aggregator", columns, rows, note)], [], {})


def time_all(
    card: Path, backend: str, names: Sequence[str], heads: Mapping[str, Path], dimension: int
) -> Timed:
    """Time the embedder and every aggregator in this process."""
    pack = open_pack(card, backend=backend, threads=1)  # type: ignore[arg-type]
    crop = self_test_crop(pack.embedder.template.size)
    embedding = {
        batch: cpu_seconds(partial(pack.embedder.embed, np.stack([crop] * batch)))
        for batch in BATCHES
    }
    fusing = {}
    for name in names:
        aggregator = make_aggregator(name, dimension=dimension, head_path=heads.get(name))
        styles = aggregator.empty().pending.styles.shape[1]
        fusing[name] = [
            cpu_seconds(partial(fuse_once, aggregator, random_members(size, dimension, styles)))
            for size in SET_SIZES
        ]
    return Timed(embedding, fusing, pack.provider)


def fuse_once(aggregator: Aggregator, members: Members) -> None:
    """One set from nothing to its template."""
    aggregator.read(aggregator.update(aggregator.empty(), members))


def random_members(count: int, dimension: int, styles: int) -> Members:
    """N faces that look like an embedder's, as CAFace's authors time with random arrays."""
    draw = np.random.default_rng(count)
    embeddings = draw.normal(size=(count, dimension)).astype(np.float32)
    return Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1),
        draw.uniform(0.1, 1.0, count).astype(np.float32),
        draw.normal(size=(count, styles, 2)).astype(np.float32),
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call: the median of rounds that last LEAST_SECONDS in all."""
    work()  # the first call allocates
    spent = []
    for _ in range(ROUNDS):
        begin, calls = time.process_time(), 0
        while (passed := time.process_time() - begin) < LEAST_SECONDS / ROUNDS:
            work()
            calls += 1
        spent.append(passed / calls)
    return float(np.median(spent))
