"""How numbers of sightings are put into words."""

from __future__ import annotations

import pytest

from facestream.tools.sightings_open import chance_words, count_words


@pytest.mark.parametrize(
    ("chance", "words"),
    [(0.0123, "0.012"), (1e-4, "0.0001"), (9e-5, "under 0.0001"), (0.0, "under 0.0001")],
)
def test_a_chance_is_told_as_far_down_as_strangers_tell_it(chance: float, words: str) -> None:
    assert chance_words(chance) == words


def test_one_of_something_is_no_plural() -> None:
    assert [count_words(count, "mark") for count in (0, 1, 2)] == ["0 marks", "1 mark", "2 marks"]
