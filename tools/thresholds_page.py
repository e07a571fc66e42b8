"""The curve of `facestream thresholds show --plot`: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .report_page import write_page as write_report_page
from .report_record import Curve, Data, Number, Plot, Result, Row, Table, write_report

if TYPE_CHECKING:
    from ..stream.thresholds_report import ThresholdReport


def write_page(report: ThresholdReport, pack: str, path: Path) -> None:
    """Write the curve of a report, what is in force and the promises, to an .html file."""
    curve = report.curve
    x = [point.threshold for point in curve]
    plot = Plot(
        "Unknown tracks that are named, by threshold",
        "threshold",
        "FPIR",
        [
            Curve("FPIR", x, [point.fpir for point in curve]),
            Curve("95 %, upper", x, [point.high for point in curve]),
            Curve("95 %, lower", x, [point.low for point in curve]),
            Curve("in force", [report.threshold] * 2, [1e-4, 0.5]),
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
