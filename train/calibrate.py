"""Fitting a pack's thresholds, and measuring it: same person against different people.

Every photo is probed, as it is and as a distant camera would see it, against every photo of
everybody else as it is. The threshold is the largest, over these conditions, that lets through
`target_fmr` of such pairs: a pack that confuses blurred people more easily pays for it here, and
not in the field. Who is recognised is measured with one photo enrolled and others probed.

Pairs share faces, so many pairs of few people say less than they seem to: intervals come from
resampling people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.table import Table
from scipy.special import ndtri

from .. import ModelError
from ..models.align import eye_distance
from ..models.anchor_check import card_anchors
from ..models.card_file import replace_section
from ..models.ida import Anchors, aligned_score
from ..models.inference import Floats, Image
from ..models.pack import Pack
from ..models.photo import PhotoFace, describe_face, find_faces, tallest_face
from ..models.scores import Interval, identity_weights, percentile_interval
from .folders import Photos, person, read_pictures, seen_from_afar

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

HEIGHTS = (96, 64, 48, 36)
"""Largest heights, in px, of the probes' faces as a distant camera sees them."""
VIEWS = ("as taken", *(f"{height} px" for height in HEIGHTS))
TAIL = (0.05, 0.001)
"""Shares of impostor scores between which their tail is fitted."""
LEAST_PROBES = 20
"""A condition with fewer faces above the pack's gate says too little to set a threshold."""
RESAMPLES = 500


class Faces(NamedTuple):
    """N photos: whose (N,), which are to be enrolled (N,), and how each looks in V views.

    vectors (N, V, C) float32 unit; usable (N, V): False, and the vector zero, where the pack finds
    no face or abstains. The first view is the photo as taken.
    """

    people: Integers
    enrolled: Flags
    vectors: Floats
    usable: Flags


class Condition(NamedTuple):
    """How the probes were seen: IDA scores and cosines of genuine (P,) and impostor (I,) pairs.

    seen: probes of enrolled people; embedded: those found and above the gate (P); first: share of
    them whose best match is right. sides (I, 2): the people of each impostor pair.
    """

    name: str
    seen: int
    genuine: Doubles
    impostor: Doubles
    genuine_cosine: Doubles
    impostor_cosine: Doubles
    sides: Integers
    first: float

    @property
    def embedded(self) -> int:
        """Probes that were found and passed the gate."""
        return len(self.genuine)


class Fitted(NamedTuple):
    """A pack's new thresholds, where 95 % of resamples of the people put them, and what they do.

    conditions: of the people they were fitted on. judged: of those they were measured on.
    """

    pack: str
    target_fmr: float
    threshold: float
    cosine_threshold: float
    interval: Interval
    cosine_interval: Interval
    conditions: tuple[Condition, ...]
    judged: tuple[Condition, ...]


def fit_pack(
    pack: Pack,
    photos: Photos,
    *,
    target_fmr: float,
    judge: Photos | None = None,
    source: str = "",
) -> Fitted:
    """Fit `pack` on photos, measure it, and write its card's `decision` and `measured`.

    judge: other people to measure it on; None measures on those it was fitted on. source: where
    the photos come from, as the command names it, for the card. Raises SourceMissing for pictures
    that cannot be read, and ModelError where the pack has no anchors, or there are too few people
    to see a rate of `target_fmr`.
    """
    anchors = _anchors(pack)
    names = [person(path) for path in (*photos.gallery, *photos.probes)]
    _, counts = np.unique(names, return_counts=True)
    pairs = int(len(names) ** 2 - (counts**2).sum())
    if not _enough(len(photos.probes), pairs, target_fmr):  # before minutes of work
        raise _too_few(len(photos.probes), pairs, target_fmr)
    conditions = _measure(pack, photos, anchors, target_fmr)
    judged = conditions if judge is None else _measure(pack, judge, anchors, target_fmr)
    drawn = resample_thresholds(conditions, target_fmr)
    fitted = Fitted(
        pack.card.name,
        target_fmr,
        max(quantile(c.impostor, target_fmr) for c in conditions),
        max(quantile(c.impostor_cosine, target_fmr) for c in conditions),
        percentile_interval(drawn[:, 0]),
        percentile_interval(drawn[:, 1]),
        conditions,
        judged,
    )
    write_card(
        pack,
        fitted,
        fitted_on=_words(photos, conditions),
        measured_on=_words(judge or photos, judged)
        + ("; the thresholds were set on the same people" if judge is None else ""),
        command=f"facestream train calibrate {source} --pack {pack.card.name} "
        f"--target-fmr {target_fmr:g}",
    )
    return fitted


