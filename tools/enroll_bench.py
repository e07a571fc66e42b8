"""What `facestream bench enroll` measures: speed, look-alikes, ways to fuse somebody's photos."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import EnrolmentRefused
from ..models.fusion import Members, normalise_rows

if TYPE_CHECKING:
    from ..models.inference import Session
    from ..models.pack import Pack

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FALSE_MATCHES = 0.001
"""Share of comparisons of different people that reach the threshold of `verified`."""


class Speed(NamedTuple):
    """photos and seconds of one enrolment, and the seconds of it inside the networks."""

    photos: int
    seconds: float
    networks: float


class LookAlikes(NamedTuple):
    """Somebody new with as many photos, beside a gallery that holds them under another name, or
    does not: shares found and refused wrongly, one per draw."""

    photos: int
    found: Doubles
    refused: Doubles


class Fused(NamedTuple):
    """One way to fuse a person's photos: share of other photos of theirs nearest to them, and
    share of those that reach the threshold of FALSE_MATCHES; one per draw."""

    nearest: Doubles
    verified: Doubles


class Measured(NamedTuple):
    """What one pack gives. people and faces: in how many photos of how many people."""

    people: int
    faces: int
    speed: Speed
    alike: tuple[LookAlikes, ...]
    fused: Mapping[str, Fused]


class Timed:
    """A network that counts the seconds it runs."""

    def __init__(self, session: Session, spent: list[float]) -> None:
        """spent: where each run's seconds go."""
        self._session = session
        self._spent = spent
        self.inputs, self.outputs = session.inputs, session.outputs
        self.provider = session.provider

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run it."""
        begun = time.perf_counter()
        found = self._session.run(feeds)
        self._spent.append(time.perf_counter() - begun)
        return found


def measure_pack(
    name: str,
    files: Sequence[tuple[str, Sequence[Path]]],
    *,
    photos: int,
    draws: int,
    timed: int,
) -> Measured:
    """All of it with one pack; files: photos by person."""
    from ..models.pack import open_pack

    spent: list[float] = []
    models = open_pack(name, tap=lambda key, session: Timed(session, spent))
    speed = measure_speed(models, files, timed, spent)
    members, owners = describe_people(models, files)
    counts = np.bincount(owners, minlength=len(files))
    chosen = np.isin(owners, np.flatnonzero(counts >= photos + 2))
    members, owners = members.take(chosen), np.unique(owners[chosen], return_inverse=True)[1]
    alike = tuple(
        measure_alike(models, members, owners, photos, new, draws) for new in sorted({1, photos})
    )
    fused = measure_fused(models, members, owners, photos, draws)
    return Measured(int(owners.max()) + 1, len(owners), speed, alike, fused)


def measure_speed(
    models: Pack, files: Sequence[tuple[str, Sequence[Path]]], timed: int, spent: list[float]
) -> Speed:
    """Enrol the first photos into a new gallery in a file."""
    from ..configs.schema import EnrolConfig
    from ..stream.enrol import Enroller
    from ..stream.enrol_photos import Photo
    from ..stream.gallery import Gallery

    wanted = [Photo(path, name, path.name) for name, found in files for path in found][:timed]
    with (
        tempfile.TemporaryDirectory() as folder,
        Gallery.open(Path(folder) / "gallery.db", create=True) as gallery,
    ):
        enroller = Enroller(models, gallery, EnrolConfig(duplicates="add"))
        spent.clear()
        begun = time.perf_counter()
        enroller.enrol_photos(wanted)
        return Speed(len(wanted), time.perf_counter() - begun, sum(spent))


def describe_people(
    models: Pack, files: Sequence[tuple[str, Sequence[Path]]]
) -> tuple[Members, Integers]:
    """The faces that enrolment takes, with style statistics, and whose they are (N,)."""
    from ..configs.schema import EnrolConfig
    from ..models.photo import crop_face, find_faces
    from ..stream.enrol_faces import choose_face
    from ..stream.enrol_photos import decode, read_bytes

    rules, least = EnrolConfig(largest=True), models.card.embedder.minimal_eye_distance
    rows: list[Members] = []
    owners = []
    for person, (_, found) in enumerate(files):
        for path in found:
            try:
                image = decode(read_bytes(path))
                face = choose_face(find_faces(models.detector, image), rules, least)
            except EnrolmentRefused:
                continue
            crops = {key: crop[None] for key, crop in crop_face(models, image, face).items()}
            embedded = models.embedder.embed(crops["embedder"])
            quality = models.quality.score(
                crops=crops.get("quality", crops["embedder"]),
                embedded=embedded,
                boxes=face.box[None],
                scores=np.array([face.score], np.float32),
            )
            rows.append(Members(embedded.embeddings, embedded.norms, quality, embedded.styles))
            owners.append(person)
    columns = zip(*rows, strict=True)
    return Members(*(np.concatenate(column) for column in columns)), np.array(owners, np.int64)


def measure_alike(
    models: Pack, members: Members, owners: Integers, photos: int, new: int, draws: int
) -> LookAlikes:
    """How often somebody new is told to look like somebody of the gallery, rightly and wrongly."""
    from ..stream.enrol_admit import duplicate_score

    units = normalise_rows(members.embeddings)
    people = int(owners.max()) + 1
    line = duplicate_score(models.card.fitted_decision(), people)
    assert line is not None  # there is a fitted decision
    found, refused = [], []
    for rows in _draw(owners, draws):
        enough = [own for own in rows if len(own) >= photos + new]
        templates = fuse_people(models, "quality", members, [own[:photos] for own in enough])
        probes = np.stack([units[own[photos : photos + new]].mean(axis=0) for own in enough])
        scores = probes @ templates.T  # (people, people)
        own = np.diag(scores).copy()
        np.fill_diagonal(scores, -np.inf)
        found.append(float((own >= line).mean()))
        refused.append(float((scores.max(axis=1) >= line).mean()))
    return LookAlikes(new, np.array(found), np.array(refused))


def measure_fused(
    models: Pack, members: Members, owners: Integers, photos: int, draws: int
) -> dict[str, Fused]:
    """Identification and verification of all other photos against fused ones, by aggregator."""

    units = normalise_rows(members.embeddings)
    names = ["mean", "quality", *models.fusion_heads]
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for rows in _draw(owners, draws):
        probes = np.concatenate([own[photos:] for own in rows])
        truth = owners[probes]
        at = np.arange(len(probes))
        for name in names:
            templates = fuse_people(models, name, members, [own[:photos] for own in rows])
            scores = units[probes] @ templates.T
            own = scores[at, truth].copy()
            scores[at, truth] = -np.inf
            line = np.quantile(scores[np.isfinite(scores)], 1.0 - FALSE_MATCHES)
            nearest = float((own > scores.max(axis=1)).mean())
            results[name].append((nearest, float((own >= line).mean())))
    return {name: Fused(*np.array(values).T) for name, values in results.items()}


def fuse_people(models: Pack, name: str, members: Members, rows: Sequence[Integers]) -> Doubles:
    """Templates (P, C) of the members in each of P groups, by the aggregator of that name."""
    from ..models.aggregators import make_aggregator

    aggregator = make_aggregator(
        name,
        dimension=models.card.embedder.dimension,
        head_path=models.fusion_heads.get(name),
    )
    fused = [
        aggregator.read(
            aggregator.update(aggregator.empty(), type(members)(*(c[own] for c in members)))
        )
        for own in rows
    ]
    return np.stack(fused).astype(np.float64)


def _draw(owners: Integers, draws: int) -> list[list[Integers]]:
    """For each draw every person's rows in a random order, the same in every run."""
    random = np.random.default_rng(1)
    people = [np.flatnonzero(owners == person) for person in range(int(owners.max()) + 1)]
    return [[random.permutation(own) for own in people] for _ in range(draws)]
