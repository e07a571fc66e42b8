"""What `facestream bench thresholds` measures: promised FPIR against found, from 10 to 100k people.

Promises come from what a pack carries; found is what tracks of people do whom nothing was fitted
to. The interval of a promise says how sure the fit is, that of what was found how many strangers
there were: a promise holds where the two meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..configs.training import BankSettings
from ..models.fusion import Doubles, Floats
from ..models.ida import Anchors
from ..models.open_set import OpenSetFit
from ..models.open_set_tracks import StrangerTracks
from ..models.pack import load_anchors, strangers_of
from ..models.scores import Interval, Labels, identity_weights
from ..models.search import SearchIndex
from ..models.store import load_card
from ..stream.thresholds_fit import best_scores, fit_to
from .bench_degraded import OTHERS, others_pictures, wild_pictures
from .thresholds_make import BANK, own_aggregator, role_faces
from .thresholds_tracks import make_tracks

if TYPE_CHECKING:
    from ..models.card import Card
    from ..train.feature_bank import Bank

By = Literal["cosine", "ida"]
SCORES: tuple[By, ...] = ("cosine", "ida")
TARGETS = (0.1, 0.01, 0.001)
OTHER_PEOPLE = 800
MIXED = (0, 300, 700)
"""Others among whom the London people are enrolled; some of the 800 may have no usable face."""
REAL = (10, 30, 100, 300, 700)
MADE = (10_000, 100_000)
DRAWS = 5
"""Galleries of one size up to 300 people; one of each larger size."""
WILD = BankSettings(runs=1, frames=3, strength=(0.05, 0.6))
WILD_PICTURES = 5
TRACKS = 4
RESAMPLES = 500
MEASURE_SEED = 1000
"""Of tracks that are measured: not that of those that are fitted to."""


class Held(NamedTuple):
    """Strangers whom nothing was fitted to, and what is enrolled.

    tracks: by the name of the set. people (P, C), mates: the London subjects, enrolled by their
    neutral photo, and tracks of their smiling one, of people by number. others (O, C): everybody
    else who can be enrolled. Unit float32.
    """

    tracks: dict[str, StrangerTracks]
    people: Floats
    mates: StrangerTracks
    others: Floats


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


class Class(NamedTuple):
    """Decisions of one kind of evidence: how many, and the share at the threshold of all."""

    name: str
    decisions: int
    share: float
    interval: Interval


class Named(NamedTuple):
    """Mates named rightly and strangers named at all, by a threshold."""

    score: By
    people: int
    rule: str
    threshold: float
    tpir: float
    tpir_interval: Interval
    fpir: float


class Moved(NamedTuple):
    """FPIR found where 1 % was promised, before and after what was seen moved the threshold."""

    missed: float
    before: float
    after: float


class PackNumbers(NamedTuple):
    """One pack."""

    promises: list[Promise]
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
    promises: list[Promise] = []
    for people, galleries in galleries_of(held.others, draw):
        for by in SCORES if anchors is not None else SCORES[:1]:
            promises += keep_promises(galleries, by, people, strangers, held.tracks, anchors)
    return PackNumbers(
        promises,
        scale(held, strangers, draw),
        evidence(held, strangers),
        [row for by in SCORES for row in name_mates(held, by, strangers, anchors, card)],
        move(held, strangers, draw),
        ", ".join(
            f"{name} {len(t.people):,} tracks of {len(set(t.people.tolist()))} people"
            for name, t in held.tracks.items()
        ),
    )


def hold_out(card: Card, name: str, assets: Path, folder: Path) -> Held:
    """Embed whom nothing was fitted to (kept in the folder), and make their tracks."""
    aggregator = own_aggregator(card)

    def tracks(bank: Bank, owners: Sequence[str | None]) -> StrangerTracks:
        return make_tracks(bank, owners, aggregator, tracks=TRACKS, seed=MEASURE_SEED)

    subjects = role_faces(assets, "subject")
    london = bank_in(
        folder / f"{name}-subject", {one: path for one, (_, path) in subjects.items()}, BANK, name
    )
    owners = [subjects[picture][0] for picture in london.names]
    found = {"London": tracks(london, owners)}
    neutral = {who: n for n, who in enumerate(owners) if london.names[n].endswith("neutral")}
    smiling = {who for n, who in enumerate(owners) if london.names[n].endswith("smiling")}
    both = sorted(neutral.keys() & smiling)
    people = london.centres[[neutral[who] for who in both]].astype(np.float32)
    probed = [
        who if london.names[n].endswith("smiling") and who in both else None
        for n, who in enumerate(owners)
    ]
    mates = tracks(london, probed)
    others = np.zeros((0, people.shape[1]), np.float32)
    wild, more = wild_pictures(assets, WILD_PICTURES), others_pictures(assets, OTHER_PEOPLE)
    if wild is not None and more is not None:
        bank = bank_in(folder / f"{name}-wild-tracks", wild, WILD, name)
        found["wild"] = tracks(bank, [picture.partition("/")[0] for picture in bank.names])
        others = bank_in(
            folder / f"{name}-others-{OTHER_PEOPLE}", more, OTHERS, name
        ).centres.astype(np.float32)
    return Held(found, people, mates, others)


def bank_in(folder: Path, paths: dict[str, Path], settings: BankSettings, pack: str) -> Bank:
    """The bank of these pictures in a folder."""
    from ..train.feature_bank import make_bank
    from .eval_progress import progress_bar

    views = len(paths) * (1 + settings.runs * settings.frames)
    with progress_bar(folder.name, views) as advance:
        return make_bank(folder, paths, settings, pack, on_block=advance)


def anchors_of_card(card: Card) -> Anchors | None:
    """The card's anchors."""
    vectors = load_anchors(card)
    if vectors is None or card.ida is None:
        return None
    return Anchors(vectors, version=card.ida.anchor_version, k=card.ida.k, tau=card.ida.tau)


