"""`facestream bench strangers`: how well sightings of unknown people fall into recurring strangers.

People of CelebA's in-the-wild part, which nothing fitted here saw. A sighting is a template of a
few of their pictures; no two share a picture. Every second person is seen once, the others 2 to 10
times (as far as their pictures go). Thresholds are chosen on one half of the people, and everything
is measured on the other, then the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial.distance import squareform

from .. import ConfigError
from ..models.aggregators import make_aggregator
from ..models.clustering import bcubed
from ..models.feature_store import FeatureStore
from ..models.fusion import Doubles, Floats
from ..models.ida import DensityModel
from ..models.pack import Pack, open_pack
from ..models.scores import Labels
from ..stream.sighting_cluster import cut_tree, link_pairs, score_pairs
from .bench_accuracy_stills import Sets, Wild, embed_wild, fuse_sets
from .build import anchors_of

SIZES = (1, 2, 4)
"""Pictures of a sighting."""
MOST = 10
"""Sightings of one person at most."""
DRAWS = 5
GRID = 41
"""Thresholds that are tried on the other half, from the least to the largest mean score."""
Score = Literal["cosine", "ida"]


class Seen(NamedTuple):
    """S sightings of one draw. scores: of all pairs, condensed; owners (S,): whom each shows.

    tree: average linkage of the scores.
    """

    scores: Doubles
    tree: Doubles
    owners: Labels


class Quality(NamedTuple):
    """How good groups are, 0..1 each.

    f, precision, recall: BCubed over sightings. found: share of the people seen repeatedly who have
    a group of at least two of their sightings, with nobody else in it. pure: share of the groups of
    two or more that show one person.
    """

    f: float
    precision: float
    recall: float
    found: float
    pure: float


class Row(NamedTuple):
    """One way to group, over all draws and both halves (R of them).

    thresholds (R,): in use; NaN where there is none. values (R, 5): as Quality.
    """

    score: Score
    method: str
    size: int
    thresholds: Doubles
    values: Doubles


Group = Callable[[Seen], Labels]


def measure_pack(name: str, wild: Wild, store: Path, seed: int) -> list[Row]:
    """Every way to group, by score and pictures a sighting."""
    pack = open_pack(name)
    features = embed_wild(wild, pack, "landmarks", store / f"{name}-landmarks")
    rows = []
    for size in SIZES:
        for score in ("cosine", "ida") if anchors_of(pack) is not None else ("cosine",):
            rows += _measure(features, pack, wild.owners, size, score, seed)
    return rows


def _measure(
    features: FeatureStore, pack: Pack, owners: Labels, size: int, score: Score, seed: int
) -> list[Row]:
    decision = pack.card.fitted_decision()
    own = decision.threshold if score == "ida" else decision.cosine_threshold
    model = anchors_of(pack) if score == "ida" else None
    names = ("linkage, pack's threshold", "linkage, fitted", "HDBSCAN, eom", "HDBSCAN, leaf")
    found: dict[str, list[tuple[float, Quality]]] = {name: [] for name in names}
    for draw in range(DRAWS):
        halves = [
            _see(features, pack, draw_sightings(owners, size, half, (seed, draw)), model)
            for half in (0, 1)
        ]
        for half, seen in enumerate(halves):
            fitted = best_threshold(halves[1 - half])
            for name, bar in zip(names[:2], (own, fitted), strict=True):
                found[name].append((bar, judge(cut_tree(seen.tree, bar), seen.owners)))
            for name in names[2:]:
                groups = group_by_density(seen, "leaf" if name.endswith("leaf") else "eom")
                found[name].append((float("nan"), judge(groups, seen.owners)))
    return [
        Row(score, name, size, np.array([bar for bar, _ in some]), np.array([q for _, q in some]))
        for name, some in found.items()
    ]


def draw_sightings(owners: Labels, size: int, half: int, seed: Sequence[int]) -> Sets:
    """Rows of pictures of each sighting, and whose it is, for every second person."""
    rows: list[Labels] = []
    whose: list[int] = []
    people = np.unique(owners)[half::2]
    for place, person in enumerate(people.tolist()):
        draw = np.random.default_rng([*seed, person])
        order = draw.permutation(np.flatnonzero(owners == person))
        wanted = 1 if place % 2 else 2 + (place // 2) % (MOST - 1)
        for at in range(min(wanted, len(order) // size)):
            rows.append(order[at * size : (at + 1) * size])
            whose.append(person)
    return Sets(rows, np.array(whose))


def best_threshold(seen: Seen) -> float:
    """The threshold of linkage with the largest BCubed F; the least of those as good."""
    low, high = np.percentile(seen.scores, (50.0, 100.0))
    bars = np.linspace(low, high, GRID)
    values = [judge(cut_tree(seen.tree, float(bar)), seen.owners).f for bar in bars]
    return float(bars[int(np.argmax(values))])


def group_by_density(seen: Seen, selection: Literal["eom", "leaf"]) -> Labels:
    """Groups (S,) of HDBSCAN, -1 for noise. Raises ConfigError without scikit-learn."""
    try:
        from sklearn.cluster import HDBSCAN  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ConfigError(
            "HDBSCAN needs scikit-learn: `pip install 'facestream[train]'` brings it"
        ) from error
    distances = squareform(np.maximum(2.0 - seen.scores, 0.0))
    model = HDBSCAN(
        min_cluster_size=2,
        min_samples=1,
        metric="precomputed",
        cluster_selection_method=selection,
        copy=True,
    )
    return np.asarray(model.fit_predict(distances), np.int64)


def judge(groups: Labels, owners: Labels) -> Quality:
    """How good groups (S,) of sightings are, -1 for none."""
    score = bcubed(groups, owners)
    names, counts = np.unique(groups[groups >= 0], return_counts=True)
    large = names[counts >= 2]
    single = [group for group in large if len(np.unique(owners[groups == group])) == 1]
    people, times = np.unique(owners, return_counts=True)
    alone = {int(owners[groups == group][0]) for group in single}
    repeated = people[times >= 2]
    return Quality(
        score.f,
        score.precision,
        score.recall,
        float(np.mean([int(one) in alone for one in repeated])),
        len(single) / len(large) if len(large) else 1.0,
    )


def _see(features: FeatureStore, pack: Pack, sets: Sets, model: DensityModel | None) -> Seen:
    """Templates of the sets, fused as the pack does live, and what they score among each other."""
    fused = pack.card.fusion.aggregator
    aggregator = make_aggregator(
        fused, dimension=pack.card.embedder.dimension, head_path=pack.fusion_heads.get(fused)
    )
    templates: Floats = fuse_sets(features, aggregator, sets)
    usable = np.isfinite(templates).all(axis=1) & (np.abs(templates).max(axis=1) > 0)
    scores = score_pairs(templates[usable].astype(np.float32), model)
    return Seen(scores, link_pairs(int(usable.sum()), scores), sets.owners[usable])
