"""`facestream evaluate fusion`: aggregators and matchers by set size, quality, share and chunk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.aggregators import AGGREGATORS
from ..models.feature_store import FeatureStore, State, fingerprint_parts
from ..models.fusion import CHUNK
from ..models.pack import fusion_heads
from ..models.scores import Labels
from ..models.store import load_card
from .eval_faces import (
    FaceSet,
    FolderPictures,
    embed_faces,
    open_features,
    pack_words,
)
from .eval_fusion_measures import (
    CHUNKS,
    LEAST_SEQUENCE,
    SHARES,
    Bench,
    Part,
    People,
    measure_chunks,
    measure_grid,
    measure_shares,
)
from .eval_fusion_speed import measure_speed
from .eval_options import Source, check_choice
from .eval_output import model_words
from .eval_verification import Bootstrap, note_spoilt, pairing_of, rate_words
from .report_record import Bad, Data, Result, write_report

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
PARTS = ("sets", "share", "chunk", "speed")
LEARNED = {"learned", "caface"}


class FusionChoices(NamedTuple):
    """The command's own options. aggregators: () for all there are; head: in place of the pack's.

    sizes: set sizes; sets: how many are drawn of each size from each identity.
    """

    parts: tuple[str, ...]
    aggregators: tuple[str, ...]
    head: Path | None
    sizes: tuple[int, ...]
    sets: int
    far: float
    alignment: str
    bootstrap: Bootstrap


def evaluate_fusion(folder: Path, choices: FusionChoices, source: Source) -> Result:
    """Embed everybody's pictures and measure the parts asked for.

    Raises ConfigError for malformed or missing input, ModelError for a head that does not fit, and
    what `open_pack` raises.
    """
    for part in choices.parts:
        check_choice("--part", part, PARTS)
    card = load_card(source.pack)
    heads = fusion_heads(card)
    if choices.head is not None:
        heads["caface"] = choices.head
    chosen = choices.aggregators or ("mean", "quality", *heads)
    for name in chosen:
        check_choice("--aggregator", name, AGGREGATORS)
    bad: list[Bad] = []
    store = _embed(folder, choices, source, not LEARNED.isdisjoint(chosen), bad)
    if store.key.pack != pack_words(card):
        raise ConfigError(
            f"{store.folder} holds features of pack {store.key.pack}, the anchors are those of "
            f"{pack_words(card)}: name the pack of the features with --pack"
        )
    people = find_people(store)
    bench = Bench(store, people, card, heads, chosen, choices.far, choices.bootstrap)
    measured: list[Part] = []
    if "sets" in choices.parts:
        measured.append(measure_grid(bench, choices.sizes, choices.sets))
    if "share" in choices.parts:
        measured.append(measure_shares(bench))
    if "chunk" in choices.parts and "caface" in chosen:
        measured.append(measure_chunks(bench))
    if "speed" in choices.parts:
        measured.append(measure_speed(bench, source.backend))
    data = fingerprint_parts([("features", store.key.data.encode())])
    rows = np.concatenate([people.enrolled, *people.probes])
    report = write_report(
        "fusion",
        f"Fusion of several pictures: {folder.name}",
        variant=_variant(choices, bench),
        data=Data(
            folder.name,
            data,
            {
                "identities enrolled": f"{len(people.names):,}",
                "faces": f"{len(store.names):,}",
                "faces found": f"{int(store.embedded.sum()):,}",
                f"media of {LEAST_SEQUENCE} faces or more": f"{len(people.sequences):,}",
            },
        ),
        model=model_words(store),
        tables=[table for part in measured for table in part.tables],
        plots=[plot for part in measured for plot in part.plots],
        bad=bad,
        pairing=f"{data} {choices.sizes} {choices.sets} {choices.far} "
        + pairing_of([rows], choices.bootstrap),
    )
    return Result(report, {k: d for part in measured for k, d in part.draws.items()}, [])


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """A sorting key that puts frame 9 before frame 10.

    >>> sorted(["a/f10.jpg", "a/f9.jpg"], key=natural_order)
    ['a/f9.jpg', 'a/f10.jpg']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def medium_of(name: str) -> str:
    """What a picture is part of: names that differ in their last number only are one medium.

    >>> medium_of("ann/videos_3_000120.jpg"), medium_of("ann/img_12.jpg"), medium_of("ann/7.png")
    ('ann/videos_3_', 'ann/img_', 'ann/')
    """
    return re.sub(r"\d+$", "", name.rpartition(".")[0])


