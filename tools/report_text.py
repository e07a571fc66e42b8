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
        _print_item(line, console)
    facts = ", ".join(f"{value} {name}" for name, value in report.data.facts.items())
    data = f"data: {report.data.name}, {facts}; fingerprint {report.data.fingerprint}"
    _print_item(data, console)
    _print_item("model: " + "; ".join(report.model.values()), console)
    for table in report.tables:
        for part in _parts(table, console.width):
            console.print()
            console.print(part)
        if table.note:
            console.print(Text(table.note, style="dim"))
    if report.bad_total:
        console.print()
        console.print(Text(f"left out: {report.bad_total}", style="bold"))
        for bad in report.bad[:SHOWN_BAD]:
            _print_item(f"{bad.where}: {bad.why}", console)
        if report.bad_total > SHOWN_BAD:
            console.print(Text("  … the rest is in report.json"))


def _print_item(text: str, console: Console) -> None:
    """A paragraph below the title, its later lines further in than its first."""
    for place, line in enumerate(Text(text).wrap(console, console.width - 4)):
        line.rstrip()
        console.print(Text("    " if place else "  ") + line)


def _parts(table: Table, width: int) -> list[RichTable]:
    """The table, its columns spread over as many parts as it takes to fit the width."""
    cells = [[_folded(cell) for cell in row.cells] for row in table.rows]
    widths = [
        max(len(line) for text in (column, *(row[place] for row in cells)) for line in _lines(text))
        for place, column in enumerate(table.columns)
    ]
    label = max(len(name) for name in (table.head, *(row.label for row in table.rows)))
    room = width - min(label, width // 2)
    groups: list[list[int]] = [[]]
    for place, needed in enumerate(widths):
        if groups[-1] and sum(widths[one] + 2 for one in groups[-1]) + needed + 2 > room:
            groups.append([])
        groups[-1].append(place)
    parts = []
    for group in groups:
        title = table.title if group is groups[0] else None
        rich = RichTable(
            title=title, title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        rich.add_column(table.head, overflow="fold")
        for place in group:
            rich.add_column(Text(table.columns[place]), justify="right", min_width=widths[place])
        for row, texts in zip(table.rows, cells, strict=True):
            rich.add_row(Text(row.label), *(Text(texts[place]) for place in group))
        parts.append(rich)
    return parts


def _folded(cell: Number | str) -> str:
    """Spread and interval below the value."""
    return number_words(cell).replace(" ±", "\n±").replace(" [", "\n[")


def _lines(text: str) -> list[str]:
    """Words of a heading, or lines of a cell: what must not be broken."""
    return text.split("\n") if "\n" in text else [text]
