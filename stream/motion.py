"""How faces move: a Kalman filter over many boxes at once, and the matching of boxes to faces.

A box is followed as centre x, centre y, width and height, which move independently, so that the
filter is four 2 x 2 ones per track, computed for all tracks in the same array operations. The
centre has a constant velocity disturbed by white acceleration, the size is a random walk. Both
noises are integrated over the time that really passed (Bar-Shalom, Li and Kirubarajan, Estimation
with Applications to Tracking and Navigation, 6.2.2):

    x' = F x,  P' = F P F' + Q,  F = [1 t; 0 1],  Q = a [t^3/3 t^2/2; t^2/2 t] + b [t 0; 0 0]

This Q is the same for one step of two seconds as for two steps of one, so dropped frames, strides
and uneven frame rates give the same prediction, and a face that comes back after a gap corrects
the velocity by what the whole gap shows (a gain near 1.5/t): what observation-centric trackers
recompute along a virtual path needs no step of its own here.

All noises are in units of the face's own height: a near face moves more pixels than a far one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

# In face heights (a head is about 0.23 m high: a brisk walk across the picture is 6 heights/s).
MEASURED = 0.05  # standard deviation of a detector's box
FIRST_SPEED = np.array([6.0, 6.0, 0.0, 0.0])  # of the unknown velocity of a new track, per second
ACCELERATION = np.array([3.0, 3.0, 0.0, 0.0])  # of velocity gained in a second
GROWTH = np.array([0.0, 0.0, 0.3, 0.3])  # of size gained in a second
SURE = 4.0  # standard deviations within which a face is looked for
# As many as 1 in 100 boxes lie farther off: those of faces half hidden or turning are crooked.


class Motion(NamedTuple):
    """The filter's state for N tracks.

    mean: (N, 4, 2) float64, value and change per second of centre x, centre y, width, height in
    pixels. covariance: (N, 4, 2, 2) float64 of value and change, px^2.
    """

    mean: Doubles
    covariance: Doubles


def start(boxes: Doubles) -> Motion:
    """Motion of N boxes (N, 4) x0 y0 x1 y1 px first seen now: at rest, but unsure of it."""
    mean = np.zeros((len(boxes), 4, 2))
    mean[:, :, 0] = _measure(boxes)
    height = mean[:, 3, 0, None]  # (N, 1)
    covariance = np.zeros((len(boxes), 4, 2, 2))
    covariance[:, :, 0, 0] = (MEASURED * height) ** 2
    covariance[:, :, 1, 1] = (FIRST_SPEED * height) ** 2
    return Motion(mean, covariance)


def predict(motion: Motion, seconds: float) -> Motion:
    """Motion `seconds` >= 0 later, without having looked."""
    step = np.array([[1.0, seconds], [0.0, 1.0]])
    square = motion.mean[:, 3, 0, None] ** 2  # (N, 1) px^2
    acceleration, growth = square * ACCELERATION**2, square * GROWTH**2  # (N, 4)
    mean = motion.mean.copy()
    mean[:, :, 0] += seconds * mean[:, :, 1]
    covariance = step @ motion.covariance @ step.T  # (N, 4, 2, 2)
    covariance[:, :, 0, 0] += acceleration * (seconds**3 / 3.0) + growth * seconds
    covariance[:, :, 0, 1] += acceleration * (seconds**2 / 2.0)
    covariance[:, :, 1, 0] += acceleration * (seconds**2 / 2.0)
    covariance[:, :, 1, 1] += acceleration * seconds
    return Motion(mean, covariance)


def correct(motion: Motion, boxes: Doubles) -> Motion:
    """Motion after seeing boxes (N, 4), one per track, at the time it was predicted for."""
    measured = _measure(boxes)
    noise = (MEASURED * measured[:, 3, None]) ** 2  # (N, 1)
    covariance = motion.covariance
    gain = covariance[:, :, :, 0] / (covariance[:, :, 0, 0] + noise)[..., None]  # (N, 4, 2)
    mean = motion.mean + gain * (measured - motion.mean[:, :, 0])[..., None]
    kept = covariance - gain[..., None] * covariance[:, :, None, 0, :]  # (I - K H) P
    return Motion(mean, kept)


def take(motion: Motion, rows: Indices) -> Motion:
    """Only these tracks, in this order."""
    return Motion(motion.mean[rows], motion.covariance[rows])


def join(first: Motion, second: Motion) -> Motion:
    """The tracks of both, one after the other."""
    return Motion(
        np.concatenate((first.mean, second.mean)),
        np.concatenate((first.covariance, second.covariance)),
    )


def boxes_of(motion: Motion) -> Doubles:
    """Where the faces are believed to be: (N, 4) x0 y0 x1 y1 px."""
    centre, size = motion.mean[:, :2, 0], motion.mean[:, 2:, 0]
    return np.concatenate((centre - size / 2.0, centre + size / 2.0), axis=1)


def reach(motion: Motion) -> Doubles:
    """How far (N,) px from its predicted centre a face may be: `SURE` standard deviations."""
    noise = (MEASURED * motion.mean[:, 3, 0]) ** 2
    return SURE * np.sqrt(motion.covariance[:, 0, 0, 0] + noise)


def heights(boxes: Doubles) -> Doubles:
    """Heights (N,) of boxes (N, 4), px."""
    return boxes[:, 3] - boxes[:, 1]


def outside(motion: Motion, picture: tuple[int, int]) -> Mask:
    """Which (N,) of the predicted boxes lie wholly outside a picture of this width and height."""
    boxes = boxes_of(motion)
    beyond: Mask = (boxes[:, 2:] < 0.0) | (boxes[:, :2] > picture)
    result: Mask = np.any(beyond, axis=1)
    return result


def overlap(boxes: Doubles, others: Doubles) -> tuple[Doubles, Doubles]:
    """Of (N, 4) and (M, 4) boxes: intersection over union, and over the smaller one, (N, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)  # (N, M)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)[:, None]
    other = np.prod(others[:, 2:] - others[:, :2], axis=1)[None, :]
    return shared / (area + other - shared), shared / np.minimum(area, other)


def distance(boxes: Doubles, others: Doubles) -> tuple[Doubles, Doubles]:
    """Of (N, 4) and (M, 4) boxes: distance of the centres in px, and |ln| of the heights' ratio."""
    step = (boxes[:, None, :2] + boxes[:, None, 2:] - others[None, :, :2] - others[None, :, 2:]) / 2
    resize = np.log(heights(boxes)[:, None] / heights(others)[None, :])
    return np.hypot(step[..., 0], step[..., 1]), np.abs(resize)


def assign(cost: Doubles, allowed: Mask, refusal: float) -> tuple[Indices, Indices]:
    """Rows and columns of the cheapest one-to-one matching; leaving a pair out costs `refusal`.

    cost: (N, M), below `refusal` wherever (N, M) `allowed`. The price of leaving out matters: a
    matching that must be as large as possible would give a sure face to a far track only to find
    a place for another one.
    """
    rows, columns = linear_sum_assignment(np.where(allowed, cost, refusal))
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def _measure(boxes: Doubles) -> Doubles:
    """Boxes as (N, 4) centre x, centre y, width, height."""
    return np.concatenate(
        ((boxes[:, :2] + boxes[:, 2:]) / 2.0, boxes[:, 2:] - boxes[:, :2]), axis=1
    )
