"""`facestream evaluate`: recognition measured the way the field reports it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .eval_fusion_command import fusion
from .eval_options import (
    BackendOption,
    ClusterOption,
    FeaturesOption,
    FuseOption,
    HalfOption,
    JsonOption,
    NoImagesOption,
    OutputOption,
    PackOption,
    ResamplesOption,
    RuleOption,
    ScoreOption,
    SeedOption,
    SkipOption,
    Source,
    StoreOption,
    WorkersOption,
    check_choice,
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
    cluster: ClusterOption = None,
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

    source = Source(pack, backend, store, features, workers, half, skip_bad, cluster)
    choices = Choices(images, kind, alignment, flip, every, rule, resamples, seed, not no_images)
    finish(verify_sets(sets, choices, source), output, as_json=json)


@app.command(epilog="Example: facestream evaluate ijb IJBC --protocol 1:1 -o report")
def ijb(
    folder: Annotated[
        Path, typer.Argument(help="Folder of meta/ and loose_crop/; IJB-A: of the splits.")
    ],
    name: Annotated[
        str | None, typer.Option("--set", help="ijba; ijbb or ijbc, where both lie.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="1:1, 1:N, clustering; IJB-A: 1:1, 1:N, quality.")
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="Published way of pooling a template; see docs/evaluation.md.")
    ] = "arcface",
    flip: Annotated[bool | None, typer.Option(help="Add the mirrored face's embedding.")] = None,
    unit_images: Annotated[
        bool | None, typer.Option(help="Bring each picture's embedding to length 1.")
    ] = None,
    detector_score: Annotated[
        bool | None, typer.Option(help="Weight pictures by the detector's score.")
    ] = None,
    by_media: Annotated[bool | None, typer.Option(help="Average within each medium first.")] = None,
    unit_media: Annotated[
        bool | None, typer.Option(help="Bring each medium's average to length 1.")
    ] = None,
    fuse: FuseOption = None,
    score: ScoreOption = "cosine",
    rule: RuleOption = "at_most",
    eps: Annotated[float, typer.Option(help="DBSCAN: cosine distance of neighbours.")] = 0.5,
    neighbours: Annotated[int, typer.Option(min=1, help="DBSCAN: neighbours of a core.")] = 2,
    most_faces: Annotated[int, typer.Option(min=2, help="Clustering: faces at most.")] = 20_000,
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
    no_images: NoImagesOption = False,
    json: JsonOption = False,
) -> None:
    """IJB-A (its ten splits), B and C: verification of templates, identification, clustering."""
    from . import eval_ijba
    from .eval_cluster import ClusterSettings
    from .eval_ijb import PROTOCOLS, evaluate_ijb
    from .eval_ijb_live import live_parts
    from .eval_ijb_measures import IjbChoices
    from .eval_output import finish
    from .eval_pooling import choose_pooling
    from .eval_verification import Bootstrap

    own = (eval_ijba.USUAL, eval_ijba.PROTOCOLS)
    usual, offered = own if name == "ijba" else (PROTOCOLS, PROTOCOLS)
    chosen = tuple(check_choice("--protocol", one, offered) for one in protocol or usual)
    steps = {
        "add_flip": flip,
        "unit_images": unit_images,
        "detector_weight": detector_score,
        "by_media": by_media,
        "unit_media": unit_media,
    }
    choices = IjbChoices(
        chosen,
        choose_pooling(pooling, steps, fused=fuse is not None),
        check_choice("--rule", rule, ("at_most", "nearest")),  # type: ignore[arg-type]
        Bootstrap(resamples, seed),
        ClusterSettings(eps, neighbours, seed),
        most_faces,
        not no_images,
        live_parts(pack, fuse, score),
    )
    source = Source(pack, backend, store, features, workers, half, skip_bad, cluster)
    ijba = name == "ijba"
    run = eval_ijba.evaluate_ijba if ijba else partial(evaluate_ijb, name=name)
    finish(run(folder, choices=choices, source=source), output, as_json=json)


@app.command(epilog="Example: facestream evaluate crops simulated-medium crops --every 5")
def crops(
    folder: Annotated[Path, typer.Argument(help="An IJB-S or simulated set with videos/.")],
    out: Annotated[Path, typer.Argument(help="Folder for the crops.")],
    every: Annotated[int, typer.Option(min=1, help="Take each n-th frame.")] = 1,
    margin: Annotated[
        float, typer.Option(min=0.0, help="Added on each side, as a share of the box.")
    ] = 0.5,
) -> None:
    """Cut the given faces out of the videos of an IJB-S or simulated set, for `ijbs --faces`."""
    from .eval_crops_ijbs import cut_crops

    done = cut_crops(folder, out, every=every, margin=margin)
    typer.echo(f"crops: {done.total:,} in {out}, {done.written:,} of them new")


@app.command(epilog="Example: facestream evaluate ijbs IJB-S --faces crops -o report")
def ijbs(
    folder: Annotated[Path, typer.Argument(help="Folder with cs6_metadata.csv and galleries/.")],
    faces: Annotated[
        Path, typer.Option(help="Folder of crops: SUBJECT/videos_NAME_FRAME.jpg, img_NAME.jpg.")
    ],
    protocol: Annotated[
        list[str] | None, typer.Option(help="One of the five; default: all the set has probes for.")
    ] = None,
    aggregator: Annotated[
        str, typer.Option(help="mean, quality, learned, caface, or raw (as public ones).")
    ] = "quality",
    alignment: Annotated[str, typer.Option(help="detect, or aligned crops.")] = "detect",
    pack: PackOption = "open",
    backend: BackendOption = "onnxruntime",
    store: StoreOption = None,
    features: FeaturesOption = None,
    workers: WorkersOption = 0,
    cluster: ClusterOption = None,
    half: HalfOption = False,
    skip_bad: SkipOption = False,
    resamples: ResamplesOption = 200,
    seed: SeedOption = 0,
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """IJB-S with given boxes: ranks 1, 5 and 10, TPIR at FPIR 10 % and 1 %, all five protocols."""
    from .eval_ijbs import IjbsChoices, evaluate_ijbs
    from .eval_ijbs_lists import PROTOCOLS
    from .eval_output import finish
    from .eval_verification import Bootstrap

    names = tuple(PROTOCOLS)
    chosen = tuple(check_choice("--protocol", one, names) for one in protocol or ())
    choices = IjbsChoices(faces, chosen, aggregator, alignment, Bootstrap(resamples, seed))
    source = Source(pack, backend, store, features, workers, half, skip_bad, cluster)
    finish(evaluate_ijbs(folder, choices, source), output, as_json=json)


@app.command(
    epilog="Example: facestream evaluate megaface facescrub.json --distractors megaface_1000.json "
    "--probe-images facescrub --distractor-images megaface"
)
def megaface(
    probes: Annotated[Path, typer.Argument(help="The kit's list of probes, with ids.")],
    distractors: Annotated[
        list[Path], typer.Option(help="The kit's list of distractors; once per size.")
    ],
    probe_images: Annotated[Path, typer.Option(help="Folder of the probes' pictures.")],
    distractor_images: Annotated[Path, typer.Option(help="Folder of the distractors' pictures.")],
    alignment: Annotated[str, typer.Option(help="detect, or aligned crops.")] = "detect",
    flip: Annotated[bool, typer.Option(help="Add the embedding of the mirrored face.")] = True,
    pack: PackOption = "open",
    backend: BackendOption = "onnxruntime",
    store: StoreOption = None,
    features: FeaturesOption = None,
    workers: WorkersOption = 0,
    cluster: ClusterOption = None,
    half: HalfOption = False,
    skip_bad: SkipOption = False,
    resamples: ResamplesOption = 1000,
    seed: SeedOption = 0,
    output: OutputOption = None,
    json: JsonOption = False,
) -> None:
    """MegaFace: rank-1 identification of FaceScrub probes among 10^3 to 10^6 distractors."""
    from .eval_megaface import MegafaceChoices, evaluate_megaface
    from .eval_output import finish
    from .eval_verification import Bootstrap

    folders = (probe_images, distractor_images)
    bootstrap = Bootstrap(resamples, seed)
    choices = MegafaceChoices(probes, tuple(distractors), *folders, alignment, flip, bootstrap)
    source = Source(pack, backend, store, features, workers, half, skip_bad, cluster)
    finish(evaluate_megaface(choices, source), output, as_json=json)


app.command(epilog="Example: facestream evaluate fusion faces -o report")(fusion)


@app.command(epilog="Example: facestream evaluate quality pair_list.txt --images faces -o report")
def quality(
    pairs: Annotated[Path, typer.Argument(help="A list of pairs, or a .bin file.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the list's pictures; default: beside the list.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option("--source", help="pack, norm or detector; default: pack.")
    ] = None,
    quality_file: Annotated[
        list[Path] | None, typer.Option(help='METHOD_db.txt with lines "path score".')
    ] = None,
    definition: Annotated[
        str, typer.Option(help="reestimate (the papers), fixed (the standard) or both.")
    ] = "both",
    alignment: Annotated[str, typer.Option(help="detect, or aligned crops.")] = "detect",
    flip: Annotated[bool, typer.Option(help="Add the embedding of the mirrored face.")] = False,
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
    no_images: NoImagesOption = False,
    json: JsonOption = False,
) -> None:
    """Face quality: error versus discard (ERC, EDC) with areas, several sources on one plot."""
    from .eval_output import finish
    from .eval_quality import QualityChoices, evaluate_quality
    from .eval_verification import Bootstrap

    chosen = check_choice("--definition", definition, ("reestimate", "fixed", "both"))
    own = tuple(origin or ()) if origin or quality_file else ("pack",)
    choices = QualityChoices(
        images,
        alignment,
        flip,
        own,
        tuple(quality_file or ()),
        ("reestimate", "fixed") if chosen == "both" else (chosen,),
        Bootstrap(resamples, seed),
        not no_images,
    )
    source = Source(pack, backend, store, features, workers, half, skip_bad, cluster)
    finish(evaluate_quality(pairs, choices, source), output, as_json=json)


@app.command(epilog="Example: facestream evaluate video simulated-medium -o report")
def video(
    folder: Annotated[
        Path, typer.Argument(help="A simulated set, MOT sequences, or IJB-S with videos/.")
    ],
    layout: Annotated[str, typer.Option(help="auto, own, mot or ijbs.")] = "auto",
    gallery: Annotated[
        Path | None,
        typer.Option(help="Photos to enrol, NAME.jpg or NAME/*.jpg; default: the set's stills."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of a run, whose cameras are not used.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="As in --set fuse.aggregator=mean.")
    ] = None,
    iou: Annotated[float, typer.Option(min=0.01, max=1.0, help="Overlap that finds a face.")] = 0.5,
    least_visible: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Faces seen to less need not be found.")
    ] = 0.25,
    least_height: Annotated[float, typer.Option(min=0.0, help="Nor lower ones, in pixels.")] = 14.0,
    tracking: Annotated[bool, typer.Option(help="HOTA and IDF1, by motrics.")] = True,
    given: Annotated[
        bool, typer.Option("--given-boxes", help="Take faces and tracks from the truth.")
    ] = False,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder to keep in what was seen, for other matchers or to go on."),
    ] = None,
    pack: Annotated[str | None, typer.Option("--pack", help="Model pack; default: open.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="onnxruntime or openvino.")
    ] = None,
    skip_bad: SkipOption = False,
    resamples: ResamplesOption = 1000,
    seed: SeedOption = 0,
    output: OutputOption = None,
    no_images: NoImagesOption = False,
    json: JsonOption = False,
) -> None:
    """The live pipeline on annotated video: detection, tracking, identification, false alerts."""
    from .eval_output import finish
    from .eval_verification import Bootstrap
    from .eval_video import VideoChoices, evaluate_video
    from .eval_video_set import Rules

    choices = VideoChoices(
        layout,
        gallery,
        config,
        pack,
        backend,
        tuple(settings or ()),
        Rules(iou, least_visible, least_height),
        tracking,
        given,
        store,
        skip_bad,
        Bootstrap(resamples, seed),
        not no_images,
    )
    finish(evaluate_video(folder, choices), output, as_json=json)


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
