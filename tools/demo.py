"""`facestream demo`: the main job, whole, on a clip that is rendered here."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .. import ConfigError, SourceCorrupt
from ..configs.load import preset
from ..configs.schema import Config
from . import run

if TYPE_CHECKING:
    from ..models.pack import Pack

NOTE = (
    "The clip is not a recording: it was rendered on this machine from one group photograph of six "
    "people that a package of the registry carries. Heads are cut out, given drawn bodies and "
    "invented names, and walk through a drawn room; the camera adds blur, noise and compression. "
    "Four people were enrolled from another rendition of the same photograph, two were left out "
    "and must stay unknown."
)
FOLDER = Path("demo-output")
RENDERER = 1
"""Goes into the clip's file name: raise it when the renderer changes what it draws."""


class Stage(NamedTuple):
    """What the demo plays with: the clip and the folder of photos to enrol."""

    clip: Path
    photos: Path


def demo(
    folder: Annotated[Path, typer.Option(help="Where the results go.")] = FOLDER,
    pack: str = typer.Option("open", help="Model pack."),
    endpoint: str = typer.Option("tcp://127.0.0.1:*", help="ZeroMQ endpoint for the events."),
    blur_faces: bool = typer.Option(
        False, "--blur-faces", help="Show the faces on the page as a few blocks of colour."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object, no live table."),
) -> None:
    """Run everything once: render a clip, enrol four of its six people, recognise, report.

    Example: facestream demo --folder demo-output
    """
    from ..models.pack import open_pack
    from ..stream.totals import describe

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--folder {folder} cannot be written: {error.strerror}") from error
    started = time.perf_counter()
    models = open_pack(pack)
    stage = prepare(models, folder, quiet=as_json)
    totals = run.execute(
        configure(stage, folder, pack, endpoint, blur_faces=blur_faces),
        pack=models,
        quiet=as_json,
        note=NOTE,
    )
    if as_json:
        typer.echo(json.dumps(describe(totals), indent=2))
    else:
        seconds = time.perf_counter() - started
        typer.echo(f"\nDone in {seconds:.0f} s. Look at {folder / 'report.html'}")
        typer.echo(f"and {folder / 'annotated-demo.mp4'}; events are in {folder / 'events.jsonl'}")
    if totals.interrupted:
        raise typer.Exit(run.INTERRUPTED)


def prepare(pack: Pack, folder: Path, *, quiet: bool = False) -> Stage:
    """Render the clip and the photos to enrol, unless this folder has them.

    Raises PullFailed when the photograph cannot be brought, SourceCorrupt when its faces are not
    all found.
    """
    clip, photos = folder / f"clip-{RENDERER}.mp4", folder / "enrol"
    if clip.exists() and photos.is_dir():
        return Stage(clip, photos)
    import cv2
    import numpy as np

    from ..models.photo import find_faces
    from ..models.pull import fetch_group_photo
    from .render import PLACEHOLDER_NAMES, enrolment_photos, render_clip

    if not quiet:
        typer.echo("Rendering the clip (first run only)...")
    photo = cv2.imread(str(fetch_group_photo()))
    if photo is None:
        raise SourceCorrupt("the group photograph in the cache is not a picture: remove it")
    image = np.asarray(photo, dtype=np.uint8)
    faces = find_faces(pack.detector, image)
    if len(faces.boxes) != len(PLACEHOLDER_NAMES):
        raise SourceCorrupt(
            f"expected {len(PLACEHOLDER_NAMES)} faces in the group photograph, pack "
            f"{pack.card.name} found {len(faces.boxes)}"
        )
    enrolment_photos(image, faces, photos)
    partial = clip.with_suffix(".part.mp4")
    render_clip(image, faces, partial)
    partial.replace(clip)
    return Stage(clip, photos)


def configure(
    stage: Stage, folder: Path, pack: str, endpoint: str, *, blur_faces: bool = False
) -> Config:
    """The demo preset, pointed at the rendered clip."""
    config = preset("demo")
    camera = dataclasses.replace(config.cameras[0], url=str(stage.clip))
    return dataclasses.replace(
        config,
        cameras=(camera,),
        models=dataclasses.replace(config.models, pack=pack),
        gallery=dataclasses.replace(config.gallery, folder=str(stage.photos)),
        publish=dataclasses.replace(
            config.publish, endpoint=endpoint, journal=str(folder / "journal.db")
        ),
        output=dataclasses.replace(config.output, folder=str(folder), blur_faces=blur_faces),
    )
