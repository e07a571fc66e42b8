"""`facestream evaluate video`: the live pipeline on annotated video, from pixels to alerts."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..configs.schema import Config
from ..models.feature_store import fingerprint_parts
from ..models.pack import Pack, open_pack
from ..models.scores import identity_weights
from .eval_identify import DEFINITIONS
from .eval_options import check_choice
from .eval_progress import progress_bar
from .eval_tracks import (
    DetectionCounts,
    TrackingCounts,
    class_names,
    count_detections,
    count_tracking,
    score_tracking,
    tracking_library,
)
from .eval_verification import Bootstrap
from .eval_video_decide import Decider, Watched, live_aggregator, watch
from .eval_video_identify import Video, build_case, measure_case
from .eval_video_ijbs import measure_protocols
from .eval_video_pictures import track_examples
from .eval_video_record import Recording, record
from .eval_video_set import LAYOUTS, Clip, Rules, VideoSet, read_set
from .report_record import (
    Bad,
    Data,
    Draws,
    Example,
    Number,
    Plot,
    Result,
    Row,
    Table,
    measured,
    write_report,
)
from .run import configure


class VideoChoices(NamedTuple):
    """The command's own options.

    gallery: photos to enrol in place of the set's own. store: folder to keep what was seen in.
    settings: as of `facestream run --set`. tracking: whether to compute HOTA and IDF1. given: take
    faces and tracks from the truth. pictures: whether to put faces on the page.
    """

    layout: str = "auto"
    gallery: Path | None = None
    config: Path | None = None
    pack: str | None = None
    backend: str | None = None
    settings: tuple[str, ...] = ()
    rules: Rules = Rules()
    tracking: bool = True
    given: bool = False
    store: Path | None = None
    skip_bad: bool = False
    bootstrap: Bootstrap = Bootstrap()
    pictures: bool = False


class Looked(NamedTuple):
    """One video laid beside its truth. tracking: None where it is not asked for."""

    clip: Clip
    recording: Recording
    watched: Watched
    found: DetectionCounts
    tracked: DetectionCounts
    tracking: TrackingCounts | None


def evaluate_video(root: Path, choices: VideoChoices) -> Result:
    """Run the pipeline on every video of a set and measure it against the truth.

    Raises ConfigError for malformed or missing input, and what the pipeline's parts raise.
    """
    check_choice("--layout", choices.layout, ("auto", *LAYOUTS))
    if choices.tracking and not choices.given:
        tracking_library()  # to say now what is missing, not after hours
    bad: list[Bad] = []
    chosen = read_set(root, choices.layout, choices.gallery, skip_bad=choices.skip_bad, bad=bad)
    config = _configure(chosen, choices)
    models = config.models
    pack = open_pack(
        models.pack, backend=models.backend, device=models.device, threads=models.threads
    )
    tables: list[Table] = []
    plots: list[Plot] = []
    draws: dict[str, Draws] = {}
    examples: list[Example] = []
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(choices.store))
        decider = None
        if chosen.named:
            decider = stack.enter_context(Decider(config, pack, chosen.photos, bad))
        looked = look(chosen.clips, config, pack, choices, folder)
        if not choices.given:
            tables += _detection_tables(looked, choices.bootstrap, draws)
        if choices.tracking and not choices.given:
            tables.append(_tracking_table(looked, choices.bootstrap, draws))
        if decider is not None:
            videos = [
                Video(one.clip, one.watched, decider.decide(one.clip, one.recording, one.watched))
                for one in looked
            ]
            case = build_case(videos, decider.identities, decider.score)
            more, plots, drawn = measure_case(case, choices.bootstrap)
            tables = [*more, *tables]
            draws |= drawn
            if choices.pictures:
                examples = track_examples(case, chosen.clips, chosen.photos, pack)
        if chosen.layout == "ijbs":
            watched = [(one.clip, one.recording, one.watched) for one in looked]
            aggregator = live_aggregator(config, pack)
            more, curves, drawn = measure_protocols(
                root,
                pack,
                aggregator,
                watched,
                choices.bootstrap,
                bad,
                skip_bad=choices.skip_bad,
            )
            tables, plots = [*more, *tables], [*curves, *plots]
            draws |= drawn
    fingerprint = set_fingerprint(chosen)
    report = write_report(
        "video",
        f"{chosen.name}: video, {'boxes given' if choices.given else 'end to end'}",
        variant=_variant(chosen, config, pack, choices),
        data=Data(chosen.name, fingerprint, _facts(chosen, looked)),
        model={
            "Pack": pack.card.name,
            "Runs on": pack.provider,
            "Fusion": _aggregator(config, pack),
            "Matching": config.match.score,
        },
        tables=tables,
        plots=plots,
        bad=bad,
        pairing=f"{fingerprint} {choices.rules} {choices.bootstrap} {sorted(chosen.photos)}",
    )
    return Result(report, draws, examples)


def look(
    clips: Sequence[Clip], config: Config, pack: Pack, choices: VideoChoices, folder: Path
) -> list[Looked]:
    """Record every video, and count what was detected and tracked in it."""
    looked = []
    with progress_bar("watching", sum(clip.truth.frames for clip in clips)) as advance:
        for clip in clips:
            given = choices.rules if choices.given else None
            recording = record(clip, config, pack, folder, advance, given=given)
            seen = watch(clip, recording, choices.rules)
            found = count_detections(seen.truth, seen.found, seen.judged_found)
            tracked = count_detections(seen.truth, seen.tracked, seen.judged_tracked)
            tracking = None
            if choices.tracking and not choices.given:
                tracking = count_tracking(seen.truth, seen.tracked, seen.judged_tracked)
            looked.append(Looked(clip, recording, seen, found, tracked, tracking))
    return looked


def set_fingerprint(chosen: VideoSet) -> str:
    """Of the truth, the videos' sizes and the photos."""
    parts = [(path.name, path.read_bytes()) for path in dict.fromkeys(chosen.files)]
    parts += [(f"{c.name} video", str(_size(c.source)).encode()) for c in chosen.clips]
    parts += [
        (f"{name} {photo.name}", photo.read_bytes())
        for name, photos in sorted(chosen.photos.items())
        for photo in photos
    ]
    return fingerprint_parts(parts)