def _words(photos: Photos, conditions: Sequence[Condition]) -> str:
    people = len({person(path) for path in photos.gallery})
    pairs = [len(condition.impostor) for condition in conditions]
    many = f"{max(pairs):,}" if min(pairs) == max(pairs) else f"{min(pairs):,} to {max(pairs):,}"
    seen_as = ", ".join(condition.name for condition in conditions)
    return f"{photos.words}: {people} people, seen {seen_as}; {many} pairs of different people each"


def _measure(
    pack: Pack, photos: Photos, anchors: Anchors, target_fmr: float
) -> tuple[Condition, ...]:
    """Every condition that can show a rate of `target_fmr`; ModelError where none can."""
    faces = embed_photos(pack, photos)
    found = [compare(view, faces, place, anchors) for place, view in enumerate(VIEWS)]
    kept = [c for c in found if _enough(c.embedded, len(c.impostor), target_fmr)]
    if not kept:
        raise _too_few(found[0].embedded, len(found[0].impostor), target_fmr)
    return tuple(kept)


def _enough(probes: int, pairs: int, target_fmr: float) -> bool:
    """Whether a rate can be seen: one impostor pair at least must be allowed to pass."""
    return probes >= LEAST_PROBES and pairs * target_fmr >= 1.0


def _too_few(probes: int, pairs: int, target_fmr: float) -> ModelError:
    return ModelError(
        f"a false-match rate of {target_fmr:g} takes {LEAST_PROBES} probes and "
        f"{1.0 / target_fmr:.0f} pairs of different people, got {probes} probes and {pairs} "
        "pairs: bring more people, with photos to enrol and to probe whose names share what stands "
        "before the first underscore, or ask for a larger rate"
    )


def compare(name: str, faces: Faces, view: int, anchors: Anchors) -> Condition:
    """All photos in one view against all as taken, split by truth."""
    usable = faces.usable[:, view]
    references = np.flatnonzero(faces.usable[:, 0])
    shown = np.flatnonzero(usable)
    probes, gallery = faces.vectors[shown, view], faces.vectors[references, 0]
    cosines = (probes @ gallery.T).astype(np.float64)  # (probes, references)
    scores = aligned_score(
        cosines,
        anchors.density(probes)[:, None],
        anchors.density(gallery)[None],
        tau=anchors.tau,
    )
    whose, owners = faces.people[shown], faces.people[references]
    others = whose[:, None] != owners[None]
    # One photo of each person is enrolled: the first that shows a face.
    enrolled = np.flatnonzero(faces.enrolled[references])
    people, first = np.unique(owners[enrolled], return_index=True)
    columns = enrolled[first]
    known = ~faces.enrolled & np.isin(faces.people, people)
    rows = np.flatnonzero(known[shown])
    own = columns[np.searchsorted(people, whose[rows])]
    best = columns[scores[np.ix_(rows, columns)].argmax(axis=1)] if len(columns) else own
    return Condition(
        name,
        int(known.sum()),
        scores[rows, own],
        scores[others],
        cosines[rows, own],
        cosines[others],
        np.stack([side[others] for side in np.broadcast_arrays(whose[:, None], owners)], axis=1),
        float((best == own).mean()) if len(rows) else 0.0,
    )


def quantile(impostor: Doubles, target_fmr: float) -> float:
    """Smallest threshold, rounded up to 0.001, that at most `target_fmr` of the scores reach."""
    allowed = int(len(impostor) * target_fmr)
    bar = float(np.sort(impostor)[len(impostor) - 1 - allowed])
    steps = float(np.ceil(bar * 1000.0))
    # The bar itself must not pass, also where it is a whole number of steps already.
    return steps / 1000.0 if steps / 1000.0 > bar else (steps + 1.0) / 1000.0


def resample_thresholds(conditions: Sequence[Condition], target_fmr: float) -> Doubles:
    """IDA and cosine thresholds (B, 2) of bootstrap resamples of the people.

    Each is the largest over the conditions; a pair weighs the product of its people's weights.
    """
    people = int(max(condition.sides.max() for condition in conditions)) + 1
    weights = identity_weights(people, RESAMPLES).astype(np.float64)
    drawn = np.full((RESAMPLES, 2), -np.inf)
    for condition in conditions:
        for place, scores in enumerate((condition.impostor, condition.impostor_cosine)):
            order = np.argsort(-scores)
            ranked, (first, second) = scores[order], condition.sides[order].T
            for row, weight in enumerate(weights):
                passed = np.cumsum(weight[first] * weight[second])
                bar = np.searchsorted(passed, target_fmr * passed[-1], side="right")
                value = ranked[min(int(bar), len(ranked) - 1)]
                drawn[row, place] = max(drawn[row, place], value)
    return drawn


def fit_tail(impostor: Doubles) -> tuple[float, float]:
    """Mean and standard deviation of the normal that is passed by the same 5 % and 0.1 % of scores.

    Impostor scores are skewed: a normal with their own mean and deviation would be several times
    off where thresholds lie.
    """
    inner, outer = np.quantile(impostor, [1.0 - share for share in TAIL])
    near, far = ndtri([1.0 - share for share in TAIL])
    spread = (outer - inner) / (far - near)
    return float(inner - near * spread), float(spread)


