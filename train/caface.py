"""`facestream train caface`: a fuser for a pack, trained on the pack's own features.

CAFace (Kim, Liu, Jain, Liu, NeurIPS 2022), the learned mean, or one of those that they are compared
with (train/fusers), on sets with the structure of tracks (train/track_sets). The backbone is
frozen: only features are read.

The paper's template loss 1 - cos(fused, centre) rewards what all degraded faces have in common, so
cosines rise and nobody is told apart better. The loss `identity` asks whose the set is, among
everybody of the training split: cross-entropy of scale * cos(fused, every centre). PFE alone keeps
its own loss, the likelihood that two faces of a set are of one person: its variances mean something
only by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ConfigError
from ..configs.training import CAFaceTraining
from ..models.caface_head import save_head
from ..models.feature_store import fingerprint_parts
from ..models.fusion import Floats
from ..models.networks.caface import CAFace
from ..models.networks.caface_files import head_from_network
from ..models.networks.caface_losses import consistency_loss, template_loss
from ..models.networks.scalar_fusion import ScalarWeighted, scalar_head
from ..models.networks.set_fusion_losses import pfe_loss
from ..models.networks.sets import FaceSets
from ..models.networks.style_fusion import OnStyles
from ..models.scalar_fusion import save_scalar_head
from ..models.store import written_whole
from .feature_bank import Bank
from .fusers import LIVE, Fuser, fuse_sets, make_fuser, plan_fuser, save_fuser
from .track_sets import TrackSampler, TrackSets

VALIDATION_SIZES = (8, 16)
VALIDATION_ROUNDS = 2
"""Sets of each size and person."""
GALLERY = 5 / 12
"""Distance of a validation person's other picture from the centre, as a share of the largest that
pseudo-sources have: nobody is enrolled with the picture that is seen later."""
FPIR = 0.01


class FusionTask(nn.Module):
    """A fuser and its losses."""

    def __init__(self, fuser: Fuser, config: CAFaceTraining, centres: Floats):
        """centres: (P, C) float32, unit, of everybody in training."""
        super().__init__()
        self.fuser = fuser
        self.config = config
        self.register_buffer("centres", torch.from_numpy(centres), persistent=False)

    centres: Tensor

    def forward(self, batch: TrackSets) -> dict[str, Tensor]:
        """loss, what it is made of, and template: 1 - cosine with the centre of the whole set.

        CAFace is read of the first half of each set, of both halves one after the other and of
        both at once; the consistency loss compares the last two (equation 10).
        """
        if not isinstance(self.fuser, CAFace):
            fused = self.fuser(batch.sets)
            own = self.config.fuser == "pfe"
            return {
                "loss": self._pair(batch) if own else self._identify(fused, batch),
                "template": template_loss(fused, batch.centres).detach(),
            }
        network, half = self.fuser, batch.sets.mask.shape[1] // 2
        encoded = network.encode(batch.sets)
        first = network.cluster(encoded.take(slice(half)))
        second = network.cluster(encoded.take(slice(half, None)))
        whole = network.read(network.cluster(encoded))
        pieces = network.read(first.merge(second))
        fit = [self._identify(one, batch) for one in (network.read(first), pieces, whole)]
        consistency = consistency_loss(pieces, whole)
        return {
            "loss": torch.stack(fit).mean() + self.config.consistency * consistency,
            "consistency": consistency.detach(),
            "template": template_loss(whole, batch.centres).detach(),
        }

    def _pair(self, batch: TrackSets) -> Tensor:
        """PFE's loss over the pairs of faces of each set."""
        assert isinstance(self.fuser, OnStyles)
        sets = batch.sets
        logs = self.fuser.log_variances(sets).flatten(0, 1)
        owners = torch.arange(len(sets.mask)).repeat_interleave(sets.mask.shape[1])
        return pfe_loss(sets.features.flatten(0, 1), logs, owners.to(logs.device))

    def _identify(self, fused: Tensor, batch: TrackSets) -> Tensor:
        if self.config.loss == "template":
            return template_loss(fused, batch.centres)
        cosines = F.normalize(fused.float(), dim=1) @ self.centres.T
        return F.cross_entropy(self.config.scale * cosines, batch.people)


