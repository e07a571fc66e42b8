"""`facestream bench fusion|ida|quality|embedder`: pages about what a pack carries."""

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

    place = assets_of(assets)
    packs, _ = find_packs(pack)
    bootstrap = Bootstrap(resamples, seed)
    numbers = {name: measure_pack(name, place, folder, bootstrap) for name in packs}
    text = write_page(numbers, _command("ida", pack, bootstrap), bootstrap)
    write_out(out, text, packs)


def bench_fusion(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Markdown page to write.")] = Path(
        "docs/benchmarks/fusion.md"
    ),
    assets: Assets = None,
    pack: Packs = None,
    head: Annotated[
        list[Path] | None,
        typer.Option(help="PACK.NAME.npz of `facestream train caface`: a further row of PACK."),
    ] = None,
    tracks: Annotated[
        list[str] | None,
        typer.Option(
            help="light, medium, strong, hard, night or wild; with PACK: before it for one pack "
            "alone. Default: all."
        ),
    ] = None,
) -> None:
    """Fuse tracks of bad pictures by every aggregator, and write a page about it.

    Example: facestream bench fusion --folder banks/ --head run/export/omz.nan.npz
    """
    from .bench_accuracy import find_packs
    from .bench_fusion import measure_pack
    from .bench_fusion_fusers import heads_of
    from .bench_fusion_page import write_page
    from .bench_fusion_tracks import TRACKS, tracks_of

    place = assets_of(assets)
    packs, _ = find_packs(pack)
    chosen = tracks_of(packs, tracks or TRACKS)
    given = heads_of(packs, head or ())
    measured = {
        name: measure_pack(name, place, folder, given[name], chosen[name]) for name in packs
    }
    words = [f" --pack {name}" for name in pack or ()]
    words += [f" --tracks {name}" for name in tracks or ()]
    words += [f" --head {path.name}" for path in head or ()]
    command = f"facestream bench fusion --folder banks{''.join(words)}"
    write_out(out, write_page(measured, command), packs)


def bench_quality(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Markdown page to write.")] = Path(
        "docs/benchmarks/quality.md"
    ),
    assets: Assets = None,
    seed: Seed = 1,
    resamples: Resamples = 100,
) -> None:
    """Train quality heads for the packs open and omz, and compare them with every other source.

    Example: facestream bench quality --folder banks/
    """
    from ..models.pack import open_pack
    from . import bench_degraded as degraded
    from .bench_quality import make_pairs, measure_sources, qualities, train_heads
    from .bench_quality_faces import score_faces
    from .bench_quality_page import write_page
    from .eval_verification import Bootstrap

    place, bootstrap = assets_of(assets), Bootstrap(resamples, seed)
    packs = {name: open_pack(name) for name in ("open", "omz")}
    heads = {name: train_heads(place, folder / "heads", name) for name in packs}
    found, sizes = {}, {}
    for name, other in (("open", "omz"), ("omz", "open")):
        for words, make, settings in (
            ("London", degraded.london, degraded.LONDON),
            ("wild", degraded.wild, degraded.WILD),
        ):
            held = make(place, folder, name)
            if held is None:
                continue
            path = folder / f"{name}-{words.lower()}-quality.npz"
            faces = score_faces(held, settings, path, packs[name], packs[other])
            sources = qualities(faces, heads[name], heads[other], other)
            pairs = make_pairs(faces, sources, seed)
            found[name, words] = measure_sources(pairs, bootstrap)
            sizes[name, words] = (
                f"{pairs.same.sum():,} mated pairs, {(~pairs.same).sum():,} others."
            )
    command = _command("quality", None, bootstrap)
    write_out(out, write_page(found, sizes, (command, bootstrap)), list(packs))


def bench_embedder(
    folder: Annotated[
        Path, typer.Option(help="Folder of the runs: PRESET/seed-N; embedded faces go in bench/.")
    ],
    out: Annotated[Path, typer.Option(help="Markdown page to write.")] = Path(
        "docs/benchmarks/embedder.md"
    ),
    assets: Assets = None,
    seed: Seed = 1,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap over people.")] = 500,
) -> None:
    """Measure embedders that `facestream train embedder` made, and write a page about them.

    Three presets with the same seeds: magnitude against damage, CAL and QAN under occlusion, and
    all of them against the packs.

    Example: facestream bench embedder --folder runs/
    """
    from .bench_embedder_measure import PACKS, measure_runs
    from .bench_embedder_page import write_page
    from .eval_verification import Bootstrap

    bootstrap = Bootstrap(resamples, seed)
    found = measure_runs(folder, assets_of(assets), bootstrap)
    command = f"facestream bench embedder --folder RUNS --seed {seed} --resamples {resamples}"
    write_out(out, write_page(found, command, bootstrap), list(PACKS))


def assets_of(given: Path | None) -> Path:
    """The folder of faces: the one given, else $FACESTREAM_ASSETS. Raises ConfigError."""
    place = given or (Path(found) if (found := os.environ.get("FACESTREAM_ASSETS")) else None)
    if place is None:
        raise ConfigError("no faces: give --assets FOLDER with london/ and anchors/")
    return place


def _command(name: str, packs: list[str] | None, bootstrap: tuple[int, int]) -> str:
    resamples, seed = bootstrap
    chosen = "".join(f" --pack {pack}" for pack in packs or ())
    return f"facestream bench {name} --folder banks{chosen} --seed {seed} --resamples {resamples}"


def write_out(out: Path, text: str, packs: list[str]) -> None:
    """Write a page, and say of which packs it is."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    typer.echo(f"{out}: packs {', '.join(packs)}")
