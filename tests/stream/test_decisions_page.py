"""The example of docs/decisions.md, decided and compared with what the page says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import facestream
from facestream.models.search import SearchIndex
from facestream.stream.events import AnyEvent, DecisionEvent
from facestream.stream.match import GalleryIndex
from facestream.stream.records import FrameRef, Observed, Template, TrackKey, TrackTemplate

from .world import World, vector

PAGE = Path(facestream.__file__).parent / "docs" / "decisions.md"
NAMES = ("Anna", "Bert")


class Newest:
    """An aggregator whose template is the newest face: scores are those of the page."""

    def __init__(self) -> None:
        self.seen: dict[TrackKey, np.ndarray] = {}

    def update(self, observed: Observed) -> None:
        for one in observed.observations:
            self.seen[one.key] = one.embedding / np.linalg.norm(one.embedding)

    def template(self, key: TrackKey, frame: FrameRef) -> TrackTemplate:
        return TrackTemplate(key, frame, Template(self.seen[key], 3, 0.0, 0.0, 0.0, ()))


class Example(World):
    """The people, the threshold and the settings of the page; every frame is decided."""

    def __init__(self) -> None:
        super().__init__(release=0.1, margin=0.05, least_frames=1, unknown_frames=1)
        self.stage.aggregate = Newest()  # type: ignore[assignment]

    def gallery(self) -> GalleryIndex:
        index = SearchIndex(np.eye(2, 6, dtype=np.float32), np.arange(2))
        return GalleryIndex(1, index, NAMES)

    def decide(self, *faces: tuple[float, float]) -> list[AnyEvent]:
        self.stage.reconsider()
        return self.show({n: (*face, 0.0) for n, face in enumerate(faces, start=1)})


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a line that begins so."""
    lines = PAGE.read_text(encoding="utf-8").split(heading, 1)[1].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    table = [line for line in lines[start:] if line.startswith("|")]
    length = next(n for n, line in enumerate(lines[start:]) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:length]]


def words(events: list[AnyEvent]) -> str:
    """What was told, as the page writes it."""
    decisions = [event for event in events if isinstance(event, DecisionEvent)]
    if not decisions:
        return "nothing"
    (event,) = decisions
    name = ", or ".join(event.ambiguous) or event.identity or "nobody"
    return f"{event.kind}: {name}"


def test_one_track_is_told_as_the_page_says() -> None:
    example, told = Example(), rows("One\ntrack is decided six times")
    assert len(told) == 6
    for anna, bert, expected, _ in told:
        assert words(example.decide((float(anna), float(bert)))) == expected


def test_two_faces_are_given_the_names_of_the_page() -> None:
    example, told = Example(), rows("And two faces of one frame")
    example.decide(*((float(anna), float(bert)) for _, anna, bert, _ in told))
    labels = example.stage.labels("door")
    assert [labels[int(face)].identity for face, *_ in told] == [given for *_, given in told]


def test_the_faces_have_the_scores_of_the_page() -> None:
    for anna, bert in ((0.6, 0.3), (0.44, 0.42)):
        assert vector((anna, bert, 0.0))[:2] == pytest.approx([anna, bert], abs=1e-6)
