"""What `facestream bench thresholds` measures: promised FPIR against found, from 10 to 100k people.

Promises come from what a pack carries; found is what tracks of people do whom nothing was fitted
to. The interval of a promise says how sure the fit is, that of what was found how many strangers
there were: a promise holds where the two meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..models.fusion import Doubles, Floats
from ..models.ida import Anchors
from ..models.open_set import OpenSetFit
from ..models.open_set_tracks import Strangers, StrangerTracks
from ..models.pack import strangers_of
from ..models.scores import Flags, Interval
from ..models.search import SearchIndex
from ..models.store import load_card
from ..stream.thresholds_fit import best_scores, fit_to
from .bench_thresholds_held import (
    DRAWS,
    LEAST,
    LONDON,
    VIDEO,
    By,
    Held,
    anchors_of_card,
    galleries_of,
    hold_out,
    index_of,
    make_people,
    share_of,
)
from .bench_thresholds_named import Named, name_mates
from .thresholds_tracks import FIRST

SCORES: tuple[By, ...] = ("cosine", "ida")
TARGETS = (0.1, 0.01, 0.001)
SIZE = 300
"""Of galleries where aggregators and evidence are compared."""


class Promise(NamedTuple):
    """One promise, and what came of it: shares with their 95 % intervals, means over galleries."""

    score: By
    people: int
    target: float
    threshold: float
    promised: Interval
    strangers: str
    found: float
    interval: Interval

    @property
    def holds(self) -> bool:
        """Whether what was found and what was promised meet."""
        return self.found >= 0 and (
            self.interval.low <= self.promised.high and self.promised.low <= self.interval.high
        )


class Scaled(NamedTuple):
    """A threshold for FPIR 1 % scaled from a gallery of another size, and what was found."""

    start: int
    people: int
    fitted: float
    scaled: float
    found: float


class Way(NamedTuple):
    """Promises kept by runs that fuse by one aggregator, and decide from so many faces on."""

    aggregator: str
    least: int
    promises: list[Promise]


class Class(NamedTuple):
    """Decisions of one kind of evidence, and by aggregator the share at the threshold of all."""

    name: str
    decisions: int
    shares: dict[str, tuple[float, Interval]]


class Moved(NamedTuple):
    """FPIR found where 1 % was promised, before and after what was seen moved the threshold."""

    missed: float
    before: float
    after: float


class PackNumbers(NamedTuple):
    """One pack."""

    promises: list[Promise]
    ways: list[Way]
    scaled: list[Scaled]
    evidence: list[Class]
    named: list[Named]
    moved: list[Moved]
    sizes: str


def measure_pack(name: str, assets: Path, folder: Path, seed: int) -> PackNumbers:
    """Everything of one pack; raises ConfigError where it carries no strangers."""
    from .. import ConfigError

    card = load_card(name)
    strangers = strangers_of(card)
    if strangers is None:
        raise ConfigError(f"pack {name} carries no strangers: `facestream thresholds fit`")
    held = hold_out(card, name, assets, folder)
    anchors = anchors_of_card(card)
    draw = np.random.default_rng(seed)
    own, least = strangers.aggregators[0], LEAST[0]
    fitted, tracks = strangers.by(own, least), held.tracks(own, least)
    last = tracks[next(reversed(tracks))]
    promises: list[Promise] = []
    for people, galleries in galleries_of(held.others, draw):
        for by in SCORES if anchors is not None else SCORES[:1]:
            promises += keep_promises(galleries, by, people, fitted, tracks, anchors)
    return PackNumbers(
        promises,
        compare_ways(held, strangers, seed),
        scale(held, fitted, last, draw),
        evidence(held, strangers),
        [
            row
            for name, mates in {LONDON: held.mates.by(own, least), VIDEO: tracks[VIDEO]}.items()
            for by in SCORES
            for row in name_mates(held, name, mates, by, fitted, anchors, card)
        ],
        move(held, fitted, last, draw),
        ", ".join(
            f"{name} {len(t.people):,} tracks of {len(set(t.people.tolist()))} people"
            for name, t in tracks.items()
        ),
    )


def keep_promises(
    galleries: Sequence[Floats],
    by: By,
    people: int,
    strangers: StrangerTracks,
    tracks: dict[str, StrangerTracks],
    anchors: Anchors | None,
) -> list[Promise]:
    """Each target's promise on galleries of one size, and what each set of strangers made of it."""
    indexes = [index_of(gallery, anchors if by == "ida" else None) for gallery in galleries]
    fits = [fit_to(index, strangers, by) for index in indexes]
    maxima = {
        name: [best_of_tracks(index, some, by) for index in indexes]
        for name, some in tracks.items()
    }
    found = []
    for target in TARGETS:
        bars = [fit.threshold(target) for fit in fits]
        promised = [fit.fpir_interval(bar) for fit, bar in zip(fits, bars, strict=True)]
        mean = Interval(*(float(np.mean(side)) for side in zip(*promised, strict=True)))
        for name, some in tracks.items():
            named = np.mean(
                [best >= bar for best, bar in zip(maxima[name], bars, strict=True)], axis=0
            )
            share, interval = share_of(named, some)
            found.append(
                Promise(by, people, target, float(np.mean(bars)), mean, name, share, interval)
            )
    return found


