"""Where an evaluation's results go: a folder, the terminal, or a pipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console

from .report_page import write_page
from .report_record import Report, Result, save_report
from .report_text import print_report

if TYPE_CHECKING:
    from ..models.feature_store import FeatureStore


def finish(result: Result, output: Path | None, *, as_json: bool) -> None:
    """Write the folder, if one is asked for, and print the report."""
    if output is not None:
        save_report(result, output)
        write_page(result, output / "report.html")
    show_report(result.report, as_json=as_json)
    if output is not None:
        typer.echo(f"report: {output / 'report.html'}, {output / 'report.json'}", err=True)


def show_report(report: Report, *, as_json: bool) -> None:
    """Print the report as tables, or as one JSON object."""
    if as_json:
        typer.echo(msgspec.json.encode(report))
    else:
        print_report(report, Console(highlight=False))


def model_words(store: FeatureStore) -> dict[str, str]:
    """The pack and the preprocessing, for the report."""
    kept = f"{store.layout.dimension} numbers, {store.layout.dtype}"
    return {"Pack": store.key.pack, "Preprocessing": store.key.preprocessing, "Features": kept}