def find_people(store: FeatureStore) -> People:
    """Who is enrolled, with which face, and whose other faces are fused.

    Raises ConfigError when fewer than two identities have a face and a second one.
    """
    rows: dict[str, list[int]] = {}
    for row in np.flatnonzero(store.embedded):
        rows.setdefault(store.names[row].partition("/")[0], []).append(int(row))
    names = sorted(rows)
    if sum(len(some) > 1 for some in rows.values()) < 2:
        raise ConfigError(
            "fusion needs two identities or more with two faces each, got "
            f"{sum(len(some) > 1 for some in rows.values())}: name a folder with one folder per "
            "identity"
        )
    sequences: list[tuple[int, Labels]] = []
    for place, name in enumerate(names):
        media: dict[str, list[int]] = {}
        for face in rows[name][1:]:
            media.setdefault(medium_of(store.names[face]), []).append(face)
        sequences += [(place, np.array(m)) for m in media.values() if len(m) >= LEAST_SEQUENCE]
    return People(
        names,
        np.array([rows[name][0] for name in names]),
        [np.array(rows[name][1:], np.int64) for name in names],
        sequences,
    )


def _embed(
    folder: Path, choices: FusionChoices, source: Source, styles: bool, bad: list[Bad]
) -> FeatureStore:
    check_choice("--alignment", choices.alignment, ("detect", "aligned"))
    names = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES and path.parent != folder
    ]
    if not names and source.features is not None:
        names = FeatureStore(source.features).names  # the pictures are elsewhere
    if not names:
        raise ConfigError(
            f"{folder}: expected one folder of pictures per identity, got none: name their folder"
        )
    names = sorted(names, key=natural_order)
    faces = FaceSet(folder.name, names, FolderPictures(folder, names), choices.alignment)  # type: ignore[arg-type]
    if source.features is not None:
        store = open_features(faces, source.features, flip=False)
    else:
        store = embed_faces(faces, source.embed_options(), flip=False, styles=styles)
    if styles and not store.layout.styles:
        raise ConfigError(
            f"{store.folder} holds no style statistics, and learned and caface need them: embed "
            "again without --features, or name --aggregator mean and quality"
        )
    spoilt = np.isin(np.asarray(store.states), (State.UNREADABLE, State.NOT_FINITE))
    if spoilt.any():
        note_spoilt(store, spoilt, source.skip_bad, bad)
    return store


def _variant(choices: FusionChoices, bench: Bench) -> list[str]:
    parts: Sequence[str] = choices.parts
    lines = [
        "each identity is enrolled with its first face in order of name; its others are probes, "
        "fused by the aggregators and scored by the matchers that run live; faces that are not "
        "found are left out",
        f"TAR at the largest FAR at or below {rate_words(choices.far)}, the threshold of each cell "
        "its own; rank 1: a tie counts against the system",
    ]
    if "sets" in parts:
        lines.append(
            f"sets: {choices.sets} random ones per size and identity, the smaller inside the "
            "larger; better and worse half: by the pack's quality, within each identity; all cells "
            "are over the same identities"
        )
    if "share" in parts:
        lines.append(f"share: the first {', '.join(f'{share:g}' for share in SHARES)} of a medium")
    for name in sorted(LEARNED - bench.aggregators.keys()):
        lines.append(f"{name} is not measured: the pack has no head, or it was not asked for")
    if "caface" in bench.aggregators and "chunk" in parts:
        lines.append(
            f"chunk: {', '.join(map(str, CHUNKS))} faces at a time, and all at once; live "
            f"{CHUNK}. The others do not depend on it"
        )
    if "ida" not in bench.matchers:
        lines.append("matcher ida is not measured: the pack has no anchors")
    if choices.bootstrap.resamples:
        resamples, seed = choices.bootstrap
        lines.append(
            f"intervals: 95 % bootstrap over identities, {resamples} resamples, seed {seed}"
        )
    return lines
