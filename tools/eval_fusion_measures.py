"""What fused templates are worth: TAR and rank 1 of sets, of parts of a medium, by chunk size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.aggregators import make_aggregator
from ..models.caface import CAFace
from ..models.caface_head import load_head
from ..models.card import Card
from ..models.feature_store import FeatureStore
from ..models.fusion import Aggregator, Doubles, Floats, Members, normalise_rows
from ..models.ida import Anchors, aligned_score
from ..models.pack import load_anchors
from ..models.scalar_fusion import load_scalar_head
from ..models.scores import Labels
from ..models.verification import count_errors, operating_point, resample_roc, resample_share
from .eval_verification import Bootstrap, far_words
from .report_record import Curve, Draws, Number, Plot, Row, Table, measured

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
CHUNKS = (1, 2, 4, 8, 16, 32, 64)
LEAST_SEQUENCE = 16
"""Faces of a medium from which on it is a sequence, of which a share can be seen."""
LEVELS = ("any", "better half", "worse half")


class People(NamedTuple):
    """I identities, sorted. enrolled (I,): the row of each one's enrolled face.

    probes: each one's other rows, in order of name. sequences: (identity, its rows) of each medium
    of LEAST_SEQUENCE faces or more.
    """

    names: list[str]
    enrolled: Labels
    probes: list[Labels]
    sequences: list[tuple[int, Labels]]


class Part(NamedTuple):
    """What one part adds to the report."""

    tables: list[Table]
    plots: list[Plot]
    draws: dict[str, Draws]


class Sets(NamedTuple):
    """S sets of faces to fuse: rows of each, and whose they are (S,)."""

    rows: list[Labels]
    owners: Labels


class Bench:
    """Everything that a cell of a table needs: faces, people, aggregators, matchers."""

    def __init__(
        self,
        store: FeatureStore,
        people: People,
        card: Card,
        heads: Mapping[str, Path],
        aggregators: Sequence[str],
        far: float,
        bootstrap: Bootstrap,
    ) -> None:
        """Raises ModelError for a head that is missing, broken or of another embedder."""
        self.store, self.people, self.card, self.heads = store, people, card, heads
        self.far, self.bootstrap = far, bootstrap
        dimension = store.layout.dimension
        if "caface" in aggregators and "caface" in heads:
            load_head(heads["caface"], dimension=dimension, styles=store.layout.styles)
        if "learned" in aggregators and "learned" in heads:
            load_scalar_head(heads["learned"], dimension=dimension, styles=store.layout.styles)
        self.aggregators: dict[str, Aggregator] = {
            name: make_aggregator(name, dimension=dimension, head_path=heads.get(name))
            for name in aggregators
        }
        self.matchers: dict[str, Anchors | None] = {"cosine": None}
        vectors = load_anchors(card)
        if vectors is not None and card.ida is not None:
            self.matchers["ida"] = Anchors(
                vectors, card.ida.anchor_version, k=card.ida.k, tau=card.ida.tau
            )

    @cached_property
    def gallery(self) -> Floats:
        """The enrolled faces (I, C) float32, unit."""
        rows = np.asarray(self.store.embeddings[self.people.enrolled], np.float32)
        return normalise_rows(rows).astype(np.float32)

    def chunked(self, chunk: int) -> CAFace:
        """The aggregator caface with chunks of another size."""
        live = self.aggregators["caface"]
        assert isinstance(live, CAFace)
        return CAFace(live.head, chunk=chunk)

    def fuse(self, aggregator: Aggregator, sets: Sets) -> Floats:
        """The templates (S, C) float32, unit."""
        return np.stack([self._fuse(aggregator, rows) for rows in sets.rows])

    def _fuse(self, aggregator: Aggregator, rows: Labels) -> Floats:
        embeddings = np.asarray(self.store.embeddings[rows], np.float32)
        members = Members(
            embeddings,
            np.linalg.norm(embeddings, axis=1).astype(np.float32),
            np.asarray(self.store.quality[rows], np.float32),
            np.asarray(self.store.styles[rows], np.float32),
        )
        return aggregator.read(aggregator.update(aggregator.empty(), members))

    def score(self, templates: Floats, matcher: str) -> Doubles:
        """Scores (S, I) float64 of templates against everybody enrolled, as `SearchIndex` gives."""
        cosines = (templates @ self.gallery.T).astype(np.float64)
        anchors = self.matchers[matcher]
        if anchors is None:
            return cosines
        return aligned_score(
            cosines,
            anchors.density(templates)[:, None],
            anchors.density(self.gallery)[None],
            tau=anchors.tau,
        )


class Cell(NamedTuple):
    """TAR and rank 1 of some templates with one matcher, and their bootstrap draws (B,)."""

    tar: float
    rank: float
    tar_draws: Draws
    rank_draws: Draws


def measure_cell(scores: Doubles, owners: Labels, far: float, bootstrap: Bootstrap) -> Cell:
    """Scores (S, I) of templates whose identities are owners (S,)."""
    count, people = scores.shape
    same = owners[:, None] == np.arange(people)
    others = np.where(same, -np.inf, scores).max(axis=1)
    hits = scores[np.arange(count), owners] > others
    roc = count_errors(scores.ravel(), same.ravel())
    tar = operating_point(roc, far).tar
    nothing = np.zeros(0)
    if not bootstrap.resamples:
        return Cell(tar, float(hits.mean()), nothing, nothing)
    how = {"resamples": bootstrap.resamples, "seed": bootstrap.seed}
    first, second = np.repeat(owners, people), np.tile(np.arange(people), count)
    drawn = resample_roc(scores.ravel(), same.ravel(), first, second, **how)
    return Cell(
        tar,
        float(hits.mean()),
        np.array([operating_point(one, far).tar for one in drawn]),
        resample_share(hits, owners, owners, **how),
    )


def measure_grid(bench: Bench, sizes: Sequence[int], sets: int) -> Part:
    """Aggregator x matcher x quality by set size, and the gain over the mean (CAFace, figure 1c).

    Raises ConfigError when fewer than two identities have faces enough for the largest set.
    """
    drawn = {level: draw_sets(bench, sizes, sets, level) for level in LEVELS}
    columns = [f"N={size}" for size in sizes]
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for level, by_size in drawn.items():
        for name, aggregator in bench.aggregators.items():
            templates = [bench.fuse(aggregator, by_size[size]) for size in sizes]
            for matcher in bench.matchers:
                cells[name, matcher, level] = [
                    _measure(bench, one, by_size[size].owners, matcher)
                    for one, size in zip(templates, sizes, strict=True)
                ]
    order = [(n, m, level) for level in LEVELS for m in bench.matchers for n in bench.aggregators]
    rows = {
        f"{level}: {name}, {matcher}": cells[name, matcher, level] for name, matcher, level in order
    }
    some = next(iter(drawn["any"].values()))
    note = f"{len(np.unique(some.owners))} identities, {len(some.owners)} sets in every cell."
    part = make_part(
        "Sets", "quality of the faces: aggregator, matcher", columns, rows, bench.far, note
    )
    if "mean" in bench.aggregators and len(bench.aggregators) > 1:
        gains = {
            f"{level}: {name}, {matcher}": (
                cells[name, matcher, level],
                cells["mean", matcher, level],
            )
            for name, matcher, level in order
            if name != "mean"
        }
        part = _with_gains(part, columns, sizes, gains)
    curves = [
        Curve(
            f"{name}, {matcher}",
            [float(s) for s in sizes],
            [c.tar for c in cells[name, matcher, "any"]],
        )
        for name in bench.aggregators
        for matcher in bench.matchers
    ]
    part.plots.insert(
        0, Plot("By set size", "faces in a set", far_words(bench.far), curves, x_log=True)
    )
    return part


def draw_sets(bench: Bench, sizes: Sequence[int], sets: int, level: str) -> dict[int, Sets]:
    """Random sets of every size: the smaller ones are the beginnings of the larger.

    Only identities whose halves hold the largest set take part, at every level.
    """
    largest = max(sizes)
    taking_part = [i for i, rows in enumerate(bench.people.probes) if len(rows) >= 2 * largest]
    if len(taking_part) < 2:
        most = sorted((len(rows) for rows in bench.people.probes), reverse=True)[:2]
        raise ConfigError(
            f"sets of {largest} faces from half of an identity's need {2 * largest} faces besides "
            f"the enrolled one, of two identities at least; the fullest have {most[0]} and "
            f"{most[1]}: ask for smaller --size"
        )
    rows, owners = [], []
    for identity in taking_part:
        probes = bench.people.probes[identity]
        ranked = probes[np.argsort(bench.store.quality[probes], kind="stable")]
        half = len(ranked) // 2
        pool = {"any": probes, "better half": ranked[-half:], "worse half": ranked[:half]}[level]
        draw = np.random.default_rng([bench.bootstrap.seed, identity])
        for _ in range(sets):
            rows.append(draw.permutation(pool)[:largest])
            owners.append(identity)
    return {size: Sets([one[:size] for one in rows], np.array(owners)) for size in sizes}


def measure_shares(bench: Bench) -> Part:
    """Aggregator x matcher by the share of a medium that was seen.

    Raises ConfigError when fewer than two identities have a medium long enough.
    """
    sequences = _sequences(bench)
    rows: dict[str, list[Cell]] = {}
    for name, aggregator in bench.aggregators.items():
        templates = []
        for share in SHARES:
            seen = [one[: max(1, round(share * len(one)))] for one in sequences.rows]
            templates.append(bench.fuse(aggregator, Sets(seen, sequences.owners)))
        for matcher in bench.matchers:
            rows[f"{name}, {matcher}"] = [
                _measure(bench, one, sequences.owners, matcher) for one in templates
            ]
    columns = [f"{share:.0%}" for share in SHARES]
    note = f"{len(sequences.rows)} media; the first faces of each, in order."
    part = make_part("Share seen", "aggregator, matcher", columns, rows, bench.far, note)
    curves = [Curve(label, list(SHARES), [c.tar for c in cells]) for label, cells in rows.items()]
    part.plots.append(Plot("By share of the medium seen", "share", far_words(bench.far), curves))
    return part


def measure_chunks(bench: Bench) -> Part:
    """CAFace by chunk size (figure 7): accuracy, and cosine to what one chunk gives."""
    sequences = _sequences(bench)
    longest = max(len(rows) for rows in sequences.rows)
    chunks = (*CHUNKS, longest)
    templates = [bench.fuse(bench.chunked(chunk), sequences) for chunk in chunks]
    columns = [*map(str, CHUNKS), "all at once"]
    rows = {
        f"caface, {matcher}": [_measure(bench, t, sequences.owners, matcher) for t in templates]
        for matcher in bench.matchers
    }
    note = f"{len(sequences.rows)} media of {LEAST_SEQUENCE} to {longest} faces."
    part = make_part("Chunk size", "aggregator, matcher", columns, rows, bench.far, note)
    alike = [(t.astype(np.float64) * templates[-1]).sum(axis=1) for t in templates]
    part.tables.append(
        Table(
            "Chunk size: cosine to the template of one chunk",
            "over media",
            columns,
            [
                Row("mean", [Number(float(one.mean()), "score") for one in alike]),
                Row("smallest", [Number(float(one.min()), "score") for one in alike]),
            ],
        )
    )
    curves = [
        Curve(label, [float(c) for c in CHUNKS], [c.tar for c in cells[:-1]])
        for label, cells in rows.items()
    ]
    part.plots.append(
        Plot("CAFace by chunk size", "faces in a chunk", far_words(bench.far), curves, x_log=True)
    )
    return part


def make_part(
    title: str,
    head: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[Cell]],
    far: float,
    note: str,
) -> Part:
    """One table of TAR and one of rank 1, with the draws of every number."""
    names = (f"{title}: {far_words(far)}", f"{title}: rank 1")
    tars = [Row(k, [measured(c.tar, c.tar_draws) for c in cells]) for k, cells in rows.items()]
    ranks = [Row(k, [measured(c.rank, c.rank_draws) for c in cells]) for k, cells in rows.items()]
    draws: dict[str, Draws] = {}
    for label, cells in rows.items():
        for column, cell in zip(columns, cells, strict=True):
            if len(cell.tar_draws):
                draws[f"{names[0]} / {label} / {column}"] = cell.tar_draws
                draws[f"{names[1]} / {label} / {column}"] = cell.rank_draws
    tables = [
        Table(name, head, list(columns), body, note)
        for name, body in zip(names, (tars, ranks), strict=True)
    ]
    return Part(tables, [], draws)


def _with_gains(
    part: Part,
    columns: Sequence[str],
    sizes: Sequence[int],
    gains: Mapping[str, tuple[Sequence[Cell], Sequence[Cell]]],
) -> Part:
    """The part with (TAR - the mean's TAR) / the mean's TAR, as table and plot."""
    rows, curves = [], []
    for label, (cells, means) in gains.items():
        pairs = list(zip(cells, means, strict=True))
        rows.append(Row(label, [_gain(cell, mean) for cell, mean in pairs]))
        values = [cell.tar / mean.tar - 1 if mean.tar else float("nan") for cell, mean in pairs]
        if label.startswith(LEVELS[0]):
            curves.append(Curve(label, [float(size) for size in sizes], values))
    title = "Sets: relative gain over the mean in TAR"
    part.tables.append(
        Table(title, "quality of the faces: aggregator, matcher", list(columns), rows)
    )
    part.plots.append(Plot(title, "faces in a set", "gain", curves, x_log=True))
    return part


def _gain(cell: Cell, mean: Cell) -> Number:
    if not mean.tar:
        return Number(None)
    draws = np.zeros(0)
    if len(cell.tar_draws):
        known = mean.tar_draws > 0
        draws = cell.tar_draws[known] / mean.tar_draws[known] - 1
    return measured(cell.tar / mean.tar - 1, draws)


def _measure(bench: Bench, templates: Floats, owners: Labels, matcher: str) -> Cell:
    return measure_cell(bench.score(templates, matcher), owners, bench.far, bench.bootstrap)


def _sequences(bench: Bench) -> Sets:
    owners: Iterable[int] = [identity for identity, _ in bench.people.sequences]
    if len(set(owners)) < 2:
        raise ConfigError(
            f"parts share and chunk need media of {LEAST_SEQUENCE} faces or more, of two "
            f"identities at least, got {len(set(owners))}: name videos' frames NAME_FRAME.jpg, or "
            "leave these parts out with --part sets"
        )
    return Sets([rows for _, rows in bench.people.sequences], np.array(list(owners)))
