"""Templates and scores of `evaluate ijb` as the running system makes them: fused, aligned by IDA.

They take the place of published pooling and of the cosine. A missing template stays a zero vector:
its cosine is 0 to all, and its density that of the others on average.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import ConfigError, RecordError
from ..models.aggregators import make_aggregator
from ..models.feature_store import FeatureStore
from ..models.fusion import Aggregator, Doubles, Floats, Members
from ..models.ida import Anchors, DensityModel, aligned_score
from ..models.identification import ProbeRanks, join_ranks, rank_probes, search_gallery
from ..models.pack import fusion_heads, load_anchors
from ..models.pairs import score_pairs
from ..models.pooling import Templates
from ..models.scores import Labels
from ..models.store import load_card
from .eval_faces import pack_words
from .eval_ijb_set import IjbSet
from .eval_options import check_choice

FUSERS = ("mean", "quality", "learned", "caface")
WITH_STYLES = ("learned", "caface")
SCORES = ("cosine", "ida")
_SCORED = 1 << 22
"""Scores of probes and gallery held at once."""


class Live(NamedTuple):
    """What a pack does in place of pooling and cosine.

    pack: as a store of its features names it. aggregator: fuses a template's pictures in the order
    of the list; None pools them. density: aligns scores; None leaves the cosine.
    """

    pack: str
    aggregator: Aggregator | None = None
    density: DensityModel | None = None

    @property
    def reads_styles(self) -> bool:
        """Whether the aggregator needs style statistics."""
        return self.aggregator is not None and self.aggregator.name in WITH_STYLES

    @property
    def score(self) -> str:
        """In words."""
        if self.density is None:
            return "cosine"
        return f"IDA (k {self.density.k}, tau {self.density.tau:g}, {self.density.version})"


def live_parts(pack: str, fuse: str | None, score: str) -> Live | None:
    """The parts of a pack by name; None where there is neither.

    Raises ConfigError for another name and for IDA without anchors, ModelError for a head that the
    pack does not have.
    """
    check_choice("--score", score, SCORES)
    if fuse is None and score == "cosine":
        return None
    card = load_card(pack)
    live = Live(pack_words(card))
    if fuse is not None:
        check_choice("--fuse", fuse, FUSERS)
        heads = fusion_heads(card) if fuse in WITH_STYLES else {}
        made = make_aggregator(fuse, dimension=card.embedder.dimension, head_path=heads.get(fuse))
        live = live._replace(aggregator=made)
    if score == "ida":
        vectors = load_anchors(card)
        if vectors is None or card.ida is None:
            raise ConfigError(
                f"--score ida needs anchors, and pack {pack!r} has none: facestream train anchors "
                "FACES brings them"
            )
        ida = card.ida
        live = live._replace(density=Anchors(vectors, ida.anchor_version, k=ida.k, tau=ida.tau))
    return live


def check_live(live: Live, store: FeatureStore) -> None:
    """Raise ConfigError for features of another pack, or without what the aggregator reads."""
    if store.key.pack != live.pack:
        raise ConfigError(
            f"{store.folder} holds features of pack {store.key.pack}, --fuse and --score are of "
            f"{live.pack}: name the pack of the features with --pack"
        )
    if live.reads_styles and not store.layout.styles:
        raise ConfigError(
            f"{store.folder} holds no style statistics, which trained fusers need: embed without "
            "--features, or choose --fuse quality"
        )


def fuse_templates(chosen: IjbSet, aggregator: Aggregator, wanted: Labels) -> Templates:
    """The templates of these ids; zero where no picture of theirs is usable."""
    store, media = chosen.store, chosen.media
    kept = np.flatnonzero(store.embedded[chosen.rows])
    kept = kept[np.argsort(media.templates[kept], kind="stable")]
    owners = media.templates[kept]
    vectors = np.zeros((len(wanted), store.layout.dimension), np.float32)
    images = np.zeros(len(wanted), np.int64)
    ends = np.searchsorted(owners, wanted, side="right")
    for place, start in enumerate(np.searchsorted(owners, wanted)):
        rows = chosen.rows[kept[start : ends[place]]]
        images[place] = len(rows)
        if len(rows):
            vectors[place] = _fuse(store, rows, aggregator)
    return Templates(np.asarray(wanted), vectors, images)


def pair_scorer(vectors: Floats, density: DensityModel) -> Callable[[Labels, Labels], Floats]:
    """Scores (N,) float32 of pairs of template rows, for `models.pairs.count_pairs`."""
    crowded = densities(vectors, density)

    def score(first: Labels, second: Labels) -> Floats:
        cosines = score_pairs(vectors, first, second)
        aligned = aligned_score(cosines, crowded[first], crowded[second], tau=density.tau)
        return aligned.astype(np.float32)

    return score


def search(
    probes: Floats,
    subjects: Labels,
    gallery: Floats,
    owners: Labels,
    density: DensityModel | None,
) -> ProbeRanks:
    """Ranks of templates (P, C) against (G, C), by cosine or aligned."""
    if density is None:
        return search_gallery(probes, subjects, gallery, owners)
    near, far = densities(probes, density), densities(gallery, density)

    def ranks(at: int) -> ProbeRanks:
        block = slice(at, at + size)
        cosines = probes[block] @ gallery.T
        aligned = aligned_score(cosines, near[block, None], far[None], tau=density.tau)
        return rank_probes(aligned, subjects[block], owners)

    size = max(1, _SCORED // max(1, len(gallery)))
    return join_ranks(ranks(at) for at in range(0, max(1, len(probes)), size))


def densities(vectors: Floats, model: DensityModel) -> Doubles:
    """r (N,) of unit vectors (N, C); of zero vectors the mean of the others, 0 where all are."""
    there = vectors.any(axis=1)
    found = np.zeros(len(vectors))
    if there.any():
        found[there] = model.density(vectors[there])
        found[~there] = found[there].mean()
    return found


def _fuse(store: FeatureStore, rows: Labels, aggregator: Aggregator) -> Floats:
    embeddings = np.asarray(store.embeddings[rows], np.float32)
    members = Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1).astype(np.float32),
        np.asarray(store.quality[rows], np.float32),
        np.asarray(store.styles[rows], np.float32),
    )
    state = aggregator.update(aggregator.empty(), members)
    try:
        return aggregator.read(state)
    except RecordError:  # pictures that say nothing, or cancel out: as where there is none
        return np.zeros(store.layout.dimension, np.float32)
