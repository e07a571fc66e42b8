"""How well an embedder does on people it has not seen, clean and degraded by known amounts.

Validation identities give these numbers, all deterministic:

    tar            of pairs of clean pictures of people, at a false-match rate
    tar_degraded   of a picture through a camera against the other clean pictures of people
    order          rank correlation of magnitude and what a camera left of a face (MagFace's claim)
    magnitude      mean norm of the clean faces

and each .bin set its accuracy over 10 folds. A view is never compared with the picture it was made
of: networks without any training recognise a picture by its colours. Where everybody has one
picture there is no tar, only agreement with a teacher (train/embedder).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from torch import Tensor

from .. import ConfigError, TrainingError
from ..models.fusion import Doubles
from ..models.inference import Image
from ..models.verification import Integers, count_errors, fold_accuracy, operating_point
from .degrade import camera_of
from .degrade_steps import film
from .face_batches import stack_images
from .face_lists import FacePairs, LabelledFaces

STRENGTHS = (0.3, 0.5, 0.7, 0.9)
"""Of the cameras that validation sees with: 56, 35, 22 and 14 px of an aligned face of 112."""
EMBEDDED_TOGETHER = 64

Embed = Callable[[Tensor], Tensor]
"""Faces (B, 3, 112, 112) uint8 BGR, on the CPU -> raw embeddings (B, C)."""


class FaceValidation:
    """Validation faces in memory, seen clean and through cameras of four strengths."""

    def __init__(
        self,
        faces: LabelledFaces,
        pairs: Sequence[FacePairs] = (),
        *,
        most: int = 1000,
        fmr: float = 1e-2,
        seed: int = 0,
    ) -> None:
        """most: of the faces of the list, as `choose_rows` shares them; fmr of the tars.

        Raises ConfigError for fewer than two identities, and what `LabelledFaces.read` raises, also
        for pictures of the pairs.
        """
        if faces.classes < 2:
            raise ConfigError(
                f"{faces.title}: validation needs two identities, got {faces.classes}"
            )
        rows = choose_rows(faces, most)
        self.labels: Integers = faces.labels[rows]
        self.fmr = fmr
        clean = [faces.read(row) for row in rows.tolist()]
        self.views: list[list[Image]] = [clean]
        """The faces as they are, then through the cameras."""
        for level, strength in enumerate(STRENGTHS):
            drawn = [np.random.default_rng((seed, level, row)) for row in rows.tolist()]
            camera = camera_of(strength)
            self.views.append([film(x, g, camera) for x, g in zip(clean, drawn, strict=True)])
        self._pairs = list(pairs)
        for one in self._pairs:  # a damaged picture is said now, not after the first steps
            for row in range(2 * len(one.same)):
                one.pictures.read(row)
        self.fingerprint = faces.fingerprint
        self.title = faces.title

    def require_pairs(self, otherwise: str = "") -> None:
        """Raise ConfigError where nobody has two pictures; otherwise: what would do as well."""
        if not self.has_pairs:
            raise ConfigError(
                f"{self.title}: nobody among the {len(self.labels)} validation faces has two "
                f"pictures, so recognition cannot be measured: give others{otherwise}"
            )

    def measure(self, embed: Embed) -> dict[str, float]:
        """The numbers; both tars only with `has_pairs`. Raises TrainingError for NaN."""
        views = [embed_images(images, embed) for images in self.views]
        values: dict[str, float] = {}
        if self.has_pairs:
            values["tar"] = self._tar(views[:1], views[0])
            values["tar_degraded"] = self._tar(views[1:], views[0])
        values["order"] = order_of(np.stack([view.norms for view in views]))
        values["magnitude"] = float(views[0].norms.mean())
        values.update({f"accuracy_{pairs.title}": _accuracy(pairs, embed) for pairs in self._pairs})
        return values

    @property
    def has_pairs(self) -> bool:
        """Whether somebody has two pictures."""
        return bool(np.bincount(self.labels).max() > 1)

    def sample(self) -> Tensor:
        """Some of the clean faces, (B, 3, 112, 112) uint8 BGR."""
        return stack_images(self.views[0][:EMBEDDED_TOGETHER])

    def _tar(self, probes: Sequence[Embedded], gallery: Embedded) -> float:
        """Of every view against every picture but its own."""
        same = self.labels[:, None] == self.labels[None]
        other = ~np.eye(len(same), dtype=np.bool_)
        scores = np.concatenate([(view.units @ gallery.units.T)[other] for view in probes])
        return tar_at(scores, np.tile(same[other], len(probes)), self.fmr)


class Embedded(NamedTuple):
    """units (N, C) float64, norms (N,) float64."""

    units: Doubles
    norms: Doubles


def embed_images(images: Sequence[Image], embed: Embed) -> Embedded:
    """Embeddings of pictures, in blocks. Raises TrainingError for numbers that are not finite."""
    blocks = [
        embed(stack_images(list(images[start : start + EMBEDDED_TOGETHER]))).double().cpu().numpy()
        for start in range(0, len(images), EMBEDDED_TOGETHER)
    ]
    raw = np.concatenate(blocks)
    norms = np.linalg.norm(raw, axis=1)
    if not np.isfinite(norms).all():
        raise TrainingError(
            f"{int((~np.isfinite(norms)).sum())} of {len(norms)} embeddings of validation faces "
            "are not finite: lower run.rate, or set run.clip"
        )
    return Embedded(raw / np.maximum(norms, 1e-12)[:, None], norms)


def order_of(norms: Doubles) -> float:
    """How well magnitudes order the views of a face: norms (V, N), from best view to worst.

    Spearman's correlation between norm and place, for each face, averaged over faces: 1 where
    every view of a face has a smaller norm than the better ones, 0 where there is no order.
    """
    ranks = rankdata(norms, axis=0)
    centred = ranks - ranks.mean(axis=0)
    place = np.arange(len(norms))[::-1] - (len(norms) - 1) / 2
    spread = np.sqrt((centred**2).sum(axis=0) * (place**2).sum())
    along = (centred * place[:, None]).sum(axis=0)
    return float(np.divide(along, spread, out=np.zeros_like(spread), where=spread > 0).mean())


def choose_rows(faces: LabelledFaces, most: int) -> Integers:
    """Rows of at most `most` faces: the first of every chosen identity, then the second, and so on.

    Half of `most` identities are chosen, so that each can show two pictures: those who have two
    come first, and of too many the evenly spread over the list. Where their pictures do not fill
    `most`, more identities of a single picture do. Rows are in the order of identities.
    """
    counts = faces.identities.counts
    some = _spread(np.flatnonzero(counts > 1), most // 2)
    singles = max(most // 2 - len(some), most - int(counts[some].sum()))
    people = np.sort(np.concatenate([some, _spread(np.flatnonzero(counts == 1), singles)]))
    rows = np.concatenate([faces.identities.rows(identity) for identity in people.tolist()])
    rounds = np.concatenate([np.arange(count) for count in counts[people].tolist()])
    return rows[np.sort(np.argsort(rounds, kind="stable")[:most])]


def _spread(values: Integers, most: int) -> Integers:
    """At most `most` of the values, evenly spread over them."""
    places = np.linspace(0, len(values) - 1, min(most, len(values)))
    return values[places.astype(np.int64)]


def _accuracy(pairs: FacePairs, embed: Embed) -> float:
    images = [pairs.pictures.read(row) for row in range(2 * len(pairs.same))]
    units = embed_images(images, embed).units
    scores = (units[0::2] * units[1::2]).sum(axis=1)
    return fold_accuracy(scores, pairs.same).mean


def tar_at(scores: Doubles, same: npt.NDArray[np.bool_], fmr: float) -> float:
    """True accept rate of pairs (N,) at a false-match rate of `fmr` at most."""
    return operating_point(count_errors(scores, same), fmr).tar
