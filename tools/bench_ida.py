"""What `facestream bench ida` measures: open-set search by IDA and its rivals, against cosine.

Half of the people are enrolled while the others are strangers, then the other way round. Every
variant scores the same probes, so differences to cosine are paired: both are resampled with the
same people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import ConfigError
from ..models.fusion import Doubles, Floats
from ..models.ida import Anchors, DensityModel, aligned_score
from ..models.identification import ProbeRanks, rank_probes
from ..models.pooling import unit_rows
from ..models.score_norm import as_norm, csls
from ..models.scores import Labels
from .eval_identify import Search, column_names, measure_searches
from .report_record import Draws, Number, measured

if TYPE_CHECKING:
    from .bench_degraded import HeldOut
    from .eval_verification import Bootstrap

FPIRS = (0.1, 0.01)
COLUMNS = column_names((1,), FPIRS)
COHORT = 300
"""Cohort scores that AS-norm uses."""
NEIGHBOURS = (1, 3, 10, 30, 100, 300)
TAUS = (0.05, 0.5, 1.0, 2.0, 8.0, 64.0)
COUNTS = (30, 100, 300, 900)
COSINE = "cosine"

Score = Callable[[Floats, Floats], Doubles]
"""Unit probes (P, C) and enrolled (G, C) to scores (P, G)."""


class Task(NamedTuple):
    """One search.

    probes (P, C) and whose they are (P,); people (I, C), the templates of people 0..I-1, half of
    whom are enrolled at a time; others (D, C), enrolled always and never probed. Unit float32.
    missed: share of probes without a usable face, which are left out.
    """

    name: str
    probes: Floats
    owners: Labels
    people: Floats
    others: Floats
    missed: float


class Measured(NamedTuple):
    """Numbers of one variant by column, and the draws behind their intervals (B,)."""

    numbers: dict[str, Number]
    draws: dict[str, Draws]

    def against(self, other: Measured) -> dict[str, Number]:
        """The differences to another variant of the same task, resample by resample."""
        found = {}
        for column, number in self.numbers.items():
            ours, theirs = number.value, other.numbers[column].value
            value = float("nan") if ours is None or theirs is None else ours - theirs
            draws = self.draws[column] - other.draws[column] if self.draws else ()
            found[column] = measured(value, draws, unit="points")
        return found


class PackNumbers(NamedTuple):
    """One pack: its tasks, and by task the variants of every part of the page.

    agreement: by task, what share of the variance of r IDA-L explains; None without IDA-L.
    """

    tasks: list[Task]
    methods: dict[str, dict[str, Measured]]
    curves: dict[str, dict[str, dict[str, Measured]]]
    agreement: dict[str, float] | None


def measure_pack(name: str, assets: Path, folder: Path, bootstrap: Bootstrap) -> PackNumbers:
    """Everything of one pack. Raises ModelError where it has no anchors."""
    from ..models.pack import open_pack
    from . import bench_degraded
    from .build import anchors_of

    pack = open_pack(name)
    anchors = anchors_of(pack)
    if anchors is None:
        raise ConfigError(f"pack {name!r} has no anchors: facestream train anchors makes them")
    london = bench_degraded.london(assets, folder, name)
    wild = bench_degraded.wild(assets, folder, name)
    others = bench_degraded.others(assets, folder, name)
    more, real = split_others(others, anchors)
    tasks = make_tasks(london, wild, more)
    scores = method_scores(anchors, real, pack.learned)
    methods = {task.name: measure(task, scores, bootstrap) for task in tasks}
    curved = [task for task in tasks if len(task.others) or more is None]
    curves = {
        task.name: {
            part: measure(task, variants, bootstrap)
            for part, variants in curve_scores(anchors, real, bootstrap.seed).items()
        }
        for task in curved
    }
    learned = pack.learned
    agreement = None if learned is None else {t.name: agree(t, anchors, learned) for t in tasks}
    return PackNumbers(tasks, methods, curves, agreement)


def split_others(others: HeldOut | None, anchors: Anchors) -> tuple[Floats | None, Anchors | None]:
    """Every second of the other people is enrolled, the rest are anchors of real faces."""
    if others is None:
        return None, None
    rows = others.bank.centres.astype(np.float32)
    real = Anchors(rows[1::2], "real", k=anchors.k, tau=anchors.tau)
    return rows[0::2], real


def make_tasks(london: HeldOut, wild: HeldOut | None, more: Floats | None) -> list[Task]:
    """Each set of people alone and, where there are others, among them."""
    sets = {"London": london} | ({} if wild is None else {"wild": wild})
    tasks = []
    for name, held in sets.items():
        probes, owners, missed = draw_probes(held)
        people = people_templates(held)
        nobody = np.zeros((0, people.shape[1]), np.float32)
        tasks.append(Task(name, probes, owners, people, nobody, missed))
        if more is not None:
            tasks.append(
                Task(f"{name}, {len(more):,} others enrolled", probes, owners, people, more, missed)
            )
    return tasks


def draw_probes(held: HeldOut) -> tuple[Floats, Labels, float]:
    """Every view with a face of the pictures that are not enrolled: as taken and degraded."""
    rows = np.flatnonzero(~held.enrolled)
    bank = held.bank
    found = bank.found[rows]
    degraded = bank.embeddings[rows][found]
    whose = np.broadcast_to(held.owners[rows][:, None, None], found.shape)[found]
    probes = np.concatenate([bank.clean[rows], degraded])
    owners = np.concatenate([held.owners[rows], whose])
    missed = float((~found).sum() / (found.size + len(rows)))
    return unit_rows(probes).astype(np.float32), owners, missed


def people_templates(held: HeldOut) -> Floats:
    """One template per person (I, C): the mean of the enrolled pictures' unit embeddings."""
    centres = held.bank.centres
    people = int(held.owners.max()) + 1
    sums = np.zeros((people, centres.shape[1]))
    np.add.at(sums, held.owners[held.enrolled], centres[held.enrolled])
    if not sums.any(axis=1).all():
        raise ConfigError(
            f"person {int(np.flatnonzero(~sums.any(axis=1))[0])} has no enrolled picture with a "
            "face: leave them out"
        )
    return unit_rows(sums).astype(np.float32)


