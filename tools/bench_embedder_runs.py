"""The runs that `facestream bench embedder` judges: what trained, how it went, the network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from .. import ConfigError
from ..models.align import ARCFACE_112
from ..models.backends import open_session
from ..models.embedder import OnnxEmbedder
from ..models.fusion import Floats
from ..models.inference import Image
from ..models.pixels import PixelFormat
from ..train.checkpoint import load_checkpoint
from ..train.curve import Point, read_curve
from ..train.engine import BEST, EXPORT
from .bench_embedder_faces import embed_crops

PRESETS = ("embedder-tiny", "embedder-tiny-cqa", "embedder-tiny-plain")
TINY, CQA, PLAIN = PRESETS
HEAD = ("attention", "weigh", "contrast")
"""Settings in which these may differ."""
MAGNITUDES = ("embedder-tiny-margin", "embedder-tiny-distil")
MARGIN, DISTIL = MAGNITUDES
CLASSES = ("classify", "loss")
"""Settings in which these two may differ."""


class Run(NamedTuple):
    """One finished run: its preset and seed, settings as they were read, and what it learned from.

    parameters: weights of the exported network's state, batch norms' statistics left out.
    """

    preset: str
    seed: int
    settings: dict[str, Any]
    data: str
    curve: list[Point]
    best_step: int
    parameters: int
    network: Path

    @property
    def steps(self) -> int:
        """In all."""
        return int(self.settings["run"]["steps"])

    def at(self, name: str, *, validated: bool) -> tuple[float, float] | None:
        """A value at its first and at its last step, of training means over ten steps; None where
        the run has no such value.
        """
        points = [p.values for p in self.curve if p.validated == validated]
        found = [values[name] for values in points if name in values]
        if not found:
            return None
        if validated:
            return found[0], found[-1]
        return float(np.mean(found[:10])), float(np.mean(found[-10:]))


def find_runs(folder: Path) -> dict[str, list[Run]]:
    """Runs by preset, FOLDER/PRESET/seed-N, sorted by seed.

    Raises ConfigError, naming the command that makes them, where a preset has no finished run, and
    where runs that are to be compared differ in seeds, data or in more than what is compared.
    """
    found = {preset: _of_preset(folder, preset) for preset in (*PRESETS, *MAGNITUDES)}
    for presets, free in ((PRESETS, HEAD), (MAGNITUDES, CLASSES)):
        first = found[presets[0]]
        for preset in presets:
            _check_alike(folder / preset, found[preset], first, free)
    return found


def embed_run(run: Run, crops: Image, folder: Path) -> Floats:
    """Raw embeddings (N, C) of aligned faces (N, 112, 112, 3), kept in `folder`."""
    spec = yaml.safe_load(run.network.with_suffix(".yaml").read_text(encoding="utf-8"))["embedder"]
    pixels = PixelFormat(spec["channel_order"], tuple(spec["mean"]), tuple(spec["std"]))
    embedder = OnnxEmbedder(
        open_session(run.network, threads=1),
        template=ARCFACE_112,
        dimension=spec["dimension"],
        pixels=pixels,
    )
    mark = hashlib.sha256(run.network.read_bytes()).hexdigest()
    return embed_crops(embedder, mark, crops, folder)


def _of_preset(folder: Path, preset: str) -> list[Run]:
    places = sorted((folder / preset).glob("seed-*"), key=lambda p: int(p.name.partition("-")[2]))
    runs = [run for place in places if (run := _read(preset, place)) is not None]
    if not runs:
        raise ConfigError(
            f"{folder / preset} holds no finished run: `facestream train embedder {preset} --seed 1"
            f" --seed 2 --seed 3 --out {folder / preset}` makes three"
        )
    return runs


def _read(preset: str, place: Path) -> Run | None:
    network = place / EXPORT / "embedder.onnx"
    if not network.is_file():
        return None
    best = load_checkpoint(place / BEST)
    settings = yaml.safe_load(best.origin.config)
    assert best.best is not None  # the engine stores it with these weights
    weights = {
        name: value
        for name, value in best.network.items()
        if name.startswith("backbone.") and "running_" not in name and "num_batches" not in name
    }
    return Run(
        preset,
        int(settings["run"]["seed"]),
        settings,
        best.origin.data,
        read_curve(place / "curve.jsonl"),
        best.best[1],
        sum(value.numel() for value in weights.values()),
        network,
    )


def _check_alike(place: Path, runs: list[Run], first: list[Run], free: tuple[str, ...]) -> None:
    name = first[0].preset
    if [run.seed for run in runs] != [run.seed for run in first]:
        raise ConfigError(f"{place}: expected the seeds of {name}: train the others")
    wanted = first[0].data, _common(first[0].settings, free)
    for run in runs:
        if (run.data, _common(run.settings, free)) != wanted:
            raise ConfigError(
                f"{place}, seed {run.seed}: expected the settings and faces of {name}, but for "
                f"{', '.join(free)}: train them again with the same"
            )


def _common(settings: dict[str, Any], free: tuple[str, ...]) -> dict[str, Any]:
    """Settings but for the seed and those that may differ."""
    run = {name: value for name, value in settings["run"].items() if name != "seed"}
    return {"run": run} | {
        name: value for name, value in settings.items() if name not in ("run", *free)
    }
