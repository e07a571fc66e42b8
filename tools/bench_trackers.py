"""`facestream bench trackers`: our tracker beside ByteTrack and OC-SORT, on the same detections.

Those two are of roboflow's trackers, which is no dependency, since it brings a second OpenCV:
install it and supervision with --no-deps in an environment of its own.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .. import ConfigError
from .eval_tracks import (
    Boxes,
    TrackingCounts,
    TrackingScores,
    count_tracking,
    judge_frame,
    score_tracking,
    tracking_library,
)

OURS = "facestream"
LIKE_OURS = {"minimum_iou_threshold": 0.1, "minimum_consecutive_frames": 3, "lost_track_buffer": 45}
"""Begin with the third face, wait 1.5 s (the buffer is in frames at 30 per second)."""
OTHERS: dict[str, tuple[str, dict[str, float]]] = {
    "ByteTrack": ("ByteTrackTracker", {}),
    "ByteTrack, set as ours": (
        "ByteTrackTracker",
        {**LIKE_OURS, "track_activation_threshold": 0.5, "high_conf_det_threshold": 0.5},
    ),
    "OC-SORT": ("OCSORTTracker", {}),
    "OC-SORT, set as ours": ("OCSORTTracker", {**LIKE_OURS, "high_conf_det_threshold": 0.5}),
}


def bench_trackers(
    sets: Annotated[list[Path], typer.Argument(help="Sets with truth, as for evaluate video.")],
    store: Annotated[
        Path | None, typer.Option(help="Folder of what was seen, as of evaluate video.")
    ] = None,
    pack: Annotated[str, typer.Option(help="Whose detector finds the faces.")] = "open",
) -> None:
    """Compare trackers: HOTA and IDF1 on the faces that our detector finds.

    Example: facestream bench trackers simulated/crowd --store simulated/seen
    """
    tracking_library()
    _library("trackers")
    with tempfile.TemporaryDirectory() as scratch:
        for root in sets:
            typer.echo(f"{root.name}:")
            for name, scores in compare(root, store or Path(scratch), pack).items():
                figures = zip(("HOTA", "DetA", "AssA", "IDF1"), scores, strict=False)
                words = "  ".join(f"{title} {100 * score:5.2f}" for title, score in figures)
                typer.echo(f"  {name:<24} {words}  ID switches {scores.switches:.0f}")


def compare(root: Path, store: Path, pack: str) -> dict[str, TrackingScores]:
    """The scores of each tracker over all videos of a set."""
    from ..models.pack import open_pack
    from .eval_video_decide import watch
    from .eval_video_record import record
    from .eval_video_set import Rules, read_set
    from .run import configure

    models = open_pack(pack)
    counts: dict[str, list[TrackingCounts]] = {}
    for clip in read_set(root, "auto", None, skip_bad=False, bad=[]).clips:
        config = configure(None, [str(clip.source)], pack=pack)
        recording = record(clip, config, models, store, lambda count: None)
        seen = watch(clip, recording, Rules())
        found = [frame.found for frame in recording.frames()]
        tracked = {OURS: seen.tracked}
        for name, (kind, options) in OTHERS.items():
            tracked[name] = follow(kind, options, found, clip.truth.fps)
        for name, frames in tracked.items():
            judged = [
                judge_frame(truth, other.counted, one)
                for truth, other, one in zip(seen.truth, seen.judged_found, frames, strict=True)
            ]
            counts.setdefault(name, []).append(count_tracking(seen.truth, frames, judged))
    return {name: score_tracking(some, np.ones(len(some))) for name, some in counts.items()}


def follow(
    kind: str, options: dict[str, float], found: Sequence[np.ndarray], fps: float
) -> list[Boxes]:
    """The tracks that one of the library's trackers makes of detections (N, 5) by frame."""
    detections = _library("supervision").Detections
    tracker = getattr(_library("trackers"), kind)(frame_rate=fps, **options)
    frames = []
    for faces in found:
        wide = faces.astype(np.float64)
        given = detections(
            xyxy=wide[:, :4], confidence=wide[:, 4], class_id=np.zeros(len(wide), int)
        )
        answer = tracker.update(given)
        ids = np.array([] if answer.tracker_id is None else answer.tracker_id, np.int64)
        believed = ids >= 0
        boxes = np.asarray(answer.xyxy, np.float64).reshape(-1, 4)[: len(ids)]
        frames.append(Boxes(ids[believed], boxes[believed]))
    return frames


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"the comparison needs {name} ({error}): pip install --no-deps trackers supervision, "
            "in an environment of its own, with what they ask for besides OpenCV"
        ) from None
