"""`facestream bench embedder`: which faces go through which networks, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import typer

from ..models.discard import pair_quality
from ..models.fusion import Doubles, Floats
from ..models.inference import Image
from ..models.pack import Pack, open_pack
from ..models.scores import Flags
from .bench_embedder import (
    FMR,
    IMPOSTORS,
    Measured,
    Order,
    Pairs,
    all_pairs,
    areas,
    chance_areas,
    cosines,
    orders,
    some_pairs,
    tars,
)
from .bench_embedder_faces import (
    LEVELS,
    PLACES,
    SHARES,
    Faces,
    Place,
    degrade_all,
    detector_scores,
    embed_crops,
    london,
    occlude_all,
    own_crops,
    wild,
)
from .bench_embedder_runs import MAGNITUDES, PRESETS, Run, embed_run, find_runs
from .eval_verification import Bootstrap

PACKS = ("open", "omz")
FMRS = (1e-2, 1e-3)
OCCLUDED = 2
"""Pictures of each person that are occluded, at most."""
AREA_RESAMPLES = 100
"""Most resamples of areas, which are slow."""
NORM, DETECTOR, CHANCE = "norm", "detector score", "chance"

Shown = tuple[Place, float] | None
"""Where and how much of a face is occluded; None: nothing."""


class Magnitude(NamedTuple):
    """Of one preset: order, and areas under error versus discard by source of quality."""

    order: Order
    areas: dict[str, Measured]


class Found(NamedTuple):
    """Everything that was measured; sets by title, occlusion by preset, systems by name."""

    runs: dict[str, list[Run]]
    people: dict[str, int]
    pictures: dict[str, int]
    pairs: dict[str, tuple[int, int]]
    magnitude: dict[str, Magnitude]
    occlusion: dict[str, dict[Shown, dict[str, Measured]]]
    against: dict[str, dict[float, dict[str, Measured]]]


def measure_runs(folder: Path, assets: Path, bootstrap: Bootstrap) -> Found:
    """Measure the runs in `folder`; embeddings are kept in its folder bench/.

    Raises as `find_runs`, `open_pack` and `role_pictures`.
    """
    runs = find_runs(folder)
    packs = {name: open_pack(name, threads=1) for name in PACKS}
    sets = [faces for faces in (london(assets, packs["omz"].detector), wild(assets)) if faces]
    show = Showing(runs, folder / "bench")
    against, counts = {}, {}
    for faces in sets:
        pairs = all_pairs(faces.owners, faces.turns)
        counts[faces.title] = (int(pairs.same.sum()), int((~pairs.same).sum()))
        against[faces.title] = compare(show, faces, pairs, packs, bootstrap)
    return Found(
        runs,
        {faces.title: int(faces.owners.max()) + 1 for faces in sets},
        {faces.title: len(faces.files) for faces in sets},
        counts,
        measure_magnitude(show, sets[0], packs["omz"], bootstrap),
        {faces.title: measure_occlusion(show, faces, bootstrap) for faces in sets},
        against,
    )


class Showing:
    """Shows aligned faces to the networks of all runs, or of packs."""

    def __init__(self, runs: Mapping[str, Sequence[Run]], folder: Path) -> None:
        """folder: where embeddings are kept."""
        self.runs, self._folder = runs, folder

    def students(
        self, crops: Image, words: str, presets: Sequence[str] = PRESETS
    ) -> dict[str, list[Floats]]:
        """Raw embeddings (N, C) of crops (N, 112, 112, 3), by preset and seed."""
        typer.echo(f"{words}: {len(crops)} faces, each preset and seed")
        return {
            preset: [embed_run(run, crops, self._folder) for run in self.runs[preset]]
            for preset in presets
        }

    def pack(self, pack: Pack, faces: Faces) -> Floats:
        """Raw embeddings (N, C) of a pack, in its own crops."""
        typer.echo(f"{faces.title}: {len(faces.files)} faces, pack {pack.card.name}")
        mark = pack.card.checksum(pack.card.embedder.file)
        return embed_crops(pack.embedder, mark, faces.crops(pack.embedder.template), self._folder)


def compare(
    show: Showing, faces: Faces, pairs: Pairs, packs: Mapping[str, Pack], bootstrap: Bootstrap
) -> dict[float, dict[str, Measured]]:
    """TAR of presets and packs on the same pairs of faces as taken, by false-match rate."""
    seen = show.students(own_crops(faces), faces.title)
    seen |= {name: [show.pack(pack, faces)] for name, pack in packs.items()}
    scores = {name: [cosines(pairs, one, one) for one in of] for name, of in seen.items()}
    found = {name: tars(pairs, of, FMRS, bootstrap) for name, of in scores.items()}
    return {fmr: {name: of[n] for name, of in found.items()} for n, fmr in enumerate(FMRS)}


def measure_occlusion(
    show: Showing, faces: Faces, bootstrap: Bootstrap
) -> dict[Shown, dict[str, Measured]]:
    """TAR at FMR of occluded pictures against everybody's first picture as taken."""
    clean = own_crops(faces)
    first = faces.turns == 0
    probed = (faces.turns > 0) & (faces.turns <= OCCLUDED)
    pairs = some_pairs(faces.owners[probed], faces.owners[first], IMPOSTORS, bootstrap.seed)
    plain = show.students(clean, faces.title)
    found: dict[Shown, dict[str, Measured]] = {}
    shown: list[Shown] = [None, *((place, share) for place in PLACES for share in SHARES)]
    for one in shown:
        if one is None:
            probes = {preset: [x[probed] for x in of] for preset, of in plain.items()}
        else:
            place, share = one
            covered = occlude_all(clean[probed], share, place, bootstrap.seed)
            probes = show.students(covered, f"{faces.title}, {place}, {100 * share:g} %")
        scores = {p: _scores(pairs, probes[p], plain[p], first) for p in PRESETS}
        found[one] = {p: tars(pairs, scores[p], [FMR], bootstrap)[0] for p in PRESETS}
    return found


