"""1:1 verification on sets of pairs: accuracy over folds, TAR@FAR, EER, ROC and DET."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.feature_store import FeatureStore, State
from ..models.fusion import Doubles, Floats
from ..models.pooling import Pooling, pool_templates
from ..models.scores import Flags, Labels
from ..models.verification import (
    FoldAccuracy,
    OperatingPoint,
    Roc,
    Rule,
    area_under_roc,
    consecutive_folds,
    count_errors,
    det_points,
    equal_error_rate,
    fold_accuracy,
    operating_point,
    resample_roc,
    resample_share,
    roc_points,
)
from .eval_sets import VerificationSet
from .report_plot import thin_curve
from .report_record import Bad, Curve, Draws, Number, Plot, Row, Table, measured

FARS = (1e-2, 1e-3, 1e-4)
NOT_FOUND = -1.0
"""Score of a pair whose face was not found: below every cosine, so it is never accepted."""


class Measures(NamedTuple):
    """What one set gives. scores, same (N,) of the pairs kept; kept (N,): their places."""

    name: str
    scores: Doubles
    same: Flags
    kept: Labels
    accuracy: FoldAccuracy
    roc: Roc
    points: list[OperatingPoint]
    draws: dict[str, Draws]
    not_found: int
    identities: int | None


class Bootstrap(NamedTuple):
    """How often to draw, and from which seed."""

    resamples: int = 1000
    seed: int = 0


def score_set(
    chosen: VerificationSet,
    store: FeatureStore,
    pooling: Pooling,
    *,
    skip_bad: bool = False,
    bad: list[Bad] | None = None,
) -> tuple[Doubles, Flags]:
    """Cosines of all pairs (N,), and which pairs count (N,).

    A face that was not found leaves its item without features; a pair with such an item scores
    NOT_FOUND. Faces that cannot be read or are not finite leave their pairs out with skip_bad;
    without it they are a ConfigError.
    """
    states = np.asarray(store.states)
    spoilt = np.isin(states, (State.UNREADABLE, State.NOT_FINITE))
    if spoilt.any():
        note_spoilt(store, spoilt, skip_bad, bad)
    good = store.embedded
    items = np.arange(len(chosen.pairs.items))
    templates = pool_templates(
        np.asarray(store.embeddings)[good],
        chosen.owners[good],
        np.zeros(int(good.sum()), np.int64),
        pooling,
        flipped=np.asarray(store.flipped)[good] if pooling.add_flip else None,
        detector_scores=store.detector[good],
        wanted=items,
    )
    first, second = chosen.pairs.first, chosen.pairs.second
    scores = cosines(templates.vectors, first, second)
    scores[templates.missing[first] | templates.missing[second]] = NOT_FOUND
    unusable = templates.missing & np.isin(items, chosen.owners[spoilt])
    return scores, ~(unusable[first] | unusable[second])


def note_spoilt(store: FeatureStore, spoilt: Flags, skip_bad: bool, bad: list[Bad] | None) -> None:
    """Raise ConfigError for faces without usable features, or list them."""
    words = {State.UNREADABLE: "not a readable picture", State.NOT_FINITE: "features not finite"}
    faults = [
        Bad(store.names[row], words[State(int(store.states[row]))])
        for row in np.flatnonzero(spoilt)
    ]
    if not skip_bad:
        raise ConfigError(
            f"{len(faults)} of {len(store.names)} faces cannot be used, the first is "
            f"{faults[0].where}: {faults[0].why}; leave such faces out with --skip-bad"
        )
    if bad is not None:
        bad += faults


def cosines(vectors: Floats, first: Labels, second: Labels) -> Doubles:
    """Inner products of rows (N,), in blocks."""
    scores = np.empty(len(first))
    for at in range(0, len(first), 4096):
        part = slice(at, at + 4096)
        a, b = vectors[first[part]].astype(np.float64), vectors[second[part]]
        scores[part] = (a * b).sum(axis=1)
    return scores


def measure_set(
    name: str,
    pairs_same: Flags,
    scores: Doubles,
    kept: Flags,
    *,
    folds: Labels | None,
    sides: tuple[Labels, Labels] | None,
    rule: Rule,
    bootstrap: Bootstrap,
) -> Measures:
    """All numbers of one set.

    sides: the identities of each pair, for the bootstrap; None takes each pair for one of its own.
    """
    places = np.flatnonzero(kept)
    value, same = scores[kept], pairs_same[kept]
    # Folds go by all pairs, so a pair left out moves no other.
    fold_of = consecutive_folds(len(kept)) if folds is None else folds
    accuracy = fold_accuracy(value, same, fold_of[kept])
    roc = count_errors(value, same)
    points = [operating_point(roc, far, rule) for far in FARS]
    alone = np.arange(len(value))
    first, second = (alone, alone) if sides is None else (sides[0][kept], sides[1][kept])
    draws: dict[str, Draws] = {}
    if bootstrap.resamples:
        how = {"resamples": bootstrap.resamples, "seed": bootstrap.seed}
        draws["accuracy"] = resample_share(accuracy.correct, first, second, **how)
        drawn = list(resample_roc(value, same, first, second, **how))
        for far in FARS:
            tars = [operating_point(one, far, rule).tar for one in drawn]
            draws[far_words(far)] = np.array(tars)
        draws["EER"] = np.array([equal_error_rate(one) for one in drawn])
        draws["AUC"] = np.array([area_under_roc(one) for one in drawn])
    people = None if sides is None else len(np.unique(np.concatenate([first, second])))
    lost = int((value == NOT_FOUND).sum())
    return Measures(name, value, same, places, accuracy, roc, points, draws, lost, people)


def far_words(far: float) -> str:
    """A column's name.

    >>> far_words(1e-3), far_words(0.05)
    ('TAR@FAR=1e-3', 'TAR@FAR=0.05')
    """
    return f"TAR@FAR={rate_words(far)}"


def rate_words(rate: float) -> str:
    """A rate as tables write it: powers of ten as such.

    >>> rate_words(1e-5), rate_words(0.02)
    ('1e-5', '0.02')
    """
    short = f"{rate:.0e}".replace("e-0", "e-")
    return short if rate > 0 and float(short) == rate and short[0] == "1" else f"{rate:g}"


def make_tables(sets: Sequence[Measures]) -> list[Table]:
    """Accuracy and rates, thresholds, and counts."""
    rates, areas = [], []
    for one in sets:
        mean = measured(one.accuracy.mean, one.draws.get("accuracy", ()), spread=one.accuracy.std)
        tars = [measured(p.tar, one.draws.get(far_words(p.target), ())) for p in one.points]
        eer = measured(equal_error_rate(one.roc), one.draws.get("EER", ()), better="lower")
        auc = measured(area_under_roc(one.roc), one.draws.get("AUC", ()))
        rates.append(Row(one.name, [mean, *tars]))
        areas.append(Row(one.name, [eer, auc]))
    note = "Accuracy: mean over folds ± standard deviation; each fold judged at the threshold that "
    note += "is best on the others."
    for one in sets:
        if few := [rate_words(far) for far in FARS if one.roc.impostor * far < 1]:
            note += (
                f" {one.name}: too few impostor pairs to measure a FAR of {', '.join(few)}; there "
                "the threshold lies above every impostor."
            )
    return [
        Table("Verification", "set", ["accuracy", *map(far_words, FARS)], rates, note),
        Table("Whole curve", "set", ["EER", "AUC"], areas),
        Table(
            "Thresholds (cosine)",
            "set",
            ["folds' mean", *(f"at FAR={rate_words(far)}" for far in FARS)],
            [Row(one.name, _thresholds(one)) for one in sets],
        ),
        Table(
            "Counts",
            "set",
            ["genuine pairs", "impostor pairs", "identities", "pairs with a face not found"],
            [Row(one.name, _counts(one)) for one in sets],
        ),
    ]


def _thresholds(one: Measures) -> list[Number | str]:
    values = [float(one.accuracy.thresholds.mean()), *(point.threshold for point in one.points)]
    return [
        Number(value if np.isfinite(value) else None, "score", better="neither") for value in values
    ]


def _counts(one: Measures) -> list[Number | str]:
    known = [int(one.roc.genuine), int(one.roc.impostor)]
    cells: list[Number | str] = [Number(n, "count", better="neither") for n in known]
    people = one.identities
    cells.append("not told" if people is None else Number(people, "count", better="neither"))
    cells.append(Number(one.not_found, "count", better="lower"))
    return cells


def make_plots(rocs: Sequence[tuple[str, Roc]]) -> list[Plot]:
    """ROC with a logarithmic FAR axis, and DET with both axes logarithmic."""
    curves: list[Curve] = []
    dets: list[Curve] = []
    for name, roc in rocs:
        floor = 1 / roc.impostor
        curves.append(Curve(name, *thin_curve(*roc_points(roc), floor=floor)))
        dets.append(Curve(name, *thin_curve(*det_points(roc), floor=floor)))
    return [
        Plot("ROC", "false accept rate (FAR)", "true accept rate (TAR)", curves, x_log=True),
        Plot(
            "DET",
            "false match rate (FMR)",
            "false non-match rate (FNMR)",
            dets,
            x_log=True,
            y_log=True,
        ),
    ]


def draws_by_key(sets: Sequence[Measures]) -> dict[str, Draws]:
    """Draws under the keys of their numbers."""
    titles = {"EER": "Whole curve", "AUC": "Whole curve"}
    return {
        f"{titles.get(name, 'Verification')} / {one.name} / {name}": draws
        for one in sets
        for name, draws in one.draws.items()
    }


def pairing_of(parts: Sequence[np.ndarray | None], bootstrap: Bootstrap) -> str:
    """What two reports must share for their draws to be compared one by one."""
    total = hashlib.sha256(f"{bootstrap}".encode())
    for part in parts:
        total.update(b"none" if part is None else np.ascontiguousarray(part).tobytes())
    return total.hexdigest()[:16]


def extreme_pairs(one: Measures, count: int = 6) -> list[tuple[str, list[int]]]:
    """Groups of pair places: genuine pairs with the lowest and highest scores, and impostors'.

    Pairs with a face that was not found have no score to be shown for.
    """
    order = np.argsort(one.scores, kind="stable")
    order = order[one.scores[order] != NOT_FOUND]
    genuine, impostor = order[one.same[order]], order[~one.same[order]]
    groups = [
        ("Genuine pairs with the lowest scores", genuine[:count]),
        ("Impostor pairs with the highest scores", impostor[::-1][:count]),
        ("Genuine pairs with the highest scores", genuine[::-1][:count]),
        ("Impostor pairs with the lowest scores", impostor[:count]),
    ]
    return [(title, [int(place) for place in places]) for title, places in groups if len(places)]
