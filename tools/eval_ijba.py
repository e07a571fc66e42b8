"""`facestream evaluate ijb --set ijba`: IJB-A's ten splits, their mean and standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError
from ..models.feature_store import FeatureStore, State, fingerprint_parts
from ..models.fusion import Doubles, Floats
from ..models.identification import ProbeRanks, cmc, open_set, search_gallery
from ..models.pairs import PairBatch, PairCounter, count_pairs
from ..models.pooling import Pooling, pool_templates
from ..models.scores import Labels, identity_weights, pair_weights
from ..models.verification import Roc, Rule, operating_point
from .eval_faces import FaceSet
from .eval_identify import (
    DEFINITIONS,
    FPIRS,
    RANKS,
    Search,
    column_names,
    identification_plots,
)
from .eval_ijb_measures import IjbChoices, Part
from .eval_ijb_set import SelectedRows
from .eval_ijba_lists import (
    MARGIN,
    SPLITS,
    FaceCrops,
    FaceList,
    Identification,
    Verification,
    pictures_folder,
    read_identification,
    read_verification,
)
from .eval_ijba_quality import read_levels, verify_levels
from .eval_options import Source
from .eval_output import model_words
from .eval_progress import progress_bar
from .eval_verification import Bootstrap, far_words, make_plots, note_spoilt, rate_words
from .eval_verify import features_of
from .report_record import Bad, Data, Draws, Number, Result, Row, Table, measured, write_report

PROTOCOLS = ("1:1", "1:N", "quality")
USUAL = ("1:1", "1:N")
"""Those that need no list but IJB-A's own."""
FARS = (1e-1, 1e-2, 1e-3)
Weights = npt.NDArray[np.uint16]


class Embedded(NamedTuple):
    """All faces of the splits with their features. rows: of the store, by a face's name.

    people: the subjects of all splits, ascending.
    """

    store: FeatureStore
    rows: dict[str, int]
    people: Labels


class Pooled(NamedTuple):
    """The templates of one list: ids, subjects (T,), vectors (T, C) unit or zero without a face."""

    ids: Labels
    subjects: Labels
    vectors: Floats

    @property
    def missing(self) -> int:
        """How many have no face."""
        return int((~self.vectors.any(axis=1)).sum())


class Measured(NamedTuple):
    """One split: its numbers (C,), their draws (B, C), NaN where undefined, and counts for show."""

    values: Doubles
    draws: Draws
    counts: list[str]


def evaluate_ijba(folder: Path, choices: IjbChoices, source: Source) -> Result:
    """Read the lists of all splits, embed every face once, and measure 1:1, 1:N and by quality.

    folder: holds the splits and images/. Raises ConfigError for malformed or missing input, and
    what `open_pack` raises.
    """
    if choices.live is not None:
        raise ConfigError("--fuse and --score are for ijbb and ijbc: leave them out for ijba")
    bad: list[Bad] = []
    noted = bad if source.skip_bad else None
    pairs = read_verification(folder, noted) if "1:1" in choices.protocols else []
    searches = read_identification(folder, noted) if "1:N" in choices.protocols else []
    lists = [one.listed for one in pairs]
    lists += [one for search in searches for one in (search.gallery, search.probes)]
    leveled = read_levels(folder, noted) if "quality" in choices.protocols else None
    lists += [leveled.listed] if leveled is not None else []
    faces = _embed(folder, lists, choices.pooling, source, bad)
    weights = None
    if choices.bootstrap.resamples:
        resamples, seed = choices.bootstrap
        weights = identity_weights(len(faces.people), resamples, seed=seed)
    parts = []
    if pairs:
        parts.append(verify_splits(pairs, faces, choices, weights))
    if searches:
        parts.append(identify_splits(searches, faces, choices.pooling, weights))
    if leveled is not None:
        pooled = pool_list(leveled.listed, faces, choices.pooling)
        people = np.searchsorted(faces.people, pooled.subjects)
        parts.append(verify_levels(pooled.vectors, people, leveled.levels, choices, weights))
    fingerprint = fingerprint_parts(
        [("features", faces.store.key.data.encode())]
        + [(one.path.name, one.path.read_bytes()) for one in lists]
        + [(f"pairs {one.split}", one.pairs.tobytes()) for one in pairs]
    )
    facts = {"faces": f"{len(faces.store.names):,}", "subjects": f"{len(faces.people):,}"}
    report = write_report(
        "ijba",
        f"IJB-A: {', '.join(choices.protocols)}",
        variant=_variant(choices, {"1:1": len(pairs), "1:N": len(searches)})
        + [line for part in parts for line in part.variant],
        data=Data("ijba", fingerprint, facts),
        model=model_words(faces.store),
        tables=[table for part in parts for table in part.tables],
        plots=[plot for part in parts for plot in part.plots],
        bad=bad,
        pairing=f"{fingerprint} {choices.bootstrap}",
    )
    return Result(report, {key: d for part in parts for key, d in part.draws.items()}, [])


