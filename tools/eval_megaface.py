"""`facestream evaluate megaface`: rank-1 of FaceScrub probes among ever more distractors.

Every ordered pair of pictures of one person is a search: the first is the probe, the second its
only mate in a gallery of distractors, none of whom is a probe's subject. So the rate depends on
scores of pairs and on each probe's best distractor alone, and a million distractors stream past.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from .. import ConfigError
from ..models.feature_store import FeatureStore, State, fingerprint_parts
from ..models.fusion import Doubles, Floats
from ..models.pooling import Pooling, unit_rows, weigh_images
from ..models.scores import Labels, identity_weights
from .eval_faces import FaceSet, FolderPictures
from .eval_options import Source, check_choice
from .eval_output import model_words
from .eval_progress import progress_bar
from .eval_verification import Bootstrap, note_spoilt
from .eval_verify import features_of
from .report_record import Bad, Curve, Data, Draws, Plot, Result, Row, Table, measured, write_report

_BLOCK = 8192


class MegafaceChoices(NamedTuple):
    """The command's own options. distractors: one list per size of the gallery."""

    probes: Path
    distractors: tuple[Path, ...]
    probe_images: Path
    distractor_images: Path
    alignment: str
    flip: bool
    bootstrap: Bootstrap


class _List(msgspec.Struct):
    path: list[str]
    id: list[str] = []


class Searches(NamedTuple):
    """All searches: probe and mate by row (S,), their cosine, and the probe's subject (S,)."""

    probes: Labels
    mates: Labels
    scores: Doubles
    subjects: Labels


