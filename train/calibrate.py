"""Fitting a pack's thresholds, and measuring it: same person against different people.

Everybody of one folder is enrolled from one photo and probed with another, as it is and as a
distant camera would see it. The threshold is the largest, over these conditions, that lets through
`target_fmr` of impostor pairs: a pack that confuses blurred people more easily pays for it here,
and not in the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.table import Table
from scipy.special import ndtri

from .. import ModelError
from ..models.align import eye_distance
from ..models.card_file import replace_section
from ..models.ida import Anchors, aligned_score
from ..models.inference import Floats, Image
from ..models.pack import Pack
from ..models.photo import PhotoFace, describe_face, find_faces, tallest_face
from .folders import picture_paths, pictures, seen_from_afar

Doubles = npt.NDArray[np.float64]

HEIGHTS = (96, 64, 48, 36)
"""Largest heights, in px, of the probes' faces as a distant camera sees them."""
TAIL = (0.05, 0.001)
"""Shares of impostor scores between which their tail is fitted."""
LEAST_PROBES = 20
"""A condition with fewer faces above the pack's gate says too little to set a threshold."""


class Condition(NamedTuple):
    """How the probes were seen: scores of genuine (P,) and impostor (P, G - 1) pairs.

    seen: probes there were; embedded: those found and above the gate (P); first: share of them
    whose best match is right.
    """

    name: str
    seen: int
    genuine: Doubles
    impostor: Doubles
    genuine_cosine: Doubles
    impostor_cosine: Doubles
    first: float

    @property
    def embedded(self) -> int:
        """Probes that were found and passed the gate."""
        return len(self.genuine)


class Fitted(NamedTuple):
    """A pack's new numbers."""

    pack: str
    target_fmr: float
    threshold: float
    cosine_threshold: float
    conditions: tuple[Condition, ...]


def fit_pack(
    pack: Pack, gallery: Path, probes: Path, *, target_fmr: float, data: str = ""
) -> Fitted:
    """Measure `pack` on two folders of photos and write its card's `decision` and `measured`.

    Files of one person share what stands before the first underscore; the first photo of a person
    in `gallery` is enrolled, every photo of `probes` is a probe. data: whose faces these are, in
    words, for the card. Raises SourceMissing for unusable folders, and ModelError where the pack
    has no anchors, or too few people are in both folders to see a rate of `target_fmr`.
    """
    anchors = _anchors(pack)
    people = {person(path) for path in picture_paths(gallery)}
    shown = sum(person(path) in people for path in picture_paths(probes))
    if not _enough(shown, len(people), target_fmr):  # before minutes of work
        raise _too_few(shown, len(people), target_fmr)
    enrolled: dict[str, Floats] = {}
    for name, seen in _embed_folder(pack, gallery, (None,)):
        if (embedding := seen[0]) is not None:
            enrolled.setdefault(name, embedding)
    heights = (None, *HEIGHTS)
    found = [(n, seen) for n, seen in _embed_folder(pack, probes, heights) if n in enrolled]
    conditions = []
    for place, height in enumerate(heights):
        passed = [(n, one) for n, seen in found if (one := seen[place]) is not None]
        if _enough(len(passed), len(enrolled), target_fmr):
            name = "as taken" if height is None else f"{height} px"
            conditions.append(compare(name, len(found), passed, enrolled, anchors))
    if not conditions:
        raise _too_few(len(found), len(enrolled), target_fmr)
    fitted = Fitted(
        pack.card.name,
        target_fmr,
        max(quantile(c.impostor, target_fmr) for c in conditions),
        max(quantile(c.impostor_cosine, target_fmr) for c in conditions),
        tuple(conditions),
    )
    faces = data or f"folders {gallery.name} and {probes.name}"
    seen_as = ", ".join(c.name for c in conditions)
    write_card(
        pack,
        fitted,
        data=f"{faces}: {len(enrolled)} people, one photo enrolled, others seen {seen_as}",
        command=f"facestream train calibrate {gallery.name} {probes.name} --pack {pack.card.name} "
        f"--target-fmr {target_fmr:g}",
    )
    return fitted


def _enough(probes: int, people: int, target_fmr: float) -> bool:
    """Whether a rate can be seen: one impostor pair at least must be allowed to pass."""
    return probes >= LEAST_PROBES and probes * (people - 1) * target_fmr >= 1.0


def _too_few(probes: int, people: int, target_fmr: float) -> ModelError:
    return ModelError(
        f"a false-match rate of {target_fmr:g} takes {LEAST_PROBES} probes and "
        f"{1.0 / target_fmr:.0f} pairs of different people, got {probes} probes of {people} "
        "people: bring more, whose files share what stands before the first underscore with "
        "their photo in the gallery, or ask for a larger rate"
    )


