"""Strangers who walk through simulated video, as `facestream bench thresholds` takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facestream import RecordError
from facestream.models.pack import Pack
from facestream.tools.bench_thresholds_video import Film, film_tracks, find_subjects
from facestream.tools.eval_video_record import record
from facestream.tools.eval_video_set import read_set
from facestream.tools.run import configure

from .test_eval_video import simulated

__all__ = ["simulated"]  # a fixture


def test_tracks_are_decided_as_a_run_does_and_are_of_whom_they_show(
    simulated: Path, open_models: Pack, tmp_path: Path
) -> None:
    clip = read_set(simulated, "own", None, skip_bad=False, bad=[]).clips[0]
    config = configure(None, [str(clip.source)], pack="open")
    recording = record(clip, config, open_models, tmp_path, lambda frames: None)
    film = Film(clip, recording, find_subjects(clip, recording))
    people = sorted({face.subject for face in clip.truth.faces})
    assert film.subjects and set(film.subjects.values()) <= set(people)

    late, early = (
        film_tracks([film], open_models, "open", people, ("mean", least)) for least in (3, 1)
    )
    assert (late.aggregator, late.frames.min(), early.frames.min()) == ("mean", 3, 1)
    assert len(late.people) == len(late.maxima(late.frames.astype(float))) >= 1
    assert set(late.people.tolist()) <= {people.index(who) for who in film.subjects.values()}
    for track, who in enumerate(late.people):
        rows = late.frames[late.tracks == track]
        assert (np.diff(rows) >= 0).all() and rows[0] == 3
        same = early.vectors[(early.people[early.tracks] == who) & (early.frames == 3)]
        assert (same @ late.vectors[late.tracks == track][0]).max() == pytest.approx(1, abs=1e-6)
    with pytest.raises(RecordError, match="one decision at least"):  # nobody whom it shows
        film_tracks([film], open_models, "open", [], ("mean", 3))