class CAFaceRecipe:
    """What the engine trains; see `caface_recipe`."""

    watch = "identity"
    higher = False

    def __init__(self, config: CAFaceTraining, training: Bank, validation: Bank) -> None:
        """Raises ConfigError for banks without styles, or that share a person."""
        styles = training.styles.shape[3]
        if not styles:
            raise ConfigError(f"pack {config.pack!r} gives no style statistics, which fusers read")
        if shared := set(training.names) & set(validation.names):
            raise ConfigError(f"{min(shared)} is both in training and in validation: take one out")
        self.config = config
        self.sampler = TrackSampler(training, config.tracks)
        self.fingerprint = fingerprint_parts(
            (name, bank.fingerprint.encode())
            for name, bank in (("training", training), ("validation", validation))
        )
        torch.manual_seed(config.run.seed)
        self.plan = plan_fuser(config, training.clean.shape[1], styles)
        self.network = FusionTask(make_fuser(self.plan), config, self.sampler.centres)
        self._gallery, self._sets = _validation_sets(config, validation)

    def groups(self) -> list[dict[str, Any]]:
        """One group: weight decay on everything, as the authors have it."""
        return [{"params": list(self.network.parameters())}]

    def batch(self, step: int, rank: int, ranks: int) -> TrackSets:
        """Sets of one size, of different people, drawn anew from (seed, step)."""
        run = self.config.run
        draw = np.random.default_rng((run.seed, step))
        size = int(draw.choice(self.config.tracks.sizes))
        drawn = self.sampler.draw(draw, run.batch, size)
        mine = slice(rank, None, ranks)
        fields = (None if field is None else field[mine] for field in drawn.sets)
        return TrackSets(FaceSets(*fields), drawn.people[mine], drawn.centres[mine])  # type: ignore[arg-type]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Sets of the validation people against a gallery of them.

        identity: cross-entropy as in training; rank 1; TPIR: at FPIR 1 %, a set's best score among
        others being a non-mated search; template: mean of 1 - cosine with the enrolled.
        """
        device = self.network.centres.device
        gallery = self._gallery.to(device)
        losses, own, best, template = [], [], [], []
        for batch in self._sets:
            moved = batch.to(device)
            fused = F.normalize(fuse_sets(self.network.fuser, moved.sets).float(), dim=1)
            cosines = fused @ gallery.T
            losses.append(F.cross_entropy(self.config.scale * cosines, moved.people))
            own.append(cosines.gather(1, moved.people[:, None])[:, 0])
            best.append(cosines.scatter(1, moved.people[:, None], -torch.inf).amax(dim=1))
            template.append(1.0 - own[-1].mean())
        mated, other = torch.cat(own), torch.cat(best)
        bar = other.sort(descending=True).values[int(len(other) * FPIR)]
        return {
            "identity": float(torch.stack(losses).mean()),
            "rank-1": float((mated > other).float().mean()),
            "TPIR": float(((mated > other) & (mated > bar)).float().mean()),
            "template": float(torch.stack(template).mean()),
        }

    def export(self, folder: Path) -> list[Path]:
        """Write PACK.FUSER.npz: of caface and learned the head that a card names."""
        path = folder / f"{self.config.pack}.{self.config.fuser}.npz"
        with written_whole(path) as partial:
            fuser = self.network.fuser
            if self.config.fuser not in LIVE:
                save_fuser(partial, self.plan, fuser)
            elif isinstance(fuser, CAFace):
                save_head(partial, head_from_network(fuser))
            else:
                assert isinstance(fuser, ScalarWeighted)
                save_scalar_head(partial, scalar_head(fuser))
        return [path]


def caface_recipe(config: CAFaceTraining, training: Bank, validation: Bank) -> CAFaceRecipe:
    """The recipe of `facestream train caface`.

    Both banks were made by config.pack with config.bank. Raises ConfigError as `CAFaceRecipe` does.
    """
    return CAFaceRecipe(config, training, validation)


def _validation_sets(config: CAFaceTraining, bank: Bank) -> tuple[Tensor, list[TrackSets]]:
    """The gallery (P, C) and the same sets each time: their seed is not the training's."""
    draw = np.random.default_rng((config.run.seed, 0, 1))
    sampler = TrackSampler(bank, config.tracks)
    centres = sampler.centres
    away = centres[draw.permutation(len(centres))]
    away = away - (away * centres).sum(axis=1, keepdims=True) * centres
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    sets = [
        sampler.draw(draw, len(sampler.people), size, sampler.people)
        for size in VALIDATION_SIZES
        for _ in range(VALIDATION_ROUNDS)
    ]
    reach = GALLERY * config.tracks.spread
    return F.normalize(torch.from_numpy(centres + reach * away).float(), dim=1), sets
