"""What IJB-B and IJB-C measure: pairs of templates, searches of galleries, clusters of faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .. import ConfigError
from ..models.pairs import count_pairs
from ..models.pooling import Pooling, Templates, unit_rows, weigh_images
from ..models.scores import identity_weights
from ..models.verification import Roc, Rule, equal_error_rate, operating_point
from .eval_cluster import ClusterSettings, choose_faces, cluster_table
from .eval_identify import (
    DEFINITIONS,
    FPIRS,
    Search,
    identification_plots,
    mean_words,
    measure_searches,
    need_disjoint,
)
from .eval_ijb_lists import PairFile, read_subjects, templates_of_pairs
from .eval_ijb_live import Live, fuse_templates, pair_scorer, search
from .eval_ijb_pictures import Telling, telling_probes
from .eval_ijb_set import IjbSet, pool
from .eval_progress import progress_bar
from .eval_text import Integers
from .eval_verification import Bootstrap, far_words, make_plots, rate_words
from .report_record import Bad, Draws, Number, Plot, Row, Table, measured

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class IjbChoices(NamedTuple):
    """The command's own options.

    most_faces: for clustering. pictures: put faces on the page. live: a pack's own fusing and
    scoring in place of pooling and cosine.
    """

    protocols: tuple[str, ...]
    pooling: Pooling
    rule: Rule
    bootstrap: Bootstrap
    cluster: ClusterSettings
    most_faces: int
    pictures: bool = False
    live: Live | None = None

    @property
    def words(self) -> str:
        """How templates are made and compared."""
        fused = self.live.aggregator if self.live else None
        made = f"fused by {fused.name}, as live" if fused else self.pooling.describe()
        return f"templates: {made}; score: {self.live.score if self.live else 'cosine'}"


class Part(NamedTuple):
    """What one protocol adds to the report. telling: groups of probes for the page."""

    tables: list[Table]
    plots: list[Plot]
    draws: dict[str, Draws]
    variant: list[str]
    facts: dict[str, str]
    telling: Sequence[tuple[str, list[Telling]]] = ()


def verify_pairs(chosen: IjbSet, choices: IjbChoices, skip_bad: bool, bad: list[Bad]) -> Part:
    """1:1 over the list of pairs, in bounded memory."""
    path = chosen.files.pairs
    assert path is not None  # the caller looked
    wanted = templates_of_pairs(path)
    templates = make_templates(chosen, choices, wanted)
    note_missing(templates, path.name, skip_bad, bad)
    row_of = np.full(int(wanted.max(initial=0)) + 1, -1)
    row_of[wanted] = np.arange(len(wanted))
    pairs = PairFile(path, row_of)
    weights = subjects = None
    if choices.bootstrap.resamples:
        subjects = subjects_of_pairs(pairs, len(wanted))
        count = int(subjects.max()) + 1
        resamples, seed = choices.bootstrap
        weights = identity_weights(count, resamples, seed=seed)
    with progress_bar("scoring pairs", None):
        density = choices.live.density if choices.live else None
        counter = count_pairs(
            templates.vectors,
            pairs,
            subjects=subjects,
            weights=weights,
            score=None if density is None else pair_scorer(templates.vectors, density),
        )
        roc, drawn = counter.roc(), list(counter.resampled())
    table, draws = pair_table(roc, drawn, choices.rule)
    variant = [f"TAR@FAR ({choices.rule})"]
    if subjects is not None:
        variant.append(
            "1:1 intervals: 95 % bootstrap over identities, which are the templates that genuine "
            f"pairs link; {choices.bootstrap.resamples} resamples, seed {choices.bootstrap.seed}"
        )
    facts = {"templates": f"{len(wanted):,}", "pairs": f"{int(roc.genuine + roc.impostor):,}"}
    return Part([table], make_plots([(chosen.files.name, roc)]), draws, variant, facts)


def make_templates(chosen: IjbSet, choices: IjbChoices, wanted: Integers) -> Templates:
    """The templates of these ids, pooled as published or fused as live."""
    if choices.live is not None and choices.live.aggregator is not None:
        return fuse_templates(chosen, choices.live.aggregator, wanted)
    return pool(chosen, choices.pooling, wanted)


def pair_table(roc: Roc, drawn: Sequence[Roc], rule: Rule) -> tuple[Table, dict[str, Draws]]:
    """One row per FAR: TAR with its interval, threshold, and the FAR measured there."""
    rows, draws = [], {}
    for far in FARS:
        point = operating_point(roc, far, rule)
        name = far_words(far)
        sample = np.array([operating_point(one, far, rule).tar for one in drawn])
        draws[f"1:1 / {name} / TAR"] = sample
        inside = np.isfinite(point.threshold)
        threshold = Number(point.threshold if inside else None, "score", better="neither")
        measured_far = f"{point.far:.3g}"
        rows.append(Row(name, [measured(point.tar, sample), threshold, measured_far]))
    sample = np.array([equal_error_rate(one) for one in drawn])
    draws["1:1 / EER / TAR"] = 1 - sample
    rate = equal_error_rate(roc)
    rows.append(Row("EER", [measured(1 - rate, 1 - sample), "", f"{rate:.3g}"]))
    few = [rate_words(far) for far in FARS if roc.impostor * far < 1]
    note = f"{int(roc.genuine):,} genuine and {int(roc.impostor):,} impostor pairs."
    if few:
        note += f" Too few impostor pairs to measure a FAR of {', '.join(few)}."
    table = Table("1:1", "point", ["TAR", "threshold (cosine)", "FAR there"], rows, note)
    return table, {key: sample for key, sample in draws.items() if len(sample)}


def note_missing(templates: Templates, where: str, skip_bad: bool, bad: list[Bad]) -> None:
    """List templates without features, or raise ConfigError; they are zero and score 0 to all."""
    missing = templates.ids[templates.missing]
    if not len(missing):
        return
    if not skip_bad:
        raise ConfigError(
            f"{where}: {len(missing)} of {len(templates.ids)} templates have no usable picture, "
            f"the first is template {missing[0]}: with --skip-bad they are zero and score 0 to all"
        )
    bad += [Bad(f"{where}: template {one}", "no usable picture; scores 0") for one in missing]


def subjects_of_pairs(pairs: PairFile, templates: int) -> Integers:
    """Identity (T,) of each template: those that genuine pairs link, directly or over others."""
    links = [
        np.stack([np.asarray(one.first)[one.same], np.asarray(one.second)[one.same]])
        for one in pairs
    ]
    first, second = np.concatenate([np.zeros((2, 0), np.int64), *links], axis=1)
    shape = (templates, templates)
    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=shape)
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def identify_probes(chosen: IjbSet, choices: IjbChoices, skip_bad: bool, bad: list[Bad]) -> Part:
    """1:N: mixed probes against each gallery and against both together."""
    files, noted = chosen.files, bad if skip_bad else None
    assert files.probe is not None  # the caller looked
    ids, subjects = read_subjects(files.probe, noted)
    probes = make_templates(chosen, choices, ids)
    note_missing(probes, files.probe.name, skip_bad, bad)
    galleries: list[tuple[str, Templates, Integers]] = []
    for path in files.galleries:
        name = path.stem.rsplit("_", 1)[-1]
        ids, owners = read_subjects(path, noted)
        templates = make_templates(chosen, choices, ids)
        note_missing(templates, path.name, skip_bad, bad)
        galleries.append((name, templates, owners))
    need_disjoint([(name, owners) for name, _, owners in galleries], noted)
    density = choices.live.density if choices.live else None
    with progress_bar("searching galleries", None):
        searches = [
            Search(name, search(probes.vectors, subjects, templates.vectors, owners, density))
            for name, templates, owners in galleries
        ]
        if len(galleries) > 1:
            joined = np.concatenate([templates.vectors for _, templates, _ in galleries])
            owners = np.concatenate([owners for _, _, owners in galleries])
            ranks = search(probes.vectors, subjects, joined, owners, density)
            searches.append(Search("all galleries", ranks, closed_only=True))
    table, draws = measure_searches("1:N", searches, definition="ijb", bootstrap=choices.bootstrap)
    with_strangers = [one for one in searches if not one.closed_only]
    variant = [
        f"1:N threshold (ijb): {DEFINITIONS['ijb']}; TPIR: mated probes whose mate is first and "
        "above it; mean over galleries",
        *(f"1:N {mean_words(with_strangers, rate, 'ijb')}" for rate in FPIRS),
        "ties count against the system: a mate must beat all others",
    ]
    if choices.bootstrap.resamples:
        variant.append("1:N intervals: 95 % bootstrap over the probes' subjects, galleries fixed")
    facts = {"probes": f"{len(subjects):,}"}
    facts |= {f"subjects in {name}": f"{len(set(o.tolist())):,}" for name, _, o in galleries}
    part = Part([table], identification_plots(searches), draws, variant, facts)
    if not choices.pictures:
        return part
    found = [one.ranks for one in with_strangers]
    return part._replace(telling=telling_probes(probes, subjects, galleries, found))


def cluster_faces(chosen: IjbSet, choices: IjbChoices, skip_bad: bool, bad: list[Bad]) -> Part:
    """Clustering of single pictures, whose subjects the list of mixed probes tells."""
    path = chosen.files.probe
    assert path is not None  # the caller looked
    ids, subjects = read_subjects(path, bad if skip_bad else None)
    order = np.argsort(ids)
    places = np.minimum(np.searchsorted(ids[order], chosen.media.templates), len(ids) - 1)
    known = ids[order][places] == chosen.media.templates
    listed = np.flatnonzero(known & chosen.store.embedded[chosen.rows])
    # A picture that serves several templates of one subject is clustered once.
    rows, firsts = np.unique(chosen.rows[listed], return_index=True)
    owner = subjects[order][places[listed]][firsts]
    if not len(rows):
        raise ConfigError(f"{path}: no picture belongs to a probe: check the list of pictures")
    seed = choices.cluster.seed
    taken = choose_faces(owner, choices.most_faces, seed)
    embeddings = np.asarray(chosen.store.embeddings[rows[taken]])
    flipped = np.asarray(chosen.store.flipped[rows[taken]]) if choices.pooling.add_flip else None
    flip_only = Pooling(add_flip=choices.pooling.add_flip)
    faces = unit_rows(weigh_images(embeddings, flip_only, flipped=flipped)).astype(np.float32)
    with progress_bar(f"clustering {len(taken):,} faces", None):
        table = cluster_table(faces, owner[taken], choices.cluster)
    part = "all" if len(taken) == len(owner) else f"{len(taken):,} of {len(owner):,} (seed {seed})"
    variant = [f"clustering: single pictures of the mixed probes' subjects, {part}, at length 1"]
    return Part([table], [], {}, variant, {})
