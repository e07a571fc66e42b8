"""`facestream bench thresholds`: promised FPIR against found, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .bench_papers import Assets, Folder, Packs, Seed, assets_of, write_out


def bench_thresholds(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Markdown page to write.")] = Path(
        "docs/benchmarks/thresholds.md"
    ),
    assets: Assets = None,
    pack: Packs = None,
    seed: Seed = 1,
) -> None:
    """Hold thresholds against what they promise, in galleries of 10 to 100,000, and write a page.

    Example: facestream bench thresholds --folder banks/
    """
    from .bench_accuracy import find_packs
    from .bench_thresholds import measure_pack
    from .bench_thresholds_page import write_page

    place = assets_of(assets)
    packs, _ = find_packs(pack)
    numbers = {name: measure_pack(name, place, folder, seed) for name in packs}
    chosen = "".join(f" --pack {name}" for name in pack or ())
    command = f"facestream bench thresholds --folder banks{chosen} --seed {seed}"
    write_out(out, write_page(numbers, command), packs)
