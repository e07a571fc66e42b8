"""Pooling the images of a template into one embedding, as the IJB protocols do.

Public scripts differ in four steps, and their option names mislead: N1 (`use_norm_score=True`)
KEEPS the norms of images in InsightFace's eval_ijbc.py, while True NORMALISES them in ijb_evals.py.
Here each step has its own plain name, and `Pooling.describe` puts them in a report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .fusion import Doubles, Floats
from .scores import Labels, check_labels

_BLOCK = 8192  # images held at once, unless one template has more


@dataclass(frozen=True)
class Pooling:
    """The steps from images to a template, in the order in which they are applied.

    add_flip: add the raw embedding of the mirrored image (flip test, F1).
    unit_images: bring each image (after the flip) to length 1; otherwise its norm is a weight.
    detector_weight: multiply by the detector's score (D1).
    by_media: average within each medium (a video's frames are one medium) and sum over media;
    otherwise sum over images. unit_media: bring each medium's average to length 1 before.
    Last of all the template is brought to length 1, so sums and means over media are the same.
    """

    add_flip: bool = False
    unit_images: bool = False
    detector_weight: bool = False
    by_media: bool = True
    unit_media: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for unit_media without by_media."""
        if self.unit_media and not self.by_media:
            raise ConfigError("unit_media needs by_media, got by_media = False: set both or none")

    def describe(self) -> str:
        """The variant in words, for reports."""
        steps = [
            "flip added" if self.add_flip else "no flip",
            "unit images" if self.unit_images else "raw norms",
            "times detector score" if self.detector_weight else "no detector score",
        ]
        if self.by_media:
            steps.append("mean within media")
        if self.unit_media:
            steps.append("unit media")
        steps.append("sum over media" if self.by_media else "sum over images")
        return ", ".join([*steps, "L2"])


POOLINGS = {
    "arcface": Pooling(add_flip=True, detector_weight=True),
    "arcface-unit": Pooling(add_flip=True, unit_images=True, detector_weight=True),
    "adaface": Pooling(add_flip=True),
    "caface-average": Pooling(by_media=False),
    "magface": Pooling(unit_images=True, by_media=False),
    "magface-code": Pooling(unit_media=True),
    "magface+": Pooling(by_media=False),
    "magface+-code": Pooling(),
}
"""Published variants by name.

arcface: InsightFace N1D1F1 of eval_ijbc.py = N0D1F1 of ijb_evals.py. arcface-unit: N0D1F1 of
eval_ijbc.py. adaface: its repository's IJB-B/C evaluation. caface-average: the average that CAFace
compares with (neither flip nor media, hence below adaface). magface and magface+: as the paper
defines them, image by image; -code: as its eval_ijb does, through media.
"""


class Templates(NamedTuple):
    """Pooled templates.

    ids (T,) template numbers, ascending unless they were given; vectors (T, C) float32 of length
    1, or all zero where a template has no image (or its images cancel out); images (T,) how many.
    """

    ids: Labels
    vectors: Floats
    images: Labels

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """Which templates are zero vectors (T,): they score 0 against everything."""
        return np.asarray(~self.vectors.any(axis=1))


def unit_rows(vectors: npt.NDArray[np.floating]) -> Doubles:
    """Rows (N, C) at length 1 as float64; rows of zeros stay zero."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(lengths > 0, lengths, 1.0))


def weigh_images(
    embeddings: npt.NDArray[np.floating],
    pooling: Pooling,
    *,
    flipped: npt.NDArray[np.floating] | None = None,
    detector_scores: npt.NDArray[np.floating] | None = None,
) -> Doubles:
    """Images as they enter the sums: flip, length, detector score, in this order.

    embeddings, flipped (N, C) not normalised; detector_scores (N,) >= 0, usually 0..1.
    Returns (N, C) float64. Raises ConfigError when the pooling needs an input that is not given,
    RecordError for shapes that do not fit and for values that are not finite.
    """
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise RecordError(
            f"embeddings must be (N, C) and finite, got {embeddings.shape}, "
            f"{int((~np.isfinite(embeddings)).sum())} values not finite: leave such images out"
        )
    images = embeddings.astype(np.float64)
    if pooling.add_flip:
        if flipped is None:
            raise ConfigError("add_flip needs the embeddings of the mirrored images, got none")
        if flipped.shape != embeddings.shape or not np.isfinite(flipped).all():
            raise RecordError(
                f"flipped must be {embeddings.shape} and finite, got {flipped.shape}: "
                "embed the same images mirrored"
            )
        images += flipped
    if pooling.unit_images:
        images = unit_rows(images)
    if pooling.detector_weight:
        if detector_scores is None:
            raise ConfigError("detector_weight needs a detector score per image, got none")
        if detector_scores.shape != images.shape[:1] or not (detector_scores >= 0).all():
            raise RecordError(
                f"detector_scores must be ({len(images)},) and >= 0, got {detector_scores.shape}: "
                "read them from the same list as the images"
            )
        images *= detector_scores[:, None]
    return images


def pool_templates(
    embeddings: npt.NDArray[np.floating],
    templates: npt.ArrayLike,
    media: npt.ArrayLike,
    pooling: Pooling,
    *,
    flipped: npt.NDArray[np.floating] | None = None,
    detector_scores: npt.NDArray[np.floating] | None = None,
    wanted: npt.ArrayLike | None = None,
) -> Templates:
    """All templates of a set.

    embeddings, flipped (N, C); may be memory-mapped, since images are read in blocks of whole
    templates. templates, media (N,) integers: an image's template and medium; a medium's number
    counts only within its template. wanted (T,): the templates to return, in this order, zero
    vectors for those without images; by default those that have images.
    Raises as `weigh_images` does.
    """
    count = len(embeddings)
    template_of = check_labels("templates", templates, count)
    media_of = check_labels("media", media, count)
    if embeddings.ndim != 2:
        raise RecordError(f"embeddings must be (N, C), got {embeddings.shape}")
    order = np.lexsort((media_of, template_of))
    names, starts = np.unique(template_of[order], return_index=True)
    ends = np.append(starts[1:], count)
    vectors = np.zeros((len(names), embeddings.shape[1]), np.float32)
    for low, high in _blocks(starts, ends):
        rows = order[starts[low] : ends[high - 1]]
        images = weigh_images(
            embeddings[rows],
            pooling,
            flipped=None if flipped is None else flipped[rows],
            detector_scores=None if detector_scores is None else detector_scores[rows],
        )
        vectors[low:high] = _pool_block(images, template_of[rows], media_of[rows], pooling)
    pooled = Templates(names, vectors, ends - starts)
    return pooled if wanted is None else _pick(pooled, np.asarray(wanted))


def _blocks(starts: Labels, ends: Labels) -> Iterator[tuple[int, int]]:
    """Runs of templates [low, high) with about _BLOCK images."""
    low = 0
    while low < len(starts):
        high = int(np.searchsorted(ends, starts[low] + _BLOCK, "right"))
        high = max(high, low + 1)
        yield low, high
        low = high


def _pool_block(images: Doubles, templates: Labels, media: Labels, pooling: Pooling) -> Doubles:
    """Unit templates (t, C) of images sorted by template, then medium."""
    if pooling.by_media:
        new = np.ones(len(images), np.bool_)
        new[1:] = (templates[1:] != templates[:-1]) | (media[1:] != media[:-1])
        starts = np.flatnonzero(new)
        sizes = np.diff(np.append(starts, len(images)))
        images = np.add.reduceat(images, starts, axis=0) / sizes[:, None]
        templates = templates[starts]
        if pooling.unit_media:
            images = unit_rows(images)
    firsts = np.unique(templates, return_index=True)[1]
    return unit_rows(np.add.reduceat(images, firsts, axis=0))


def _pick(pooled: Templates, wanted: Labels) -> Templates:
    """The wanted templates in their order, missing ones as zero vectors without images."""
    check_labels("wanted", wanted, len(wanted))
    vectors = np.zeros((len(wanted), pooled.vectors.shape[1]), np.float32)
    images = np.zeros(len(wanted), np.int64)
    known = np.isin(wanted, pooled.ids)
    places = np.searchsorted(pooled.ids, wanted[known])
    vectors[known] = pooled.vectors[places]
    images[known] = pooled.images[places]
    return Templates(wanted, vectors, images)