def galleries_of(others: Floats, draw: np.random.Generator) -> Iterator[tuple[int, list[Floats]]]:
    """Galleries by size: of real people as far as they go, then of made ones among them."""
    for people in REAL:
        if people <= len(others):
            count = DRAWS if people <= 300 else 1
            yield people, [others[draw.permutation(len(others))[:people]] for _ in range(count)]
    for people in MADE:
        if len(others) > 1:
            yield people, [make_people(others, people, draw)]


def make_people(others: Floats, people: int, draw: np.random.Generator) -> Floats:
    """All others, and people drawn from the normal law with their mean and covariance, (G, C)."""
    wide = others.astype(np.float64)
    mean, spread = wide.mean(axis=0), np.cov(wide.T)
    values, axes = np.linalg.eigh(spread)
    root = axes * np.sqrt(np.maximum(values, 0.0))
    made = np.empty((people, others.shape[1]), np.float32)
    made[: len(others)] = others[:people]
    for start in range(len(others), people, 8192):
        stop = min(start + 8192, people)
        rows = mean + draw.standard_normal((stop - start, len(mean))) @ root.T
        made[start:stop] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


def index_of(gallery: Floats, anchors: Anchors | None) -> SearchIndex:
    """One vector for each person."""
    return SearchIndex(gallery, np.arange(len(gallery)), anchors=anchors)


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
        name: [some.maxima(best_scores(index, some, by)[0]) for index in indexes]
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


def share_of(named: Doubles, tracks: StrangerTracks) -> tuple[float, Interval]:
    """The mean of something by track (N,), and its 95 % interval by resamples of the people.

    Where nothing is found the interval ends where one of twenty such samples would have nothing.
    """
    numbers = np.unique(tracks.people, return_inverse=True)[1]
    people = int(numbers.max()) + 1
    weights = identity_weights(people, RESAMPLES, seed=1).astype(np.float64)[:, numbers]
    shares = (weights @ named) / weights.sum(axis=1)
    low, high = np.quantile(shares, (0.025, 0.975))
    if not named.any():
        high = 1.0 - 0.05 ** (1.0 / people)
    return float(named.mean()), Interval(float(low), float(high))


def scale(held: Held, strangers: StrangerTracks, draw: np.random.Generator) -> list[Scaled]:
    """Thresholds for 1 % by a fit at another size, as if people were independent tries."""
    tracks = next(iter(reversed(held.tracks.values())))
    pool = make_people(held.others, 10_000, draw) if len(held.others) else held.people
    sizes = [size for size in (10, 100, 700, 10_000) if size <= len(pool)]
    fits: dict[int, tuple[OpenSetFit, Doubles]] = {}
    for size in sizes:
        index = index_of(pool[:size], None)
        best = tracks.maxima(best_scores(index, tracks, "cosine")[0])
        fits[size] = fit_to(index, strangers, "cosine"), best
    rows = []
    for start in sizes:
        for size in sizes:
            if start != size:
                scaled = fits[start][0].scaled(size).threshold(0.01)
                found = float((fits[size][1] >= scaled).mean())
                rows.append(Scaled(start, size, fits[size][0].threshold(0.01), scaled, found))
    return rows


