"""`facestream evaluate`: recognition measured the way the field reports it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .eval_options import (
    BackendOption,
    FeaturesOption,
    HalfOption,
    JsonOption,
    NoImagesOption,
    OutputOption,
    PackOption,
    ResamplesOption,
    RuleOption,
    SeedOption,
    SkipOption,
    Source,
    StoreOption,
    WorkersOption,
)

app = typer.Typer(
    help="Measure recognition on data sets, as they are distributed.", no_args_is_help=True
)


@app.command(epilog="Example: facestream evaluate verification lfw.bin agedb_30.bin -o report")
def verification(
    sets: Annotated[
        list[Path], typer.Argument(help=".bin files, lists of pairs, or RMFRD's folder.")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of a list's pictures; default: beside the list.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="Format of a list: auto, lfw, two-lines, list or ytf.")
    ] = "auto",
    alignment: Annotated[
        str, typer.Option(help="Pictures of a list or folder: detect, or aligned crops.")
    ] = "detect",
    flip: Annotated[bool, typer.Option(help="Add the embedding of the mirrored face.")] = True,
    every: Annotated[int, typer.Option(min=1, help="Videos: take each n-th frame.")] = 1,
    rule: RuleOption = "at_most",
    pack: PackOption = "open",
    backend: BackendOption = "onnxruntime",
    store: StoreOption = None,
    features: FeaturesOption = None,
    workers: WorkersOption = 0,
    half: HalfOption = False,
    skip_bad: SkipOption = False,
    resamples: ResamplesOption = 1000,
    seed: SeedOption = 0,
    output: OutputOption = None,
    no_images: NoImagesOption = False,
    json: JsonOption = False,
) -> None:
    """1:1 verification: accuracy over 10 folds, TAR@FAR, EER, ROC and DET, with intervals.

    LFW, CALFW, CPLFW, XQLFW, MLFW, AgeDB-30 and CFP-FP as .bin files or lists of pairs, YouTube
    Faces (splits.txt and a folder of frames), RMFRD (its folder).
    """
    from .eval_output import finish
    from .eval_verify import Choices, verify_sets

    source = Source(pack, backend, store, features, workers, half, skip_bad)
    choices = Choices(images, kind, alignment, flip, every, rule, resamples, seed, not no_images)
    finish(verify_sets(sets, choices, source), output, as_json=json)


@app.command(epilog="Example: facestream evaluate show report")
def show(
    folder: Annotated[Path, typer.Argument(help="Folder with a report.json.")],
    json: JsonOption = False,
) -> None:
    """Print a report again."""
    from .eval_output import show_report
    from .report_record import load_report

    show_report(load_report(folder).report, as_json=json)


@app.command(epilog="Example: facestream evaluate compare report-open report-omz")
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of the first report (A).")],
    second: Annotated[Path, typer.Argument(help="Folder of the second report (B).")],
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """Say which differences between two reports on the same data are more than chance."""
    from .eval_output import finish
    from .report_compare import compare_reports
    from .report_record import load_report

    finish(compare_reports(load_report(first), load_report(second)), output, as_json=json)
