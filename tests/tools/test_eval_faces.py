"""What features are kept under: everything they depend on, so that a wrong mix is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from facestream.models.card import Card
from facestream.models.store import load_card
from facestream.tools.eval_faces import pack_words, preprocessing_words


def with_other_weights(card: Card, file: str) -> Card:
    """The card with another checksum of the file that a part of it is (made from)."""
    key = card.derived[file].sources[0] if file in card.derived else file
    other = replace(card.files[key], sha256="0" * 64)
    return replace(card, files={**card.files, key: other})


@pytest.mark.parametrize("part", ["detector", "embedder", "quality"])
def test_other_weights_of_any_network_are_another_key(part: str) -> None:
    card = load_card("omz")
    other = with_other_weights(card, getattr(card, part).file)
    before = (pack_words(card), preprocessing_words(card, "detect"))
    assert (pack_words(other), preprocessing_words(other, "detect")) != before


def test_a_detector_that_is_not_asked_does_not_matter() -> None:
    card = load_card("omz")
    other = with_other_weights(card, card.detector.file)
    words = [preprocessing_words(one, "aligned") for one in (card, other)]
    assert words[0] == words[1] and "yunet" not in words[0]