def best_of_tracks(index: SearchIndex, tracks: StrangerTracks, by: By) -> Doubles:
    """The best score (N,) of each track over all of its decisions."""
    return tracks.maxima(best_scores(index, tracks, by)[0])


def compare_ways(held: Held, strangers: Strangers, seed: int) -> list[Way]:
    """Promises by cosine in galleries of SIZE, by how a run fuses and from when on it decides."""
    draw = np.random.default_rng(seed)
    pool = held.others if len(held.others) >= SIZE else held.people
    galleries = [pool[draw.permutation(len(pool))[:SIZE]] for _ in range(DRAWS)]
    return [
        Way(
            name,
            least,
            keep_promises(
                galleries,
                "cosine",
                len(galleries[0]),
                strangers.by(name, least),
                held.tracks(name, least),
                None,
            ),
        )
        for name in strangers.aggregators
        for least in LEAST
    ]


def scale(
    held: Held,
    strangers: StrangerTracks,
    tracks: StrangerTracks,
    draw: np.random.Generator,
) -> list[Scaled]:
    """Thresholds for 1 % by a fit at another size, as if people were independent tries.

    tracks: of the strangers who are counted.
    """
    pool = make_people(held.others, 10_000, draw) if len(held.others) else held.people
    sizes = [size for size in (10, 100, 700, 10_000) if size <= len(pool)]
    fits: dict[int, tuple[OpenSetFit, Doubles]] = {}
    for size in sizes:
        index = index_of(pool[:size], None)
        best = best_of_tracks(index, tracks, "cosine")
        fits[size] = fit_to(index, strangers, "cosine"), best
    rows = []
    for start in sizes:
        for size in sizes:
            if start != size:
                scaled = fits[start][0].scaled(size).threshold(0.01)
                found = float((fits[size][1] >= scaled).mean())
                rows.append(Scaled(start, size, fits[size][0].threshold(0.01), scaled, found))
    return rows


def evidence(held: Held, strangers: Strangers) -> list[Class]:
    """Single decisions of strangers at the threshold that 5 % of their tracks reach, by evidence.

    Of runs that decide from the first face on. Quality is taken by thirds of each set of strangers.
    """
    index = index_of(held.others[:SIZE] if len(held.others) else held.people, None)
    rows: dict[str, Class] = {}
    for aggregator in strangers.aggregators:
        bar = fit_to(index, strangers.by(aggregator, FIRST), "cosine").threshold(0.05)
        for name, tracks in held.tracks(aggregator, FIRST).items():
            named = best_scores(index, tracks, "cosine")[0] >= bar
            for words, chosen in classes_of(tracks).items():
                some = tracks._replace(people=tracks.people[tracks.tracks[chosen]])
                row = rows.setdefault(
                    f"{name}: {words}", Class(f"{name}: {words}", int(chosen.sum()), {})
                )
                row.shares[aggregator] = share_of(named[chosen].astype(np.float64), some)
    return list(rows.values())


def classes_of(tracks: StrangerTracks) -> dict[str, Flags]:
    """Which decisions (T,) are of each kind of evidence that there is."""
    thirds = np.quantile(tracks.quality, (1 / 3, 2 / 3))
    classes = {
        "1 frame": tracks.frames == 1,
        "2 frames": tracks.frames == 2,
        "3 frames": tracks.frames == 3,
        "4 to 8 frames": (tracks.frames > 3) & (tracks.frames <= 8),
        "more frames": tracks.frames > 8,
        "worst third": tracks.quality <= thirds[0],
        "middle third": (tracks.quality > thirds[0]) & (tracks.quality <= thirds[1]),
        "best third": tracks.quality > thirds[1],
    }
    return {words: rows for words, rows in classes.items() if rows.any()}


def move(
    held: Held,
    strangers: StrangerTracks,
    tracks: StrangerTracks,
    draw: np.random.Generator,
) -> list[Moved]:
    """Every second stranger of tracks is seen, some mates are missed; the others are counted."""
    own = held.mates.by(strangers.aggregator, LEAST[0])
    enrolled = np.arange(0, len(held.people), 2)
    index = index_of(np.concatenate([held.people[enrolled], held.others[:300]]), None)
    fit = fit_to(index, strangers, "cosine")
    bar = fit.threshold(0.01)
    best = best_of_tracks(index, tracks, "cosine")
    mates = best_of_tracks(index, own, "cosine")
    missed = mates[np.isin(own.people, enrolled) & (mates < bar)]
    here = tracks.people % 2 == 0
    seen = best[here & (best < bar)]
    rows = []
    for share in (0.0, 0.1, 0.3):
        count = round(share / (1 - share) * len(seen))
        some = draw.choice(missed, count) if len(missed) else missed
        shares = np.array([fit.fpir(float(score)) for score in np.concatenate([seen, some])])
        after = fit.moved(shares).threshold(0.01)
        rows.append(
            Moved(share, float((best[~here] >= bar).mean()), float((best[~here] >= after).mean()))
        )
    return rows