def measure_magnitude(
    show: Showing, faces: Faces, pack: Pack, bootstrap: Bootstrap
) -> dict[str, Magnitude]:
    """How magnitudes follow damage, and what discarding by them is worth.

    pack: whose detector's score is the rival.
    """
    views = degrade_all(own_crops(faces), bootstrap.seed)  # (V, N, 112, 112, 3)
    first = faces.turns == 0
    flat = views.reshape(-1, *views.shape[2:])
    words = f"{faces.title}, {len(LEVELS)} strengths of damage"
    embeddings = show.students(flat, words, (*PRESETS, *MAGNITUDES))
    detected = detector_scores(pack.detector, flat).reshape(views.shape[:2]).astype(np.float64)
    owners = np.tile(faces.owners[~first], len(views))
    pairs = some_pairs(owners, faces.owners[first], IMPOSTORS, bootstrap.seed)
    few = Bootstrap(min(bootstrap.resamples, AREA_RESAMPLES), bootstrap.seed)
    found = {}
    for preset, of in embeddings.items():
        split = [one.reshape(*views.shape[:2], -1) for one in of]  # (V, N, C)
        norms = [np.linalg.norm(one, axis=2).astype(np.float64) for one in split]
        probes = [one[:, ~first].reshape(-1, one.shape[2]) for one in split]
        gallery = [one[0][first] for one in split]
        scores = [cosines(pairs, a, b) for a, b in zip(probes, gallery, strict=True)]
        by_norm = [_quality(pairs, one, first) for one in norms]
        by_detector = [_quality(pairs, detected, first)] * len(of)
        found[preset] = Magnitude(
            orders(norms, faces.owners, bootstrap),
            {
                NORM: areas(pairs, scores, by_norm, few),
                DETECTOR: areas(pairs, scores, by_detector, few),
                CHANCE: chance_areas(pairs, scores, few),
            },
        )
    return found


def _scores(
    pairs: Pairs, probes: Sequence[Floats], faces: Sequence[Floats], first: Flags
) -> list[Doubles]:
    """Cosines of each seed's probes with its gallery, the faces in `first` (N,)."""
    return [cosines(pairs, a, b[first]) for a, b in zip(probes, faces, strict=True)]


def _quality(pairs: Pairs, values: Doubles, first: Flags) -> Doubles:
    """Of pairs, from values (V, N) of all views: those of probes, and of the clean gallery."""
    probes, gallery = values[:, ~first].ravel(), values[0][first]
    return pair_quality(probes[pairs.first], gallery[pairs.second])
