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
from facestream.stream.flow import Begin, Done, Finish, Restart, Resume, StateChange, Work
from facestream.stream.journal import Journal
from facestream.stream.match import DecisionNumbers, GalleryIndex, MatchStage
from facestream.stream.meter import Meter
from facestream.stream.publish import Publisher
from facestream.stream.reading import Reading

CLIP = "synthetic:?faces=0&size=64x64&fps=10&seconds=1"


def gallery() -> GalleryIndex:
    return 1, SearchIndex(np.eye(6, dtype=np.float32)[:1], np.arange(1)), ("Anna",)


def deciding(journal: Journal, pack: Pack) -> Deciding:
    """As a process that was started (again) has it."""
    config = Config((CameraConfig("door", CLIP),), match=MatchConfig(score="cosine"))
    return Deciding(
        config,
        pack.card,
        MatchStage(gallery, config.match, DecisionNumbers(threshold=0.5, cosine_threshold=0.5)),
        AggregateStage(make_aggregator("mean", dimension=6), 2),
        Publisher(journal, PublishConfig(endpoint="")),
        gallery,
        Meter(),
    )


def begin(part: Deciding, attempt: str, session: str) -> Resume:
    part.send([Begin("door", attempt, False, "f", session)])
    (resume,) = part.collect()
    assert isinstance(resume, Resume)
    return resume


def finish(part: Deciding, attempt: str) -> None:
    ended = StateChange("door", "ended", "every frame was read", 0, {})
    part.send([Work("door", attempt, 0, ended), Work("door", attempt, 1, Finish("over"))])


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
