"""Sets of faces with the structure of tracks, drawn from a bank of degraded views.

A live track is a few stretches of frames that resemble each other: long ones in which nothing can
be seen, a short good one, another pose. Sets of independent faces have no such structure, and a
fuser trained on them never learns that twenty alike frames say little more than one.

A bank has one picture per person. Trained on views of that one picture, fusers only learn to find
the view that is nearest to it. So every set gets pseudo-sources (section 4.2 of the recipes): each
stretch is moved by its share along the centre c toward another picture of the same person,

    u' = unit(u + max(0, u.c) (c_k - c)),  c_k = unit(c + sigma g_k),

g_k a unit direction away from c, toward another person's centre or any, sigma ~ U(0, spread).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import ConfigError
from ..configs.training import TrackSettings
from ..models.fusion import Floats
from ..models.networks.sets import FaceSets, full_sets
from .feature_bank import Bank

Rows = npt.NDArray[np.int64]
AnyFloats = npt.NDArray[np.floating]

NEIGHBOURS = 0.7
"""Share of pseudo-sources that lie toward another person; the others lie anywhere."""


class TrackSets(NamedTuple):
    """sets: B sets of N faces. people: (B,) int64, whose. centres: (B, C) float32, unit."""

    sets: FaceSets
    people: Tensor
    centres: Tensor

    def to(self, device: torch.device | str) -> TrackSets:
        """The same batch on another device."""
        return TrackSets(self.sets.to(device), self.people.to(device), self.centres.to(device))


class TrackSampler:
    """Draws sets from a bank; what it draws depends on the generator alone."""

    def __init__(self, bank: Bank, settings: TrackSettings) -> None:
        """Raises ConfigError when fewer than two people have a face that was found."""
        self._bank, self._settings = bank, settings
        pictures, runs, frames = bank.found.shape
        self._frames = frames
        flat = (pictures, runs * frames)
        lengths = np.linalg.norm(bank.embeddings, axis=-1, keepdims=True)
        self._units = (bank.embeddings / np.maximum(lengths, 1e-12)).reshape(*flat, -1)
        self._norms = lengths.reshape(flat)
        self._styles = bank.styles.reshape(*flat, *bank.styles.shape[3:])
        self._quality = bank.quality.reshape(flat)
        self.centres: Floats = bank.centres.astype(np.float32)
        self.people: Rows = np.flatnonzero(bank.found.any(axis=(1, 2)))
        if len(self.people) < 2:
            raise ConfigError("sets need two people with a face at least: bring more pictures")

    def draw(
        self, draw: np.random.Generator, count: int, faces: int, people: Rows | None = None
    ) -> TrackSets:
        """`count` sets of `faces` each, of the people given, or of different ones if there are."""
        if people is None:
            people = draw.choice(self.people, count, replace=count > len(self.people))
        picked = [self._pick(draw, int(person), faces) for person in people]
        views = np.stack([rows for rows, _ in picked])  # (B, N)
        stretch = np.stack([parts for _, parts in picked])
        who = people[:, None]
        units = self._move(draw, self._units[who, views], people, stretch)
        features = units * self._norms[who, views][..., None]
        sets = full_sets(
            torch.from_numpy(features.astype(np.float32)),
            torch.from_numpy(self._styles[who, views]),
            torch.from_numpy(self._quality[who, views]),
        )
        return TrackSets(sets, torch.from_numpy(people), torch.from_numpy(self.centres[people]))

    def _pick(self, draw: np.random.Generator, person: int, faces: int) -> tuple[Rows, Rows]:
        """Views (N,) of one set, and which stretch each belongs to."""
        found = self._bank.found[person]
        if draw.random() < self._settings.independent:
            views = np.flatnonzero(found)
            picked = draw.choice(views, faces, replace=faces > len(views))
            return picked, draw.integers(0, self._settings.sources, faces)
        runs = draw.permutation(np.flatnonzero(found.any(axis=1)))
        runs = runs[: min(faces, int(draw.integers(1, len(found) + 1)))]
        lengths = cut(draw, faces, len(runs))
        if draw.random() < self._settings.mostly_bad:
            # The longest stretch is the worst one: what is worth finding is rare.
            quality = [self._bank.quality[person, run][found[run]].mean() for run in runs]
            order = draw.permutation(len(runs))
            runs, lengths = runs[np.argsort(quality)][order], np.sort(lengths)[::-1][order]
        rows: list[Rows] = []
        parts: list[Rows] = []
        for part, (run, length) in enumerate(zip(runs, lengths, strict=True)):
            seen = np.flatnonzero(found[run]) + run * self._frames
            rows.append(seen[to_and_fro(int(draw.integers(len(seen))), int(length), len(seen))])
            parts.append(np.full(length, part))
        return np.concatenate(rows), np.concatenate(parts)

    def _move(
        self, draw: np.random.Generator, units: AnyFloats, people: Rows, stretch: Rows
    ) -> AnyFloats:
        """Units (B, N, C) moved toward the pseudo-source of their stretch."""
        settings, centres = self._settings, self.centres[people]
        count, sources = len(people), settings.sources
        used = draw.integers(1, sources + 1, (count, 1))
        reach = draw.uniform(0.0, settings.spread, (count, 1, 1))
        others = self.centres[draw.integers(0, len(self.centres), (count, sources))]
        anywhere = draw.standard_normal(others.shape)
        near = draw.random((count, sources, 1)) < NEIGHBOURS
        away = np.where(near, _away(others, centres), _away(anywhere, centres))
        moved = _unit(centres[:, None] + reach * away)  # (B, sources, C)
        place = draw.integers(0, 1 << 30, (count, int(stretch.max()) + 1))
        source = np.take_along_axis(place, stretch, axis=1) % used
        step = np.take_along_axis(moved, source[..., None], axis=1) - centres[:, None]
        share = np.maximum(np.einsum("bnc,bc->bn", units, centres), 0.0)[..., None]
        return _unit(units + share * step)


def cut(draw: np.random.Generator, total: int, parts: int) -> Rows:
    """`total` in `parts` lengths of 1 or more, all ways to cut as likely."""
    ends = np.sort(draw.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], ends, [total]]))


def to_and_fro(start: int, count: int, length: int) -> Rows:
    """`count` places in a run of `length` frames, walking from `start` and back at its ends.

    >>> to_and_fro(1, 6, 3).tolist()
    [1, 2, 1, 0, 1, 2]
    """
    period = max(1, 2 * length - 2)
    places = (np.arange(count) + start) % period
    return np.where(places < length, places, period - places)


def _away(rows: AnyFloats, centres: AnyFloats) -> AnyFloats:
    """Rows (B, S, C) without their part along centres (B, C), at unit length."""
    along = np.einsum("bsc,bc->bs", rows, centres)[..., None]
    return _unit(rows - along * centres[:, None])


def _unit(rows: AnyFloats) -> AnyFloats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))