def verify_splits(
    splits: Sequence[Verification], faces: Embedded, choices: IjbChoices, weights: Weights | None
) -> Part:
    """1:1: TAR at each of FARS by split, and over splits. weights (B, people) of the bootstrap."""
    results, rocs = {}, []
    with progress_bar("1:1", len(splits)) as advance:
        for one in splits:
            name = f"split {one.split}"
            pooled = pool_list(one.listed, faces, choices.pooling)
            first, second = np.searchsorted(pooled.ids, one.pairs).T
            same = pooled.subjects[first] == pooled.subjects[second]
            if same.all() or not same.any():
                raise ConfigError(
                    f"split {one.split}: expected genuine and impostor pairs, got {same.sum()} "
                    f"genuine of {len(same)}: check that {one.listed.path.name} belongs to it"
                )
            owners = np.searchsorted(faces.people, pooled.subjects)
            batch = PairBatch(first, second, same)
            counter = count_pairs(
                pooled.vectors, [batch], subjects=owners if weights is not None else None,
                weights=weights,
            )  # fmt: skip
            roc = counter.roc()
            draws = _tar_draws(counter, batch, owners, weights, choices.rule)
            counts = [f"{int(n):,}" for n in (roc.genuine, roc.impostor, pooled.missing)]
            results[name] = Measured(_tars(roc, choices.rule), draws, counts)
            rocs.append((name, roc))
            advance(1)
    counted = ["genuine pairs", "impostor pairs", "templates without a face"]
    table, draws_by_key = split_table("1:1", [far_words(far) for far in FARS], counted, results)
    variant = [f"1:1: TAR@FAR ({choices.rule}) in each split, at a threshold of its own"]
    least = min(roc.impostor for _, roc in rocs)
    if few := [rate_words(far) for far in FARS if least * far < 1]:
        variant.append(f"1:1: too few impostor pairs to measure a FAR of {', '.join(few)}")
    return Part([table], make_plots(rocs), draws_by_key, variant, {})


def _tars(roc: Roc, rule: Rule) -> Doubles:
    return np.array([operating_point(roc, far, rule).tar for far in FARS])


def _tar_draws(
    counter: PairCounter, batch: PairBatch, owners: Labels, weights: Weights | None, rule: Rule
) -> Draws:
    """TARs of every resample (B, FARS): NaN where it lacks genuine or impostor pairs."""
    if weights is None:
        return np.zeros((0, len(FARS)))
    draws = np.full((len(weights), len(FARS)), np.nan)
    same = np.asarray(batch.same)
    first, second = owners[batch.first], owners[batch.second]
    complete = [
        bool(row[same].any() and row[~same].any())
        for row in (pair_weights(one, first, second) for one in weights)
    ]
    tars = [_tars(roc, rule) for roc in counter.resampled()]
    if tars:
        draws[np.array(complete)] = tars
    return draws


def identify_splits(
    splits: Sequence[Identification], faces: Embedded, pooling: Pooling, weights: Weights | None
) -> Part:
    """1:N: ranks and TPIR at each of FPIRS by split, and over splits."""
    results, searches = {}, []
    with progress_bar("1:N", len(splits)) as advance:
        for one in splits:
            name = f"split {one.split}"
            gallery, probes = (pool_list(x, faces, pooling) for x in (one.gallery, one.probes))
            ranks = search_gallery(
                probes.vectors, probes.subjects, gallery.vectors, gallery.subjects
            )
            if not ranks.mated.any():
                raise ConfigError(
                    f"{one.probes.path}: no probe's subject is in {one.gallery.path.name}: check "
                    "that the two lists belong together"
                )
            draws = _rank_draws(ranks, np.searchsorted(faces.people, probes.subjects), weights)
            sizes = [len(gallery.ids), len(probes.ids), int((~ranks.mated).sum())]
            counts = [f"{n:,}" for n in (*sizes, gallery.missing + probes.missing)]
            results[name] = Measured(_rates(ranks), draws, counts)
            searches.append(Search(name, ranks))
            advance(1)
    counted = ["gallery", "probes", "without a mate", "templates without a face"]
    table, draws_by_key = split_table("1:N", column_names(RANKS, FPIRS), counted, results)
    variant = [
        "1:N: ranks over the probes whose subject is in the split's gallery; ties count against "
        "the system: a mate must beat all others",
        f"1:N threshold (at_most): {DEFINITIONS['at_most']}; TPIR: mated probes whose mate is "
        "first and above it",
    ]
    return Part([table], identification_plots(searches), draws_by_key, variant, {})