def _size(source: Path) -> int:
    files = [source] if source.is_file() else sorted(source.iterdir())
    return sum(file.stat().st_size for file in files)


def _configure(chosen: VideoSet, choices: VideoChoices) -> Config:
    """The configuration of a run, for the first video; only its camera differs for the others."""
    if any(setting.startswith("cameras") for setting in choices.settings):
        raise ConfigError("--set cameras… cannot be used here: videos are read whole, as they are")
    backend = () if choices.backend is None else (f"models.backend={choices.backend}",)
    config = configure(
        choices.config,
        [str(chosen.clips[0].source)],
        pack=choices.pack,
        settings=(*backend, *choices.settings),
    )
    return dataclasses.replace(config, cameras=(chosen.clips[0].camera,))


@contextmanager
def _folder(store: Path | None) -> Iterator[Path]:
    """The folder to keep what was seen in, or one that is gone afterwards."""
    if store is not None:
        yield store
        return
    folder = Path(tempfile.mkdtemp(prefix="facestream-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _detection_tables(
    looked: Sequence[Looked], bootstrap: Bootstrap, draws: dict[str, Draws]
) -> list[Table]:
    """Recall and false positives of the detector and of the tracks, by face height."""
    weights = video_weights(len(looked), bootstrap)
    tables = []
    for title, counts in (
        ("Detection", [one.found for one in looked]),
        ("Detection, faces in tracks", [one.tracked for one in looked]),
    ):
        faces = np.array([one.faces for one in counts])
        hits = np.array([one.found for one in counts])
        false = np.array([one.false for one in counts])
        frames = np.array([[one.frames] for one in counts])
        columns = [faces, hits, false]
        summed = [np.column_stack([c.sum(axis=1), c]) for c in columns]
        rows = []
        for place, name in enumerate(["all", *class_names()]):
            some, found, wrong = (c[:, place] for c in summed)
            if not some.any() and not wrong.any():
                continue
            cells: list[Number | str] = []
            for column, above, below in (
                ("recall", found, some),
                ("false positives per frame", wrong, frames[:, 0]),
            ):
                sample = _ratio(weights @ above, weights @ below)
                if len(sample):
                    draws[f"{title} / {name} / {column}"] = sample
                unit = "share" if column == "recall" else "score"
                better = "higher" if column == "recall" else "lower"
                value = float(_ratio(above.sum(), below.sum()))
                cells.append(measured(value, sample, unit=unit, better=better))  # type: ignore[arg-type]
            rows.append(Row(name, [*cells, f"{int(some.sum()):,}"]))
        tables.append(
            Table(title, "face height", ["recall", "false positives per frame", "faces"], rows)
        )
    return tables


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(np.asarray(below) > 0, above / below, np.nan), np.float64)


