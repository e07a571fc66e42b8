"""`facestream bench fusion`: what fusing is worth on tracks of bad pictures, by size and damage.

Held-out people only. London: the split's role subject, each enrolled with the neutral photo as
taken; sets are made of runs of degraded views of the smiling one (train/track_views). Wild: people
of CelebA's in-the-wild part, which nothing trained or fitted here saw, enrolled with two of their
pictures as taken; the stretches of a set are degraded views of their other pictures.

A set is a track: a few stretches of frames that resemble each other, the longest one the worst in
most sets. The oracle weighs by the square of the true cosine to the enrolled template, above the
mean cosine of different people: in some packs that mean is far from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import typer

from ..configs.split import role_pictures
from ..configs.training import BankSettings
from ..models.aggregators import make_aggregator
from ..models.fusion import Doubles, Floats, Members, normalise_rows
from ..models.pack import fusion_heads, open_pack
from ..models.photo import describe_face, find_faces, tallest_face
from ..models.scores import Labels, identity_weights
from ..models.store import load_card

if TYPE_CHECKING:
    from ..models.inference import Image
    from ..train.feature_bank import Bank

LEVELS = {"light": (0.05, 0.45), "medium": (0.35, 0.7), "strong": (0.55, 0.9)}
"""Strength of damage, 0 to 1, of London's runs."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 256)
COMPARED = (8, 16, 32, 64)
"""Set sizes over which aggregators are compared in pairs."""
SETS = {"london": 8, "wild": 2}
"""Sets of each size per person."""
FPIR = 0.01
MOSTLY_BAD = 0.7
RESAMPLES = 1000

Fuse = Callable[[Members, Doubles], Floats]
"""Members and true likeness (N,), 0 for a stranger and 1 at best, to the template (C,)."""


class Tracks(NamedTuple):
    """P people who are held out.

    members: all V views. owners (V,), 0 .. P - 1. stretches (V,): the run, or the picture, that a
    view belongs to. gallery (P, C) unit.
    """

    words: str
    members: Members
    owners: Labels
    stretches: Labels
    gallery: Doubles


class Hits(NamedTuple):
    """S searches of one cell.

    owners (S,); own score (S,) and the best of the others (S,); distinct (S,): how many different
    views are in the set, fewer than its size where it repeats some.
    """

    owners: Labels
    own: Doubles
    other: Doubles
    distinct: Labels

    def rates(self, weights: Doubles) -> Doubles:
        """Rank 1 and TPIR at FPIR 1 % (R, 2) when searches have these weights (R, S).

        A search with its own person's score left out is the non-mated one.
        """
        order = np.argsort(-self.other)
        total = weights.sum(axis=1)
        passed = np.cumsum(weights[:, order], axis=1)
        # The first score that may not pass: with it, more than FPIR of the searches would.
        place = np.argmax(passed > FPIR * total[:, None], axis=1)
        first = self.own > self.other
        named = first & (self.own > self.other[order][place][:, None])  # (R, S)
        hits = np.stack([weights @ first, (weights * named).sum(axis=1)], axis=1)
        return np.asarray(hits / total[:, None])

    @property
    def value(self) -> Doubles:
        """Rank 1 and TPIR (2,) of all searches."""
        return np.asarray(self.rates(np.ones((1, len(self.own))))[0])


def measure_pack(name: str, assets: Path, banks: Path) -> dict[str, Cells]:
    """By the words of a set of tracks: the hits of every aggregator and size."""
    fusers = fusers_of(name)
    return {tracks.words: measure(tracks, fusers) for tracks in all_tracks(name, assets, banks)}


Cells = dict[tuple[str, int], Hits]
"""By aggregator and set size."""


def fusers_of(pack: str) -> dict[str, Fuse]:
    """The aggregators that run live, the mean weighted by norms, and the oracle."""
    card = load_card(pack)
    heads = fusion_heads(card)

    def live(name: str) -> Fuse:
        one = make_aggregator(name, dimension=card.embedder.dimension, head_path=heads.get(name))
        return lambda members, truth: one.read(one.update(one.empty(), members))

    def weighted(weigh: Callable[[Members, Doubles], Doubles]) -> Fuse:
        def fuse(members: Members, truth: Doubles) -> Floats:
            template = weigh(members, truth) @ normalise_rows(members.embeddings)
            return np.asarray(template / max(float(np.linalg.norm(template)), 1e-12), np.float32)

        return fuse

    return {
        "mean": live("mean"),
        "norm": weighted(lambda members, _: members.norms.astype(np.float64)),
        "quality": live("quality"),
        **{name: live(name) for name in heads},
        "oracle": weighted(lambda _, truth: np.maximum(truth, 1e-3) ** 2),
    }


def all_tracks(pack: str, assets: Path, banks: Path) -> list[Tracks]:
    """London at every level, and the wild people where they are."""
    from .bench_degraded import wild

    found = [london_tracks(pack, assets, banks, level) for level in LEVELS]
    held = wild(assets, banks, pack)
    if held is not None:
        owners = held.owners[held.enrolled]
        people = np.unique(np.intersect1d(owners, held.owners[~held.enrolled]))
        units = normalise_rows(held.bank.clean)
        sums = [units[held.enrolled & (held.owners == who)].sum(axis=0) for who in people]
        gallery = normalise_rows(np.stack(sums))
        rows = np.flatnonzero(~held.enrolled & np.isin(held.owners, people))
        found.append(
            _tracks("wild", held.bank, rows, np.searchsorted(people, held.owners), gallery)
        )
    return found


