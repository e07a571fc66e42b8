"""`facestream evaluate quality`: error versus discard for several sources of quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.discard import (
    DiscardCurve,
    area_under_discard,
    best_discard_area,
    discard_fixed,
    discard_reestimate,
    pair_quality,
)
from ..models.feature_store import FeatureStore, fingerprint_parts
from ..models.fusion import Doubles
from ..models.pooling import Pooling
from ..models.scores import Flags, Labels, identity_weights, pair_weights
from .eval_crops import face_pictures
from .eval_options import Source, check_choice
from .eval_output import model_words
from .eval_sets import VerificationSet, read_set
from .eval_verification import Bootstrap, pairing_of, rate_words, score_set
from .eval_verify import features_of
from .report_record import (
    Bad,
    Curve,
    Data,
    Draws,
    Example,
    Number,
    Plot,
    Result,
    Row,
    Table,
    measured,
    write_report,
)

MOST = 6
"""Examples of each group on the page."""
FMRS = (1e-2, 1e-3, 1e-4)
LIMITS = (0.2, 0.3)
"""How far partial areas of "fixed" curves go."""
OWN = ("pack", "norm", "detector")

WORDS = {
    "reestimate": "reestimate (the FIQA papers): the worst share of ALL pairs goes, the threshold "
    "is set anew on the impostors that remain, equal qualities go together, area by trapezoids "
    "from 0 to 0.95",
    "fixed": "fixed (ISO/IEC 29794-1): the threshold is set once on all pairs, the worst share of "
    "the GENUINE pairs goes, equal qualities together, exact areas of the staircase",
}


class QualityChoices(NamedTuple):
    """The command's own options. own: qualities from the pack; files: from lists.

    pictures: whether to put faces on the page.
    """

    images: Path | None
    alignment: str
    flip: bool
    own: tuple[str, ...]
    files: tuple[Path, ...]
    definitions: tuple[str, ...]
    bootstrap: Bootstrap
    pictures: bool = False


class Pairs(NamedTuple):
    """Scores, labels and identities of the pairs that count (N,), and quality by source (N,)."""

    scores: Doubles
    same: Flags
    first: Labels
    second: Labels
    qualities: Mapping[str, Doubles]

    def take(self, rows: Labels) -> Pairs:
        """These pairs, repeated as often as they are named."""
        chosen = {name: values[rows] for name, values in self.qualities.items()}
        return Pairs(
            self.scores[rows], self.same[rows], self.first[rows], self.second[rows], chosen
        )


def evaluate_quality(path: Path, choices: QualityChoices, source: Source) -> Result:
    """Curves and areas for every source of quality over one set of pairs.

    Raises ConfigError for malformed or missing input, and what `open_pack` raises.
    """
    check_choice("--alignment", choices.alignment, ("detect", "aligned"))
    bad: list[Bad] = []
    (chosen, *rest) = read_set(
        path,
        images=choices.images,
        kind=None,
        alignment=choices.alignment,  # type: ignore[arg-type]
        bad=bad if source.skip_bad else None,
    )
    if rest or len(chosen.owners) != len(chosen.pairs.items):
        raise ConfigError(
            f"{path}: quality is measured on pairs of pictures, got videos or a folder"
        )
    store = features_of(chosen.faces, source, flip=choices.flip)
    pooling = Pooling(add_flip=choices.flip, by_media=False)
    scores, kept = score_set(chosen, store, pooling, skip_bad=source.skip_bad, bad=bad)
    faces = face_qualities(chosen, store, choices)
    pairs = _pairs_of(chosen, scores, kept, faces)
    tables: list[Table] = []
    plots: list[Plot] = []
    draws: dict[str, Draws] = {}
    for definition in choices.definitions:
        table, drawn = discard_table(definition, pairs, choices.bootstrap)
        tables.append(table)
        draws |= drawn
        plots += discard_plots(definition, pairs)
    files = [(one.name, one.read_bytes()) for one in choices.files]
    data = fingerprint_parts([("data", store.key.data.encode()), *files])
    resamples, seed = choices.bootstrap
    over = "pairs" if chosen.pairs.subjects is None else "identities"
    report = write_report(
        "quality",
        f"Error versus discard: {chosen.faces.title}",
        variant=[
            *(WORDS[definition] for definition in choices.definitions),
            f"a pair's quality is the smaller of its two faces'; templates: {pooling.describe()}",
            "a face that is not found has the lowest quality and is rejected at every threshold",
            *(
                [f"intervals: 95 % bootstrap over {over}, {resamples} resamples, seed {seed}"]
                if resamples
                else []
            ),
        ],
        data=Data(chosen.faces.title, data, {"pairs": f"{len(pairs.same):,}"}),
        model=model_words(store),
        tables=tables,
        plots=plots,
        bad=bad,
        pairing=pairing_of([pairs.same, pairs.first, pairs.second], choices.bootstrap),
    )
    examples: list[Example] = []
    if choices.pictures and source.features is None:
        examples = _examples(chosen, pairs, np.flatnonzero(kept), faces, store.embedded, source)
    return Result(report, draws, examples)


def _examples(
    chosen: VerificationSet,
    pairs: Pairs,
    kept: Labels,
    faces: Mapping[str, Doubles],
    found: Flags,
    source: Source,
) -> list[Example]:
    """Faces that the first source likes least and best, and pairs of good faces that it fails."""
    name = next(iter(faces))
    values = faces[name]
    order = np.flatnonzero(found)[np.argsort(values[found], kind="stable")]
    groups = [
        (f"Faces of the lowest quality ({name})", [[int(row)] for row in order[:MOST]]),
        (f"Faces of the highest quality ({name})", [[int(row)] for row in order[::-1][:MOST]]),
    ]
    threshold = curve_of("fixed", pairs, name, FMRS[1]).thresholds[0]
    lost = np.flatnonzero(pairs.same & (pairs.scores < threshold))
    lost = lost[np.argsort(-pairs.qualities[name][lost], kind="stable")][:MOST]
    title = f"Genuine pairs rejected at FMR={rate_words(FMRS[1])}, highest quality ({name})"
    sides = chosen.pairs
    groups.append((title, [[int(sides.first[kept[n]]), int(sides.second[kept[n]])] for n in lost]))
    wanted = sorted({row for _, some in groups for rows in some for row in rows})
    shown = face_pictures(chosen.faces, wanted, source.pack, source.backend)
    return [
        Example(
            group,
            "quality " + " and ".join(f"{values[row]:.4g}" for row in rows),
            [shown[row] for row in rows if row in shown],
        )
        for group, some in groups
        for rows in some
    ]


def face_qualities(
    chosen: VerificationSet, store: FeatureStore, choices: QualityChoices
) -> dict[str, Doubles]:
    """Quality of every picture by source (M,); pictures without a face get less than any other."""
    found = store.embedded
    columns: dict[str, Doubles] = {}
    for name in choices.own:
        check_choice("--source", name, OWN)
        if name == "norm":
            values = np.linalg.norm(np.asarray(store.embeddings, np.float64), axis=1)
        else:
            values = np.asarray(store.quality if name == "pack" else store.detector, np.float64)
        columns["pack's quality" if name == "pack" else name] = values
    for file in choices.files:
        columns[file.stem.removesuffix("_db")] = read_qualities(file, chosen.pairs.items)
    if not columns:
        raise ConfigError("quality needs a source: name --source or --quality-file")
    for values in columns.values():
        values[~found] = (values[found].min() if found.any() else 0.0) - 1.0
    return columns


def read_qualities(path: Path, items: Sequence[str]) -> Doubles:
    """Qualities of these pictures from lines "path score" (FIQA's METHOD_db.txt), in their order.

    A path is matched by its whole text, else by its file name where that is unambiguous. Raises
    ConfigError for a malformed line, with its number, and for a picture without a line.
    """
    by_path: dict[str, float] = {}
    by_name: dict[str, list[float]] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, _, score = line.strip().rpartition(" ")
        try:
            value = float(score)
        except ValueError:
            value = float("nan")
        if not name or not np.isfinite(value):
            raise ConfigError(f'{path}:{number}: expected "path score", got {line[:60]!r}')
        by_path[name.strip()] = value
        by_name.setdefault(Path(name.strip()).name, []).append(value)
    values = np.empty(len(items))
    for place, item in enumerate(items):
        same_name = by_name.get(Path(item).name, [])
        if item not in by_path and len(same_name) != 1:
            raise ConfigError(
                f"{path}: expected a quality for every picture of the pairs, got {len(same_name)} "
                f"for {item}: list it with the path that the pairs use"
            )
        values[place] = by_path.get(item, same_name[0] if same_name else np.nan)
    return values


def _pairs_of(
    chosen: VerificationSet, scores: Doubles, kept: Flags, faces: Mapping[str, Doubles]
) -> Pairs:
    pairs = chosen.pairs
    alone = np.arange(len(kept))
    people = pairs.subjects
    first, second = (
        (alone, alone) if people is None else (people[pairs.first], people[pairs.second])
    )
    qualities = {
        name: pair_quality(values[pairs.first[kept]], values[pairs.second[kept]])
        for name, values in faces.items()
    }
    return Pairs(scores[kept], pairs.same[kept], first[kept], second[kept], qualities)


def curve_of(definition: str, pairs: Pairs, name: str, fmr: float) -> DiscardCurve:
    """The curve of one source at one FMR."""
    measure = discard_reestimate if definition == "reestimate" else discard_fixed
    return measure(pairs.scores, pairs.same, pairs.qualities[name], fmr)


def area_columns(definition: str) -> list[tuple[str, float, float | None]]:
    """Columns of a table: name, FMR, and the limit of the area (None: the whole curve)."""
    if definition == "reestimate":
        return [(f"AUC, FMR={rate_words(fmr)}", fmr, None) for fmr in FMRS]
    return [
        (f"pAUC {limit:g}, FMR={rate_words(fmr)}", fmr, limit) for fmr in FMRS for limit in LIMITS
    ]


def discard_table(
    definition: str, pairs: Pairs, bootstrap: Bootstrap
) -> tuple[Table, dict[str, Draws]]:
    """Areas under the curves, one row per source; lower is better."""
    title = f"Area under the curve, {definition}"
    columns = area_columns(definition)
    resampled = _resample(pairs, bootstrap)
    rows: list[Row] = []
    draws: dict[str, Draws] = {}
    for name in pairs.qualities:
        cells: list[Number | str] = []
        for column, fmr, limit in columns:
            value = _area(definition, pairs, name, fmr, limit)
            sample = np.array([_area(definition, one, name, fmr, limit) for one in resampled])
            cells.append(measured(value, sample, unit="area", better="lower"))
            if len(sample):
                draws[f"{title} / {name} / {column}"] = sample
        rows.append(Row(name, cells))
    if definition == "fixed":
        rows.append(Row("best possible", _best(pairs, columns)))
    note = "Lower is better. " + (
        '"Best possible" discards all errors first: area of max(0, FNMR - share).'
        if definition == "fixed"
        else "Undefined where no genuine or no impostor pair is left before 0.95."
    )
    return Table(title, "source", [column for column, _, _ in columns], rows, note), draws


def _best(pairs: Pairs, columns: Sequence[tuple[str, float, float | None]]) -> list[Number | str]:
    name = next(iter(pairs.qualities))
    cells: list[Number | str] = []
    for _, fmr, limit in columns:
        start = float(curve_of("fixed", pairs, name, fmr).fnmr[0])
        area = best_discard_area(start, 1.0 if limit is None else limit)
        cells.append(Number(area, "area", better="neither"))
    return cells


def _area(definition: str, pairs: Pairs, name: str, fmr: float, limit: float | None) -> float:
    """The area; NaN where the curve ends before the limit."""
    try:
        return area_under_discard(curve_of(definition, pairs, name, fmr), limit)
    except ConfigError:
        return float("nan")


def _resample(pairs: Pairs, bootstrap: Bootstrap) -> list[Pairs]:
    """Bootstrap resamples with pairs of both kinds."""
    if not bootstrap.resamples:
        return []
    names, numbered = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    first, second = numbered[: len(pairs.same)], numbered[len(pairs.same) :]
    drawn = []
    for row in identity_weights(len(names), bootstrap.resamples, seed=bootstrap.seed):
        counts = pair_weights(row, first, second).astype(np.int64)
        one = pairs.take(np.repeat(np.arange(len(counts)), counts))
        if one.same.any() and not one.same.all():
            drawn.append(one)
    return drawn


def discard_plots(definition: str, pairs: Pairs) -> list[Plot]:
    """One plot per FMR with a curve per source."""
    over = "all pairs" if definition == "reestimate" else "genuine pairs"
    plots = []
    for fmr in FMRS:
        curves = []
        for name in pairs.qualities:
            one = curve_of(definition, pairs, name, fmr)
            known = ~np.isnan(one.fnmr)
            curves.append(
                Curve(
                    name,
                    one.shares[known].tolist(),
                    one.fnmr[known].tolist(),
                    steps=definition == "fixed",
                )
            )
        name = "ERC" if definition == "reestimate" else "EDC"
        title = f"{name} ({definition}) at FMR={rate_words(fmr)}"
        plots.append(Plot(title, f"share of {over} discarded", "FNMR", curves))
    return plots
