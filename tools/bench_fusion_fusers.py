"""What `facestream bench fusion` compares: live aggregators, heads in files, and oracles.

An oracle is told what no system knows. Some of them say what there is to gain by judging single
faces better, and by looking at the whole set:

- *4th power*: of the true cosine, in place of the square. Of the powers from 1 to 8 it was as good
  as any: what weighing each face by itself can do at best, or nearly.
- *runs known*: each face's weight divided by how many faces of its stretch are in the set, so that
  a stretch counts once, however long it is.
- *best weights*: the weights of 0 or more with which the weighted mean comes nearest to the
  enrolled template. No weighted mean, with or without context, does better against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from .. import ConfigError
from ..models.aggregators import make_aggregator
from ..models.caface_head import load_head
from ..models.card import Card
from ..models.fusion import Aggregator, Doubles, Floats, Members, normalise_rows
from ..models.npz_file import read_arrays
from ..models.pack import fusion_heads
from ..models.scalar_fusion import LearnedMean
from ..models.scores import Labels
from ..models.store import load_card

SMALLEST_TRUTH = 1e-3
LARGEST = 1 << 26
"""Bytes of a head's arrays."""
RUNS_KNOWN = ", runs known"
FOURTH = "oracle, 4th power"
BEST = "best weights"


class Drawn(NamedTuple):
    """One set of N faces.

    truth (N,): likeness to the enrolled template, 0 for a stranger and 1 at best. stretches (N,):
    which stretch each is of. target (C,): the enrolled template, unit.
    """

    members: Members
    truth: Doubles
    stretches: Labels
    target: Doubles


Fuse = Callable[[Sequence[Drawn]], Floats]
"""Sets of one size to their templates (S, C), unit."""


def fusers_of(pack: str, heads: Mapping[str, Path] | None = None) -> dict[str, Fuse]:
    """The aggregators that run live, the mean weighted by norms, the heads, and the oracles.

    heads: files of heads by name. Raises ModelError for one that is none or of another embedder.
    """
    card = load_card(pack)
    shipped = fusion_heads(card)

    def live(name: str) -> Aggregator:
        return make_aggregator(name, dimension=card.embedder.dimension, head_path=shipped.get(name))

    fusers: dict[str, Fuse] = {
        "mean": _run(live("mean")),
        "norm": _weighted(lambda one: one.members.norms.astype(np.float64)),
        "quality": _run(live("quality")),
        **{name: open_head(path, card) for name, path in (heads or {}).items()},
        **{name: open_head(path, card) for name, path in shipped.items()},
        "oracle": _weighted(_oracle),
        FOURTH: _weighted(lambda one: _oracle(one) ** 2),
        f"oracle{RUNS_KNOWN}": _weighted(lambda one: _once(_oracle(one), one)),
        BEST: _weighted(_best),
    }
    if "learned" in shipped:
        learned = live("learned")
        assert isinstance(learned, LearnedMean)

        def weigh(one: Drawn) -> Doubles:
            scores = learned.score(one.members)
            return _once(np.exp(scores - scores.max()), one)

        fusers[f"learned{RUNS_KNOWN}"] = _weighted(weigh)
    return fusers


def open_head(path: Path, card: Card) -> Fuse:
    """A head in a file: one of learned or caface, or a fuser that is only compared with."""
    names = read_arrays(path, "a fusion head", most=LARGEST).keys()
    dimension = card.embedder.dimension
    if "fc1.weight" in names:
        return _run(make_aggregator("learned", dimension=dimension, head_path=path))
    from ..train.fusers import Fuser, fuse_members, load_fuser

    if "sim.mix" in names:
        # In torch, many sets at once; a test holds it to what the live aggregator gives.
        from ..models.networks.caface_files import network_from_head

        styles = card.embedder.style_channels
        network: Fuser = network_from_head(load_head(path, dimension=dimension, styles=styles))
    else:
        network = load_fuser(path)
    return lambda sets: fuse_members(network, [one.members for one in sets])


def heads_of(pack: str, given: Sequence[str]) -> dict[str, Path]:
    """Those of NAME=FILE whose file is called PACK.something.npz, by name.

    Raises ConfigError for another form.
    """
    heads = {}
    for one in given:
        name, equals, file = one.partition("=")
        if not (name and equals and Path(file).suffix == ".npz"):
            raise ConfigError(f"--head must be NAME=PACK.something.npz, got {one!r}")
        if Path(file).name.split(".")[0] == pack:
            heads[name] = Path(file)
    return heads


def _run(aggregator: Aggregator) -> Fuse:
    def fuse(sets: Sequence[Drawn]) -> Floats:
        states = (aggregator.update(aggregator.empty(), one.members) for one in sets)
        return np.stack([aggregator.read(state) for state in states])

    return fuse


def _weighted(weigh: Callable[[Drawn], Doubles]) -> Fuse:
    def fuse(sets: Sequence[Drawn]) -> Floats:
        sums = [weigh(one) @ normalise_rows(one.members.embeddings) for one in sets]
        return np.asarray(normalise_rows(np.stack(sums), 1e-12), np.float32)

    return fuse


def _oracle(one: Drawn) -> Doubles:
    return np.asarray(np.maximum(one.truth, SMALLEST_TRUTH) ** 2)


def _once(weights: Doubles, one: Drawn) -> Doubles:
    """Weights (N,) divided by the number of faces of the set that are of the same stretch."""
    _, places, counts = np.unique(one.stretches, return_inverse=True, return_counts=True)
    return np.asarray(weights / counts[places])


def _best(one: Drawn) -> Doubles:
    """Weights (N,) >= 0: what is nearest to the target in the cone of the faces; equal ones where
    that is nothing.
    """
    units = normalise_rows(one.members.embeddings)
    # A face that is there twice adds nothing, and has the same cosine.
    _, first = np.unique(units @ one.target, return_index=True)
    weights = np.zeros(len(units))
    weights[first] = nnls(units[first].T, one.target)[0]
    return weights if weights.any() else np.ones(len(units))
