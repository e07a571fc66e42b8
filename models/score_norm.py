"""Score normalisations that see a cohort: what IDA is measured against.

A cohort is A embeddings of other people. With s the scores (cosines) to be normalised, p the scores
of the probe with the cohort and g those of the enrolled (gallery) face with it, every method
subtracts what a stranger would get. All have one signature, `ScoreNorm`:

    scores (P, G) with probes (P, A) and gallery (G, A): every probe with every enrolled face
    scores (N,)   with probes (N, A) and gallery (N, A): pairs

and return float64 of the shape of scores. Deviations are those of a population (divisor A).
They raise RecordError when shapes do not fit, a number is not finite, the cohort is too small, or
it gives a face the same score throughout, so that there is no deviation to divide by.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .. import RecordError
from .fusion import Doubles


class ScoreNorm(Protocol):
    """What every normalisation of this module is."""

    def __call__(
        self, scores: npt.ArrayLike, probes: npt.ArrayLike, gallery: npt.ArrayLike
    ) -> Doubles:
        """Normalised scores of the shape of `scores`, float64."""
        ...


def z_norm(scores: npt.ArrayLike, probes: npt.ArrayLike, gallery: npt.ArrayLike) -> Doubles:
    """Zero normalisation: (s - mean g) / std g, by the enrolled face's scores with the cohort."""
    cohort = _check(scores, probes, gallery, least=2)
    return _standardise(cohort.scores, cohort.gallery)


def t_norm(scores: npt.ArrayLike, probes: npt.ArrayLike, gallery: npt.ArrayLike) -> Doubles:
    """Test normalisation: (s - mean p) / std p, by the probe's scores with the cohort."""
    cohort = _check(scores, probes, gallery, least=2)
    return _standardise(cohort.scores, cohort.probes)


def s_norm(scores: npt.ArrayLike, probes: npt.ArrayLike, gallery: npt.ArrayLike) -> Doubles:
    """Symmetric normalisation: the mean of `z_norm` and `t_norm`."""
    cohort = _check(scores, probes, gallery, least=2)
    return _symmetric(cohort.scores, cohort.probes, cohort.gallery)


def as_norm(
    scores: npt.ArrayLike, probes: npt.ArrayLike, gallery: npt.ArrayLike, *, top: int = 300
) -> Doubles:
    """Adaptive symmetric normalisation: `s_norm` by the `top` highest scores of either side.

    200 to 400 are usual in speaker recognition. With the whole cohort it is `s_norm`. Raises
    RecordError also when top < 2 or the cohort has fewer.
    """
    cohort = _check(scores, probes, gallery, least=2, top=top)
    return _symmetric(cohort.scores, _highest(cohort.probes, top), _highest(cohort.gallery, top))


def csls(
    scores: npt.ArrayLike, probes: npt.ArrayLike, gallery: npt.ArrayLike, *, k: int = 10
) -> Doubles:
    """Cross-domain similarity local scaling (Conneau et al., ICLR 2018): 2 s - r_p - r_g.

    r is the mean of the k highest scores with the cohort. Half of it is the limit of IDA's aligned
    score for small tau. Raises RecordError also when k < 1 or the cohort has fewer.
    """
    cohort = _check(scores, probes, gallery, least=1, top=k)
    near = [_highest(side, k).mean(axis=-1) for side in (cohort.probes, cohort.gallery)]
    return np.asarray(2.0 * cohort.scores - near[0] - near[1])


class _Cohort(NamedTuple):
    """Scores and cohort scores that broadcast against each other once the last axis is reduced.

    Matrices: scores (P, G), probes (P, 1, A), gallery (1, G, A). Pairs: (N,), (N, A), (N, A).
    """

    scores: Doubles
    probes: Doubles
    gallery: Doubles


def _check(
    scores: npt.ArrayLike,
    probes: npt.ArrayLike,
    gallery: npt.ArrayLike,
    *,
    least: int,
    top: int | None = None,
) -> _Cohort:
    table, rows, columns = (np.asarray(part, np.float64) for part in (scores, probes, gallery))
    sides = table.shape if table.ndim == 2 else (table.size, table.size)
    if (
        table.ndim not in (1, 2)
        or (rows.ndim, columns.ndim) != (2, 2)
        or (len(rows), len(columns)) != sides
        or rows.shape[1] != columns.shape[1]
    ):
        raise RecordError(
            "scores must be (P, G) or (N,), probes (P, A) and gallery (G, A) or both (N, A), "
            f"got {table.shape}, {rows.shape} and {columns.shape}"
        )
    if not all(np.isfinite(part).all() for part in (table, rows, columns)):
        raise RecordError("scores and cohort scores must be finite, got one that is not")
    size = rows.shape[1]
    used = least if top is None else top
    if used < least:
        raise RecordError(f"at least {least} of the cohort must be used, asked for {used}")
    if size < used:
        raise RecordError(f"the cohort must have at least {used} faces, got {size}")
    if table.ndim == 2:
        return _Cohort(table, rows[:, None], columns[None])
    return _Cohort(table, rows, columns)


def _highest(cohort: Doubles, count: int) -> Doubles:
    """The `count` highest of the last axis, in no order."""
    return np.partition(cohort, -count, axis=-1)[..., -count:]


def _symmetric(scores: Doubles, probes: Doubles, gallery: Doubles) -> Doubles:
    return np.asarray((_standardise(scores, probes) + _standardise(scores, gallery)) / 2.0)


def _standardise(scores: Doubles, cohort: Doubles) -> Doubles:
    # Not std == 0: the computed deviation of equal scores may be a rounding error above 0.
    if (cohort.max(axis=-1) == cohort.min(axis=-1)).any():
        raise RecordError(
            "cohort scores of a face must differ, got a face whose scores are all the same: "
            "its deviation is 0; use another cohort"
        )
    return np.asarray((scores - cohort.mean(axis=-1)) / cohort.std(axis=-1))
