"""`facestream evaluate verification`: from sets on disk to a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .. import ConfigError
from ..models.feature_store import FeatureStore, fingerprint_parts
from ..models.pooling import Pooling
from .eval_crops import face_pictures
from .eval_faces import FaceSet, embed_faces, open_features
from .eval_options import Source, check_choice
from .eval_output import model_words
from .eval_sets import VerificationSet, read_set
from .eval_verification import (
    Bootstrap,
    Measures,
    draws_by_key,
    extreme_pairs,
    make_plots,
    make_tables,
    measure_set,
    pairing_of,
    score_set,
)
from .report_record import Bad, Data, Example, Result, write_report


class Choices(NamedTuple):
    """The command's own options."""

    images: Path | None = None
    kind: str = "auto"
    alignment: str = "detect"
    flip: bool = True
    every: int = 1
    rule: str = "at_most"
    resamples: int = 1000
    seed: int = 0
    pictures: bool = True


def verify_sets(paths: Sequence[Path], choices: Choices, source: Source) -> Result:
    """Read, embed, measure. Raises ConfigError for malformed or missing input, and what
    `models.pack.open_pack` raises.
    """
    kind = check_choice("--kind", choices.kind, ("auto", "lfw", "two-lines", "list", "ytf"))
    alignment = check_choice("--alignment", choices.alignment, ("detect", "aligned"))
    rule = check_choice("--rule", choices.rule, ("at_most", "nearest"))
    bad: list[Bad] = []
    chosen = [
        one
        for path in paths
        for one in read_set(
            path,
            images=choices.images,
            kind=None if kind == "auto" else kind,  # type: ignore[arg-type]
            alignment=alignment,  # type: ignore[arg-type]
            every=choices.every,
            bad=bad if source.skip_bad else None,
        )
    ]
    if len(chosen) > 1 and (source.store or source.features):
        raise ConfigError("--store and --features hold one set: name one set, or leave them out")
    if len({one.faces.title for one in chosen}) != len(chosen):
        raise ConfigError("sets must have different names: rename one of the files")
    bootstrap = Bootstrap(choices.resamples, choices.seed)
    pooling = Pooling(add_flip=choices.flip, by_media=False)
    measures, stores, examples = [], [], []
    for one in chosen:
        store = features_of(one.faces, source, flip=choices.flip)
        scores, kept = score_set(one, store, pooling, skip_bad=source.skip_bad, bad=bad)
        people = one.pairs.subjects
        sides = None if people is None else (people[one.pairs.first], people[one.pairs.second])
        measured = measure_set(
            one.faces.title,
            one.pairs.same,
            scores,
            kept,
            folds=one.pairs.folds,
            sides=sides,
            rule=rule,  # type: ignore[arg-type]
            bootstrap=bootstrap,
        )
        measures.append(measured)
        stores.append(store)
        if choices.pictures and source.features is None:
            examples += _examples(one, measured, source)
    parts = [part for one in chosen for part in (one.pairs.same, one.pairs.subjects)]
    report = write_report(
        "verification",
        "Verification: " + ", ".join(one.faces.title for one in chosen),
        variant=_variant(chosen, measures, choices, pooling),
        data=Data(
            ", ".join(one.faces.title for one in chosen),
            data_fingerprint(stores),
            {
                "pairs": f"{sum(len(one.same) for one in measures):,}",
                "pictures": f"{sum(len(one.faces.names) for one in chosen):,}",
            },
        ),
        model=model_words(stores[0]),
        tables=make_tables(measures),
        plots=make_plots([(one.name, one.roc) for one in measures]),
        bad=bad,
        pairing=pairing_of([*parts, *(one.kept for one in measures)], bootstrap),
    )
    return Result(report, draws_by_key(measures), examples)


def features_of(
    faces: FaceSet, source: Source, *, flip: bool, styles: bool = False
) -> FeatureStore:
    """The set's features: from --features as they are, else from its store, embedded if needed."""
    if source.features is not None:
        return open_features(faces, source.features, flip=flip)
    return embed_faces(faces, source.embed_options(), flip=flip, styles=styles)


def data_fingerprint(stores: Sequence[FeatureStore]) -> str:
    """One store's fingerprint, or one over those of several."""
    if len(stores) == 1:
        return stores[0].key.data
    return fingerprint_parts((store.key.data, b"") for store in stores)


def _variant(
    chosen: Sequence[VerificationSet],
    measures: Sequence[Measures],
    choices: Choices,
    pooling: Pooling,
) -> list[str]:
    lines = [f"{one.faces.title}: {one.words}" for one in chosen]
    lines.append(f"templates: {pooling.describe()}; score: cosine")
    lines.append("accuracy: exact thresholds, each fold at the one that is best on the others")
    rules = {
        "at_most": "the largest TAR with FAR at or below the target",
        "nearest": "the point of the ROC whose FAR is nearest to the target",
    }
    lines.append(f"TAR@FAR ({choices.rule}): {rules[choices.rule]}")
    lines.append("a face that is not found scores below every pair and counts as rejected")
    if choices.resamples:
        unknown = [one.name for one in measures if one.identities is None]
        over = "identities"
        if unknown:
            over = f"pairs for {', '.join(unknown)} (it does not tell identities)"
            over += "" if len(unknown) == len(measures) else ", identities for the others"
        count = f"{choices.resamples} resamples, seed {choices.seed}"
        lines.append(f"intervals: 95 % bootstrap over {over}, {count}")
    return lines


def _examples(chosen: VerificationSet, measured: Measures, source: Source) -> list[Example]:
    """The pairs with the most telling scores, with both faces."""
    first_face = {int(item): row for row, item in reversed(list(enumerate(chosen.owners)))}
    groups = extreme_pairs(measured)
    pairs = chosen.pairs
    wanted: dict[int, list[int]] = {}
    for _, places in groups:
        for place in places:
            pair = int(measured.kept[place])
            sides = (int(pairs.first[pair]), int(pairs.second[pair]))
            wanted[place] = [first_face[item] for item in sides if item in first_face]
    rows = sorted({row for some in wanted.values() for row in some})
    shown = face_pictures(chosen.faces, rows, source.pack, source.backend)
    return [
        Example(
            f"{chosen.faces.title}: {title}",
            f"score {measured.scores[place]:.3f}, pair {int(measured.kept[place]) + 1}",
            [shown[row] for row in wanted[place] if row in shown],
        )
        for title, places in groups
        for place in places
    ]
