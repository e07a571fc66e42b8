"""What `facestream bench thresholds` counts, and how its page tells it."""

from __future__ import annotations

import numpy as np
import pytest

from facestream.models.open_set_tracks import StrangerTracks
from facestream.models.scores import Interval
from facestream.tools.bench_thresholds import Class, Promise, Way, classes_of, keep_promises
from facestream.tools.bench_thresholds_held import share_of
from facestream.tools.bench_thresholds_page import count_words, evidence_table, way_table

KEPT, HIGH, LOW = (0.005, 0.02), (0.03, 0.09), (0.0001, 0.001)


def promise(strangers: str, found: tuple[float, float], target: float = 0.01) -> Promise:
    """A promise of 0.2 to 2 %, and what was found."""
    mean = sum(found) / 2
    return Promise(
        "cosine", 300, target, 0.5, Interval(0.002, 0.02), strangers, mean, Interval(*found)
    )


def tracks(people: int = 60, each: int = 2) -> StrangerTracks:
    """Two decisions a track: of 1 frame and of 5."""
    rows = np.random.default_rng(3).standard_normal((people * each * 2, 16))
    count = len(rows)
    return StrangerTracks(
        "mean",
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32),
        np.repeat(np.arange(people * each), 2),
        np.tile([1, 5], people * each),
        np.linspace(0.0, 1.0, count).astype(np.float32),
        np.repeat(np.arange(people), each),
        np.zeros(people * each, np.bool_),
    )


def test_promises_are_counted_by_kind_of_strangers() -> None:
    found = [promise("London", KEPT), promise("video", HIGH), promise("video", LOW)]
    assert count_words(found) == (
        "1 of 3 promises hold (London 1 of 1, video 0 of 2); of the others 1 are broken by more "
        "false alerts than promised, 1 by fewer."
    )
    assert count_words(found[:1]) == "1 of 1 promises hold (London 1 of 1)."


def test_each_way_of_fusing_is_a_row_with_its_kinds_side_by_side() -> None:
    own = [promise(kind, KEPT, target) for target in (0.1, 0.01, 0.001) for kind in ("a", "b")]
    own[-1] = promise("b", HIGH, 0.001)
    row = way_table([Way("mean", 3, own)])[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["mean", "3", "0.500", "0.2–2", "1.2 / 1.2", "yes / yes"]
    assert cells[-2:] == ["1.2 / 6", "yes / **no**"]


def test_evidence_is_sorted_by_frames_and_by_thirds_of_quality() -> None:
    some = tracks()
    classes = classes_of(some)
    counts = {words: int(rows.sum()) for words, rows in classes.items()}
    assert counts == {
        "1 frame": 120, "4 to 8 frames": 120,
        "worst third": 80, "middle third": 80, "best third": 80,
    }  # fmt: skip
    assert some.quality[classes["worst third"]].max() < some.quality[classes["best third"]].min()
    shares = {"mean": (0.05, Interval(0.02, 0.08)), "caface": (0.01, Interval(0.0, 0.03))}
    head, _, row = evidence_table([Class("a: 1 frame", 120, shares)])
    assert "mean" in head and "caface" in head
    assert "5 (2–8)" in row and "1 (0–3)" in row


def test_strangers_who_were_fitted_to_keep_the_promise_and_nobody_found_has_an_interval() -> None:
    gallery = np.random.default_rng(4).standard_normal((50, 16)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    some = tracks()
    found = keep_promises([gallery], "cosine", 50, some, {"the same": some}, None)
    assert [one.holds for one in found] == [True] * 3
    assert found[0].found == pytest.approx(0.1, abs=0.03)
    assert share_of(np.zeros(120), some)[1].high == pytest.approx(1 - 0.05 ** (1 / 60))
