"""Recurring strangers: sightings of unknown people, grouped by whom they show.

Agglomerative clustering with average linkage: two groups are joined while the mean score between
their sightings is the threshold or more. Two sightings that one camera had at the same moment are
of two people, and are never in one group. The groups depend on the sightings alone, not on their
order, and nothing is drawn at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage

from .. import SightingsError
from ..models.fusion import Doubles, Floats
from ..models.ida import DensityModel, aligned_score
from .sighting_records import SightingRecord, Stranger

Apart = Literal["track", "camera", "day"]

MOST_SIGHTINGS = 10_000
"""Sightings that are grouped at most: all their distances are held (0.4 GB)."""
_BLOCK = 512
_FAR = 1e9
"""Distance of two sightings that cannot be one person's: no mean with it is near."""
_LARGEST = 2.0
"""Scores are within this of 0."""


def score_pairs(vectors: Floats, model: DensityModel | None) -> Doubles:
    """Scores of all pairs of S unit templates (S, C), condensed as scipy's pdist: (S (S - 1) / 2,).

    IDA scores with a density model, cosines without.
    """
    count = len(vectors)
    densities = np.zeros(count) if model is None else model.density(vectors)
    out = np.empty(count * (count - 1) // 2)
    at = 0
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        scores = (vectors[block] @ vectors.T).astype(np.float64)
        if model is not None:
            scores = aligned_score(scores, densities[block, None], densities, tau=model.tau)
        for row, line in enumerate(scores, start):
            out[at : at + count - 1 - row] = line[row + 1 :]
            at += count - 1 - row
    return out


def group_pairs(
    count: int, scores: Doubles, threshold: float, rivals: Sequence[tuple[int, int]] = ()
) -> npt.NDArray[np.int64]:
    """Group numbers (S,) from 0, from the `score_pairs` of S = count sightings.

    rivals: pairs first < second of places that are two people for certain.
    """
    if count < 2:
        return np.zeros(count, np.int64)
    return cut_tree(link_pairs(count, scores, rivals), threshold)


def link_pairs(count: int, scores: Doubles, rivals: Sequence[tuple[int, int]] = ()) -> Doubles:
    """How S = count >= 2 sightings are joined one after the other: scipy's linkage (S - 1, 4)."""
    distances = _LARGEST - scores
    for first, second in rivals:
        distances[_place(first, second, count)] = _FAR
    return np.asarray(linkage(distances, "average"))


def cut_tree(tree: Doubles, threshold: float) -> npt.NDArray[np.int64]:
    """Group numbers (S,) from 0 of what was joined at this mean score, or a larger one."""
    return np.asarray(fcluster(tree, _LARGEST - threshold, "distance"), np.int64) - 1


def check_count(count: int) -> None:
    """Raise SightingsError for more sightings than can be grouped."""
    if count > MOST_SIGHTINGS:
        raise SightingsError(
            f"{count} sightings of unknown people have templates, at most {MOST_SIGHTINGS} can be "
            "grouped: choose some by --since, --until or --camera"
        )


def at_once(sightings: Sequence[SightingRecord]) -> list[tuple[int, int]]:
    """Pairs (first < second) of places whose sightings one camera had at the same moment."""
    pairs = []
    by_start = sorted(range(len(sightings)), key=lambda place: sightings[place].started_at)
    open_now: dict[str, list[int]] = {}
    for place in by_start:
        one = sightings[place]
        rivals = [at for at in open_now.get(one.camera, []) if overlaps(sightings[at], one)]
        pairs += [(min(at, place), max(at, place)) for at in rivals]
        open_now[one.camera] = [*rivals, place]
    return pairs


def overlaps(first: SightingRecord, second: SightingRecord) -> bool:
    """Whether one camera showed two tracks at the same moment: two people, then."""
    return (
        (first.camera, first.epoch) == (second.camera, second.epoch)
        and first.started_at < second.seen_at
        and second.started_at < first.seen_at
    )


def find_strangers(
    sightings: Sequence[SightingRecord],
    groups: npt.NDArray[np.int64],
    scores: Doubles,
    *,
    least: int,
    apart: Apart,
    taken: Collection[str] = (),
) -> tuple[Stranger, ...]:
    """The groups that recur, those with most sightings first.

    least: how many sightings on different tracks, cameras or days (`apart`) make a stranger. taken:
    ids of strangers that other sightings show.
    """
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(place)
    recurring = [
        sorted(places, key=lambda place: _age(sightings[place]))
        for places in members.values()
        if len({_where(sightings[place], apart) for place in places}) >= least
    ]
    recurring.sort(key=lambda places: (-len(places), _age(sightings[places[0]])))
    names = _name_groups([[sightings[place] for place in places] for places in recurring], taken)
    return tuple(
        Stranger(
            id=name,
            sightings=tuple(
                msgspec.structs.replace(sightings[place], stranger=name) for place in places
            ),
            cameras=tuple(sorted({sightings[place].camera for place in places})),
            days=len({_where(sightings[place], "day") for place in places}),
            cohesion=_cohesion(places, scores, len(sightings)),
        )
        for name, places in zip(names, recurring, strict=True)
    )


def assignment_of(strangers: Sequence[Stranger]) -> Mapping[str, str]:
    """The stranger's id by the id of each of their sightings."""
    return {one.id: stranger.id for stranger in strangers for one in stranger.sightings}


def _name_groups(groups: Sequence[Sequence[SightingRecord]], others: Collection[str]) -> list[str]:
    """An id per group: that which most of its sightings had before, else one of its oldest's."""
    taken = set(others)
    names = []
    for group in groups:
        before = Counter(one.stranger for one in group if one.stranger)
        known = sorted(before.items(), key=lambda pair: (-pair[1], pair[0]))
        name = next((name for name, _ in known if name not in taken), "")
        taken.add(name)
        names.append(name)
    for place, group in enumerate(groups):
        if not names[place]:
            tries = (f"s-{group[0].id[:size]}" for size in range(6, 33))
            names[place] = next(name for name in tries if name not in taken)
            taken.add(names[place])
    return names


def _cohesion(places: Sequence[int], scores: Doubles, count: int) -> float:
    pairs = [
        _place(min(a, b), max(a, b), count) for at, a in enumerate(places) for b in places[at + 1 :]
    ]
    return float(scores[pairs].mean()) if pairs else 1.0


def _place(first: int, second: int, count: int) -> int:
    """Where a condensed matrix has the pair first < second."""
    return first * count - first * (first + 1) // 2 + second - first - 1


def _age(sighting: SightingRecord) -> tuple[float, str]:
    return sighting.started_at, sighting.id


def _where(sighting: SightingRecord, apart: Apart) -> str:
    if apart == "camera":
        return sighting.camera
    if apart == "day":
        return datetime.fromtimestamp(sighting.started_at).date().isoformat()
    return sighting.id