def read_list(path: Path, *, subjects: bool) -> tuple[list[str], list[str]]:
    """Paths and ids of a list of the development kit: {"path": [...], "id": [...]}.

    Raises ConfigError when it is no such list, is empty, or lacks ids that are asked for.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_List)
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a list of the development kit, got no file") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f'{path}: expected {{"path": [...], "id": [...]}}: {error}') from None
    if not found.path or (subjects and len(found.id) != len(found.path)):
        raise ConfigError(
            f"{path}: expected paths, each with an id, got {len(found.path)} and {len(found.id)}"
        )
    return list(dict.fromkeys(found.path)) if not subjects else found.path, found.id


def evaluate_megaface(choices: MegafaceChoices, source: Source) -> Result:
    """Embed probes and distractors, search, report one row per list of distractors.

    Raises ConfigError for malformed or missing input, and what `open_pack` raises.
    """
    check_choice("--alignment", choices.alignment, ("detect", "aligned"))
    bad: list[Bad] = []
    names, ids = read_list(choices.probes, subjects=True)
    lists = [read_list(path, subjects=False)[0] for path in choices.distractors]
    everybody = sorted({name for some in lists for name in some})
    probe_store = _store("probes", names, choices.probe_images, choices, source, bad)
    store = _store("distractors", everybody, choices.distractor_images, choices, source, bad)
    unit = unit_faces(probe_store, np.arange(len(names)), choices.flip)
    searches = pair_searches(unit, np.unique(ids, return_inverse=True)[1])
    place = {name: row for row, name in enumerate(everybody)}
    rows: list[Row] = []
    draws: dict[str, Draws] = {}
    rates: list[float] = []
    with progress_bar("searching distractors", sum(map(len, lists))) as advance:
        for path, some in zip(choices.distractors, lists, strict=True):
            best = best_distractors(
                unit, store, np.array([place[name] for name in some]), choices.flip, advance
            )
            hits = searches.scores > best[searches.probes]
            label = f"{len(some):,} ({path.name})"
            sample = _resample(hits, searches.subjects, choices.bootstrap)
            rates.append(float(hits.mean()))
            rows.append(Row(label, [measured(rates[-1], sample)]))
            if len(sample):
                draws[f"MegaFace / {label} / rank 1"] = sample
    files = [(path.name, path.read_bytes()) for path in (choices.probes, *choices.distractors)]
    keys = [("probes", probe_store.key.data.encode()), ("distractors", store.key.data.encode())]
    fingerprint = fingerprint_parts([*keys, *files])
    resamples, seed = choices.bootstrap
    report = write_report(
        "megaface",
        "MegaFace: identification among distractors",
        variant=[
            "a search per ordered pair of a person's pictures: the second is the probe's only mate "
            "among the distractors; a hit where it scores above all of them",
            f"features: {Pooling(add_flip=choices.flip, by_media=False).describe()}; score: cosine",
            "a probe or mate without a face is a zero vector; a distractor without one cannot win",
            *(
                [f"intervals: 95 % bootstrap over subjects, {resamples} resamples, seed {seed}"]
                if resamples
                else []
            ),
        ],
        data=Data(
            choices.probes.stem,
            fingerprint,
            {
                "probes": f"{len(names):,}",
                "searches": f"{len(searches.scores):,}",
                "distractors": f"{len(everybody):,}",
            },
        ),
        model=model_words(store),
        tables=[Table("MegaFace", "distractors", ["rank 1"], rows)],
        plots=[_plot([len(some) for some in lists], rates)],
        bad=bad,
        pairing=f"{fingerprint} {choices.bootstrap}",
    )
    return Result(report, draws, [])


def pair_searches(unit: Floats, subjects: Labels) -> Searches:
    """Every ordered pair of different rows of one subject: unit (P, C), subjects (P,).

    Raises ConfigError when nobody has two pictures.
    """
    probes, mates = [], []
    for subject in np.unique(subjects):
        rows = np.flatnonzero(subjects == subject)
        first, second = np.meshgrid(rows, rows, indexing="ij")
        different = first != second
        probes.append(first[different])
        mates.append(second[different])
    one, other = np.concatenate(probes), np.concatenate(mates)
    if not len(one):
        raise ConfigError("a search needs two pictures of a probe's subject, got one of each")
    scores = np.concatenate(
        [
            (unit[one[at : at + _BLOCK]].astype(np.float64) * unit[other[at : at + _BLOCK]]).sum(1)
            for at in range(0, len(one), _BLOCK)
        ]
    )
    return Searches(one, other, scores, subjects[one])


def best_distractors(
    unit: Floats,
    store: FeatureStore,
    rows: Labels,
    flip: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Doubles:
    """The best cosine of each probe (P,) with any of these rows; -inf without a usable one."""
    best = np.full(len(unit), -np.inf)
    for at in range(0, len(rows), _BLOCK):
        some = np.sort(rows[at : at + _BLOCK])
        faces = unit_faces(store, some, flip)
        faces = faces[faces.any(axis=1)]
        if len(faces):
            np.maximum(best, (unit @ faces.T).max(axis=1), out=best)
        advance(len(some))
    return best


def unit_faces(store: FeatureStore, rows: Labels, flip: bool) -> Floats:
    """Unit features (n, C) of these rows, zero where there is no face."""
    flipped = np.asarray(store.flipped[rows], np.float32) if flip else None
    pooling = Pooling(add_flip=flip, by_media=False)
    images = weigh_images(np.asarray(store.embeddings[rows]), pooling, flipped=flipped)
    return np.asarray(unit_rows(images), np.float32)


def _store(
    part: str,
    names: Sequence[str],
    folder: Path,
    choices: MegafaceChoices,
    source: Source,
    bad: list[Bad],
) -> FeatureStore:
    """Features of one part, in a folder of its own below --store or --features."""
    pictures = FolderPictures(folder, list(names))
    faces = FaceSet(part, list(names), pictures, choices.alignment)  # type: ignore[arg-type]
    inner = source._replace(
        store=None if source.store is None else source.store / part,
        features=None if source.features is None else source.features / part,
    )
    store = features_of(faces, inner, flip=choices.flip)
    spoilt = np.isin(np.asarray(store.states), (State.UNREADABLE, State.NOT_FINITE))
    if spoilt.any():
        note_spoilt(store, spoilt, source.skip_bad, bad)
    return store


def _resample(hits: np.ndarray, subjects: Labels, bootstrap: Bootstrap) -> Draws:
    """Rates of bootstrap resamples over the probes' subjects (B,)."""
    names, numbered = np.unique(subjects, return_inverse=True)
    if not bootstrap.resamples or len(names) < 2:
        return np.zeros(0)
    good = np.bincount(numbered, hits)
    every = np.bincount(numbered)
    weights = identity_weights(len(names), bootstrap.resamples, seed=bootstrap.seed)
    return np.asarray((weights @ good) / (weights @ every))


def _plot(sizes: Sequence[int], rates: Sequence[float]) -> Plot:
    order = np.argsort(sizes)
    x, y = [float(sizes[n]) for n in order], [rates[n] for n in order]
    return Plot("Rank 1 by distractors", "distractors", "rank 1", [Curve("rank 1", x, y)], True)
