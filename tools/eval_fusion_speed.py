"""How fast aggregators are beside the embedder (CAFace, supplement D, tables 5 and 6)."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from ..models.fusion import Aggregator, Members
from ..models.pack import open_pack, self_test_crop
from .eval_fusion_measures import Bench, Part
from .report_record import Number, Row, Table

SET_SIZES = (16, 32, 64, 256, 512)
BATCHES = (1, 16)
"""Faces embedded at once; aggregators are compared with the last."""
LEAST_SECONDS = 0.3
ROUNDS = 5


def measure_speed(bench: Bench, backend: str) -> Part:
    """Faces fused per second, relative to faces embedded per second, by set size.

    CPU seconds of all threads, so that whatever else the machine does counts little. Raises what
    `open_pack` raises: this part needs the pack's networks.
    """
    pack = open_pack(bench.card, backend=backend)  # type: ignore[arg-type]
    crop = self_test_crop(pack.embedder.template.size)
    embedded = {}
    for batch in BATCHES:
        crops = np.stack([crop] * batch)
        embedded[batch] = batch / cpu_seconds(partial(pack.embedder.embed, crops))
    rows = []
    layout = bench.store.layout
    for name, aggregator in bench.aggregators.items():
        cells: list[Number | str] = []
        for size in SET_SIZES:
            members = random_members(size, layout.dimension, layout.styles)
            spent = cpu_seconds(partial(fuse_once, aggregator, members))
            cells.append(Number(size / spent / embedded[BATCHES[-1]], "count"))
        rows.append(Row(name, cells))
    note = (
        f"Random faces, one template read per set; CPU seconds, median of {ROUNDS} rounds; "
        f"embedder in batches of {BATCHES[-1]}, {pack.provider}."
    )
    columns = [f"N={size}" for size in SET_SIZES]
    per_second = [Number(value, "count") for value in embedded.values()]
    return Part(
        [
            Table(
                "Embedder: faces per CPU second",
                "",
                [f"batches of {batch}" for batch in embedded],
                [Row(bench.card.name, list(per_second))],
            ),
            Table("Fusion: speed relative to the embedder", "aggregator", columns, rows, note),
        ],
        [],
        {},
    )


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
