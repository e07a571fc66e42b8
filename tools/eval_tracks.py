"""Detection and tracking against truth: recall and false positives by face height, HOTA, IDF1.

HOTA (Luiten et al. 2021), IDF1 and ID switches are computed by the library motrics, a video at a
time; here they are put together over videos as sums of their counts, which is what one long
sequence with other tracks in every video gives.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError

HEIGHTS = (0.0, 14.0, 20.0, 32.0, 48.0, 80.0, float("inf"))
"""Borders of the classes of face height, px."""
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Boxes(NamedTuple):
    """The faces of one frame: ids (N,) int64 and boxes (N, 4) float64 x0 y0 x1 y1, px."""

    ids: Integers
    boxes: Doubles


class Judged(NamedTuple):
    """A frame's truth beside what was found in it.

    pairs: rows of truth and of found that belong together (K,) each. counted (N,): faces of the
    truth that must be found. kept (M,): what was found and counts; found on others it does not.
    """

    rows: Integers
    columns: Integers
    counted: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.bool_]


class DetectionCounts(NamedTuple):
    """By class of height (len(HEIGHTS) - 1,): faces, those found, false positives; and frames."""

    faces: Integers
    found: Integers
    false: Integers
    frames: int


class TrackingCounts(NamedTuple):
    """What HOTA and IDF1 are made of, by threshold alpha (19,) where they are swept over it."""

    alphas: Doubles
    true: Doubles
    missed: Doubles
    false: Doubles
    association: Doubles
    """Sum over true positives of their association accuracy."""
    identity_true: int
    identity_false: int
    identity_missed: int
    switches: int


class TrackingScores(NamedTuple):
    """Means over alpha from 0.05 to 0.95, 0..1; switches counts at IoU 0.5."""

    hota: float
    detection: float
    association: float
    idf1: float
    switches: float


def match_boxes(truth: Doubles, found: Doubles, least_iou: float) -> tuple[Integers, Integers]:
    """Rows of truth (N, 4) and columns of found (M, 4) with the largest sum of overlaps.

    Only pairs that overlap by `least_iou` or more.
    """
    from scipy.optimize import linear_sum_assignment  # the command line starts without scipy

    from ..stream.motion import overlap

    iou = overlap(truth, found)[0] if len(truth) and len(found) else np.zeros((0, 0))
    rows, columns = linear_sum_assignment(np.where(iou >= least_iou, iou, 0.0), maximize=True)
    good = iou[rows, columns] >= least_iou
    return rows[good].astype(np.int64), columns[good].astype(np.int64)


def judge_frame(
    truth: Boxes, counted: npt.NDArray[np.bool_], found: Boxes, least_iou: float = 0.5
) -> Judged:
    """Match a frame. counted (N,): False for faces that need not be found (hidden, too small).

    Whatever is found on such a face counts neither way.
    """
    rows, columns = match_boxes(truth.boxes, found.boxes, least_iou)
    kept = np.ones(len(found.ids), np.bool_)
    kept[columns[~counted[rows]]] = False
    return Judged(rows, columns, counted, kept)


def count_detections(
    truth: Sequence[Boxes], found: Sequence[Boxes], judged: Sequence[Judged]
) -> DetectionCounts:
    """Count one video. A face's height is its truth's, a false positive's its own."""
    classes = len(HEIGHTS) - 1
    faces, hits, false = (np.zeros(classes, np.int64) for _ in range(3))
    for true, seen, judgement in zip(truth, found, judged, strict=True):
        heights = height_classes(true.boxes)
        faces += np.bincount(heights[judgement.counted], minlength=classes)
        rows = judgement.rows[judgement.counted[judgement.rows]]
        hits += np.bincount(heights[rows], minlength=classes)
        alone = judgement.kept.copy()
        alone[judgement.columns] = False
        false += np.bincount(height_classes(seen.boxes)[alone], minlength=classes)
    return DetectionCounts(faces, hits, false, len(truth))


def height_classes(boxes: Doubles) -> Integers:
    """The class of each box (N, 4) by its height."""
    heights = boxes[:, 3] - boxes[:, 1]
    return np.asarray(np.searchsorted(HEIGHTS, heights, side="right") - 1, np.int64)


def class_names() -> list[str]:
    """The classes in words.

    >>> class_names()[0], class_names()[1], class_names()[-1]
    ('below 14 px', '14 to 20 px', '80 px and more')
    """
    middle = [f"{low:.0f} to {high:.0f} px" for low, high in pairwise(HEIGHTS[1:-1])]
    return [f"below {HEIGHTS[1]:.0f} px", *middle, f"{HEIGHTS[-2]:.0f} px and more"]


def count_tracking(
    truth: Sequence[Boxes], found: Sequence[Boxes], judged: Sequence[Judged]
) -> TrackingCounts:
    """Count one video with motrics. Raises ConfigError where that is not installed."""
    motrics = tracking_library()
    true = [_take(t, j.counted) for t, j in zip(truth, judged, strict=True)]
    seen = [_take(f, j.kept) for f, j in zip(found, judged, strict=True)]
    result = motrics.evaluate(
        motrics.Frames([one.ids.tolist() for one in true], [one.boxes for one in true]),
        motrics.Frames([one.ids.tolist() for one in seen], [one.boxes for one in seen]),
    )
    hota, identity = result.hota, result.identity
    hits = np.array(hota.hota_tp_alphas)
    return TrackingCounts(
        np.array(hota.alphas),
        hits,
        np.array(hota.hota_fn_alphas),
        np.array(hota.hota_fp_alphas),
        np.array(hota.assa_alphas) * hits,
        identity.idtp,
        identity.idfp,
        identity.idfn,
        result.clear.num_switches,
    )


def score_tracking(videos: Sequence[TrackingCounts], weights: npt.ArrayLike) -> TrackingScores:
    """The scores over several videos, each counted `weights` (V,) times. NaN without any face."""
    times = np.asarray(weights, np.float64)

    def total(name: str) -> Any:
        return np.tensordot(times, np.array([getattr(one, name) for one in videos]), 1)

    true, wrong = total("true"), total("missed") + total("false")
    with np.errstate(invalid="ignore", divide="ignore"):
        detection = true / (true + wrong)  # (alphas,)
        association = np.where(true > 0, total("association") / np.maximum(true, 1e-10), 0.0)
        errors = total("identity_false") + total("identity_missed")
        idf1 = total("identity_true") / (total("identity_true") + 0.5 * errors)
    hota = np.sqrt(detection * association)
    means = (float(hota.mean()), float(detection.mean()), float(association.mean()))
    return TrackingScores(*means, float(idf1), float(total("switches")))


def _take(one: Boxes, which: npt.NDArray[np.bool_]) -> Boxes:
    return Boxes(one.ids[which], np.ascontiguousarray(one.boxes[which]))


def tracking_library() -> Any:
    """The module motrics. Raises ConfigError, with what to install, where it is not there."""
    try:
        return importlib.import_module("motrics")
    except ImportError:
        raise ConfigError(
            "HOTA and IDF1 need the library motrics: pip install 'facestream[evaluate]', or leave "
            "them out with --no-tracking"
        ) from None
