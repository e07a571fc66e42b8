"""What `facestream bench fusion` draws sets from: views of held-out people, simulated video."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import typer

from .. import ConfigError
from ..configs.simulation import read_simulation
from ..configs.split import role_pictures
from ..configs.training import BankSettings
from ..models.fusion import Doubles, Members, normalise_rows
from ..models.pack import open_pack
from ..models.photo import describe_face, find_faces, tallest_face
from ..models.scores import Labels
from .eval_progress import progress_bar

if TYPE_CHECKING:
    from ..models.inference import Image
    from ..models.pack import Pack
    from ..stream.records import Observation
    from ..train.feature_bank import Bank
    from .eval_video_set import Clip

LEVELS = {"light": (0.05, 0.45), "medium": (0.35, 0.7), "strong": (0.55, 0.9)}
"""Strength of damage, 0 to 1, of London's runs."""
SETS = {"london": 8, "wild": 2, "simulated": 8}
"""Sets of each size per person."""
SIMULATED = ("hard", "night")
"""Presets of simulated video."""
TRACKS = (*LEVELS, *SIMULATED, "wild")
FPS, SECONDS = 12, 10.0
MOSTLY_BAD = 0.7


class Tracks(NamedTuple):
    """P people who are held out.

    members: all V views. owners (V,), 0 .. P - 1. stretches (V,): the run, the picture or the
    track that a view belongs to. gallery (P, C) unit.
    """

    words: str
    members: Members
    owners: Labels
    stretches: Labels
    gallery: Doubles

    @property
    def kind(self) -> str:
        """london, wild or simulated."""
        return self.words.partition(",")[0]


def tracks_of(packs: Sequence[str], given: Sequence[str]) -> dict[str, list[str]]:
    """Names of tracks by pack. given: NAME for every pack, or PACK:NAME.

    Raises ConfigError for a pack that is not compared.
    """
    chosen: dict[str, list[str]] = {pack: [] for pack in packs}
    for one in given:
        pack, colon, name = one.rpartition(":")
        if colon and pack not in chosen:
            raise ConfigError(f"--tracks {one}: expected a pack of {', '.join(packs)}, got {pack}")
        for among in [pack] if colon else packs:
            chosen[among].append(name)
    return chosen


def all_tracks(
    pack: str, assets: Path, banks: Path, chosen: Sequence[str] = TRACKS
) -> Iterator[Tracks]:
    """Those of TRACKS that are chosen; wild ones where they are.

    Raises ConfigError for another name.
    """
    for name in chosen:
        if name in LEVELS:
            yield london_tracks(pack, assets, banks, name)
        elif name in SIMULATED:
            yield simulated_tracks(pack, assets, banks, name)
        elif name != "wild":
            raise ConfigError(f"--tracks must be one of {', '.join(TRACKS)}, got {name}")
        elif (found := wild_tracks(pack, assets, banks)) is not None:
            yield found


def wild_tracks(pack: str, assets: Path, banks: Path) -> Tracks | None:
    """CelebA's in-the-wild people; None where they are not."""
    from .bench_degraded import wild

    held = wild(assets, banks, pack)
    if held is None:
        return None
    owners = held.owners[held.enrolled]
    people = np.unique(np.intersect1d(owners, held.owners[~held.enrolled]))
    units = normalise_rows(held.bank.clean)
    sums = [units[held.enrolled & (held.owners == who)].sum(axis=0) for who in people]
    rows = np.flatnonzero(~held.enrolled & np.isin(held.owners, people))
    places = np.searchsorted(people, held.owners)
    return _tracks("wild", held.bank, rows, places, normalise_rows(np.stack(sums)))


def london_tracks(pack: str, assets: Path, banks: Path, level: str) -> Tracks:
    """The people of the role subject; features are kept in BANKS/PACK-subject-LEVEL."""
    from ..train.feature_bank import make_bank

    people = role_pictures(assets, "subject", "london")
    smiling = {who: _in_folder(paths, "probe_smiling") for who, paths in people.items()}
    settings = BankSettings(runs=4, frames=8, strength=LEVELS[level], seed=2)
    folder = banks / f"{pack}-subject-{level}"
    with typer.progressbar(length=len(smiling) * 33, label=folder.name) as bar:
        bank = make_bank(folder, smiling, settings, pack, on_block=bar.update)
    places = np.arange(len(bank.names))
    gallery = enrol_london(open_pack(pack, threads=1), assets, bank.names)
    return _tracks(f"london, {level}", bank, places, places, gallery)


def enrol_london(pack: Pack, assets: Path, names: list[str]) -> Doubles:
    """The unit embeddings (P, C) of the neutral photos of these subjects."""
    people = role_pictures(assets, "subject", "london")
    rows = []
    for who in names:
        image = _read(_in_folder(people[who], "gallery_neutral"))
        face = tallest_face(find_faces(pack.detector, image))
        assert face is not None  # studio portraits, in which every pack finds everybody
        rows.append(describe_face(pack, image, face).embedding)
    return normalise_rows(np.stack(rows))


