"""Quality-label optimisation: rearrange the scores of a quality method by what mated pairs say.

"Optimization-Based Improvement of Face Image Quality Assessment Techniques" (Babnik, Damer, Struc,
IWBF 2023), Eq. 1 to 3. An image whose mated pairs are more alike than its score promises moves up,
one whose pairs are less alike moves down; the set of scores stays as it is. `label_pairs` draws
the pairs, `label_ranks` holds the arithmetic, `networks/label_transfer` learns the labels.

    scores, embeddings, identities -> optimise_labels -> labels -> normalise_labels -> training

The paper's Eq. 3 adds ranks of pairs (0..L-1) to ranks of images (0..N-1), with L about 19 N. On
the published theta of 0.001 this acts like 0.0187 on a common scale, and it lets images without a
credited pair (the best of each identity) sink as all others gain. The default is the common scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles, Floats
from .label_pairs import (
    CLUSTERS,
    Embeddings,
    check_clusters,
    cluster_identities,
    draw_credited_pairs,
    group_images,
)
from .label_ranks import (
    CreditedPairs,
    Integers,
    Scale,
    average_pair_ranks,
    check_strength,
    move_ranks,
    rank_images,
    redistribute,
    reorder,
)
from .scores import check_scores

VALIDATION_STEP = 20
"""Every 20th image of the list sorted by label is for validation, as in the published code."""

Scores = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LabelOptions:
    """How labels are optimised.

    theta: how far ranks move towards those of the pairs, 0..1; None takes the published setting on
    this scale. scale: see `label_ranks.move_ranks`. clusters: C of K-Means. repeats: R. seed: of
    K-Means and of the draws, 0 to 2^32 - 1.
    """

    theta: float | None = None
    scale: Scale = "common"
    clusters: int = CLUSTERS
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_strength(self.theta, self.scale)
        check_clusters(self.clusters)
        if self.repeats < 1:
            raise ConfigError(f"repeats must be 1 or more, got {self.repeats}")
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed must be 0 to 2^32 - 1, got {self.seed}")


class OptimisedLabels(NamedTuple):
    """The outcome for N images.

    labels (N,): the scores' own values and dtype, rearranged. before, after (N,) int64: rank by
    score and by label, 0 is the lowest. pairs (N,) int64: pairs credited to the image, over all
    repeats; an image with none kept its target rank.
    """

    labels: Scores
    before: Integers
    after: Integers
    pairs: Integers


class LabelSplit(NamedTuple):
    """Numbers of images for training and validation, each in ascending order of label."""

    training: Integers
    validation: Integers


def optimise_labels(
    embeddings: Embeddings,
    scores: Scores,
    identities: npt.ArrayLike,
    *,
    ids: npt.ArrayLike | None = None,
    clusters: npt.ArrayLike | None = None,
    options: LabelOptions | None = None,
) -> OptimisedLabels:
    """Draw mated pairs R times and rearrange the scores (section III-C).

    embeddings: (N, D) floating, not normalised, of the recognition model; may be memory-mapped
    float16. scores: (N,) floating, finite, higher is better. identities: (N,) integers.
    ids: (N,) distinct strings or integers that break ties; with them the result does not depend
    on the order of the images. None takes that order. clusters: (N,) integers where they are
    known; None runs K-Means (`label_pairs.cluster_identities`, which needs scikit-learn).
    The same seed gives the same labels. Memory: 16 bytes per pair of one repeat.
    Raises RecordError on wrong shapes, scores that are not finite or an embedding of length zero;
    ConfigError for options that cannot be.
    """
    chosen = options or LabelOptions()
    before = rank_images(scores, ids)
    if len(before) != len(embeddings):
        raise RecordError(
            f"scores must be ({len(embeddings)},) like the embeddings, got ({len(before)},)"
        )
    if clusters is None:
        clusters = cluster_identities(
            embeddings, identities, ids=ids, clusters=chosen.clusters, seed=chosen.seed
        )
    images = group_images(identities, clusters, ids)
    drawn = (
        draw_credited_pairs(images, embeddings, before, chosen.seed, repeat)
        for repeat in range(chosen.repeats)
    )
    return rearrange_labels(scores, drawn, ids=ids, theta=chosen.theta, scale=chosen.scale)


def rearrange_labels(
    scores: Scores,
    repeats: Iterable[CreditedPairs],
    *,
    ids: npt.ArrayLike | None = None,
    theta: float | None = None,
    scale: Scale = "common",
) -> OptimisedLabels:
    """Rearrange scores by pair lists that are given, one per repeat ("Final steps").

    repeats: at least one; see `label_ranks.credit_pairs`. The other arguments and the errors are
    those of `optimise_labels`. With scale "authors" and ids None the labels equal those of the
    published code for the same lists and scores, bit for bit.
    """
    before = rank_images(scores, ids)
    if not np.issubdtype(np.asarray(scores).dtype, np.floating):
        raise RecordError(f"scores must be floating, got {np.asarray(scores).dtype}")
    strength = check_strength(theta, scale)
    total, pairs, count = np.zeros(len(before)), np.zeros(len(before), np.int64), 0
    for credited in repeats:
        ranks = average_pair_ranks(credited, len(before))
        total += move_ranks(before, ranks, strength, scale)
        pairs += ranks.pairs
        count += 1
    if not count:
        raise ConfigError("label optimisation needs one repeat at least, got none")
    after = reorder(before, total / count)
    return OptimisedLabels(redistribute(np.asarray(scores), before, after), before, after, pairs)


def normalise_labels(labels: npt.ArrayLike) -> Floats:
    """Labels (N,) float32 on 0..1, the lowest exactly 0 and the highest exactly 1 (section III-D).

    Raises RecordError on a wrong shape, values that are not finite, or labels that are all equal.
    """
    values: Doubles = check_scores("labels", labels)
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if not low < high:
        raise RecordError("labels must differ, got one value for all: there is no scale to learn")
    return ((values - low) / (high - low)).astype(np.float32)


def split_labels(
    labels: npt.ArrayLike, ids: npt.ArrayLike | None = None, step: int = VALIDATION_STEP
) -> LabelSplit:
    """Put every `step`-th image of the list sorted by (label, id) aside for validation.

    labels: (N,). The first of the list, the lowest label, is for validation.
    Raises RecordError as `normalise_labels` does, ConfigError for a step below 2.
    """
    if step < 2:
        raise ConfigError(f"step must be 2 or more, got {step}: nothing would be left to train on")
    order = np.argsort(rank_images(labels, ids))
    held = np.arange(len(order)) % step == 0
    return LabelSplit(order[~held], order[held])
