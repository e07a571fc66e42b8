"""The fusers that `facestream train caface` trains, and files of those that do not run live.

One .npz without pickles: fuser, keys, dimension, styles, centres, code and hidden, as in `Plan`,
and every weight of the network under `weights.` and its name. `facestream bench fusion --head`
reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .. import CorruptModelFile, MissingModelFile
from ..configs.training import CAFaceTraining
from ..models.caface_head import HeadSize
from ..models.fusion import Floats, Members, normalise_rows
from ..models.networks.caface import CAFace
from ..models.networks.caface_quality import GuidedCAFace, QualityCAFace
from ..models.networks.scalar_fusion import ScalarWeighted
from ..models.networks.set_fusion import NAN, WeightedFuser
from ..models.networks.sets import FaceSets, full_sets
from ..models.networks.style_fusion import style_cfan, style_pfe
from ..models.npz_file import read_arrays
from ..models.scalar_fusion import Keys

Fuser = CAFace | WeightedFuser

LIVE = ("caface", "learned")
"""Fusers whose heads a card can name."""
LARGEST = 1 << 26
"""Bytes of a file's arrays."""
WEIGHTS = "weights."
TOGETHER = 64
"""Tracks that are fused at once."""


class Plan(NamedTuple):
    """What an untrained fuser is made from; see `configs.training.CAFaceTraining`.

    dimension: C. styles: K.
    """

    fuser: str
    keys: Keys
    dimension: int
    styles: int
    centres: int
    code: int
    hidden: int


def plan_fuser(config: CAFaceTraining, dimension: int, styles: int) -> Plan:
    """The plan of a recipe's fuser for embeddings of `dimension` numbers and K = `styles`."""
    return Plan(
        config.fuser, config.keys, dimension, styles, config.centres, config.code, config.hidden
    )


def make_fuser(plan: Plan) -> Fuser:
    """The untrained network. Raises KeyError for a fuser of another name.

    CAFace's style mix starts at the mean of both statistics: 0, the paper's, makes the first steps
    blind.
    """
    dimension, styles = plan.dimension, plan.styles
    size = HeadSize(dimension, styles, plan.centres, plan.code, plan.code)
    makers: dict[str, Callable[[], Fuser]] = {
        "caface": lambda: CAFace(size, style_mix=0.5),
        "caface-quality": lambda: QualityCAFace(size, style_mix=0.5),
        "caface-guided": lambda: GuidedCAFace(size, keys=plan.keys, style_mix=0.5),
        "learned": lambda: ScalarWeighted(dimension, styles, keys=plan.keys, hidden=plan.hidden),
        "learned-embedding": lambda: ScalarWeighted(
            dimension, styles, keys=plan.keys, hidden=plan.hidden, embedding=True
        ),
        "nan": lambda: NAN(dimension),
        "cfan": lambda: style_cfan(dimension, styles),
        "pfe": lambda: style_pfe(dimension, styles),
    }
    return makers[plan.fuser]()


def save_fuser(path: Path, plan: Plan, network: nn.Module) -> None:
    """Write a trained fuser with what `load_fuser` makes it from."""
    weights = {
        f"{WEIGHTS}{name}": tensor.detach().cpu().numpy()
        for name, tensor in network.state_dict().items()
    }
    facts = {name: np.array(value) for name, value in plan._asdict().items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **facts, **weights)


def load_fuser(path: Path) -> Fuser:
    """A fuser that `save_fuser` wrote, in evaluation mode.

    Raises MissingModelFile, or CorruptModelFile for a file that is none or whose weights do not
    fit.
    """
    if not path.is_file():
        raise MissingModelFile(f"no fuser at {path}: facestream train caface writes them")
    arrays = read_arrays(path, "a fuser", most=LARGEST)
    weights = {
        name.removeprefix(WEIGHTS): torch.from_numpy(arrays.pop(name))
        for name in list(arrays)
        if name.startswith(WEIGHTS)
    }
    try:
        facts = {name: arrays[name].item() for name in Plan._fields}
        network = make_fuser(Plan(**facts))
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptModelFile(
            f"{path}: expected a fuser that facestream train caface wrote, got another file "
            f"({type(error).__name__}): train it again"
        ) from error
    return network.eval()


@torch.no_grad()
def fuse_members(network: Fuser, tracks: Sequence[Members]) -> Floats:
    """The templates (T, C) float32, unit, of tracks of as many faces each; CAFace in chunks."""
    templates = []
    for start in range(0, len(tracks), TOGETHER):
        columns = (
            torch.from_numpy(np.stack([getattr(one, name) for one in tracks[start:][:TOGETHER]]))
            for name in ("embeddings", "styles", "qualities")
        )
        templates.append(fuse_sets(network, full_sets(*(one.float() for one in columns))).numpy())
    return normalise_rows(np.concatenate(templates)).astype(np.float32)


def fuse_sets(network: Fuser, sets: FaceSets) -> torch.Tensor:
    """The templates (B, C), not normalised, as live: CAFace in chunks."""
    if isinstance(network, CAFace):
        return network.fuse_in_chunks(sets)
    fused: torch.Tensor = network(sets)
    return fused
