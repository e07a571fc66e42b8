"""A camera comes to its end once in a session, whoever is killed before that was answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facestream.configs.schema import CameraConfig, Config, MatchConfig, PublishConfig
from facestream.models.aggregators import make_aggregator
from facestream.models.pack import Pack
from facestream.models.search import SearchIndex
from facestream.stream.aggregate import AggregateStage
from facestream.stream.deciding import Deciding
from facestream.stream.flow import Begin, Done, Finish, Mark, Restart, Resume, StateChange, Work
from facestream.stream.journal import Journal
from facestream.stream.match import GalleryIndex, MatchStage
from facestream.stream.meter import Meter
from facestream.stream.publish import Publisher
from facestream.stream.reading import Reading
from facestream.stream.thresholds import DecisionNumbers, PackRules

CLIP = "synthetic:?faces=0&size=64x64&fps=10&seconds=1"


def gallery() -> GalleryIndex:
    index = SearchIndex(np.eye(6, dtype=np.float32)[:1], np.arange(1))
    return GalleryIndex(1, index, ("Anna",))


def deciding(journal: Journal, pack: Pack, *cameras: str) -> Deciding:
    """As a process that was started (again) has it."""
    named = tuple(CameraConfig(name, CLIP) for name in cameras or ("door",))
    config = Config(named, match=MatchConfig(score="cosine"))
    rules = PackRules(config.match, DecisionNumbers(threshold=0.5, cosine_threshold=0.5))
    return Deciding(
        config,
        pack.card,
        MatchStage(gallery, config.match, rules),
        AggregateStage(make_aggregator("mean", dimension=6), 2),
        Publisher(journal, PublishConfig(endpoint="")),
        gallery,
        Meter(),
    )


def begin(part: Deciding, attempt: str, session: str, camera: str = "door") -> Resume:
    part.send([Begin(camera, attempt, False, "f", session)])
    (resume,) = [up for up in part.collect() if isinstance(up, Resume)]
    return resume


def finish(part: Deciding, attempt: str, camera: str = "door") -> None:
    ended = StateChange(camera, "ended", "every frame was read", 0, {})
    part.send([Work(camera, attempt, 0, ended), Work(camera, attempt, 1, Finish("over"))])


@pytest.mark.parametrize("killed", [False, True], ids=["another node", "the node that decides"])
def test_a_finished_camera_is_not_read_again_in_its_session(
    tmp_path: Path, open_models: Pack, killed: bool
) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        part = deciding(journal, open_models)
        assert not begin(part, "a1", "s1").over
        finish(part, "a1")
        before = [event.id for event in journal.read()]
        if killed:
            part = deciding(journal, open_models)
        assert begin(part, "a2", "s1").over
        assert part.finished and [event.id for event in journal.read()] == before
        # The next session is another run of the same clip.
        resume = begin(part, "a3", "s2")
        assert (resume.over, resume.run) == (False, "2")
        assert journal.checkpoints() == {}


def test_without_a_session_every_beginning_is_a_run(tmp_path: Path, open_models: Pack) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        part = deciding(journal, open_models)
        begin(part, "a1", "")
        finish(part, "a1")
        assert journal.checkpoints() == {}
        assert begin(part, "a2", "").run == "2"


@pytest.mark.parametrize("session", ["", "s"], ids=["one process", "nodes"])
def test_of_a_killed_run_only_cameras_that_were_not_at_their_end_are_read(
    tmp_path: Path, open_models: Pack, session: str
) -> None:
    """Clips of different lengths: what the short one gave is stored, and would be told twice."""
    with Journal.open(tmp_path / "journal.db") as journal:
        for run in (1, 2):  # after a run that came to its end, all are read again
            part = deciding(journal, open_models, "door", "hall")
            assert begin(part, "a1", session and f"{session}{run}").run == str(run)
            begin(part, "b1", session and f"{session}{run}", "hall")
            part.send([Work("hall", "b1", 0, Mark({"source": b""}))])
            finish(part, "a1")
            for attempt in ("2", "3"):  # killed once, and killed again
                part = deciding(journal, open_models, "door", "hall")
                other = session and f"{session}{run}{attempt}"
                assert begin(part, f"a{attempt}", other).over
                assert begin(part, f"b{attempt}", other, "hall").run == str(run)
                if session:  # another node of this session was killed
                    assert begin(part, f"a{attempt}'", other).over
            finish(part, "b3", "hall")
            assert part.finished
            if not session:
                assert journal.checkpoints() == {}


def test_another_clip_under_the_name_of_one_that_was_over_is_read(
    tmp_path: Path, open_models: Pack
) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        part = deciding(journal, open_models, "door", "hall")
        begin(part, "a1", "")
        begin(part, "b1", "", "hall")
        part.send([Work("hall", "b1", 0, Mark({"source": b""}))])
        finish(part, "a1")
        part = deciding(journal, open_models, "door", "hall")
        part.send([Begin("door", "a2", False, "another", "")])
        (resume,) = part.collect()
        assert isinstance(resume, Resume) and (resume.over, resume.run) == (False, "2")


def test_the_source_is_finished_when_it_hears_that_it_was() -> None:
    """The answer to its Finish was lost with a node between."""
    reading = Reading(Config((CameraConfig("door", CLIP),)), Meter(), session="s1")
    reading.start()
    try:
        (begun,) = reading.receive(1.0)
        assert isinstance(begun, Begin) and begun.session == "s1"
        reading.answer([Resume("door", begun.attempt, "e", "1", 1)])
        works: list[Work] = []
        while not (works and isinstance(works[-1].item, Finish)):
            works += [down for down in reading.receive(1.0) if isinstance(down, Work)]
        reading.answer([Done("door", begun.attempt, works[-2].position)])
        assert not reading.finished
        reading.answer([Restart("door", begun.attempt, "the next node was started again")])
        (again,) = reading.receive(1.0)
        assert isinstance(again, Begin) and again.attempt != begun.attempt
        reading.answer([Resume("door", again.attempt, "e", "", 1, over=True)])
        assert reading.finished
    finally:
        reading.close()
