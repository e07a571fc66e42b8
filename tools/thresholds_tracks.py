"""Pseudo-tracks of people kept apart for calibration, decided as a run decides real ones.

A track goes through a few runs of degraded views of its person's pictures, frame by frame. What it
is after each frame that calls for a decision (stream/decide.is_due), and at its end, is kept as a
template: those are what strangers' scores are measured with.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import ConfigError
from ..models.fusion import Aggregator, Floats, Members
from ..models.open_set_tracks import Strangers, join_decisions, to_steps
from ..stream.aggregate import Spread
from ..stream.decide import is_due

if TYPE_CHECKING:
    from ..train.feature_bank import Bank

View = tuple[int, int, int]
Decision = tuple[Floats, int, float]
FIRST = 1
"""Observations before the first decision. Runs that wait for 2, 3, 4 or 6 decide at the same ones
of the later counts; others at counts near them."""
LENGTHS = (4, 8, 16, 32)
"""Observations of a pseudo-track, each as likely; fewer where a person has fewer views."""


def make_tracks(
    bank: Bank,
    owners: Sequence[str | None],
    aggregators: Sequence[Aggregator],
    *,
    tracks: int,
    seed: int,
    synthetic: Collection[str] = (),
) -> Strangers:
    """`tracks` pseudo-tracks of each person of a bank, each by every aggregator.

    owners: whose each picture is, None leaves it out; synthetic: who of them nobody ever was.
    Tracks without a face are left out. Raises ConfigError when none is left.
    """
    names = sorted({owner for owner in owners if owner is not None})
    people: list[int] = []
    rows: list[int] = []
    decisions: list[Decision] = []
    for number, who in enumerate(names):
        pictures = [place for place, owner in enumerate(owners) if owner == who]
        for track in range(tracks):
            draw = np.random.default_rng((seed, number, track))
            views = _walk(bank, pictures, draw)
            if not views:
                continue
            decided = decide_track(bank, views, aggregators)
            rows += [len(people)] * len(decided)
            people.append(number)
            decisions += decided
    if not people:
        raise ConfigError("no pseudo-track has enough views with a face: bring other pictures")
    vectors, frames, quality = join_decisions(decisions)
    return Strangers(
        tuple(one.name for one in aggregators),
        to_steps(vectors.swapaxes(0, 1)),
        np.array(rows, np.int64),
        frames,
        quality,
        np.array(people, np.int64),
        np.array([names[number] in synthetic for number in people], np.bool_),
    )


def _walk(bank: Bank, pictures: list[int], draw: np.random.Generator) -> list[View]:
    """The views (picture, run, frame) of one track, in order: run after run."""
    runs = [(picture, run) for picture in pictures for run in range(bank.found.shape[1])]
    length = int(draw.choice(LENGTHS))
    views: list[View] = []
    for place in draw.permutation(len(runs)):
        picture, run = runs[place]
        views += [(picture, run, int(f)) for f in np.flatnonzero(bank.found[picture, run])]
    return views[:length]


def decide_track(
    bank: Bank, views: list[View], aggregators: Sequence[Aggregator]
) -> list[Decision]:
    """Templates (K, C) by K aggregators, frames and median quality at each decision on a track of
    these views."""
    states, spread, decided_at = [one.empty() for one in aggregators], Spread(), 0
    found: list[Decision] = []
    for count, view in enumerate(views, 1):
        embedding = bank.embeddings[view]
        quality = bank.quality[view]
        member = Members(
            embedding[None],
            np.array([np.linalg.norm(embedding)], np.float32),
            np.array([quality], np.float32),
            bank.styles[view][None],
        )
        pairs = zip(aggregators, states, strict=True)
        states = [one.update(state, member) for one, state in pairs]
        spread.add(float(quality))
        if is_due(count, decided_at, FIRST) or count == len(views):
            decided_at = count
            pairs = zip(aggregators, states, strict=True)
            templates = [one.read(state) for one, state in pairs]
            found.append((np.stack(templates), count, spread.median))
    return found