def evidence(held: Held, strangers: StrangerTracks) -> list[Class]:
    """Single decisions of strangers at the threshold that 5 % of their tracks reach, by evidence.

    Quality is taken by thirds of each set of strangers.
    """
    index = index_of(held.others[:300] if len(held.others) else held.people, None)
    bar = fit_to(index, strangers, "cosine").threshold(0.05)
    rows = []
    for name, tracks in held.tracks.items():
        named = best_scores(index, tracks, "cosine")[0] >= bar
        thirds = np.quantile(tracks.quality, (1 / 3, 2 / 3))
        classes = {
            "3 frames": tracks.frames == 3,
            "4 to 8 frames": (tracks.frames > 3) & (tracks.frames <= 8),
            "more frames": tracks.frames > 8,
            "worst third": tracks.quality <= thirds[0],
            "middle third": (tracks.quality > thirds[0]) & (tracks.quality <= thirds[1]),
            "best third": tracks.quality > thirds[1],
        }
        for words, rows_of in classes.items():
            some = tracks._replace(people=tracks.people[tracks.tracks[rows_of]])
            if rows_of.any():
                share, interval = share_of(named[rows_of].astype(np.float64), some)
                rows.append(Class(f"{name}: {words}", int(rows_of.sum()), share, interval))
    return rows


def name_mates(
    held: Held, by: By, strangers: StrangerTracks, anchors: Anchors | None, card: Card
) -> list[Named]:
    """Half of the London people enrolled among others: who is named, by each threshold."""
    if by == "ida" and anchors is None:
        return []
    own = None
    if card.decision is not None:
        own = card.decision.threshold if by == "ida" else card.decision.cosine_threshold
    rows = []
    for fill in [size for size in MIXED if size <= len(held.others)]:
        halves = [_name_half(held, by, strangers, anchors, half, fill, own) for half in (0, 1)]
        for rule in halves[0]:
            both = [found[rule] for found in halves]
            tpir, interval = share_of(
                np.concatenate([one.named for one in both]),
                held.mates._replace(people=np.concatenate([one.mates for one in both])),
            )
            wrong = np.concatenate([one.wrong for one in both])
            bar = float(np.mean([one.bar for one in both]))
            size = len(held.people) // 2 + fill
            rows.append(Named(by, size, rule, bar, tpir, interval, float(wrong.mean())))
    return rows


class _Half(NamedTuple):
    """Where one half is enrolled: mates named rightly, whose tracks these are, strangers named."""

    bar: float
    named: Doubles
    mates: Labels
    wrong: Doubles


def _name_half(
    held: Held,
    by: By,
    strangers: StrangerTracks,
    anchors: Anchors | None,
    half: int,
    fill: int,
    own: float | None,
) -> dict[str, _Half]:
    enrolled = np.arange(half, len(held.people), 2)
    gallery = np.concatenate([held.people[enrolled], held.others[:fill]])
    index = index_of(gallery, anchors if by == "ida" else None)
    hits = [one[0] for one in index.search(held.mates.vectors, 1, by=by)]
    scores = np.array([hit.score for hit in hits])
    whose = np.array([enrolled[h.identity] if h.identity < len(enrolled) else -1 for h in hits])
    right = whose == held.mates.people[held.mates.tracks]
    is_mate = np.isin(held.mates.people, enrolled)
    mated = held.mates.maxima(np.where(right, scores, -np.inf))[is_mate]
    others = held.mates.maxima(scores)[~is_mate]
    bars = {"fitted, FPIR 1 %": fit_to(index, strangers, by).threshold(0.01)}
    if own is not None:
        bars["the pack's own"] = own
    return {
        rule: _Half(
            bar,
            (mated >= bar).astype(np.float64),
            held.mates.people[is_mate],
            (others >= bar).astype(np.float64),
        )
        for rule, bar in bars.items()
    }


def move(held: Held, strangers: StrangerTracks, draw: np.random.Generator) -> list[Moved]:
    """Every second stranger is seen, some mates are missed; the others are who is counted."""
    tracks = next(iter(reversed(held.tracks.values())))
    enrolled = np.arange(0, len(held.people), 2)
    index = index_of(np.concatenate([held.people[enrolled], held.others[:300]]), None)
    fit = fit_to(index, strangers, "cosine")
    bar = fit.threshold(0.01)
    best = tracks.maxima(best_scores(index, tracks, "cosine")[0])
    mates = held.mates.maxima(best_scores(index, held.mates, "cosine")[0])
    missed = mates[np.isin(held.mates.people, enrolled) & (mates < bar)]
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