def compare(
    name: str,
    seen: int,
    probes: list[tuple[str, Floats]],
    enrolled: dict[str, Floats],
    anchors: Anchors,
) -> Condition:
    """All probes against everybody enrolled: cosines and IDA scores, split by truth."""
    people = list(enrolled)
    gallery = np.stack([enrolled[person] for person in people])
    vectors = np.stack([embedding for _, embedding in probes])
    truth = np.array([people.index(person) for person, _ in probes])
    cosines = (vectors @ gallery.T).astype(np.float64)
    scores = aligned_score(
        cosines,
        anchors.density(vectors)[:, None],
        anchors.density(gallery)[None],
        tau=anchors.tau,
    )
    rows = np.arange(len(probes))
    others = np.ones(scores.shape, bool)
    others[rows, truth] = False
    return Condition(
        name,
        seen,
        scores[rows, truth],
        scores[others],
        cosines[rows, truth],
        cosines[others],
        float((scores.argmax(axis=1) == truth).mean()),
    )


def quantile(impostor: Doubles, target_fmr: float) -> float:
    """Smallest threshold, rounded up to 0.001, that at most `target_fmr` of the scores reach."""
    allowed = int(len(impostor) * target_fmr)
    bar = float(np.sort(impostor)[len(impostor) - 1 - allowed])
    steps = float(np.ceil(bar * 1000.0))
    # The bar itself must not pass, also where it is a whole number of steps already.
    return steps / 1000.0 if steps / 1000.0 > bar else (steps + 1.0) / 1000.0


def fit_tail(impostor: Doubles) -> tuple[float, float]:
    """Mean and standard deviation of the normal that is passed by the same 5 % and 0.1 % of scores.

    Impostor scores are skewed: a normal with their own mean and deviation would be several times
    off where thresholds lie.
    """
    inner, outer = np.quantile(impostor, [1.0 - share for share in TAIL])
    near, far = ndtri([1.0 - share for share in TAIL])
    spread = (outer - inner) / (far - near)
    return float(inner - near * spread), float(spread)


def write_card(pack: Pack, fitted: Fitted, *, data: str, command: str) -> None:
    """Put the numbers into the pack's card; data and command: what they come from, in words."""
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
            "fitted_on": data,
        },
    )
    values = {
        condition.name: {
            what: round(value, 4) for what, value in measures(condition, fitted.threshold).items()
        }
        for condition in fitted.conditions
    }
    replace_section(
        pack.card.path, "measured", {"data": data, "command": command, "values": values}
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
    table = Table(
        title=f"{fitted.pack}: IDA threshold {fitted.threshold:.3f}, cosine "
        f"{fitted.cosine_threshold:.3f}, for FMR {fitted.target_fmr:g}"
    )
    table.add_column("probes")
    table.add_column("people", justify="right")
    for what in measures(fitted.conditions[0], fitted.threshold):
        table.add_column(what, justify="right")
    for condition in fitted.conditions:
        shown = [f"{value:.4f}" for value in measures(condition, fitted.threshold).values()]
        table.add_row(condition.name, str(condition.seen), *shown)
    return table


def person(path: Path) -> str:
    """Whose photo this is: 017_08.jpg and 017_03.jpg are both of 017."""
    return path.stem.partition("_")[0]


def _anchors(pack: Pack) -> Anchors:
    ida = pack.card.ida
    if ida is None or pack.anchors is None:
        raise ModelError(
            f"pack {pack.card.name!r} has no anchors yet: "
            f"`facestream train anchors FACES --pack {pack.card.name}` comes first"
        )
    return Anchors(pack.anchors, version=ida.anchor_version, k=ida.k, tau=ida.tau)


def _embed_folder(
    pack: Pack, folder: Path, heights: Sequence[int | None]
) -> Iterator[tuple[str, list[Floats | None]]]:
    """Each photo's person, and the unit embedding at each height of the face in px.

    None is the photo as taken; the embedding is None where the pack finds no face or abstains.
    """
    for path, image in pictures(folder):
        face = tallest_face(find_faces(pack.detector, image))
        seen: list[Floats | None] = []
        for height in heights:
            view, found = image, face
            if face is not None and height is not None:
                view, found = _from_afar(pack, image, face, height)
            if found is None or _abstains(pack, found):
                seen.append(None)
                continue
            embedding = describe_face(pack, view, found).embedding
            seen.append((embedding / np.linalg.norm(embedding)).astype(np.float32))
        yield person(path), seen


def _from_afar(
    pack: Pack, image: Image, face: PhotoFace, height: int
) -> tuple[Image, PhotoFace | None]:
    """The photo with its face at most `height` px tall, and the face as found in there."""
    small = seen_from_afar(image, min(1.0, height / face.height))
    return small, tallest_face(pack.detector.detect([small])[0])


def _abstains(pack: Pack, face: PhotoFace) -> bool:
    return float(eye_distance(face.landmarks)) < pack.card.embedder.minimal_eye_distance
