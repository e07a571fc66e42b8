"""Recognition of real stills, for `facestream bench accuracy`: sets of pictures of known people.

The pictures are those of CelebA's in-the-wild part, which are for research only: numbers go on the
page, pictures do not. Half of the people are enrolled, the others are strangers, then the other
way round. A probe is a set of pictures, fused as the faces of a track are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import SourceCorrupt
from ..models.aggregators import make_aggregator
from ..models.feature_store import FeatureStore
from ..models.fusion import Aggregator, Doubles, Floats, Members
from ..models.ida import Anchors, aligned_score
from ..models.identification import ProbeRanks, rank_probes
from ..models.pack import Pack, open_pack
from ..models.scores import Labels
from .bench_accuracy_videos import Variant, pack_variants
from .eval_faces import Alignment, EmbedOptions, FaceSet, FolderPictures, embed_faces
from .eval_identify import Search, measure_searches
from .report_record import Number

if TYPE_CHECKING:
    from .eval_verification import Bootstrap

PICTURES = 10
"""Pictures of each person: whoever has fewer does not take part, of more the first are taken."""
ENROLLED = 2
"""Pictures of each that are enrolled."""
SIZES = (1, 4, 8)
"""Pictures of a probe."""
SETS = 3
"""Probes of one size that somebody gives at most; no two share a picture."""
FPIRS = (0.1, 0.01)
_LAST = np.iinfo(np.int32).max
"""Rank of a probe or a mate without any face."""


class Wild(NamedTuple):
    """N pictures: the folder's files, whose they are (N,), landmarks (N, 5, 2) float32 px."""

    folder: Path
    files: list[str]
    owners: Labels
    landmarks: Floats


class Sets(NamedTuple):
    """Sets of rows, and whose each is (S,)."""

    rows: list[Labels]
    owners: Labels


class StillNumbers(NamedTuple):
    """Everything about the stills.

    numbers: by column ("rank 1", "TPIR@FPIR=1e-1", "TPIR@FPIR=1e-2") for a size, a variant, and
    given landmarks or not. found: share of the pictures in which a pack's detector found a face.
    probes: by size; half of them are of strangers, in turn.
    """

    people: int
    pictures: int
    probes: dict[int, int]
    numbers: dict[tuple[int, Variant, bool], dict[str, Number]]
    found: dict[str, float]

    def variants(self, pack: str) -> list[Variant]:
        """The rows of a pack, its default first."""
        return list(dict.fromkeys(one for _, one, _ in self.numbers if one.pack == pack))


def find_wild(assets: Path) -> Wild | None:
    """The first PICTURES of everybody who has as many, where the folder is there.

    assets: holds celeba/wild.csv (image, identity, x1, y1, ..., x5, y5) and celeba/wild/. Raises
    SourceCorrupt, with the line's number, for a malformed one.
    """
    path = assets / "celeba" / "wild.csv"
    if not path.is_file():
        return None
    lines: list[tuple[str, str, list[float]]] = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                points = [float(row[f"{axis}{i}"]) for i in range(1, 6) for axis in "xy"]
                lines.append((row["image"], row["identity"], points))
            except (KeyError, TypeError, ValueError):
                raise SourceCorrupt(
                    f"{path}, line {number}: expected image,identity,x1,y1,...,x5,y5"
                ) from None
    pictures: dict[str, list[int]] = {}
    for place, (_, who, _) in enumerate(lines):
        pictures.setdefault(who, []).append(place)
    taken = [some[:PICTURES] for _, some in sorted(pictures.items()) if len(some) >= PICTURES]
    kept = [lines[place] for some in taken for place in some]
    owners = np.repeat(np.arange(len(taken)), PICTURES)
    landmarks = np.array([points for *_, points in kept], np.float32).reshape(-1, 5, 2)
    return Wild(path.with_suffix(""), [file for file, *_ in kept], owners, landmarks)


def measure_stills(
    wild: Wild, packs: Sequence[str], store: Path, bootstrap: Bootstrap
) -> StillNumbers:
    """Embed what is not in `store` yet, with given landmarks and with those found, and measure."""
    gallery, probes = draw_sets(wild.owners, bootstrap.seed)
    numbers: dict[tuple[int, Variant, bool], dict[str, Number]] = {}
    found: dict[str, float] = {}
    for name in packs:
        pack = open_pack(name)
        for alignment in ("landmarks", "detect"):
            features = embed_wild(wild, pack, alignment, store / f"{name}-{alignment}")
            given = alignment == "landmarks"
            if not given:
                found[name] = float(features.embedded.mean())
            for variant in pack_variants(pack):
                for size, measure in _measure(features, pack, variant, gallery, probes, bootstrap):
                    numbers[size, variant, given] = measure
    people = int(wild.owners.max()) + 1
    counts = {size: len(sets.rows) for size, sets in probes.items()}
    return StillNumbers(people, len(wild.files), counts, numbers, found)


