"""The command line of `facestream evaluate fusion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .eval_options import (
    BackendOption,
    ClusterOption,
    FeaturesOption,
    HalfOption,
    JsonOption,
    OutputOption,
    PackOption,
    ResamplesOption,
    SeedOption,
    SkipOption,
    Source,
    StoreOption,
    WorkersOption,
)


def fusion(
    folder: Annotated[Path, typer.Argument(help="Folder with one folder of faces per identity.")],
    part: Annotated[
        list[str] | None, typer.Option(help="sets, share, chunk or speed; default: all four.")
    ] = None,
    aggregator: Annotated[
        list[str] | None,
        typer.Option(help="mean, quality, learned or caface; default: all there are."),
    ] = None,
    head: Annotated[
        Path | None, typer.Option(help="CAFace head (.npz) in place of the pack's.")
    ] = None,
    size: Annotated[
        list[int] | None, typer.Option(min=1, help="Faces in a set; default: 1, 2, 4 and 8.")
    ] = None,
    sets: Annotated[int, typer.Option(min=1, help="Sets of each size per identity.")] = 4,
    far: Annotated[float, typer.Option(min=0.0, max=1.0, help="False accept rate of TAR.")] = 1e-3,
    alignment: Annotated[str, typer.Option(help="detect, or aligned crops.")] = "detect",
    pack: PackOption = "open",
    backend: BackendOption = "onnxruntime",
    store: StoreOption = None,
    features: FeaturesOption = None,
    workers: WorkersOption = 0,
    cluster: ClusterOption = None,
    half: HalfOption = False,
    skip_bad: SkipOption = False,
    resamples: ResamplesOption = 100,
    seed: SeedOption = 0,
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """Aggregators and matchers by set size, quality, share of a medium and chunk; their speed."""
    from .eval_fusion import PARTS, FusionChoices, evaluate_fusion
    from .eval_output import finish
    from .eval_verification import Bootstrap

    choices = FusionChoices(
        tuple(part or PARTS),
        tuple(aggregator or ()),
        head,
        tuple(sorted(set(size or (1, 2, 4, 8)))),
        sets,
        far,
        alignment,
        Bootstrap(resamples, seed),
    )
    source = Source(pack, backend, store, features, workers, half, skip_bad, cluster)
    finish(evaluate_fusion(folder, choices, source), output, as_json=json)
