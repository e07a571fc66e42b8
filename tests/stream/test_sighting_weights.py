"""The ledger of an aggregate stage: what every frame weighs, exactly, also across a restart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.models.aggregators import make_aggregator
from facestream.models.caface_head import HeadSize, random_head, save_head
from facestream.models.fusion import Aggregator, Doubles
from facestream.stream.aggregate import AggregateStage, FrameRow
from facestream.stream.records import TrackKey
from facestream.stream.sighting_weights import pack_gain, pack_rows, weigh_frames

from .test_aggregate import ANNA, NAMES, C, K, frame, observe, seen


class Book:
    """A ledger that keeps what it hears, as blobs."""

    def __init__(self) -> None:
        self.settled: list[bytes] = []
        self.gain, self.pending = b"", b""

    def settle(self, key: TrackKey, rows: Sequence[FrameRow]) -> None:
        assert key == ANNA
        self.settled.append(pack_rows(rows))

    def weigh(self, key: TrackKey, gain: Doubles, pending: Sequence[FrameRow]) -> None:
        assert key == ANNA
        self.gain, self.pending = pack_gain(gain), pack_rows(pending)


@pytest.fixture(scope="module")
def aggregators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Aggregator]:
    head: Path = tmp_path_factory.mktemp("head") / "caface.npz"
    save_head(head, random_head(1, HeadSize(C, K, 3), style_mix=0.5))
    return {name: make_aggregator(name, dimension=C, head_path=head) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 50), cut=st.integers(0, 50), redo=st.integers(0, 20))
def test_shares_of_all_frames_rebuild_the_template(
    aggregators: dict[str, Aggregator], name: str, count: int, cut: int, redo: int
) -> None:
    """A run that is killed at `cut` goes on from a mark some frames earlier, and repeats them."""
    observations = [observe(ANNA, at, quality=0.1 + (at * 7 % 11) / 11) for at in range(count)]
    book = Book()
    stage = AggregateStage(aggregators[name], 50, book)
    cut = min(cut, count)
    mark = max(0, cut - redo)
    data = None
    for at, one in enumerate(observations[:cut]):
        if at == mark and at:
            data = stage.snapshot(ANNA)
        stage.update(seen(one))
    if mark < cut:
        stage = AggregateStage(aggregators[name], 50, book)
        if data is not None:
            stage.restore(ANNA, data)
    for one in observations[mark if mark < cut else cut :]:
        stage.update(seen(one))
    found = stage.template(ANNA, frame(count))
    assert found is not None
    weights = weigh_frames([*book.settled, book.pending], book.gain)
    assert [one.frame for one in weights] == list(range(count))
    shares = np.array([one.weight for one in weights])
    assert shares.sum() == pytest.approx(1.0)
    best = {one.frame.sequence: one.weight for one in found.template.evidence}
    assert best == pytest.approx({one.frame: one.weight for one in weights}, abs=1e-6)
    if name != "caface":  # whose template goes through the aggregation network as well
        units = np.stack([one.embedding / np.linalg.norm(one.embedding) for one in observations])
        rebuilt = shares @ units
        rebuilt /= np.linalg.norm(rebuilt)
        np.testing.assert_allclose(rebuilt, found.template.embedding, atol=1e-5)
