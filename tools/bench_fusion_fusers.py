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

import hashlib
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
from ..models.scalar_fusion import LearnedMean, load_scalar_head
from ..models.scores import Labels
from ..models.store import load_card

SMALLEST_TRUTH = 1e-3
LARGEST = 1 << 26
"""Bytes of a head's arrays."""
PLAIN = ("mean", "norm", "quality", "oracle")
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


class Compared(NamedTuple):
    """One row of the page. mark: changes with whatever changes what it fuses to."""

    fuse: Fuse
    mark: str


def fusers_of(pack: str, heads: Mapping[str, Path] | None = None) -> dict[str, Compared]:
    """The aggregators that run live, the mean weighted by norms, the heads, and the oracles.

    heads: files of heads by name. Raises ModelError for one that is none or of another embedder.
    """
    card = load_card(pack)
    shipped = fusion_heads(card)
    dimension = card.embedder.dimension

    def plain(name: str) -> Compared:
        return Compared(_run(make_aggregator(name, dimension=dimension)), name)

    def oracle_once(one: Drawn) -> Doubles:
        return _once(_oracle(one), one)

    def weighted(weigh: Callable[[Drawn], Doubles], mark: str) -> Compared:
        return Compared(_weighted(weigh), mark)

    fusers = {
        "mean": plain("mean"),
        "norm": weighted(lambda one: one.members.norms.astype(np.float64), "norm"),
        "quality": plain("quality"),
        **{name: open_head(path, card) for name, path in (heads or {}).items()},
        **{name: open_head(path, card) for name, path in shipped.items()},
        "oracle": weighted(_oracle, "oracle"),
        FOURTH: weighted(lambda one: _oracle(one) ** 2, FOURTH),
        f"oracle{RUNS_KNOWN}": weighted(
            lambda one: _once(_oracle(one), one), f"oracle{RUNS_KNOWN}"
        ),
        BEST: weighted(_best, BEST),
    }
    if "learned" in shipped:
        learned = LearnedMean(load_scalar_head(shipped["learned"]))

        def weigh(one: Drawn) -> Doubles:
            scores = learned.score(one.members)
            return _once(np.exp(scores - scores.max()), one)

        known = f"learned{RUNS_KNOWN}"
        fusers[known] = weighted(weigh, known + _checksum(shipped["learned"]))
    return fusers


def open_head(path: Path, card: Card) -> Compared:
    """A head in a file: one of learned or caface, or a fuser that is only compared with."""
    names = read_arrays(path, "a fusion head", most=LARGEST).keys()
    fits = {"dimension": card.embedder.dimension, "styles": card.embedder.style_channels}
    if "fc1.weight" in names:
        return Compared(_run(LearnedMean(load_scalar_head(path, **fits))), _checksum(path))
    from ..train.fusers import Fuser, fuse_members, load_fuser

    if "sim.mix" in names:
        # In torch, many sets at once; a test holds it to what the live aggregator gives.
        from ..models.networks.caface_files import network_from_head

        network: Fuser = network_from_head(load_head(path, **fits))
    else:
        network = load_fuser(path)
    return Compared(
        lambda sets: fuse_members(network, [one.members for one in sets]), _checksum(path)
    )


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def heads_of(packs: Sequence[str], files: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Files called PACK.NAME.npz, by pack and name.

    Raises ConfigError for another form, for a pack that is not compared, and for a name that the
    pack has already.
    """
    heads: dict[str, dict[str, Path]] = {pack: {} for pack in packs}
    taken = {pack: {*PLAIN, *fusion_heads(load_card(pack))} for pack in packs}
    for file in files:
        pack, _, rest = file.name.partition(".")
        name = rest.removesuffix(".npz")
        if not name or name == rest or pack not in heads:
            raise ConfigError(
                f"--head must be a file PACK.NAME.npz of the packs {', '.join(packs)}, got {file}"
            )
        if name in taken[pack]:
            raise ConfigError(f"{pack} has {name} already: give {file} another NAME")
        taken[pack].add(name)
        heads[pack][name] = file
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