def _rates(ranks: ProbeRanks) -> Doubles:
    """Closed-set rates and TPIRs; NaN where probes without or with a mate are lacking."""
    mated = ranks.mated
    if not mated.any():
        return np.full(len(RANKS) + len(FPIRS), np.nan)
    curve = cmc(ranks, max(RANKS))
    rates = [float(curve[rank - 1]) for rank in RANKS]
    if mated.all():
        return np.array(rates + [float("nan")] * len(FPIRS))
    return np.array(rates + [open_set(ranks, rate, "at_most").tpir for rate in FPIRS])


def _rank_draws(ranks: ProbeRanks, owners: Labels, weights: Weights | None) -> Draws:
    """Rates of every resample of the probes' subjects (B, columns), the gallery held fixed."""
    if weights is None:
        return np.zeros((0, len(RANKS) + len(FPIRS)))
    everyone = np.arange(len(owners))
    return np.array([_rates(ranks.take(np.repeat(everyone, row[owners]))) for row in weights])


def split_table(
    title: str, columns: list[str], counted: list[str], results: Mapping[str, Measured]
) -> tuple[Table, dict[str, Draws]]:
    """The mean over splits with their standard deviation and its interval, then every split."""
    values = np.array([one.values for one in results.values()])  # (splits, C)
    drawn = np.mean([one.draws for one in results.values()], axis=0)  # (B, C)
    cells: list[Number | str] = []
    draws = {}
    for place, column in enumerate(columns):
        sample = drawn[:, place]
        mean, spread = float(values[:, place].mean()), float(values[:, place].std())
        cells.append(measured(mean, sample, spread=None if np.isnan(spread) else spread))
        if len(sample):
            draws[f"{title} / mean / {column}"] = sample
    rows = [Row("mean", [*cells, *[""] * len(counted)])]
    for name, one in results.items():
        rows.append(Row(name, [*(measured(float(value)) for value in one.values), *one.counts]))
    note = "± is the standard deviation over splits, divided by their number."
    return Table(title, "split", [*columns, *counted], rows, note), draws


def pool_list(listed: FaceList, faces: Embedded, pooling: Pooling) -> Pooled:
    """The templates of one list, ascending, zero where none of their faces is usable."""
    rows = np.array([faces.rows[face.name] for face in listed.faces], np.int64)
    kept = np.flatnonzero(faces.store.embedded[rows])
    ids, firsts = np.unique(listed.templates, return_index=True)
    used, store = rows[kept], faces.store
    templates = pool_templates(
        SelectedRows.of(store.embeddings, used),
        listed.templates[kept],
        listed.media[kept],
        pooling,
        flipped=SelectedRows.of(store.flipped, used) if pooling.add_flip else None,
        detector_scores=store.detector[used] if pooling.detector_weight else None,
        wanted=ids,
    )
    return Pooled(ids, listed.subjects[firsts], templates.vectors)


def _embed(
    folder: Path, lists: Sequence[FaceList], pooling: Pooling, source: Source, bad: list[Bad]
) -> Embedded:
    """Every face once, however many templates and splits it serves."""
    by_name = {face.name: face for one in lists for face in one.faces}
    names = sorted(by_name)
    crops = FaceCrops(pictures_folder(folder), [by_name[name] for name in names])
    store = features_of(FaceSet("ijba", names, crops, "detect"), source, flip=pooling.add_flip)
    spoilt = np.isin(np.asarray(store.states), (State.UNREADABLE, State.NOT_FINITE))
    if spoilt.any():
        note_spoilt(store, spoilt, source.skip_bad, bad)
    people = np.unique(np.concatenate([one.subjects for one in lists]))
    return Embedded(store, {name: row for row, name in enumerate(names)}, people)


def _variant(choices: IjbChoices, splits: Mapping[str, int]) -> list[str]:
    lines = [
        f"templates: {choices.pooling.describe()}; score: cosine",
        f"faces: the given boxes with {MARGIN:.0%} of their size added on each side, aligned by "
        "the pack's detector",
        "a template without a face is a zero vector and scores 0 to all",
        "no training on the splits' own training lists",
    ]
    for name in choices.protocols:
        if name in USUAL:
            lines.append(f"{name}: mean over {splits[name]} of {len(SPLITS)} splits")
    if choices.bootstrap.resamples:
        lines.append(_bootstrap_words(choices.bootstrap))
    return lines


def _bootstrap_words(bootstrap: Bootstrap) -> str:
    return (
        "intervals: 95 % bootstrap over subjects, drawn alike in all splits since they "
        f"share subjects, galleries fixed; {bootstrap.resamples} resamples, seed {bootstrap.seed}"
    )
