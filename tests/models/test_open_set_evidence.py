"""Whether evidence changes how often strangers reach a score: told beyond chance alone."""

import numpy as np
import pytest

from facestream.models.open_set_evidence import EvidenceGap, find_gap

PEOPLE = 200


def decisions(few: float, many: float, seed: int = 0):
    """Of each person a decision on 1, 5 and 20 faces, which reach the score so often."""
    draw = np.random.default_rng(seed)
    frames = np.tile([1, 5, 20], PEOPLE)
    rate = np.select([frames == 1, frames == 20], [few, many], 1.0)
    return draw.random(len(frames)) < rate, frames, np.repeat(np.arange(PEOPLE), 3)


def test_a_gap_is_found_with_its_shares_and_5_faces_are_neither() -> None:
    reached, frames, owners = decisions(0.02, 0.2)
    gap = find_gap(reached, frames, owners)
    assert gap == EvidenceGap(
        pytest.approx(reached[frames == 1].mean()), pytest.approx(reached[frames == 20].mean())
    )
    other = find_gap(*decisions(0.2, 0.02))
    assert other is not None and other.few > other.many
    assert "have fewer false alerts" in other.words


def test_chance_is_no_gap() -> None:
    found = [find_gap(*decisions(0.05, 0.05, seed)) for seed in range(60)]
    assert sum(gap is not None for gap in found) <= 4


def test_without_decisions_of_both_kinds_there_is_none() -> None:
    reached, frames, owners = decisions(0.0, 1.0)
    assert find_gap(reached, np.maximum(frames, 4), owners) is None
    assert find_gap(reached[:0], frames[:0], owners[:0]) is None


def test_words() -> None:
    assert EvidenceGap(0.02, 0.051).words == (
        "strangers seen in more than 8 faces have more false alerts than those seen in 3 or fewer: "
        "5.1 % and 2 % of decisions at FPIR 5 %"
    )
