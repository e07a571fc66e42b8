"""How `facestream bench models` is shown: tables on the terminal, and a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .bench_tables import Table, page_of_tables, show_tables

PAPER = {16: 4.2, 32: 8.2, 64: 16.4, 256: 64.4, 512: 129.3}
"""CAFace's row of table 6 in its supplement: FPS(F) / FPS(E) by set size, on an RTX 3090."""


def show(report: dict[str, Any]) -> None:
    """Print a report as tables."""
    show_tables(setting(report), tables(report))


def page(report: dict[str, Any]) -> str:
    """A report as a Markdown page."""
    head = [
        "# Models\n",
        "Written by\n",
        f"    {report['command']} --write docs/benchmarks/models.md\n",
        f"on {report['date']}, facestream {report['version']}, revision {report['revision']}.",
        f"{setting(report)}\n",
    ]
    return page_of_tables(head, tables(report))


def setting(report: dict[str, Any]) -> str:
    """On what was measured, and how."""
    clock = "CPU seconds of one thread" if report["device"] == "CPU" else "seconds of the clock"
    return (
        f"Device: {report['device']} ({report['machine']}); torch in float32, random weights; "
        f"{clock}; {report['repeats']} repetitions, median (least to most)."
    )


def tables(report: dict[str, Any]) -> list[Table]:
    """The three tables of a report."""
    return [models_table(report), fusion_table(report["fusion"]), largest_table(report["largest"])]


def models_table(report: dict[str, Any]) -> Table:
    """Every network of images."""
    batches = list(report["models"][0]["ms_per_face"])
    columns = ["network", "parameters", "multiply-adds", *(f"ms, batch {b}" for b in batches)]
    rows = [
        [
            row["name"],
            f"{row['parameters']:,}",
            f"{row['multiply_adds'] / 1e9:.3g} G",
            *(range_of(row["ms_per_face"][batch]) for batch in batches),
        ]
        for row in report["models"]
    ]
    notes = (
        "Multiply-adds and ms are per face. One multiply-add is two FLOPs; those of convolutions "
        "and matrix products are counted, biases, normalisations and activations are not. Faces "
        "have 112 x 112 pixels (LightQNet's 96 x 96)."
    )
    return Table("Networks", columns, rows, notes)


def fusion_table(fusion: dict[str, Any]) -> Table:
    """CAFace by set size, beside the paper."""
    backbone = fusion["backbone"]
    rows = [
        [
            str(row["faces"]),
            row["way"],
            f"{digits(row['multiply_adds'] / 1e6)} M",
            range_of(row["ms"]),
            range_of(row["ratio"]),
            f"{PAPER[row['faces']]:g}" if row["faces"] in PAPER else "",
        ]
        for row in fusion["sets"]
    ]
    notes = (
        "N is the faces of a set. Relative: FPS(F) / FPS(E), as in CAFace, supplement D, table 6. "
        "FPS(F) is N over the seconds from the features and styles of one set to its fused "
        f"embedding. FPS(E) is that of {backbone} in its fastest batch, "
        f"{range_of(fusion['faces_per_second'])} faces/s; both are of the same repetition. CAFace "
        f"has {fusion['parameters']:,} parameters. The paper: IResNet-101 (here iresnet100) in "
        "batches of 256 on an RTX 3090, where FPS(E) was 1,288. Its figures mean 3 ms for a set of "
        "any size, presumably what starting the GPU's kernels takes; a CPU has no such floor, so "
        f"only --device cuda compares like with like.{verdict(fusion)}"
    )
    columns = ["N", "fused", "multiply-adds", "ms", "relative", "paper"]
    return Table(f"CAFace, speed relative to {backbone}", columns, rows, notes)


def verdict(fusion: dict[str, Any]) -> str:
    """Whether the relative speeds are at or above the paper's, by their medians."""
    known = [row for row in fusion["sets"] if row["faces"] in PAPER]
    if not known or fusion["backbone"] != "iresnet100":
        return ""
    below = [
        f"N = {row['faces']} in {row['way']}"
        for row in known
        if row["ratio"]["median"] < PAPER[row["faces"]]
    ]
    if below:
        return f" Below the paper: {', '.join(below)}."
    return " All medians are at or above the paper's."


def largest_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Large sets: time and memory."""
    cells = [
        [
            row["way"],
            f"{row['faces']:,}",
            digits(row["seconds"]),
            "unknown" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.0f}",
        ]
        for row in rows
    ]
    notes = (
        "Seconds of one call each, after a first one that does not count. Memory: the most that "
        "this first call took, without the weights and the set itself. In one go it "
        "grows with the set (the paper's 24 GB hold 12,000 faces); in chunks only three sums are "
        "kept, so that a set has no largest size."
    )
    return Table("CAFace, large sets", ["fused", "faces", "s", "memory, MB"], cells, notes)


def range_of(values: Mapping[str, float]) -> str:
    """Median with least and most, to three significant digits."""
    middle, least, most = (digits(values[key]) for key in ("median", "min", "max"))
    return f"{middle} ({least} to {most})"


def digits(value: float) -> str:
    """A number to three significant digits; large ones in full, not as powers of ten."""
    words = f"{value:.3g}"
    return f"{float(words):,.0f}" if "e+" in words else words
