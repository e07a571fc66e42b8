"""`facestream simulate`: surveillance video with known truth, from stills of faces."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .. import ConfigError

if TYPE_CHECKING:
    from .sim_cast import Cast

app = typer.Typer()
MARKS = ("<!-- measured: comparison -->\n", "<!-- end of measured: comparison -->")
"""Between these lines a page holds the table of `compare`."""


@app.callback(invoke_without_command=True)
def simulate(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder for the set; it must be new.")] = None,
    preset: str = typer.Option(
        "medium", help="easy, medium, hard, night, crowd, or a YAML file of yours."
    ),
    faces: Annotated[
        Path | None, typer.Option(help="Stills: a folder per person, or NAME.jpg, NAME_2.jpg.")
    ] = None,
    passers_by: Annotated[
        Path | None, typer.Option(help="Stills of people who are never enrolled.")
    ] = None,
    assets: Annotated[
        Path | None,
        typer.Option(
            help="Folder with london/ and anchors/: people by the split. Default: "
            "$FACESTREAM_ASSETS, where no --faces is given."
        ),
    ] = None,
    seed: int = typer.Option(0, min=0, help="The same seed gives the same annotations."),
    scenes: int | None = typer.Option(None, min=1, help="Scenes; default: the preset's."),
    cameras: int | None = typer.Option(None, min=1, help="Cameras of each scene."),
    seconds: float | None = typer.Option(None, min=0.2, help="Length of each video."),
    pack: str = typer.Option("open", help="Pack whose detector finds the faces of the stills."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Render surveillance video with exact truth: boxes, landmarks, tracks, subjects, visibility.

    An interrupted run goes on with the same command.

    Example: facestream simulate --preset night --faces people/ --out simulated-night
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise ConfigError("--out is missing: name a new folder for the set")
    # Networks and video are slow to import, and `--help` needs neither.
    from ..configs.simulation import check, read_simulation
    from ..models.pack import open_pack
    from .sim_set import Request, render_set

    settings = read_simulation(preset)
    settings = dataclasses.replace(
        settings,
        scenes=scenes or settings.scenes,
        cameras=cameras or settings.cameras,
        seconds=seconds or settings.seconds,
    )
    check(settings)
    request = Request(preset, settings, seed, _choose_cast(faces, passers_by, assets), pack)
    detector = open_pack(pack).detector
    columns = (TextColumn("rendering"), BarColumn(), TextColumn("{task.completed} frames"))
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=as_json,
    ) as bar:
        task = bar.add_task("rendering", total=None)
        rendered = render_set(
            request,
            detector,
            out,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    speed = rendered.frames_per_second
    if as_json:
        figures = {**rendered._asdict(), "frames_per_second": round(speed, 2)}
        typer.echo(json.dumps({"out": str(out), "simulated": True, **figures}))
        return
    typer.echo(
        f"{out}: {rendered.all_videos} simulated videos, {rendered.videos} of them new: "
        f"{rendered.frames} frames in {rendered.seconds:.0f} s, {speed:.1f} per second"
    )


@app.command()
def compare(
    sets: Annotated[list[Path], typer.Argument(help="Simulated sets.")],
    real: Annotated[Path, typer.Option(help="Folder of real clips.")],
    pack: str = typer.Option("open", help="Pack that finds and judges the faces."),
    every: int = typer.Option(3, min=1, help="Look at every n-th frame."),
    most: int = typer.Option(300, min=1, help="Faces of one clip that count, evenly over it."),
    write: Annotated[
        Path | None, typer.Option(help="Markdown page to put the table into, between its marks.")
    ] = None,
) -> None:
    """Set simulated against real video: what a detector finds in both, and how far apart it is.

    Example: facestream simulate compare simulated-* --real clips/
    """
    from ..models.pack import open_pack
    from .sim_compare import clips_in, measure_clips, write_table

    models = open_pack(pack)
    known = measure_clips(models, "real", clips_in(real), every=every, most=most)
    samples = []
    for folder in sets:
        clips = clips_in(folder)
        samples.append(measure_clips(models, folder.name, clips, every=every, most=most))
    table = write_table(known, samples)
    typer.echo(table)
    if write is not None:
        put_table(write, table)


def put_table(page: Path, table: str) -> None:
    """Replace what stands between a page's marks; raises ConfigError where it has none."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise ConfigError(f"{page} has no lines {MARKS[0].strip()} and {MARKS[1]}")
    page.write_text(f"{before}{mark}{table}{end}{after}", encoding="utf-8")


def _choose_cast(faces: Path | None, passers_by: Path | None, assets: Path | None) -> Cast:
    from .sim_cast import cast_from_assets, cast_from_folders

    if faces is not None and assets is not None:
        raise ConfigError("--faces and --assets exclude each other: give one of them")
    if faces is not None:
        return cast_from_folders(faces, passers_by)
    if passers_by is not None:
        raise ConfigError("--passers-by comes with --faces: the split has passers-by of its own")
    known = assets or (Path(found) if (found := os.environ.get("FACESTREAM_ASSETS")) else None)
    if known is None:
        raise ConfigError(
            "no faces: give --faces FOLDER, or --assets FOLDER with london/, anchors/"
        )
    return cast_from_assets(known)
