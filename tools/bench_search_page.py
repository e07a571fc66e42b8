"""How `facestream bench search` is shown: tables on the terminal, and a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .bench_tables import Table, page_of_tables, show_tables

NAMES = {
    "plain": "plain cosine: product, argpartition",
    "cosine": "this index, cosine",
    "ida": "this index, IDA",
    "cosine_gpu": "this index on the GPU, cosine",
    "ida_gpu": "this index on the GPU, IDA",
    "faiss": "FAISS, cosine: flat",
    "approximate": "approximate, IDA: FAISS cells",
}
BATCH = 32
TARGETS = {100_000: 1.10, 1_000_000: 1.15}
"""Most that IDA may take of a plain cosine search of the same vectors, in batches of BATCH."""
RATIOS = ("to_plain", "to_cosine", "cpu_to_plain", "cpu_to_cosine")
MEMORY = 1.2
"""Most memory an index may take, in multiples of its vectors'."""


def show(report: dict[str, Any]) -> None:
    """Print a report as tables."""
    show_tables(setting(report), tables(report))


def page(report: dict[str, Any]) -> str:
    """A report as a Markdown page."""
    head = [
        "# Search\n",
        "Written by\n",
        f"    {report['command']} --write docs/benchmarks/search.md\n",
        f"on {report['date']}, facestream {report['version']}, revision {report['revision']}.\n",
        f"{setting(report)}\n",
    ]
    return page_of_tables(head, tables(report))


def setting(report: dict[str, Any]) -> str:
    """On what was measured, and how."""
    real = report["density"]
    loads = ", ".join(f"{load:.1f}" for load in report["loads"])
    return (
        f"Machine: {report['machine']}. Load average before and after each gallery: {loads}, of "
        "which this run makes about one a BLAS thread; the rest is other work, which lengthens "
        "times and scatters ratios of the clock. Vectors are synthetic: "
        f"{report['dimension']} dimensions, with about the mean and covariance of the "
        f"{report['anchors']} anchors of pack "
        f"{report['pack']} (generated faces through its network), in groups about them of "
        "different tightness; every vector is a person. Densities r of the anchors, each without "
        f"itself: mean {real['mean']:.3f}, standard deviation {real['std']:.3f}; below stand those "
        "of the vectors. Half of the probes are somebody's at cosine 0.7, half strangers'. "
        f"The {report['top']} best are searched for. IDA's time includes the densities of the "
        f"probes, by those anchors. {report['repeats']} repetitions, in each of which all ways "
        "take turns on the same probes; median (quartiles). Exact ways were seen to find the same."
    )


def tables(report: dict[str, Any]) -> list[Table]:
    """Targets, then times and memory of every gallery."""
    found = [targets_table(report)]
    for gallery in report["galleries"]:
        found += [times_table(gallery, size, rows) for size, rows in gallery["times"].items()]
        found.append(memory_table(gallery))
    return found


def targets_table(report: dict[str, Any]) -> Table:
    """What was aimed at, beside what came out."""
    rows = []
    for gallery in report["galleries"]:
        words = f"{gallery['vectors']:,} vectors"
        target = TARGETS.get(gallery["vectors"])
        for row in gallery["times"].get(BATCH, []):
            if row["way"] == "ida":
                rows.append(
                    [
                        f"time, {words}, {row['precision']}",
                        f"{target:.2f}" if target else "",
                        *(ratio(row[key]) for key in RATIOS),
                    ]
                )
        for name, index in gallery["indexes"].items():
            if name == "float32":
                share = max(index["bytes"], index["grown"]) / gallery["bytes"]
                cells = [f"memory, {words}, {name}", f"{MEMORY:.2f}", f"{share:.2f}"]
                rows.append([*cells, *[""] * (len(RATIOS) - 1)])
    notes = (
        f"Times in batches of {BATCH}. *Plain*: IDA's time over that of a matrix product and "
        "argpartition on the same vectors at the same precision. *Own cosine*: over that of this "
        "index when it searches by the plain cosine; it finds the best quicker than argpartition, "
        "so this is the stricter comparison. *CPU*: the same of processor seconds, all threads "
        "together, which other work on the machine disturbs less. Memory: what "
        "the process grew by over the bytes of the vectors, which the index copies."
    )
    columns = ["IDA", "aim, at most", "plain", "own cosine", "plain, CPU", "own cosine, CPU"]
    return Table("Aims", columns, rows, notes)


def times_table(gallery: Mapping[str, Any], size: int, rows: Sequence[Any]) -> Table:
    """Every way of searching one gallery in batches of one size."""
    body = [
        [
            NAMES[row["way"]],
            row["precision"],
            milliseconds(row["seconds"]),
            *(ratio(row[key]) for key in RATIOS),
        ]
        for row in rows
    ]
    probes = "1 probe" if size == 1 else f"{size} probes"
    title = f"{gallery['vectors']:,} vectors, {probes} at once"
    columns = [
        "way",
        "precision",
        "ms",
        "to plain",
        "own cosine",
        "to plain, CPU",
        "own cosine, CPU",
    ]
    density = gallery["density"]
    notes = (
        f"Densities r: mean {density['mean']:.3f}, standard deviation {density['std']:.3f}. Ratios "
        "are of the same precision and repetition: of the clock, then of processor seconds. "
        "bfloat16 and int8 are widened block by block, also by the plain way, which then does not "
        "read the true vectors again."
    )
    return Table(title, columns, body, notes)


def memory_table(gallery: Mapping[str, Any]) -> Table:
    """What every index takes, and how it searches."""
    rows = [
        [
            name,
            f"{index['bytes'] / (1 << 20):,.0f}",
            f"{index['grown'] / (1 << 20):,.0f}",
            f"{index['bytes'] / gallery['bytes']:.2f}",
            f"{index['seconds']:.1f}",
            index["method"],
        ]
        for name, index in gallery["indexes"].items()
    ]
    notes = (
        "MiB: of the index, as it counts them, and what the process grew by when it was made and "
        f"searched 32 probes; beside the {gallery['bytes'] / (1 << 20):,.0f} MiB of vectors as "
        "they came, which need not be kept. bfloat16 and int8 have the true vectors in a temporary "
        "file."
    )
    columns = ["index", "MiB", "process, MiB", "of the vectors", "s to make", "searches"]
    title = f"{gallery['vectors']:,} vectors, memory"
    return Table(title, columns, rows, notes)


def milliseconds(seconds: Mapping[str, float]) -> str:
    """Median and quartiles, in ms."""
    low, middle, high = (1e3 * seconds[name] for name in ("low", "median", "high"))
    digits = 0 if middle >= 100 else 1
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def ratio(values: Mapping[str, float]) -> str:
    """Median and quartiles of a ratio."""
    return f"{values['median']:.2f} ({values['low']:.2f}–{values['high']:.2f})"
