"""Strangers of `facestream bench thresholds` who walk through simulated video.

Their tracks are found, fused and decided by the live stages, so that what pseudo-tracks leave out
is in them: a tracker that breaks, a detector that misses, company that brings decisions forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..models.open_set_tracks import StrangerTracks, join_decisions
from ..models.search import SearchIndex
from ..stream.match import GalleryIndex
from ..stream.thresholds import DecisionNumbers, PackRules
from .bench_fusion_tracks import render_subjects
from .eval_progress import progress_bar
from .eval_video_decide import NotingMatch, Shown, replay_with, watch
from .eval_video_record import Recording, record
from .eval_video_set import Clip, Rules, read_set
from .run import configure

if TYPE_CHECKING:
    from ..models.pack import Pack
    from ..stream.records import Template

PRESETS = ("medium", "hard")
"""Of simulated video."""


class Film(NamedTuple):
    """One video as a pack saw it. subjects: of each system track that shows somebody, whom."""

    clip: Clip
    recording: Recording
    subjects: dict[int, str]


def watch_films(pack: Pack, name: str, assets: Path, folder: Path) -> list[Film]:
    """Everybody of the role subject walks through video of each preset, nobody else does.

    Videos are kept in FOLDER/tracks-PRESET, what was seen in them in FOLDER/seen.
    """
    films = []
    for preset in PRESETS:
        place = folder / f"tracks-{preset}"
        render_subjects(preset, assets, place)
        clips = read_set(place, "own", None, skip_bad=False, bad=[]).clips
        frames = sum(clip.truth.frames for clip in clips)
        with progress_bar(f"watching, {name}, {preset}", frames) as advance:
            for clip in clips:
                config = configure(None, [str(clip.source)], pack=name)
                recording = record(clip, config, pack, folder / "seen", advance)
                films.append(Film(clip, recording, find_subjects(clip, recording)))
    return films


def film_tracks(
    films: Sequence[Film], pack: Pack, name: str, people: Sequence[str], how: tuple[str, int]
) -> StrangerTracks:
    """The tracks of these people, by number, that a run decides.

    how: the run's aggregator and its least number of faces. Tracks that show nobody of them are
    left out.
    """
    aggregator, least = how
    decisions: list[tuple[np.ndarray, int, float]] = []
    rows: list[int] = []
    whose: list[int] = []
    for film in films:
        decided = _decide(film, pack, name, aggregator, least)
        for track, templates in sorted(decided.items()):
            if film.subjects.get(track) in people:
                rows += [len(whose)] * len(templates)
                whose.append(people.index(film.subjects[track]))
                decisions += [(one.embedding, one.frames, one.quality_median) for one in templates]
    vectors, frames, quality = join_decisions(decisions)
    return StrangerTracks(
        aggregator,
        vectors,
        np.array(rows, np.int64),
        frames,
        quality,
        np.array(whose, np.int64),
        np.zeros(len(whose), np.bool_),
    )


def _decide(
    film: Film, pack: Pack, name: str, aggregator: str, least: int
) -> dict[int, list[Template]]:
    """The template of every decision of a run, by track; nobody is enrolled."""
    settings = [f"fuse.aggregator={aggregator}", f"match.least_frames={least}"]
    settings.append("match.score=cosine")
    config = configure(None, [str(film.clip.source)], pack=name, settings=settings)
    nobody = SearchIndex(
        np.zeros((0, pack.card.embedder.dimension), np.float32), np.zeros(0, np.int64)
    )
    rules = PackRules(config.match, DecisionNumbers(1.0, 1.0))
    match = NotingMatch(lambda: GalleryIndex(1, nobody, ()), config.match, rules)
    replay_with(match, film.recording, config, pack)
    return match.decided


def find_subjects(clip: Clip, recording: Recording) -> dict[int, str]:
    """Whom each system track shows in most of its frames."""
    names = {face.track: face.subject for face in clip.truth.faces}
    shown = Shown(watch(clip, recording, Rules()))
    tracks = {face.track for seen in recording.frames() for face in seen.observed.tracked.faces}
    return {track: names[true] for track in tracks if (true := shown.mostly(track))}
