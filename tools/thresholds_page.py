"""The curve of `facestream thresholds show --plot`: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .report_page import write_page as write_report_page
from .report_record import Curve, Data, Number, Plot, Result, Row, Table, write_report

if TYPE_CHECKING:
    from ..stream.thresholds_report import ThresholdReport

LEAST = 1e-4


def write_page(report: ThresholdReport, pack: str, path: Path) -> None:
    """Write the curve of a report, what is in force and the promises, to an .html file."""
    curve = report.curve
    plot = Plot(
        "Unknown tracks that are named, by threshold",
        "threshold",
        "FPIR",
        [
            _curve("FPIR", [(point.threshold, point.fpir) for point in curve]),
            _curve("95 %, upper", [(point.threshold, point.high) for point in curve]),
            _curve("95 %, lower", [(point.threshold, point.low) for point in curve]),
            Curve("in force", [report.threshold] * 2, [LEAST, 0.5]),
        ],
        y_log=True,
        note="The interval comes from resampling the people that the fit rests on.",
    )
    promises = Table(
        "What promises take",
        "FPIR",
        ["threshold"],
        [
            Row(f"{100 * one.fpir:g} %", [Number(one.threshold, "score", one.low, one.high)])
            for one in report.promises
        ],
    )
    facts = {
        "people enrolled": f"{report.gallery_people:,}",
        "fitted to": f"{report.tracks:,} pseudo-tracks of {report.people:,} people",
        "unknown tracks seen here": f"{report.seen:,}",
    }
    page = write_report(
        "thresholds",
        f"Threshold {report.threshold:.3f}",
        variant=[report.why],
        data=Data("the gallery", "", facts),
        model={"pack": pack, "score": report.score},
        tables=[promises] if report.promises else [],
        plots=[plot] if curve else [],
    )
    write_report_page(Result(page, {}, []), path)


def _curve(label: str, points: list[tuple[float, float]]) -> Curve:
    """A curve as far down as rates mean anything: a lower end goes to nothing soon."""
    shown = [(x, y) for x, y in points if y >= LEAST]
    return Curve(label, [x for x, _ in shown], [y for _, y in shown])
