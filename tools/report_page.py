"""report.html of an evaluation: one self-contained page, printable, readable in light and dark."""

from __future__ import annotations

import base64
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from .report_plot import draw_plot
from .report_record import Example, Number, Report, Result, Table
from .report_text import number_words, value_words

if TYPE_CHECKING:
    from ..models.inference import Image

SHOWN_BAD = 50


def write_page(result: Result, path: Path) -> None:
    """Write the page; what was written before is replaced as a whole.

    It makes no request to anywhere: styles, plots and pictures are inside it. Names are escaped.
    """
    part = path.with_suffix(".part")
    part.write_text(render_page(result), encoding="utf-8")
    part.replace(path)


def render_page(result: Result) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    report = result.report
    return environment.from_string(source).render(
        report=report,
        when=report.made.replace("T", " ")[:16],
        headline=headline(report),
        tables=[
            (table, [_cells(table, place) for place in range(len(table.rows))])
            for table in report.tables
        ],
        plots=[(plot, Markup(draw_plot(plot))) for plot in report.plots],
        groups=[(name, list(some)) for name, some in groupby(result.examples, key=_group)],
        shown_bad=report.bad[:SHOWN_BAD],
    )


def headline(report: Report) -> list[tuple[str, str]]:
    """Up to four figures for the top: the first row of the first table; none of a comparison."""
    if report.protocol == "comparison" or not report.tables or not report.tables[0].rows:
        return []
    table = report.tables[0]
    row = table.rows[0]
    return [
        (value_words(cell.value, cell.unit), f"{row.label}, {column}")
        for column, cell in zip(table.columns, row.cells, strict=True)
        if isinstance(cell, Number) and cell.value is not None
    ][:4]


def _cells(table: Table, place: int) -> list[tuple[str, str]]:
    """Value and the rest (spread, interval) of each cell of a row."""
    cells = []
    for cell in table.rows[place].cells:
        text = number_words(cell)
        if isinstance(cell, str) or cell.value is None:
            cells.append((text, ""))
            continue
        value = value_words(cell.value, cell.unit)
        cells.append((value, text[len(value) :].strip()))
    return cells


def _group(example: Example) -> str:
    return example.group


def picture_uri(image: Image) -> str:
    """A picture (H, W, 3) uint8 BGR as a JPEG data URI."""
    import cv2

    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