def draw_sets(owners: Labels, seed: int) -> tuple[Sets, dict[int, Sets]]:
    """The pictures that are enrolled, one set for each person, and the probes by size.

    owners (N,): 0..I-1, each with ENROLLED + max(SIZES) pictures. No picture is in two
    sets of a size, and none that is enrolled is in a probe.
    """
    enrolled: list[Labels] = []
    probes: dict[int, list[tuple[int, Labels]]] = {size: [] for size in SIZES}
    for person in range(int(owners.max()) + 1):
        order = np.random.default_rng([seed, person]).permutation(np.flatnonzero(owners == person))
        enrolled.append(order[:ENROLLED])
        others = order[ENROLLED:]
        for size, sets in probes.items():
            count = min(SETS, len(others) // size)
            sets += [(person, others[k * size : (k + 1) * size]) for k in range(count)]
    by_size = {
        size: Sets([rows for _, rows in sets], np.array([person for person, _ in sets]))
        for size, sets in probes.items()
    }
    return Sets(enrolled, np.arange(len(enrolled))), by_size


def embed_wild(wild: Wild, pack: Pack, alignment: Alignment, store: Path) -> FeatureStore:
    """The features of all pictures; what is in `store` already is not made again."""
    faces = FaceSet(
        "CelebA, in the wild",
        wild.files,
        FolderPictures(wild.folder, wild.files),
        alignment,
        wild.landmarks if alignment == "landmarks" else None,
    )
    options = EmbedOptions(pack.card.name, store=store)
    return embed_faces(faces, options, flip=False, styles=bool(pack.fusion_heads))


def _measure(
    features: FeatureStore,
    pack: Pack,
    variant: Variant,
    gallery: Sets,
    probes: dict[int, Sets],
    bootstrap: Bootstrap,
) -> Iterator[tuple[int, dict[str, Number]]]:
    """The numbers of each size: the mean over the two halves of the people."""
    aggregator = make_aggregator(
        variant.aggregator,
        dimension=features.layout.dimension,
        head_path=pack.fusion_heads.get(variant.aggregator),
    )
    anchors = None
    if variant.matcher == "ida" and pack.card.ida is not None and pack.anchors is not None:
        numbers = pack.card.ida
        anchors = Anchors(pack.anchors, numbers.anchor_version, k=numbers.k, tau=numbers.tau)
    enrolled = fuse_sets(features, aggregator, gallery)
    for size, sets in probes.items():
        scores = score_templates(fuse_sets(features, aggregator, sets), enrolled, anchors)
        searches = [
            Search(f"half {half}", search_half(scores, sets.owners, half)) for half in (0, 1)
        ]
        table, _ = measure_searches(
            "stills", searches, definition="at_most", bootstrap=bootstrap, ranks=(1,), fpirs=FPIRS
        )
        mean = table.rows[0]
        yield (
            size,
            {
                column: cell
                for column, cell in zip(table.columns, mean.cells, strict=True)
                if isinstance(cell, Number)
            },
        )


def fuse_sets(features: FeatureStore, aggregator: Aggregator, sets: Sets) -> Floats:
    """Templates (S, C) float32, unit; zero where no picture of a set has a face."""
    templates = np.zeros((len(sets.rows), features.layout.dimension), np.float32)
    for place, rows in enumerate(sets.rows):
        seen = rows[features.embedded[rows]]
        if len(seen):
            embeddings = np.asarray(features.embeddings[seen], np.float32)
            members = Members(
                embeddings,
                np.linalg.norm(embeddings, axis=1).astype(np.float32),
                np.asarray(features.quality[seen], np.float32),
                np.asarray(features.styles[seen], np.float32),
            )
            templates[place] = aggregator.read(aggregator.update(aggregator.empty(), members))
    return templates


def score_templates(templates: Floats, gallery: Floats, anchors: Anchors | None) -> Doubles:
    """Scores (S, I) float64, by IDA where anchors are given; -inf where either is zero."""
    scores = np.full((len(templates), len(gallery)), -np.inf)
    rows, columns = templates.any(axis=1), gallery.any(axis=1)
    probes, mates = templates[rows], gallery[columns]
    known = (probes @ mates.T).astype(np.float64)
    if anchors is not None:
        ours, theirs = anchors.density(probes)[:, None], anchors.density(mates)[None]
        known = aligned_score(known, ours, theirs, tau=anchors.tau)
    scores[np.ix_(rows, columns)] = known
    return scores


def search_half(scores: Doubles, owners: Labels, half: int) -> ProbeRanks:
    """Ranks (S,) where every second person is enrolled, from number 0 or 1 on.

    A probe or a mate without any face (-inf) is a miss: behind everybody.
    """
    enrolled = np.arange(half, scores.shape[1], 2)
    ranks = rank_probes(scores[:, enrolled], owners, enrolled)
    lost = ranks.mated & np.isneginf(ranks.mates)
    return ranks._replace(ranks=np.where(lost, _LAST, ranks.ranks))
