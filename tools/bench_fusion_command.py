"""The command line of `facestream bench fusion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench_fusion(
    assets: Annotated[Path, typer.Argument(help="Folder with london/ and, if there, celeba/.")],
    banks: Annotated[Path, typer.Argument(help="Folder for features; kept, and used again.")],
    pack: Annotated[list[str] | None, typer.Option(help="Default: omz and open.")] = None,
    output: Annotated[Path | None, typer.Option(help="Markdown page to write.")] = None,
) -> None:
    """Aggregators by set size and damage on held-out people, the packs' trained heads included.

    Example: facestream bench fusion ASSETS banks/ --output docs/benchmarks/fusion.md
    """
    from .bench_fusion import measure_pack
    from .bench_fusion_page import write_page

    measured = {name: measure_pack(name, assets, banks) for name in pack or ("omz", "open")}
    text = write_page(measured)
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text, encoding="utf-8")
