"""`facestream bench search`: IDA against a plain cosine search of the same vectors, in one run.

Per size of the gallery and of the batch every way of searching takes its turn in each repetition,
on the same probes, so that ratios are of times that lie beside each other; what else the machine
does meets all of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from .. import ConfigError, __version__
from .revision import revision

if TYPE_CHECKING:
    import numpy as np

    from ..models.fusion import Doubles, Floats
    from ..models.ida import Anchors
    from ..models.search import SearchIndex
    from ..models.search_rows import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
TOP = 10
"""Identities searched for."""
TIGHT = (0.0, 0.9)
"""Least and most share of a vector's variance that its group has."""
STRANGER, APART = 0.5, 0.7
"""Share of probes who are nobody of the gallery; cosine of the others with their own vector."""

ON_GPU = " on a GPU"
"""Ends the names of indexes that a GPU searches."""

_BLOCK = 1 << 16  # vectors made, or searched plainly, at once
_LISTED = 16  # batches of probes that are made; repetitions go round


class Gallery(NamedTuple):
    """vectors (G, C) float32 unit, densities (G,) by the anchors; probes: batches (Q, C)."""

    vectors: Floats
    densities: Doubles
    anchors: Anchors


def bench_search(
    size: Annotated[
        list[int] | None, typer.Option(min=1000, help="Vectors; default: 100,000 and 1,000,000.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Default: 1 and 32.")] = None,
    pack: Annotated[
        str,
        typer.Option(help="Whose anchors are used, and whose embeddings vectors are made like."),
    ] = "omz",
    repeats: Annotated[int, typer.Option(min=1, help="Medians and ranges are shown.")] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Of vectors and probes.")] = 1,
    write: Annotated[Path | None, typer.Option(help="Markdown page to write as well.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Search galleries by IDA and by plain cosine, at every precision: times, ratios, memory.

    Example: facestream bench search --size 100000 --repeats 25
    """
    import numpy as np

    from ..models.search_gpu import gpu_words
    from .bench_search_page import page, show

    sizes, batches = sorted(set(size or (100_000, 1_000_000))), sorted(set(batch or (1, 32)))
    anchors = pack_anchors(pack)
    galleries, loads = [], [os.getloadavg()[0]]
    for count in sizes:
        gallery = make_gallery(anchors, count, np.random.default_rng(seed))
        galleries.append(measure_gallery(gallery, batches, repeats, seed))
        loads.append(os.getloadavg()[0])
    report = {
        "command": command_words(size, batch, pack, repeats, seed),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "version": __version__,
        "revision": revision(),
        "machine": f"{machine_words()}; {gpu_words()}",
        "loads": loads,
        "pack": pack,
        "anchors": len(anchors.vectors),
        "density": density_of(anchors),
        "dimension": anchors.vectors.shape[1],
        "top": TOP,
        "repeats": repeats,
        "galleries": galleries,
    }
    if write is not None:
        write.parent.mkdir(parents=True, exist_ok=True)
        write.write_text(page(report), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        show(report)


def pack_anchors(name: str) -> Anchors:
    """The anchors of a card; raises ConfigError where it has none."""
    from ..models.ida import Anchors
    from ..models.pack import load_anchors, load_card

    card = load_card(name)
    vectors = load_anchors(card)
    if vectors is None or card.ida is None:
        raise ConfigError(f"pack {name!r} has no anchors: facestream train anchors makes them")
    return Anchors(vectors, card.ida.anchor_version, k=card.ida.k, tau=card.ida.tau)


def density_of(anchors: Anchors) -> dict[str, float]:
    """Densities of the anchors themselves, each without its own."""
    import numpy as np

    numbers = np.arange(len(anchors.vectors))
    found = dataclasses.replace(anchors, identities=numbers).density(anchors.vectors, numbers)
    return {"mean": float(found.mean()), "std": float(found.std())}


def make_gallery(anchors: Anchors, count: int, draw: np.random.Generator) -> Gallery:
    """Vectors with about the anchors' mean and covariance, in groups, some tighter than others.

    Each group lies about one of the anchors.
    """
    import numpy as np

    middle = anchors.vectors.mean(axis=0)
    centres = anchors.vectors - middle
    spread = np.linalg.cholesky(np.cov(centres.T) + 1e-6 * np.eye(centres.shape[1]))
    tight = draw.uniform(*TIGHT, len(centres)).astype(np.float32)
    vectors = np.empty((count, centres.shape[1]), np.float32)
    for start in range(0, count, _BLOCK):
        block = vectors[start : start + _BLOCK]
        own = draw.standard_normal(block.shape, np.float32) @ spread.T.astype(np.float32)
        which = draw.integers(0, len(centres), len(block))
        share = tight[which, None]
        block[:] = unit(middle + np.sqrt(share) * centres[which] + np.sqrt(1 - share) * own)
    return Gallery(vectors, anchors.density(vectors), anchors)


def make_probes(gallery: Gallery, size: int, draw: np.random.Generator) -> Floats:
    """A batch (Q, C): some of people of the gallery, at cosine APART, the others of strangers."""
    import numpy as np

    vectors = gallery.vectors
    own, one, other = vectors[draw.integers(0, len(vectors), (3, size))]
    aside = one - other
    aside = unit(aside - (aside * own).sum(axis=1, keepdims=True) * own)
    known = np.float32(APART) * own + np.float32(np.sqrt(1 - APART**2)) * aside
    stranger = draw.random(size) < STRANGER
    return unit(np.where(stranger[:, None], one + np.float32(0.8) * other, known))


def unit(rows: Floats) -> Floats:
    """Rows of length 1."""
    import numpy as np

    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class Way(NamedTuple):
    """One way of searching vectors of one precision."""

    name: Literal["plain", "cosine", "ida", "cosine_gpu", "ida_gpu", "faiss", "approximate"]
    precision: Precision
    search: Callable[[Floats], object]


def measure_gallery(
    gallery: Gallery, batches: list[int], repeats: int, seed: int
) -> dict[str, Any]:
    """Memory and method of every index, and the times of every way by size of batch."""
    import numpy as np

    indexes, built = make_indexes(gallery)
    times = {}
    for size in batches:
        draw = np.random.default_rng(seed)
        probes = [make_probes(gallery, size, draw) for _ in range(min(repeats, _LISTED))]
        check_same(indexes, probes[0])
        times[size] = measure_ways(ways(gallery, indexes), probes, repeats)
    return {
        "vectors": len(gallery.vectors),
        "bytes": gallery.vectors.nbytes,
        "density": {
            "mean": float(gallery.densities.mean()),
            "std": float(gallery.densities.std()),
        },
        "indexes": built,
        "times": times,
    }


def make_indexes(gallery: Gallery) -> tuple[dict[str, SearchIndex], dict[str, dict[str, Any]]]:
    """An index per precision, on the CPU and on a GPU, and the approximate one; what each took.

    Those whose device or package is missing are left out.
    """
    import importlib.util

    import numpy as np

    from ..models.search import SearchIndex
    from ..models.search_approximate import ApproximateIndex
    from ..models.search_gpu import missing_gpu

    owners = np.arange(len(gallery.vectors))
    known: dict[str, Any] = {"anchors": gallery.anchors, "densities": gallery.densities}
    makers: dict[str, Callable[..., SearchIndex]] = {
        precision: partial(SearchIndex, precision=precision, device="cpu")
        for precision in PRECISIONS
    }
    if not missing_gpu():
        for precision in PRECISIONS:
            on_gpu = partial(SearchIndex, precision=precision, device="cuda")
            makers[precision + ON_GPU] = on_gpu
    if importlib.util.find_spec("faiss") is not None:
        makers["approximate"] = ApproximateIndex
    probes = make_probes(gallery, 32, np.random.default_rng(0))
    indexes, built = {}, {}
    for name, make in makers.items():
        before, started = private_bytes(), time.perf_counter()
        indexes[name] = make(gallery.vectors, owners, **known)
        seconds = time.perf_counter() - started
        indexes[name].search(probes, TOP)
        built[name] = {
            "seconds": seconds,
            "bytes": indexes[name].nbytes,
            "grown": private_bytes() - before,
            "method": indexes[name].method,
        }
    return indexes, built


def private_bytes() -> int:
    """Memory that this process alone has, files left out (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) << 10


def check_same(indexes: Mapping[str, SearchIndex], probes: Floats) -> None:
    """Raise ConfigError unless all exact indexes find the same: times of wrong answers are none."""
    exact = [index for name, index in indexes.items() if name != "approximate"]
    found = [index.search(probes, TOP) for index in exact]
    if any(other != found[0] for other in found):
        raise ConfigError("precisions find different people: this is a bug")


def ways(gallery: Gallery, indexes: Mapping[str, SearchIndex]) -> list[Way]:
    """Everything that is timed."""
    import numpy as np

    from ..models.search_kernels import kernels
    from ..models.search_rows import StoredRows

    def plain(rows: Any) -> Callable[[Floats], object]:
        return lambda probes: search_plainly(rows, probes)

    def by(index: SearchIndex, score: Literal["ida", "cosine"]) -> Callable[[Floats], object]:
        return lambda probes: index.search(probes, TOP, by=score)

    found = []
    for precision in PRECISIONS:
        rows: Any = gallery.vectors
        if precision != "float32":
            rows = StoredRows(gallery.vectors, np.arange(len(gallery.vectors)), precision)
        index = indexes[precision]
        found.append(Way("plain", precision, plain(rows)))
        found.append(Way("cosine", precision, by(index, "cosine")))
        found.append(Way("ida", precision, by(index, "ida")))
        if precision + ON_GPU in indexes:
            index = indexes[precision + ON_GPU]
            found.append(Way("cosine_gpu", precision, by(index, "cosine")))
            found.append(Way("ida_gpu", precision, by(index, "ida")))
    if "faiss" in kernels():
        import faiss

        def by_faiss(probes: Floats) -> object:
            return faiss.knn(probes, gallery.vectors, TOP, metric=faiss.METRIC_INNER_PRODUCT)

        found.append(Way("faiss", "float32", by_faiss))
        found.append(Way("approximate", "float32", by(indexes["approximate"], "ida")))
    return found


def search_plainly(rows: Any, probes: Floats) -> tuple[Floats, np.ndarray]:
    """What anybody would write: all cosines (Q, G), and the TOP of each row, in order.

    rows: (G, C) float32, or `StoredRows`, which are widened block by block.
    """
    import numpy as np

    from ..models.search_kernels import by_product

    if isinstance(rows, np.ndarray):
        cosines = probes @ rows.T
    else:
        cosines = np.empty((len(probes), len(rows)), np.float32)
        blocks = rows.blocks(_BLOCK)
        buffer = rows.buffer(blocks)
        for block in blocks:
            cosines[:, block] = rows.cosines(by_product, probes, block, buffer)
    top = np.argpartition(cosines, -TOP, axis=1)[:, -TOP:]
    best = np.take_along_axis(cosines, top, axis=1)
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(top, order, axis=1)


def measure_ways(every: list[Way], probes: list[Floats], repeats: int) -> list[dict[str, Any]]:
    """Seconds of each way, and its ratios to the plain and the same scan's cosine search."""
    taken: dict[tuple[str, str], list[Taken]] = {(way.name, way.precision): [] for way in every}
    for way in every:
        way.search(probes[0])
    for turn in range(repeats):
        some = probes[turn % len(probes)]
        shift = turn % len(every)  # nobody always comes after the same one
        for way in every[shift:] + every[:shift]:
            taken[way.name, way.precision].append(clock(way, some))
    rows = []
    for (name, precision), times in taken.items():
        row: dict[str, Any] = {"way": name, "precision": precision}
        row |= {key: spread([getattr(one, key) for one in times]) for key in Taken._fields}
        for other in ("plain", "cosine"):
            pairs = list(zip(times, taken[other, precision], strict=True))
            row[f"to_{other}"] = spread([own.seconds / theirs.seconds for own, theirs in pairs])
            row[f"cpu_to_{other}"] = spread([own.cpu / theirs.cpu for own, theirs in pairs])
        rows.append(row)
    return rows


class Taken(NamedTuple):
    """Seconds of the clock, and of the processor, all threads together."""

    seconds: float
    cpu: float


def clock(way: Way, probes: Floats) -> Taken:
    """How long one search takes."""
    seconds, cpu = time.perf_counter(), time.process_time()
    way.search(probes)
    return Taken(time.perf_counter() - seconds, time.process_time() - cpu)


def spread(values: list[float]) -> dict[str, float]:
    """Median, and the quartiles about it."""
    import numpy as np

    low, high = np.quantile(values, (0.25, 0.75))
    return {"median": median(values), "low": float(low), "high": float(high)}


def machine_words() -> str:
    """Processor, cores, memory and BLAS threads."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    cores = os.cpu_count() or 1
    threads = os.environ.get("OPENBLAS_NUM_THREADS", str(cores))
    return (
        f"{names[0] if names else platform.machine()}, {cores} cores, {memory:.0f} GiB of memory, "
        f"{platform.system()}; {threads} BLAS threads"
    )


def command_words(
    size: list[int] | None, batch: list[int] | None, pack: str, repeats: int, seed: int
) -> str:
    """The command that repeats a run."""
    options = [f"--size {count}" for count in size or ()]
    options += [f"--batch {count}" for count in batch or ()]
    options += [f"--pack {pack}", f"--repeats {repeats}", f"--seed {seed}"]
    return f"facestream bench search {' '.join(options)}"
