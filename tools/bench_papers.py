"""`facestream bench ida` and `facestream bench quality`: pages about what a pack carries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .. import ConfigError

Folder = Annotated[Path, typer.Option(help="Folder for embedded faces, kept between runs.")]
Assets = Annotated[
    Path | None, typer.Option(help="Faces by the split; default: $FACESTREAM_ASSETS.")
]
Packs = Annotated[list[str] | None, typer.Option(help="Default: every pack whose files are here.")]
Seed = Annotated[int, typer.Option(min=0, help="Of draws and bootstrap.")]
Resamples = Annotated[int, typer.Option(min=0, help="Bootstrap; 0: no intervals.")]


def bench_ida(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Markdown page to write.")] = Path(
        "docs/benchmarks/ida.md"
    ),
    assets: Assets = None,
    pack: Packs = None,
    seed: Seed = 1,
    resamples: Resamples = 500,
) -> None:
    """Search degraded faces by IDA and by its rivals, and write a page about it.

    Example: facestream bench ida --folder banks/
    """
    from .bench_accuracy import find_packs
    from .bench_ida import measure_pack
    from .bench_ida_page import write_page
    from .eval_verification import Bootstrap

    place = _assets(assets)
    packs, _ = find_packs(pack)
    bootstrap = Bootstrap(resamples, seed)
    numbers = {name: measure_pack(name, place, folder, bootstrap) for name in packs}
    text = write_page(numbers, _command("ida", pack, bootstrap), bootstrap)
    _write(out, text, packs)


def _assets(given: Path | None) -> Path:
    place = given or (Path(found) if (found := os.environ.get("FACESTREAM_ASSETS")) else None)
    if place is None:
        raise ConfigError("no faces: give --assets FOLDER with london/ and anchors/")
    return place


def _command(name: str, packs: list[str] | None, bootstrap: tuple[int, int]) -> str:
    resamples, seed = bootstrap
    chosen = "".join(f" --pack {pack}" for pack in packs or ())
    return f"facestream bench {name} --folder banks{chosen} --seed {seed} --resamples {resamples}"


def _write(out: Path, text: str, packs: list[str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    typer.echo(f"{out}: packs {', '.join(packs)}")
