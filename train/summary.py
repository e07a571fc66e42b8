"""One page and one picture of a training run: how the loss fell and what validation said."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..models.store import written_whole
from .checkpoint import Origin
from .curve import Point, read_curve

HIDDEN = ("rate", "gradient")  # for TensorBoard; the page shows what is minimised and judged
WINDOW = 50
"""Steps over which the drawn loss is averaged; the line of single steps stands behind it."""
STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;color:#222}
img{width:100%}table{border-collapse:collapse}
td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f6f6f6;
padding:1rem;overflow:auto}"""


def write_summary(folder: Path, origin: Origin, watch: str, best: tuple[float, int]) -> None:
    """Write summary.png and summary.html, self-contained, from the folder's curve.jsonl.

    best: the best validation of the value `watch`, and the step it was measured after.
    """
    points = read_curve(folder / "curve.jsonl")
    picture = folder / "summary.png"
    with written_whole(picture) as partial:
        draw_curves(partial, points, watch, best[1])
    rows = [
        ("recipe", origin.recipe),
        ("steps", f"{max(point.step for point in points):,}"),
        ("best", f"{watch} {best[0]:.4g} after step {best[1]:,}"),
        ("data", origin.data),
        ("code", f"facestream {__version__}, revision {origin.revision}"),
    ]
    facts = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
    image = base64.b64encode(picture.read_bytes()).decode()
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(origin.recipe)}"
        f"</title><style>{STYLE}</style><h1>Training: {html.escape(origin.recipe)}</h1>"
        f"<table>{facts}</table><img alt='loss and validation by step' "
        f"src='data:image/png;base64,{image}'>"
        f"<h2>Validation</h2>{_table(points)}"
        f"<h2>Settings</h2><pre>{html.escape(origin.config)}</pre></html>"
    )
    with written_whole(folder / "summary.html") as partial:
        partial.write_text(page, encoding="utf-8")


def draw_curves(path: Path, points: Sequence[Point], watch: str, best_step: int) -> None:
    """Draw the training scalars and the validated value by step, side by side, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    trained = [point for point in points if not point.validated]
    names = [name for name in (trained[0].values if trained else ()) if name not in HIDDEN]
    for number, name in enumerate(names):
        colour = f"C{number}"
        steps = [point.step for point in trained if name in point.values]
        values = [point.values[name] for point in trained if name in point.values]
        left.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        left.plot(steps, _smooth(values), color=colour, label=name)
    left.set(xlabel="step", title=f"training, and its mean over {WINDOW} steps")
    if names:
        left.legend(frameon=False)
    validated = [point for point in points if point.validated]
    right.plot(
        [point.step for point in validated],
        [point.values[watch] for point in validated],
        marker=".",
        color="C3",
    )
    right.axvline(best_step, color="0.6", linestyle=":", label=f"best, step {best_step:,}")
    right.set(xlabel="step", title=f"validation: {watch}")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120, format="png")


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of each value and of up to WINDOW - 1 before it."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [
        (sums[end] - sums[max(0, end - WINDOW)]) / min(end, WINDOW)
        for end in range(1, len(values) + 1)
    ]


def _shown(value: float | None) -> str:
    """A measure; a dash where a validation had none."""
    return "–" if value is None else f"{value:.4g}"


def _table(points: Sequence[Point]) -> str:
    validated = [point for point in points if point.validated]
    names = list(dict.fromkeys(name for point in validated for name in point.values))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["step", *names])
    body = "".join(
        f"<tr><td class=n>{point.step:,}</td>"
        + "".join(f"<td class=n>{_shown(point.values.get(name))}</td>" for name in names)
        + "</tr>"
        for point in validated
    )
    return f"<table><tr>{head}</tr>{body}</table>"