def video_weights(videos: int, bootstrap: Bootstrap) -> np.ndarray:
    """How often each video is drawn (B, V) float64; no draws of a single one."""
    if not bootstrap.resamples or videos < 2:
        return np.zeros((0, videos))
    drawn = identity_weights(videos, bootstrap.resamples, seed=bootstrap.seed)
    return drawn.astype(np.float64)


def _tracking_table(
    looked: Sequence[Looked], bootstrap: Bootstrap, draws: dict[str, Draws]
) -> Table:
    counts = [one.tracking for one in looked if one.tracking is not None]
    weights = video_weights(len(counts), bootstrap)
    whole = score_tracking(counts, np.ones(len(counts)))
    sample = np.array([score_tracking(counts, row) for row in weights]).reshape(len(weights), 5)
    columns = ["HOTA", "DetA", "AssA", "IDF1", "ID switches"]
    cells: list[Number | str] = []
    for place, (column, value) in enumerate(zip(columns, whole, strict=True)):
        drawn = sample[:, place]
        if len(drawn):
            draws[f"Tracking / all videos / {column}"] = drawn
        is_count = column == "ID switches"
        cells.append(
            measured(
                value,
                drawn,
                unit="count" if is_count else "share",
                better="lower" if is_count else "higher",
            )
        )
    rows = [Row("all videos", cells)]
    return Table("Tracking", "videos", columns, rows, "HOTA, IDF1 and ID switches by motrics.")


def _variant(chosen: VideoSet, config: Config, pack: Pack, choices: VideoChoices) -> list[str]:
    rules = choices.rules
    lines = [
        "faces and tracks of the truth, not end to end: the live stages embed, fuse, match, decide"
        if choices.given
        else "end to end: the live stages detect, track, embed, fuse, match, decide; every frame",
        f"a face is found where boxes overlap with IoU {rules.least_iou:g} or more; faces lower "
        f"than {rules.least_height:g} px or seen to less than {100 * rules.least_visible:g} % "
        "need not be found, and what is found there counts neither way",
    ]
    if not chosen.everybody:
        lines += [
            "only subjects are annotated: false positives count all other faces too",
            "IJB-S: a template is made of all tracks in a video that mostly show the subject; "
            "where there is none it is a zero vector, which scores 0 to all",
        ]
    if chosen.named:
        lines += [
            f"gallery: {len(chosen.photos)} people; score: {config.match.score}, templates fused "
            f"by {_aggregator(config, pack)}; a track shows whom most of its faces show",
            "per track, per video: the best score of all decisions of a track against each person, "
            "for mates and thresholds alike, since any decision may raise an alert; last decision: "
            "the template of all its faces alone",
            "people of the gallery whom no decided track shows count as missed, at every rank",
            f"TPIR at rank 1: {DEFINITIONS['at_most']}",
            "a false alert is a match or match.revised event with a name that the face at that "
            "frame does not have",
        ]
    else:
        lines.append("the truth names nobody: identification is not measured")
    if choices.bootstrap.resamples:
        resamples, seed = choices.bootstrap
        lines.append(
            f"intervals: 95 % bootstrap, {resamples} resamples, seed {seed}; of identification "
            "over people, of detection and tracking over videos"
        )
    return lines


def _aggregator(config: Config, pack: Pack) -> str:
    chosen = config.fuse.aggregator
    return pack.card.fusion.aggregator if chosen == "auto" else chosen


def _facts(chosen: VideoSet, looked: Sequence[Looked]) -> dict[str, str]:
    seconds = sum(clip.truth.frames / clip.truth.fps for clip in chosen.clips)
    return {
        "videos": f"{len(chosen.clips):,}",
        "minutes": f"{seconds / 60:.1f}",
        "annotated faces": f"{sum(len(clip.truth.faces) for clip in chosen.clips):,}",
        "that must be found": f"{sum(int(one.found.faces.sum()) for one in looked):,}",
    }
