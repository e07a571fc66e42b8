"""Whom `facestream bench thresholds` measures with: people whom nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..configs.schema import MatchConfig
from ..configs.training import BankSettings
from ..models.fusion import Doubles, Floats
from ..models.ida import Anchors
from ..models.open_set_tracks import Strangers, StrangerTracks
from ..models.pack import load_anchors, open_pack
from ..models.scores import Interval, identity_weights
from ..models.search import SearchIndex
from .bench_degraded import OTHERS, others_pictures, wild_pictures
from .bench_thresholds_video import film_tracks, watch_films
from .thresholds_make import BANK, aggregators_of, role_faces
from .thresholds_tracks import FIRST, make_tracks

if TYPE_CHECKING:
    from ..models.card import Card
    from ..train.feature_bank import Bank

By = Literal["cosine", "ida"]
OTHER_PEOPLE = 800
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
LEAST = (MatchConfig.least_frames, FIRST)
"""Faces before the first decision: of runs as they are, and of those that decide at once."""
LONDON, VIDEO, WEB = "London", "video", "wild"


class Held(NamedTuple):
    """Strangers whom nothing was fitted to, and what is enrolled.

    pseudo: pseudo-tracks by the name of the set; video: those of simulated video by aggregator and
    least number of faces. people (P, C), mates: the London subjects, enrolled by their neutral
    photo, and tracks of their smiling one, of people by number. others (O, C): everybody else who
    can be enrolled. Unit float32.
    """

    pseudo: dict[str, Strangers]
    video: dict[tuple[str, int], StrangerTracks]
    people: Floats
    mates: Strangers
    others: Floats

    def tracks(self, aggregator: str, least: int) -> dict[str, StrangerTracks]:
        """Everybody's, as a run decides them: London, video, and from the web where these are."""
        found = {LONDON: self.pseudo[LONDON].by(aggregator, least)}
        found[VIDEO] = self.video[aggregator, least]
        if WEB in self.pseudo:
            found[WEB] = self.pseudo[WEB].by(aggregator, least)
        return found


def hold_out(card: Card, name: str, assets: Path, folder: Path) -> Held:
    """Embed whom nothing was fitted to (kept in the folder), and make their tracks."""
    aggregators = aggregators_of(card)

    def tracks(bank: Bank, owners: Sequence[str | None]) -> Strangers:
        return make_tracks(bank, owners, aggregators, tracks=TRACKS, seed=MEASURE_SEED)

    subjects = role_faces(assets, "subject")
    london = bank_in(
        folder / f"{name}-subject", {one: path for one, (_, path) in subjects.items()}, BANK, name
    )
    owners = [subjects[picture][0] for picture in london.names]
    found = {LONDON: tracks(london, owners)}
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
        found[WEB] = tracks(bank, [picture.partition("/")[0] for picture in bank.names])
        others = bank_in(
            folder / f"{name}-others-{OTHER_PEOPLE}", more, OTHERS, name
        ).centres.astype(np.float32)
    pack = open_pack(name, threads=1)
    films = watch_films(pack, name, assets, folder)
    video = {
        (one.name, least): film_tracks(films, pack, name, both, (one.name, least))
        for one in aggregators
        for least in LEAST
    }
    return Held(found, video, people, mates, others)


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
