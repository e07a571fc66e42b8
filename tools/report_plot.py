"""Plots of a report as SVG that follows the page's colours: linear and logarithmic axes."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .report_record import Curve, Plot

WIDTH, HEIGHT = 520, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 46
POINTS = 500
"""Points of a curve that are drawn: more cannot be told apart."""
STROKES = ("", "7 4", "2 3", "9 3 2 3")
Doubles = npt.NDArray[np.float64]


class Axis(NamedTuple):
    """One axis: from low to high, with labelled ticks."""

    low: float
    high: float
    log: bool
    ticks: list[float]

    def share(self, values: Doubles) -> Doubles:
        """Where values lie: 0 at low, 1 at high; may lie outside."""
        if self.log:
            low, high = np.log10(self.low), np.log10(self.high)
            return np.asarray((np.log10(np.maximum(values, self.low)) - low) / (high - low))
        return np.asarray((values - self.low) / (self.high - self.low))


def draw_plot(plot: Plot) -> str:
    """The plot as an <svg> element; its text is selectable and read out by screen readers."""
    drawn = [_thin(curve, plot) for curve in plot.curves]
    x_axis = _axis([c.x for c in drawn], plot.x_log)
    y_axis = _axis([c.y for c in drawn], plot.y_log)
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(values: Doubles) -> Doubles:
        return np.asarray(LEFT + wide * x_axis.share(values))

    def down(values: Doubles) -> Doubles:
        return np.asarray(TOP + tall * (1 - y_axis.share(values)))

    names = ", ".join(curve.label for curve in plot.curves)
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{plot.title}: {plot.y_name} against {plot.x_name}; {names}")}">'
    ]
    parts += _grid(x_axis, y_axis, across, down)
    for place, curve in enumerate(drawn):
        points = " ".join(
            f"{x:.1f},{y:.1f}"
            for x, y in zip(across(np.array(curve.x)), down(np.array(curve.y)), strict=True)
        )
        dash = STROKES[place // 6 % len(STROKES)]
        style = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline class="c{place % 6}" points="{points}"{style}/>')
    middle = LEFT + wide / 2, TOP + tall / 2
    parts.append(f'<text class="name" x="{middle[0]:.0f}" y="{HEIGHT - 8}">'
                 f"{escape(plot.x_name)}</text>")  # fmt: skip
    parts.append(f'<text class="name" transform="translate(14 {middle[1]:.0f}) rotate(-90)">'
                 f"{escape(plot.y_name)}</text></svg>")  # fmt: skip
    return "\n".join(parts)


def _grid(
    x_axis: Axis,
    y_axis: Axis,
    across: Callable[[Doubles], Doubles],
    down: Callable[[Doubles], Doubles],
) -> list[str]:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick, x in zip(x_axis.ticks, across(np.array(x_axis.ticks)), strict=True):
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        label = tick_words(tick, x_axis.log)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}">{label}</text>')
    for tick, y in zip(y_axis.ticks, down(np.array(y_axis.ticks)), strict=True):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = tick_words(tick, y_axis.log)
        parts.append(f'<text class="tick y" x="{LEFT - 8}" y="{y + 4:.1f}">{label}</text>')
    parts.append(f'<path class="frame" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    return parts


def tick_words(tick: float, log: bool) -> str:
    """A tick's label.

    >>> tick_words(0.0001, True), tick_words(0.1, True), tick_words(0.25, False)
    ('10<tspan dy="-5" font-size="75%">-4</tspan>', '0.1', '0.25')
    """
    power = round(np.log10(tick)) if tick > 0 else 0
    if log and abs(power) > 2:
        return f'10<tspan dy="-5" font-size="75%">{power}</tspan>'
    return f"{tick:.10g}"


def _thin(curve: Curve, plot: Plot) -> Curve:
    """The curve as it is drawn: stairs spelt out, nothing that a logarithm cannot show."""
    x, y = np.array(curve.x, np.float64), np.array(curve.y, np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if curve.steps and len(x):
        x, y = np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
    shown = np.ones(len(x), np.bool_)
    if plot.x_log:
        shown &= x > 0
    if plot.y_log:
        shown &= y > 0
    return Curve(curve.label, x[shown].tolist(), y[shown].tolist())


def thin_curve(
    x: Doubles, y: Doubles, *, floor: float | None = None
) -> tuple[list[float], list[float]]:
    """At most 500 points of a curve with ascending x that look like all of it.

    Points are kept by their place on the axis, and the first and last at each place stay, so steps
    stay steep. floor: for a logarithmic axis, the least x that can be measured: the curve begins
    there, with what it has reached at zero.
    """
    log = floor is not None
    if floor is not None:
        reached = y[x <= 0][-1:]
        x, y = np.append(np.full(len(reached), floor), x[x > 0]), np.append(reached, y[x > 0])
    if len(x) <= POINTS:
        return x.tolist(), y.tolist()
    scale = np.log10(x) if log else x
    cells = np.floor((scale - scale[0]) / max(scale[-1] - scale[0], 1e-12) * (POINTS // 2 - 1))
    new = np.append(True, cells[1:] != cells[:-1])
    keep = new | np.append(new[1:], True)
    return x[keep].tolist(), y[keep].tolist()


def _axis(columns: list[list[float]], log: bool) -> Axis:
    """An axis that holds all values, with ticks at round numbers."""
    values = [value for column in columns for value in column]
    if not values:
        return Axis(0.1, 1.0, True, [0.1, 1.0]) if log else Axis(0.0, 1.0, False, [0.0, 1.0])
    low, high = min(values), max(values)
    if log:
        first, last = np.floor(np.log10(low) + 1e-9), np.ceil(np.log10(high) - 1e-9)
        last = max(last, first + 1)
        return Axis(10.0**first, 10.0**last, True, [10.0**p for p in np.arange(first, last + 1)])
    if high - low < 1e-6:  # a flat curve: show it against zero, and zero against one
        low, high = min(low, 0.0), max(high, 0.0) or float(low == 0)
    step = _round_step(max(high - low, 1e-6) / 5)
    low, high = np.floor(low / step + 1e-9) * step, np.ceil(high / step - 1e-9) * step
    high = max(high, low + step)
    count = round((high - low) / step)
    return Axis(low, high, False, [round(low + step * n, 10) for n in range(count + 1)])


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, not below `rough`."""
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9)))
