"""1:N identification: ranks and CMC, TPIR@FPIR, over one gallery or the mean of several.

All metrics need three numbers per probe: its mate's score, the best score of anybody else, and how
many others reach the mate's score. So a gallery of any size is searched in blocks and forgotten.
Ties count against the system: a mate must beat all others. Public scripts sort and let the order
of the gallery decide, which turns a missing template (zero vector, score 0 to all) into a hit now
and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles, Floats
from .scores import (
    Labels,
    allowed_errors,
    check_labels,
    check_rate,
    identity_weights,
    need_both,
)
from .verification import Roc, build_roc, distinct_scores, place_impostors

_BLOCK = 1 << 24  # scores held at once: 64 MiB as float32

Definition = Literal["at_most", "ijb", "ijbs"]


class ProbeRanks(NamedTuple):
    """What a search says about P probes.

    subjects (P,) integers. mates (P,) float64: best score of the probe's own subject, -inf where
    the gallery does not hold it. others (P,): best score of any other subject, -inf if there is
    none. ranks (P,) int64: 1 + how many other subjects score >= the mate; 0 for non-mated probes.
    """

    subjects: Labels
    mates: Doubles
    others: Doubles
    ranks: npt.NDArray[np.int64]

    @property
    def mated(self) -> npt.NDArray[np.bool_]:
        """Probes whose subject is in the gallery (P,)."""
        return self.ranks > 0

    def take(self, which: Labels | npt.NDArray[np.bool_]) -> ProbeRanks:
        """The probes that indices or a mask (P,) pick."""
        return ProbeRanks(
            self.subjects[which], self.mates[which], self.others[which], self.ranks[which]
        )


class OpenSetPoint(NamedTuple):
    """TPIR at one FPIR.

    definition, target: as asked. threshold: the score to reach, or to exceed, by the definition.
    fpir, tpir: shares measured there. mated, non_mated: probes of each kind.
    """

    definition: Definition
    target: float
    threshold: float
    fpir: float
    tpir: float
    mated: int
    non_mated: int


class OpenSetMean(NamedTuple):
    """The mean over galleries of one point, with the points."""

    tpir: float
    fpir: float
    points: tuple[OpenSetPoint, ...]


def rank_probes(
    scores: npt.NDArray[np.floating], probe_subjects: npt.ArrayLike, gallery_subjects: npt.ArrayLike
) -> ProbeRanks:
    """Ranks from a score matrix (P, G), higher is more alike, -inf allowed, NaN not.

    probe_subjects (P,), gallery_subjects (G,) integers; a subject may have several gallery
    entries, of which the best counts. Raises ConfigError for an empty gallery, RecordError for
    shapes that do not fit or NaN.
    """
    if scores.ndim != 2:
        raise RecordError(f"scores must be (P, G), got {scores.shape}: one row per probe")
    probes = check_labels("probe_subjects", probe_subjects, len(scores))
    gallery = check_labels("gallery_subjects", gallery_subjects, scores.shape[1])
    _need_gallery(len(gallery))
    if np.isnan(scores).any():
        rows = np.flatnonzero(np.isnan(scores).any(axis=1))
        raise RecordError(
            f"scores must not be NaN, got them for {len(rows)} probes, the first at {rows[0]}: "
            "check the embeddings; a missing template is a zero vector"
        )
    order = np.argsort(gallery, kind="stable")
    names, starts = np.unique(gallery[order], return_index=True)
    best = scores if np.array_equal(names, gallery) else None
    if best is None:
        best = np.maximum.reduceat(scores[:, order], starts, axis=1)  # (P, subjects)
    place = np.minimum(np.searchsorted(names, probes), len(names) - 1)
    mated = names[place] == probes
    rows = np.arange(len(scores))
    mates = np.where(mated, best[rows, place], -np.inf)
    reached = best >= mates[:, None]
    reached[rows[mated], place[mated]] = False
    ranks = np.where(mated, 1 + reached.sum(axis=1), 0)
    rivals = best.copy()
    rivals[rows[mated], place[mated]] = -np.inf
    others = rivals.max(axis=1).astype(np.float64)
    return ProbeRanks(probes, mates.astype(np.float64), others, ranks)


def search_gallery(
    probes: Floats,
    probe_subjects: npt.ArrayLike,
    gallery: Floats,
    gallery_subjects: npt.ArrayLike,
) -> ProbeRanks:
    """Ranks by cosine of templates (P, C) against (G, C) float32, in bounded memory.

    Templates are of length 1, or zero where missing (see `pooling.unit_rows`): a missing one
    scores 0 against all, so it can outrank true candidates with negative scores, as in IJB-S.
    Any other score goes through `rank_probes`, block by block, and `join_ranks`.
    """
    _check_templates("probes", probes, None)
    _check_templates("gallery", gallery, probes.shape[1])
    _need_gallery(len(gallery))
    subjects = check_labels("probe_subjects", probe_subjects, len(probes))
    size = max(1, _BLOCK // len(gallery))
    return join_ranks(
        rank_probes(probes[at : at + size] @ gallery.T, subjects[at : at + size], gallery_subjects)
        for at in range(0, max(1, len(probes)), size)
    )


def join_ranks(parts: Iterable[ProbeRanks]) -> ProbeRanks:
    """The ranks of several lots of probes, all searched in the same gallery."""
    return ProbeRanks(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def add_distractors(ranks: ProbeRanks, scores: npt.NDArray[np.floating]) -> ProbeRanks:
    """The ranks after D more gallery subjects, none of whom any probe shows: scores (P, D).

    Raises RecordError for NaN or another number of rows.
    """
    if scores.ndim != 2 or len(scores) != len(ranks.ranks) or np.isnan(scores).any():
        raise RecordError(
            f"scores of distractors must be ({len(ranks.ranks)}, D) without NaN, got {scores.shape}"
        )
    reached = (scores >= ranks.mates[:, None]).sum(axis=1)
    others = np.maximum(ranks.others, scores.max(axis=1, initial=-np.inf))
    return ranks._replace(others=others, ranks=np.where(ranks.mated, ranks.ranks + reached, 0))


def _check_templates(name: str, vectors: Floats, dimension: int | None) -> None:
    width = "C" if dimension is None else dimension
    if vectors.ndim != 2 or (dimension is not None and vectors.shape[1] != dimension):
        raise RecordError(f"{name} must be (N, {width}), got {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~((np.abs(lengths - 1) < 1e-3) | (lengths == 0)))
    if len(wrong):
        raise RecordError(
            f"{name} must be of length 1, or 0 where missing, got {lengths[wrong[0]]:.4g} at "
            f"{wrong[0]} ({len(wrong)} such of {len(vectors)}): pool or normalise them first"
        )


def _need_gallery(count: int) -> None:
    if not count:
        raise ConfigError("identification needs a gallery, got an empty one: check its list")


def closed_set(ranks: ProbeRanks, rank: int = 1) -> float:
    """Share of mated probes whose mate is among the `rank` best subjects: 0..1.

    Raises ConfigError without mated probes or for rank < 1.
    """
    return float(cmc(ranks, rank)[-1])


def cmc(ranks: ProbeRanks, longest: int) -> Doubles:
    """The CMC curve: `closed_set` at ranks 1..longest, (longest,) float64, not decreasing."""
    if longest < 1:
        raise ConfigError(f"a rank must be 1 or more, got {longest}")
    found = ranks.ranks[ranks.mated]
    if not len(found):
        raise ConfigError(
            "ranks need probes whose subject is in the gallery, got none: check that probes and "
            "gallery use the same subject numbers"
        )
    counts = np.bincount(np.minimum(found, longest + 1), minlength=longest + 2)
    return np.cumsum(counts)[1 : longest + 1] / len(found)


def open_set(
    ranks: ProbeRanks, fpir: float, definition: Definition = "at_most", *, rank: int = 1
) -> OpenSetPoint:
    """TPIR at a target FPIR, by one of three definitions; none may be mixed with another.

    m: best scores of the N non-mated probes, descending; n = N * fpir.
    "at_most": the definition of ISO/IEC 19795: the lowest threshold with FPIR <= target; a
    score passes when it is > m[k], k the largest count with k / N <= target.
    "ijb": IJB-B/C as in ijb_evals.py: passes when > m[max(int(n) - 1, 0)], so FPIR is 1 / N
    below the target, and never reached where n < 1 (then no non-mated probe passes).
    "ijbs": IJB-S as in PFE's and AdaFace's evaluators: passes when >= m[int(n) - 1], where
    int(n) = 0 when >= m[0] + 1e-8.
    TPIR: share of mated probes among the `rank` best (rank 1: the mate beats all others) whose
    mate passes. Raises ConfigError without mated or without non-mated probes.
    """
    check_rate("fpir", fpir)
    mated = ranks.mated
    mates = ranks.mates[mated & (ranks.ranks <= rank)]
    maxima = np.sort(ranks.others[~mated])[::-1]
    total, strangers = int(mated.sum()), len(maxima)
    if not total or not strangers:
        raise ConfigError(
            f"TPIR@FPIR needs mated and non-mated probes, got {total} and {strangers}: a gallery "
            "that holds every probe's subject has only closed-set ranks"
        )
    if definition == "at_most":
        allowed = allowed_errors(strangers, fpir)
        threshold = float(maxima[allowed]) if allowed < strangers else float("-inf")
    elif definition == "ijb":
        threshold = float(maxima[max(int(strangers * fpir) - 1, 0)])
    elif definition == "ijbs":
        count = int(strangers * fpir)
        threshold = float(maxima[count - 1]) if count else float(maxima[0] + 1e-8)
    else:
        raise ConfigError(f"definition must be at_most, ijb or ijbs, got {definition}")
    compare = np.greater_equal if definition == "ijbs" else np.greater
    return OpenSetPoint(
        definition,
        fpir,
        threshold,
        float(compare(maxima, threshold).mean()),
        float(compare(mates, threshold).sum() / total),
        total,
        strangers,
    )


def open_set_roc(ranks: ProbeRanks) -> Roc:
    """TPIR against FPIR at rank 1 as a ROC, for curves: its TAR is TPIR, its FAR FPIR.

    Mated probes whose mate is not first count as never accepted, so the curve ends below 1.
    Raises ConfigError as `open_set` does.
    """
    total, strangers = int(ranks.mated.sum()), ranks.others[~ranks.mated]
    need_both(total, len(strangers))
    first = ranks.mates[ranks.ranks == 1]
    distinct, counts = distinct_scores(first[np.isfinite(first)])
    places = place_impostors(distinct, strangers)
    false = np.bincount(places, minlength=2 * len(distinct) + 1)
    return build_roc(distinct, counts, false, genuine=total)


def mean_over_galleries(points: Sequence[OpenSetPoint]) -> OpenSetMean:
    """The mean TPIR and FPIR of the same point over galleries (G1 and G2, S1 and S2).

    Raises ConfigError for no points, or for points of different definitions or targets.
    """
    if len({(point.definition, point.target) for point in points}) != 1:
        asked = ", ".join(f"{point.definition} at {point.target:g}" for point in points)
        raise ConfigError(
            f"a mean needs one definition and one target FPIR, got {asked or 'no points'}"
        )
    return OpenSetMean(
        float(np.mean([point.tpir for point in points])),
        float(np.mean([point.fpir for point in points])),
        tuple(points),
    )


def resample_probes(
    ranks: ProbeRanks, *, resamples: int = 1000, seed: int = 0
) -> Iterator[ProbeRanks]:
    """Bootstrap resamples over the probes' subjects, the gallery held fixed.

    Each draw takes as many subjects as there are, with replacement, with all their probes. The
    same seed and subjects give the same draws, so systems can be compared draw by draw. A draw
    may lack mated or non-mated probes where subjects are few.
    """
    names, numbered = np.unique(ranks.subjects, return_inverse=True)
    weights = identity_weights(len(names), resamples, seed=seed)
    everyone = np.arange(len(numbered))
    return (ranks.take(np.repeat(everyone, row[numbered])) for row in weights)