def simulated_tracks(pack: str, assets: Path, banks: Path, preset: str) -> Tracks:
    """Everybody of the role subject walks through video of a preset, rendered from the smiling
    photo; the live stages embed the faces where the truth has them.

    Videos are kept in BANKS/tracks-PRESET, what was seen in them in BANKS/seen.
    """
    from .eval_video_record import record
    from .eval_video_set import Rules, read_set
    from .run import configure

    folder = banks / f"tracks-{preset}"
    render_subjects(preset, assets, folder)
    clips = read_set(folder, "own", None, skip_bad=False, bad=[]).clips
    opened = open_pack(pack, threads=1)
    names = sorted(role_pictures(assets, "subject", "london"))
    observations: list[Observation] = []
    owners, stretches = [], []
    with progress_bar(f"watching, {pack}, {preset}", sum(c.truth.frames for c in clips)) as bar:
        for place, clip in enumerate(clips):
            config = configure(None, [str(clip.source)], pack=pack)
            seen = record(clip, config, opened, banks / "seen", bar, given=Rules())
            who = _subjects(clip)
            for frame in seen.frames():
                for one in frame.observed.observations:
                    observations.append(one)
                    owners.append(names.index(who[one.key.track]))
                    stretches.append(place * 1000 + one.key.track)
    members = Members(
        np.stack([one.embedding for one in observations]),
        np.array([one.norm for one in observations], np.float32),
        np.array([one.quality for one in observations], np.float32),
        np.stack([one.style for one in observations]),
    )
    gallery = enrol_london(opened, assets, names)
    return Tracks(f"simulated, {preset}", members, np.array(owners), np.array(stretches), gallery)


def draw_sets(tracks: Tracks, size: int) -> list[Labels]:
    """SETS sets of each person who has a view, rows of the views, the same for every aggregator.

    A set of simulated video is `size` faces of one track in a row.
    """
    from ..train.track_sets import cut, to_and_fro

    sets = []
    for person in range(len(tracks.gallery)):
        own = np.flatnonzero(tracks.owners == person)
        names = np.unique(tracks.stretches[own])
        for number in range(SETS[tracks.kind] if len(own) else 0):
            draw = np.random.default_rng((size, person, number))
            most = 1 if tracks.kind == "simulated" else len(names)
            chosen = draw.permutation(names)[: min(size, int(draw.integers(1, most + 1)))]
            lengths = cut(draw, size, len(chosen))
            views = [own[tracks.stretches[own] == name] for name in chosen]
            if draw.random() < MOSTLY_BAD:
                worth = np.argsort([tracks.members.qualities[rows].mean() for rows in views])
                order = draw.permutation(len(views))
                views = [views[worth[place]] for place in order]
                lengths = np.sort(lengths)[::-1][order]
            sets.append(
                np.concatenate(
                    [
                        rows[to_and_fro(int(draw.integers(len(rows))), int(length), len(rows))]
                        for rows, length in zip(views, lengths, strict=True)
                    ]
                )
            )
    return sets


def render_subjects(preset: str, assets: Path, folder: Path) -> None:
    """Videos of a preset in which every subject walks once or twice, and nobody else."""
    from .sim_cast import cast_from_assets
    from .sim_set import Request, plan_videos, render_set

    cast = cast_from_assets(assets)
    settings = read_simulation(preset)
    settings = dataclasses.replace(
        settings,
        scenes=-(-len(cast.subjects) // settings.subjects),
        cameras=1,
        fps=FPS,
        seconds=SECONDS,
        passers_by=0,
    )
    request = Request(preset, settings, 1, cast, "open")
    frames = len(plan_videos(request)) * round(settings.seconds * settings.fps)
    before = 0
    with progress_bar(f"rendering {preset}", frames) as advance:

        def show(done: int, total: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        render_set(request, open_pack("open", threads=1).detector, folder, show)


def _subjects(clip: Clip) -> dict[int, str]:
    """Whom each track of the truth shows."""
    return {face.track: face.subject for face in clip.truth.faces}


def _tracks(words: str, bank: Bank, rows: Labels, owners: Labels, gallery: Doubles) -> Tracks:
    """Views of some pictures of a bank. rows: of pictures. owners: of all pictures."""
    pictures, runs, frames = np.nonzero(bank.found[rows])
    places = rows[pictures]
    embeddings = bank.embeddings[places, runs, frames]
    members = Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1).astype(np.float32),
        bank.quality[places, runs, frames],
        bank.styles[places, runs, frames],
    )
    one_picture = len(np.unique(owners[rows])) == len(rows)
    stretches = places * bank.found.shape[1] + (runs if one_picture else 0)
    return Tracks(words, members, owners[places], stretches, gallery)


def _in_folder(paths: tuple[Path, ...], folder: str) -> Path:
    return next(path for path in paths if path.parent.name == folder)


def _read(path: Path) -> Image:
    from ..train.folders import read_pictures

    ((_, image),) = read_pictures([path])
    return image
