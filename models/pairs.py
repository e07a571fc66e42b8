"""Counting millions of template pairs in bounded memory: exact ROC of IJB-C's 15.6 M pairs.

The ROC of models/verification needs impostors only as counts between distinct genuine scores. So
genuine pairs (tens of thousands) are scored first, then impostors stream past in batches and are
forgotten: memory does not grow with them, and TAR@FAR by either rule is that of all scores held
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles, Floats
from .scores import Flags, Labels, check_flags, check_labels, check_scores, need_both, pair_weights
from .verification import Integers, Roc, build_roc, distinct_scores, place_impostors

_BLOCK = 1 << 23  # scores, or numbers of gathered rows, held at once: 32 MiB as float32
_DENSE = 24  # a matrix product does this many scores in the time of one gathered pair


class PairBatch(NamedTuple):
    """Pairs by row of the template matrix: first, second (N,) integers, same (N,) 0 or 1."""

    first: Labels
    second: Labels
    same: Flags


def split_pairs_into_batches(
    first: Labels, second: Labels, same: Flags, size: int = 1 << 20
) -> list[PairBatch]:
    """Views of whole arrays (N,), `size` pairs each."""
    return [
        PairBatch(first[at : at + size], second[at : at + size], same[at : at + size])
        for at in range(0, len(same), size)
    ]


def score_pairs(templates: Floats, first: npt.ArrayLike, second: npt.ArrayLike) -> Floats:
    """Inner products of rows: templates (T, C) float32; first, second (N,) -> (N,) float32.

    Pairs that share their first template, as in IJB's lists, are taken from one matrix product;
    scattered ones are gathered. The two ways may differ by float32 rounding (1e-7 of unit rows).
    Raises RecordError for another shape or dtype, values that are not finite, or no such row.
    """
    _check_templates(templates)
    rows = np.asarray(first)
    a = check_labels("first", rows, len(rows))
    b = check_labels("second", second, len(rows))
    count = len(templates)
    if len(a) and (min(a.min(), b.min()) < 0 or max(a.max(), b.max()) >= count):
        raise RecordError(
            f"pairs must name rows 0..{count - 1} of the templates, got "
            f"{min(a.min(), b.min())}..{max(a.max(), b.max())}: number template ids first"
        )
    return _score(templates, a, b)


def _check_templates(templates: Floats) -> None:
    if templates.ndim != 2 or templates.dtype != np.float32:
        raise RecordError(
            f"templates must be (T, C) float32, got {templates.shape} {templates.dtype}"
        )
    bad = np.flatnonzero(~np.isfinite(templates).all(axis=1))
    if len(bad):
        raise RecordError(
            f"templates must be finite, got {len(bad)} that are not, the first at {bad[0]}: "
            "a missing template is a zero vector"
        )


def _score(templates: Floats, first: Labels, second: Labels) -> Floats:
    scores = np.empty(len(first), np.float32)
    order = np.argsort(first, kind="stable")
    names, starts = np.unique(first[order], return_index=True)
    ends = np.append(starts[1:], len(first))
    low = 0
    while low < len(names):
        high = low + max(1, _BLOCK // len(templates))
        part = order[starts[low] : ends[min(high, len(names)) - 1]]
        columns, place = np.unique(second[part], return_inverse=True)
        block = names[low:high]
        if len(block) * len(columns) <= _DENSE * len(part):
            dense = templates[block] @ templates[columns].T
            scores[part] = dense[np.searchsorted(block, first[part]), place]
        else:
            scores[part] = _gather(templates, first[part], second[part])
        low = high
    return scores


def _gather(templates: Floats, first: Labels, second: Labels) -> Floats:
    scores = np.empty(len(first), np.float32)
    size = max(1, _BLOCK // (4 * templates.shape[1]))
    for at in range(0, len(first), size):
        part = slice(at, at + size)
        np.einsum("ij,ij->i", templates[first[part]], templates[second[part]], out=scores[part])
    return scores


class PairCounter:
    """Counts impostors among the genuine scores; its size depends on the genuine pairs alone.

    With `weights` it counts every bootstrap resample beside the whole.
    """

    def __init__(
        self,
        genuine: npt.ArrayLike,
        *,
        weights: npt.NDArray[np.number] | None = None,
        first: npt.ArrayLike = (),
        second: npt.ArrayLike = (),
    ) -> None:
        """genuine (G,): the scores of all genuine pairs.

        weights (B, S): how often each identity counts in each resample, from
        `scores.identity_weights`; first, second (G,): identities 0..S - 1 of the genuine pairs.
        Memory: 24 bytes x G x (B + 1). Raises ConfigError without genuine pairs.
        """
        scores = check_scores("genuine scores", genuine)
        if not len(scores):
            raise ConfigError("a ROC needs genuine pairs, got none: check the pair list's labels")
        self._distinct, self._counts = distinct_scores(scores)
        self._impostors = np.zeros(2 * len(self._distinct) + 1, np.int64)
        self._weights = weights
        if weights is not None:
            places = np.searchsorted(self._distinct, scores)
            sides = self._check_sides(first, second, len(scores))
            self._resampled_counts = [
                np.bincount(places, pair_weights(row, *sides), minlength=len(self._distinct))
                for row in weights
            ]
            self._resampled: Doubles = np.zeros((len(weights), len(self._impostors)))

    def add(
        self, impostor: npt.ArrayLike, first: npt.ArrayLike = (), second: npt.ArrayLike = ()
    ) -> None:
        """Count more impostor pairs (N,); with weights, first, second (N,) are their identities."""
        places = place_impostors(self._distinct, check_scores("impostor scores", impostor))
        self._impostors += np.bincount(places, minlength=len(self._impostors))
        if self._weights is not None:
            sides = self._check_sides(first, second, len(places))
            for row, sums in zip(self._weights, self._resampled, strict=True):
                sums += np.bincount(places, pair_weights(row, *sides), minlength=len(sums))

    def _check_sides(
        self, first: npt.ArrayLike, second: npt.ArrayLike, count: int
    ) -> tuple[Labels, Labels]:
        return check_labels("first", first, count), check_labels("second", second, count)

    def roc(self) -> Roc:
        """The exact ROC of everything counted. Raises ConfigError without impostors."""
        need_both(float(self._counts.sum()), float(self._impostors.sum()))
        return build_roc(self._distinct, self._counts, self._impostors)

    def resampled(self) -> Iterator[Roc]:
        """The ROC of each resample that has both kinds of pairs; none without weights."""
        if self._weights is None:
            return
        for genuine, impostors in zip(self._resampled_counts, self._resampled, strict=True):
            if genuine.any() and impostors.any():
                yield build_roc(self._distinct, genuine, impostors)


def count_pairs(
    templates: Floats,
    batches: Iterable[PairBatch],
    *,
    subjects: npt.ArrayLike | None = None,
    weights: npt.NDArray[np.number] | None = None,
    score: Callable[[Labels, Labels], Floats] | None = None,
) -> PairCounter:
    """Score and count all pairs in two passes over `batches`: genuine pairs first.

    templates (T, C) float32, unit or zero rows. batches: read twice, so a list or an object that
    starts anew each time, not a generator. subjects (T,): identity 0..S - 1 of each template,
    needed with weights (B, S) only. score: of rows first, second (N,) to (N,) float32, in place of
    their inner product.
    Raises ConfigError without genuine pairs or for a generator, RecordError as `score_pairs`.
    """
    score = score or partial(score_pairs, templates)
    if iter(batches) is batches:
        raise ConfigError(
            "batches are read twice, got an iterator that can be read once: pass a list, or an "
            "object whose __iter__ opens the pair list anew"
        )
    if weights is not None and subjects is None:
        raise ConfigError("resampling needs the subject of each template, got none")
    subject_of: Integers | None = None
    if weights is not None and subjects is not None:
        subject_of = check_labels("subjects", subjects, len(templates)).astype(np.int64)
    genuine, first, second = [], [], []
    for batch in batches:
        same = check_flags("same", batch.same, len(batch.first))
        first.append(np.asarray(batch.first)[same])
        second.append(np.asarray(batch.second)[same])
        genuine.append(score(first[-1], second[-1]))
    if not genuine:
        raise ConfigError("a ROC needs pairs, got none: check the pair list")
    counter = PairCounter(
        np.concatenate(genuine),
        weights=weights,
        **_identities(subject_of, np.concatenate(first), np.concatenate(second)),
    )
    for batch in batches:
        different = ~np.asarray(batch.same).astype(np.bool_)
        a, b = np.asarray(batch.first)[different], np.asarray(batch.second)[different]
        counter.add(score(a, b), **_identities(subject_of, a, b))
    return counter


def _identities(subject_of: Integers | None, first: Labels, second: Labels) -> dict[str, Labels]:
    if subject_of is None:
        return {}
    return {"first": subject_of[first], "second": subject_of[second]}
