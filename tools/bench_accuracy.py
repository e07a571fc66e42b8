"""`facestream bench accuracy`: recognition by pack, fusion and score, on one Markdown page.

Simulated video by preset, with given boxes and end to end; beside it real annotated stills where
they can be had. Everything is kept in a folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .. import ConfigError, ModelError, __version__
from ..configs.simulation import PRESETS
from .revision import revision

if TYPE_CHECKING:
    from .eval_verification import Bootstrap


class Size(NamedTuple):
    """How much of each preset is rendered; seconds None: as the preset says."""

    scenes: int
    cameras: int
    fps: int
    seconds: float | None


def bench_accuracy(
    folder: Annotated[
        Path, typer.Option(help="Folder for videos, what was seen in them, and features.")
    ],
    out: Annotated[Path, typer.Option(help="Markdown page to write.")] = Path(
        "docs/benchmarks/accuracy.md"
    ),
    assets: Annotated[
        Path | None, typer.Option(help="Faces by the split; default: $FACESTREAM_ASSETS.")
    ] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Default: all.")] = None,
    pack: Annotated[
        list[str] | None, typer.Option(help="Default: every pack whose files are here.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of a preset.")] = 2,
    cameras: Annotated[int, typer.Option(min=1, help="Cameras of a scene.")] = 1,
    fps: Annotated[
        int, typer.Option(min=1, help="Pictures per second: 12 is every second one of 25.")
    ] = 12,
    seconds: Annotated[
        float | None, typer.Option(min=0.2, help="Of each video; default: the preset's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of simulation, sets and bootstrap.")] = 1,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap; 0: no intervals.")] = 1000,
) -> None:
    """Measure what runs of every pack do by default, beside other ways, and write a page about it.

    Example: facestream bench accuracy --folder simulated/accuracy
    """
    from .eval_tracks import tracking_library
    from .eval_verification import Bootstrap

    tracking_library()
    place = assets or (Path(found) if (found := os.environ.get("FACESTREAM_ASSETS")) else None)
    if place is None:
        raise ConfigError("no faces: give --assets FOLDER with london/ and anchors/")
    packs, absent = find_packs(pack)
    size, bootstrap = Size(scenes, cameras, fps, seconds), Bootstrap(resamples, seed)
    names = preset or list(PRESETS)
    sections = measure_sections(folder, place, names, packs, size, bootstrap)
    head = heading(command_words(preset, pack, size, bootstrap), packs, absent)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([head, *sections]), encoding="utf-8")
    typer.echo(f"{out}: {len(names)} presets, packs {', '.join(packs)}")


def measure_sections(
    folder: Path,
    assets: Path,
    presets: Sequence[str],
    packs: Sequence[str],
    size: Size,
    bootstrap: Bootstrap,
) -> list[str]:
    """Render, record and embed what is not in `folder` yet, and measure it all: the sections."""
    from .bench_accuracy_page import stills_section, tracking_section
    from .bench_accuracy_runs import fusion_section, given_section, run_section, summary_section
    from .bench_accuracy_stills import find_wild, measure_stills
    from .bench_accuracy_videos import compare_trackers, measure_videos, render

    clock = _Clock()
    roots = {name: folder / name for name in presets}
    for name, root in roots.items():
        render(name, size, bootstrap.seed, assets, root)
        clock.tell(f"{name}: rendered")
    store = folder / "seen"
    videos = measure_videos(roots, packs, store, bootstrap)
    clock.tell("simulated video: measured")
    trackers = compare_trackers(roots, packs, store)
    clock.tell("tracking: compared")
    stills = None
    wild = find_wild(assets)
    if wild is not None:
        stills = measure_stills(wild, packs, folder / "features", bootstrap)
        clock.tell("real stills: measured")
    return [
        summary_section(videos, stills),
        run_section(videos, bootstrap),
        fusion_section(videos),
        given_section(videos),
        tracking_section(videos, trackers),
        stills_section(stills, videos.defaults, bootstrap),
    ]


class _Clock:
    """Says on stderr how long each step took."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def tell(self, what: str) -> None:
        now = time.monotonic()
        typer.echo(f"{what} ({now - self._since:.0f} s)", err=True)
        self._since = now


def find_packs(asked: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Packs to measure, and why others cannot be, by name.

    Asked for none, these are all that can be opened here. Raises ModelError for one that was asked
    for, or where there is none at all.
    """
    from ..models.pack import open_pack
    from ..models.store import cards

    if asked:
        for name in asked:
            open_pack(name)
        return list(asked), {}
    usable, absent = [], {}
    for name in sorted(cards(), key=lambda name: (name != "open", name)):
        try:
            open_pack(name)
            usable.append(name)
        except ModelError as error:
            absent[name] = str(error)
    if not usable:
        raise ModelError("no pack has its files on this machine: facestream models pull open")
    return usable, absent


def command_words(
    preset: Sequence[str] | None, pack: Sequence[str] | None, size: Size, bootstrap: Bootstrap
) -> str:
    """The command that gives these numbers."""
    words = ["facestream bench accuracy --folder simulated/accuracy"]
    words += [f"--preset {name}" for name in preset or ()]
    words += [f"--pack {name}" for name in pack or ()]
    words += [
        f"--{option} {value:g}"
        for option, value in zip(Size._fields, size, strict=True)
        if value is not None
    ]
    resamples, seed = bootstrap
    return " ".join([*words, f"--seed {seed} --resamples {resamples}"])


def heading(command: str, packs: Sequence[str], absent: dict[str, str]) -> str:
    """What the page is about, and how it came to be."""
    left_out = ""
    if absent:
        left_out = f" Not measured, since their files are not here: {', '.join(sorted(absent))}."
    return f"""# Accuracy

Written by `make benchmark-accuracy`, that is

    {command}

on {datetime.now(UTC):%Y-%m-%d}, facestream {__version__}, revision {revision()}. Packs:
{", ".join(packs)}.{left_out}

Two kinds of data: **simulated** video, and **real** stills that are for **research only**. They
compare variants with each other; how well your cameras do, only your own recordings tell
(`facestream evaluate video`). Definitions are those of [evaluation.md](../evaluation.md).

- *Fusion* makes one template of several faces: the `mean` of the embeddings, or weighed by
  `quality`, by the `learned` head of the pack's card, or by its `caface`. *Score* compares
  templates: `cosine`, or `ida`, which takes into account how densely faces lie.
- **(default)** is what a run does that is told nothing, as far as the pack goes; its threshold is
  fitted to the gallery for FPIR 1 % ([thresholds](../thresholds.md)).
- Rank 1, TPIR and shares are in %, in brackets the 95 % interval.
"""