def london_tracks(pack: str, assets: Path, banks: Path, level: str) -> Tracks:
    """The people of the role subject; features are kept in BANKS/PACK-subject-LEVEL."""
    from ..train.feature_bank import make_bank

    people = role_pictures(assets, "subject", "london")
    smiling = {who: _in_folder(paths, "probe_smiling") for who, paths in people.items()}
    settings = BankSettings(runs=4, frames=8, strength=LEVELS[level], seed=2)
    folder = banks / f"{pack}-subject-{level}"
    with typer.progressbar(length=len(smiling) * 33, label=folder.name) as bar:
        bank = make_bank(folder, smiling, settings, pack, on_block=bar.update)
    opened = open_pack(pack, threads=1)
    rows = []
    for who in bank.names:
        image = _read(_in_folder(people[who], "gallery_neutral"))
        face = tallest_face(find_faces(opened.detector, image))
        assert face is not None  # studio portraits, in which both packs find everybody
        rows.append(describe_face(opened, image, face).embedding)
    places = np.arange(len(bank.names))
    return _tracks(f"london, {level}", bank, places, places, normalise_rows(np.stack(rows)))


def measure(tracks: Tracks, fusers: Mapping[str, Fuse]) -> Cells:
    """Every aggregator on the same sets."""
    cells: Cells = {}
    truth = (normalise_rows(tracks.members.embeddings) * tracks.gallery[tracks.owners]).sum(axis=1)
    alike = tracks.gallery @ tracks.gallery.T
    people = len(alike)
    others = float(alike.sum() - np.trace(alike)) / (people * (people - 1))
    truth = (truth - others) / (1.0 - others)
    for size in SIZES:
        sets = draw_sets(tracks, size)
        owners = np.array([tracks.owners[rows[0]] for rows in sets])
        distinct = np.array([len(np.unique(rows)) for rows in sets])
        for name, fuse in fusers.items():
            templates = np.stack(
                [fuse(Members(*(c[rows] for c in tracks.members)), truth[rows]) for rows in sets]
            )
            scores = templates.astype(np.float64) @ tracks.gallery.T
            own = scores[np.arange(len(sets)), owners]
            scores[np.arange(len(sets)), owners] = -np.inf
            cells[name, size] = Hits(owners, own, scores.max(axis=1), distinct)
    return cells


def draw_sets(tracks: Tracks, size: int) -> list[Labels]:
    """SETS sets of each person who has a view, rows of the views, the same for every aggregator."""
    from ..train.track_sets import cut, to_and_fro

    sets = []
    for person in range(len(tracks.gallery)):
        own = np.flatnonzero(tracks.owners == person)
        names = np.unique(tracks.stretches[own])
        for number in range(SETS[tracks.words.partition(",")[0]] if len(own) else 0):
            draw = np.random.default_rng((size, person, number))
            chosen = draw.permutation(names)[: min(size, int(draw.integers(1, len(names) + 1)))]
            lengths = cut(draw, size, len(chosen))
            views = [own[tracks.stretches[own] == name] for name in chosen]
            if draw.random() < MOSTLY_BAD:
                worth = np.argsort([tracks.members.qualities[rows].mean() for rows in views])
                order = draw.permutation(len(views))
                views = [views[worth[place]] for place in order]
                lengths = np.sort(lengths)[::-1][order]
            sets.append(
                np.concatenate(
                    [
                        rows[to_and_fro(int(draw.integers(len(rows))), int(length), len(rows))]
                        for rows, length in zip(views, lengths, strict=True)
                    ]
                )
            )
    return sets


class Rate(NamedTuple):
    """A share and between which shares 95 % of resamples of the people lie."""

    value: float
    low: float
    high: float


def resample(hits: Hits) -> tuple[Rate, Rate]:
    """Rank 1 and TPIR with intervals over identities."""
    drawn = draw_rates(hits)
    values = hits.value
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    first, named = (Rate(*map(float, row)) for row in zip(values, low, high, strict=True))
    return first, named


def draw_rates(hits: Hits) -> Doubles:
    """Rank 1 and TPIR of each resample (RESAMPLES, 2); the same people for all aggregators."""
    weights = identity_weights(int(hits.owners.max()) + 1, RESAMPLES).astype(np.float64)
    return hits.rates(weights[:, hits.owners])


def compare(cells: Cells, one: str, other: str) -> Rate:
    """Mean difference in TPIR over COMPARED sizes, the sets paired, over identities."""
    pairs = [(cells[one, size], cells[other, size]) for size in COMPARED]
    value = np.mean([a.value[1] - b.value[1] for a, b in pairs])
    drawn = np.mean([draw_rates(a)[:, 1] - draw_rates(b)[:, 1] for a, b in pairs], axis=0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Rate(float(value), float(low), float(high))


def _tracks(words: str, bank: Bank, rows: Labels, owners: Labels, gallery: Doubles) -> Tracks:
    """Views of some pictures of a bank. rows: of pictures. owners: of all pictures."""
    pictures, runs, frames = np.nonzero(bank.found[rows])
    places = rows[pictures]
    embeddings = bank.embeddings[places, runs, frames]
    members = Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1).astype(np.float32),
        bank.quality[places, runs, frames],
        bank.styles[places, runs, frames],
    )
    one_picture = len(np.unique(owners[rows])) == len(rows)
    stretches = places * bank.found.shape[1] + (runs if one_picture else 0)
    return Tracks(words, members, owners[places], stretches, gallery)


def _in_folder(paths: tuple[Path, ...], folder: str) -> Path:
    return next(path for path in paths if path.parent.name == folder)


def _read(path: Path) -> Image:
    from ..train.folders import read_pictures

    ((_, image),) = read_pictures([path])
    return image
