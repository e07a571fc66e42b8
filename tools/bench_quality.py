"""What `facestream bench quality` measures: error versus discard by every source of quality.

Mated pairs are a person's views with that person's reference, impostors are views with references
of others. A source's heads are trained here by `train/fiqa`, with several kinds of labels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..models.discard import (
    area_under_discard,
    discard_fixed,
    discard_reestimate,
    pair_quality,
)
from ..models.fusion import Doubles, Floats
from ..models.pooling import unit_rows
from ..models.scores import identity_weights, pair_weights
from .bench_quality_faces import Scored
from .eval_quality import Pairs
from .report_record import Draws, Number, measured

if TYPE_CHECKING:
    from ..models.quality_head import QualityHead
    from .eval_verification import Bootstrap

IMPOSTORS = 10
"""References of others that each view is compared with."""
LIMIT = 0.3
COLUMNS = {
    "EDC, FMR 1 %": ("fixed", 1e-2, LIMIT),
    "EDC, FMR 0.1 %": ("fixed", 1e-3, LIMIT),
    "ERC, FMR 1 %": ("reestimate", 1e-2, None),
}
"""Columns: definition, FMR, and the limit of the area (None: 0.95)."""
LIGHTQNET, FREE = "LightQNet", "training-free"
VARIANTS: dict[str, dict[str, object]] = {
    "raw": {"labels": "raw", "scores": "pack"},
    "optimised, theta 0.0187": {"labels": "optimised", "scores": "pack", "theta": 0.0187},
    "optimised, theta 0.5": {"labels": "optimised", "scores": "pack", "theta": 0.5},
    "raw cosines": {"labels": "raw", "scores": "mated"},
}
"""Labels that heads learn: what differs from the preset."""


class Areas(NamedTuple):
    """One source: its areas by column, and the draws behind their intervals (B,)."""

    numbers: dict[str, Number]
    draws: dict[str, Draws]

    def against(self, other: Areas) -> dict[str, Number]:
        """Differences to another source, resample by resample; below 0 is better."""
        found = {}
        for column, number in self.numbers.items():
            ours, theirs = number.value, other.numbers[column].value
            value = float("nan") if ours is None or theirs is None else ours - theirs
            draws = self.draws[column] - other.draws[column] if self.draws else ()
            found[column] = measured(value, draws, unit="area", better="lower")
        return found


def train_heads(assets: Path, folder: Path, pack: str) -> dict[str, QualityHead]:
    """A head for each kind of label; training goes on with what is in `folder`.

    Raises ConfigError where a head there was trained with other settings or on other faces, and as
    `train_banks.role_bank`.
    """
    from ..configs.training import FIQATraining, read_training
    from ..models.quality_head import load_quality_head
    from ..train.fiqa import faces_of_bank, fiqa_recipe
    from .train_banks import role_bank
    from .train_run import run_recipe

    preset, text = read_training(FIQATraining, "fiqa", f"fiqa-{pack}")
    training, validation = (
        faces_of_bank(role_bank(assets, role, preset.bank, preset.pack))
        for role in ("training", "validation")
    )
    heads = {}
    for name, changes in VARIANTS.items():
        out = folder / f"{pack}-{name.replace(', ', '-').replace(' ', '-')}"
        config = dataclasses.replace(preset, **changes)  # type: ignore[arg-type]
        recipe = fiqa_recipe(config, training, validation)
        # Also where the head is there already: only the run knows whether it is this one.
        run_recipe("fiqa", recipe, config.run, f"{text}\n{changes}", out)
        heads[name] = load_quality_head(out / "export" / f"{pack}.quality.npz")
    return heads


def qualities(
    faces: Scored, heads: dict[str, QualityHead], others: dict[str, QualityHead], other: str
) -> dict[str, Doubles]:
    """Quality of every face by source (N,); others: the other pack's heads, on its features."""
    found: dict[str, Floats | Doubles] = {
        LIGHTQNET: faces.lightqnet,
        FREE: faces.training_free,
        "norm": np.linalg.norm(faces.embeddings, axis=1),
        "Laplacian sharpness": faces.sharpness,
        "detector score": faces.detector,
    }
    for name, head in heads.items():
        found[f"own head, {name}"] = head.score(faces.embeddings, faces.styles)
    for name, head in others.items():
        theirs = head.score(faces.other_embeddings, faces.other_styles)
        found[f"head of {other}, {name}"] = theirs
    kept = {name: np.asarray(values, np.float64) for name, values in found.items()}
    return {name: values for name, values in kept.items() if np.isfinite(values).all()}


def make_pairs(faces: Scored, sources: dict[str, Doubles], seed: int) -> Pairs:
    """Every view with the person's reference and with IMPOSTORS others, drawn at random.

    People without a reference are left out.
    """
    draw = np.random.default_rng(seed)
    references = np.flatnonzero(faces.reference)
    of = {int(faces.owners[row]): int(row) for row in references}
    views = [row for row in np.flatnonzero(~faces.reference) if int(faces.owners[row]) in of]
    first, second = [], []
    for row in views:
        own = of[int(faces.owners[row])]
        strangers = references[references != own]
        chosen = draw.choice(strangers, min(IMPOSTORS, len(strangers)), replace=False)
        first += [row] * (1 + len(chosen))
        second += [own, *chosen.tolist()]
    units = unit_rows(faces.embeddings)
    a, b = np.array(first), np.array(second)
    return Pairs(
        np.einsum("nc,nc->n", units[a], units[b]),
        faces.owners[a] == faces.owners[b],
        faces.owners[a],
        faces.owners[b],
        {name: pair_quality(values[a], values[b]) for name, values in sources.items()},
    )


def measure_sources(pairs: Pairs, bootstrap: Bootstrap) -> dict[str, Areas]:
    """Areas of every source, resampled by the same people."""
    names, numbered = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    first, second = numbered[: len(pairs.same)], numbered[len(pairs.same) :]
    drawn = []
    if bootstrap.resamples:
        for row in identity_weights(len(names), bootstrap.resamples, seed=bootstrap.seed):
            counts = pair_weights(row, first, second).astype(np.int64)
            drawn.append(np.repeat(np.arange(len(counts)), counts))
    found = {}
    for name, quality in pairs.qualities.items():
        numbers, draws = {}, {}
        for column in COLUMNS:
            value = _area(column, pairs.scores, pairs.same, quality)
            sample = np.array(
                [_area(column, pairs.scores[r], pairs.same[r], quality[r]) for r in drawn]
            )
            numbers[column] = measured(value, sample, unit="area", better="lower")
            if len(sample):
                draws[column] = sample
        found[name] = Areas(numbers, draws)
    return found


def _area(column: str, scores: Doubles, same: np.ndarray, quality: Doubles) -> float:
    definition, fmr, limit = COLUMNS[column]
    measure = discard_fixed if definition == "fixed" else discard_reestimate
    return area_under_discard(measure(scores, same, quality, fmr), limit)
