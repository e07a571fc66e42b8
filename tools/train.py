"""`facestream train`: what is fitted to data and shipped with a pack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import train_recipes

app = typer.Typer(
    help="Fit what a pack carries (anchors, thresholds); train networks by the papers' recipes. "
    "Needs folders of faces that you may use; recipes need the extra train.",
    no_args_is_help=True,
)
for recipe in train_recipes.RECIPES:
    app.command()(recipe)


@app.command()
def anchors(
    faces: Annotated[
        Path, typer.Argument(help="Folder of faces, one picture and one identity each.")
    ],
    pack: str = typer.Option("open", help="Pack to compute the vectors with."),
    every: int = typer.Option(1, min=1, help="Take every n-th file, in order of name."),
    attribution: str = typer.Option("", help="Whose faces these are and their licence."),
) -> None:
    """Compute the anchor vectors of a pack: the faces against which IDA measures density.

    Thresholds fitted with other anchors go: `facestream train calibrate` comes next.

    Example: facestream train anchors synthetic-faces/ --pack open --every 2
    """
    from rich.console import Console

    from ..models.pack import open_pack
    from ..train.anchors import build_anchors

    report = build_anchors(open_pack(pack), faces, every=every, attribution=attribution)
    Console().print(
        f"{report.path}: {report.kept} anchors of dimension {report.dimension}, "
        f"{report.refused} pictures without a usable face; fit the thresholds anew with "
        f"`facestream train calibrate --pack {pack}`"
    )


@app.command()
def calibrate(
    gallery: Annotated[
        Path | None, typer.Argument(help="Folder of photos to enrol, ID_anything.jpg.")
    ] = None,
    probes: Annotated[
        Path | None, typer.Argument(help="Folder of photos to recognise, with the same IDs.")
    ] = None,
    assets: Annotated[
        Path | None,
        typer.Option(
            help="Instead of folders: where london/ lies. Fits on the split's role calibration, "
            "measures on its role subject."
        ),
    ] = None,
    pack: str = typer.Option("open", help="Pack to fit."),
    target_fmr: float = typer.Option(1e-3, min=1e-6, max=0.1, help="False-match rate wanted."),
    data: str = typer.Option("", help="Whose faces these are and their licence, for the card."),
) -> None:
    """Fit a pack's thresholds and measure it, on clean probes and on surveillance-like ones.

    Example: facestream train calibrate neutral/ smiling/ --pack open
    """
    from rich.console import Console

    from .. import ConfigError
    from ..models.pack import open_pack
    from ..train.calibrate import fit_pack, show_table
    from ..train.folders import photos_in_folders, photos_of_role

    if assets is not None and gallery is None and not data:
        people, judge = (photos_of_role(assets, r) for r in ("calibration", "subject"))
        source = "--assets ASSETS"
    elif assets is None and gallery is not None and probes is not None:
        people, judge = photos_in_folders(gallery, probes, data), None
        source = f"{gallery.name} {probes.name}"
    else:
        raise ConfigError(
            "calibration takes two folders, GALLERY and PROBES, and --data to say whose faces they "
            "hold; or --assets and neither, for the people of the split"
        )
    fitted = fit_pack(open_pack(pack), people, judge=judge, target_fmr=target_fmr, source=source)
    Console().print(show_table(fitted))