def write_card(
    pack: Pack, fitted: Fitted, *, fitted_on: str, measured_on: str, command: str
) -> None:
    """Put the numbers into the pack's card, with where they come from, in words."""
    centre, spread = fit_tail(np.concatenate([c.impostor for c in fitted.conditions]))
    cosine_centre, cosine_spread = fit_tail(
        np.concatenate([c.impostor_cosine for c in fitted.conditions])
    )
    replace_section(
        pack.card.path,
        "decision",
        {
            "threshold": fitted.threshold,
            "cosine_threshold": fitted.cosine_threshold,
            "target_fmr": fitted.target_fmr,
            "impostor_centre": round(centre, 4),
            "impostor_spread": round(spread, 4),
            "impostor_cosine_centre": round(cosine_centre, 4),
            "impostor_cosine_spread": round(cosine_spread, 4),
            "fitted_on": fitted_on,
            "threshold_interval": [round(end, 3) for end in fitted.interval],
            "cosine_threshold_interval": [round(end, 3) for end in fitted.cosine_interval],
        },
    )
    values = {
        condition.name: {
            what: round(value, 4) for what, value in measures(condition, fitted.threshold).items()
        }
        for condition in fitted.judged
    }
    replace_section(
        pack.card.path, "measured", {"data": measured_on, "command": command, "values": values}
    )


def measures(condition: Condition, threshold: float) -> dict[str, float]:
    """What is reported of a condition, shares 0..1 unless said."""
    return {
        "share embedded": condition.embedded / condition.seen,
        "genuine score": float(condition.genuine.mean()),
        "impostor score": float(condition.impostor.mean()),
        "TAR": float((condition.genuine >= threshold).mean()),
        "FMR": float((condition.impostor >= threshold).mean()),
        "rank-1": condition.first,
    }


def show_table(fitted: Fitted) -> Table:
    """The measures as a table for a terminal."""
    ends = [*fitted.interval, *fitted.cosine_interval]
    table = Table(
        title=f"{fitted.pack}: IDA threshold {fitted.threshold:.3f} ({ends[0]:.3f} to "
        f"{ends[1]:.3f}), cosine {fitted.cosine_threshold:.3f} ({ends[2]:.3f} to {ends[3]:.3f}), "
        f"for FMR {fitted.target_fmr:g}"
    )
    table.add_column("probes")
    table.add_column("photos", justify="right")
    for what in measures(fitted.judged[0], fitted.threshold):
        table.add_column(what, justify="right")
    for condition in fitted.judged:
        shown = [f"{value:.4f}" for value in measures(condition, fitted.threshold).values()]
        table.add_row(condition.name, str(condition.seen), *shown)
    return table


def _anchors(pack: Pack) -> Anchors:
    if pack.card.ida is None or pack.anchors is None:
        raise ModelError(
            f"pack {pack.card.name!r} has no anchors yet: "
            f"`facestream train anchors FACES --pack {pack.card.name}` comes first"
        )
    return card_anchors(pack.card, pack.anchors)


def embed_photos(pack: Pack, photos: Photos) -> Faces:
    """Every photo in every view: as taken, and with its face as small as each of HEIGHTS."""
    paths = (*photos.gallery, *photos.probes)
    _, people = np.unique([person(path) for path in paths], return_inverse=True)
    shape = (len(paths), len(VIEWS))
    vectors = np.zeros((*shape, pack.embedder.dimension), np.float32)
    usable = np.zeros(shape, np.bool_)
    for row, (_, image) in enumerate(read_pictures(paths)):
        face = tallest_face(find_faces(pack.detector, image))
        for place, height in enumerate((None, *HEIGHTS)):
            view, found = image, face
            if face is not None and height is not None:
                view, found = _from_afar(pack, image, face, height)
            if found is None or _abstains(pack, found):
                continue
            embedding = describe_face(pack, view, found).embedding
            vectors[row, place] = embedding / np.linalg.norm(embedding)
            usable[row, place] = True
    enrolled = np.arange(len(paths)) < len(photos.gallery)
    return Faces(people.astype(np.int64), enrolled, vectors, usable)


def _from_afar(
    pack: Pack, image: Image, face: PhotoFace, height: int
) -> tuple[Image, PhotoFace | None]:
    """The photo with its face at most `height` px tall, and the face as found in there."""
    small = seen_from_afar(image, min(1.0, height / face.height))
    return small, tallest_face(pack.detector.detect([small])[0])


def _abstains(pack: Pack, face: PhotoFace) -> bool:
    return float(eye_distance(face.landmarks)) < pack.card.embedder.minimal_eye_distance
