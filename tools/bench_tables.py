"""Tables of words: on the terminal, and as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table of words; the first column is set to the left, the others to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: str


def show_tables(setting: str, tables: Sequence[Table]) -> None:
    """Print tables, under what they were measured on."""
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console()
    console.print(setting, highlight=False)
    for table in tables:
        grid = Grid(box=None, header_style="bold", pad_edge=False)
        for index, column in enumerate(table.columns):
            grid.add_column(column, justify="right" if index else "left")
        for row in table.rows:
            grid.add_row(*row)
        console.print(f"\n{table.title}", style="bold", highlight=False)
        console.print(grid)
        console.print(table.notes, highlight=False, style="dim")


def page_of_tables(head: Sequence[str], tables: Sequence[Table]) -> str:
    """Tables as a Markdown page, under the lines of its head."""
    parts = list(head)
    for table in tables:
        rule = ["---", *["---:"] * (len(table.columns) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (table.columns, rule, *table.rows)]
        parts += [f"## {table.title}\n", *lines, "", f"{table.notes}\n"]
    return "\n".join(parts)
