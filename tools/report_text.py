"""A report on the terminal, and how its numbers are written everywhere."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .report_record import Number, Report, Table

SHOWN_BAD = 5


def number_words(number: Number | str) -> str:
    """A number as people read it, with its interval and its spread.

    >>> number_words(Number(0.9731, low=0.9702, high=0.976))
    '97.31 % [97.02, 97.60]'
    >>> number_words(Number(0.42, unit="score")), number_words(Number(None))
    ('0.4200', 'undefined')
    """
    if isinstance(number, str):
        return number
    if number.value is None:
        return "undefined"
    text = value_words(number.value, number.unit)
    if number.spread is not None:
        text += f" ± {_bare(number.spread, number.unit)}"
    if number.low is not None and number.high is not None:
        text += f" [{_bare(number.low, number.unit)}, {_bare(number.high, number.unit)}]"
    return text


def value_words(value: float, unit: str) -> str:
    """The value alone with its unit."""
    text = _bare(value, unit)
    return text + {"share": " %", "points": " pp", "seconds": " s"}.get(unit, "")


def _bare(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.2f}"
    if unit == "points":
        return f"{100 * value:+.2f}"
    if unit == "count":
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
    if unit == "seconds":
        return f"{value:.2f}"
    if unit == "area":
        return f"{value:.5f}"
    return f"{value:.4f}"


def print_report(report: Report, console: Console) -> None:
    """Title, variant, data and every table."""
    console.print(Text(report.title, style="bold"))
    for line in report.variant:
        console.print(Text(f"  {line}"))
    facts = ", ".join(f"{value} {name}" for name, value in report.data.facts.items())
    console.print(Text(f"  data: {report.data.name}, {facts}; fingerprint "
                       f"{report.data.fingerprint}"))  # fmt: skip
    console.print(Text("  model: " + "; ".join(report.model.values())))
    for table in report.tables:
        console.print()
        console.print(_rich(table))
        if table.note:
            console.print(Text(table.note, style="dim"))
    if report.bad_total:
        console.print()
        console.print(Text(f"left out: {report.bad_total}", style="bold"))
        for bad in report.bad[:SHOWN_BAD]:
            console.print(Text(f"  {bad.where}: {bad.why}"))
        if report.bad_total > SHOWN_BAD:
            console.print(Text("  … the rest is in report.json"))


def _rich(table: Table) -> RichTable:
    rich = RichTable(
        title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    rich.add_column(table.head)
    for column in table.columns:
        rich.add_column(Text(column), justify="right", min_width=max(map(len, column.split())))
    for row in table.rows:
        # Spread and interval go below the value, so that a row of numbers fits 80 columns.
        cells = (number_words(cell).replace(" ±", "\n±").replace(" [", "\n[") for cell in row.cells)
        rich.add_row(Text(row.label), *(Text(cell) for cell in cells))
    return rich