def cosine(probes: Floats, gallery: Floats) -> Doubles:
    """Plain cosines."""
    return (probes @ gallery.T).astype(np.float64)


def align_by(model: DensityModel) -> Score:
    """IDA with densities of anchors, or of a network in their place."""
    return lambda probes, gallery: aligned_score(
        cosine(probes, gallery),
        model.density(probes)[:, None],
        model.density(gallery)[None],
        tau=model.tau,
    )


def method_scores(
    anchors: Anchors, real: Anchors | None, learned: DensityModel | None
) -> dict[str, Score]:
    """The variants of the first table."""
    cohort = anchors.vectors.T
    top = min(COHORT, len(anchors.vectors))
    scores: dict[str, Score] = {COSINE: cosine, "IDA-R, synthetic anchors": align_by(anchors)}
    if real is not None:
        scores["IDA-R, real anchors"] = align_by(real)
    if learned is not None:
        scores["IDA-L"] = align_by(learned)
    scores["CSLS"] = lambda p, g: csls(cosine(p, g), p @ cohort, g @ cohort, k=anchors.k)
    scores["AS-norm"] = lambda p, g: as_norm(cosine(p, g), p @ cohort, g @ cohort, top=top)
    return scores


def curve_scores(anchors: Anchors, real: Anchors | None, seed: int) -> dict[str, dict[str, Score]]:
    """By part of the page: IDA with one thing changed, by its value; cosine first in each."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(anchors.vectors))

    def synthetic(k: int = anchors.k, tau: float = anchors.tau, count: int | None = None) -> Score:
        rows = anchors.vectors[order[:count]]
        return align_by(Anchors(rows, f"{k} {tau} {count}", k=k, tau=tau))

    counts = [count for count in COUNTS if count < len(anchors.vectors)]
    parts: dict[str, dict[str, Score]] = {
        "k": {f"{k}": synthetic(k=k) for k in NEIGHBOURS if k <= len(anchors.vectors)},
        "tau": {f"{tau:g}": synthetic(tau=tau) for tau in TAUS},
        "anchors, number": {f"{n:,}": synthetic(count=n) for n in counts}
        | {f"{len(anchors.vectors):,}": align_by(anchors)},
    }
    if real is not None:
        count = min(len(anchors.vectors), len(real.vectors))
        few = Anchors(real.vectors[draw.permutation(len(real.vectors))[:count]], "few", k=real.k)
        parts["anchors, kind"] = {
            f"{count:,} synthetic": synthetic(count=count),
            f"{count:,} real": align_by(few),
            f"{len(real.vectors):,} real": align_by(real),
        }
    return {name: {COSINE: cosine, **variants} for name, variants in parts.items()}


def measure(task: Task, scores: Mapping[str, Score], bootstrap: Bootstrap) -> dict[str, Measured]:
    """Rank 1 and TPIR of every variant: the mean over the two halves of the people."""
    found = {}
    for name, score in scores.items():
        searches = [Search(f"half {half}", search(task, score, half)) for half in (0, 1)]
        table, draws = measure_searches(
            name, searches, definition="at_most", bootstrap=bootstrap, ranks=(1,), fpirs=FPIRS
        )
        cells = dict(zip(table.columns, table.rows[0].cells, strict=True))
        found[name] = Measured(
            {column: cell for column, cell in cells.items() if isinstance(cell, Number)},
            {c: draws[f"{name} / mean / {c}"] for c in COLUMNS} if draws else {},
        )
    return found


def search(task: Task, score: Score, half: int) -> ProbeRanks:
    """Ranks (P,) where every second person is enrolled, from number 0 or 1 on, and all others."""
    enrolled = np.arange(half, len(task.people), 2)
    names = np.append(enrolled, len(task.people) + np.arange(len(task.others)))
    gallery = np.concatenate([task.people[enrolled], task.others])
    return rank_probes(score(task.probes, gallery), task.owners, names)


def agree(task: Task, anchors: Anchors, learned: DensityModel) -> float:
    """Share of the variance of the anchors' r over probes and enrolled that IDA-L explains."""
    rows = np.concatenate([task.probes, task.people, task.others])
    true = anchors.density(rows)
    return float(1.0 - np.square(learned.density(rows) - true).mean() / true.var())
