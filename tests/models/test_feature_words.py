"""The words of a pack's features change with all that changes features, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from facestream.models.card import Card
from facestream.models.feature_words import feature_words
from facestream.models.store import load_card


def with_file(card: Card, key: str) -> Card:
    """The same card with another file under this key, or under all that it is built from."""
    keys = card.derived[key].sources if key in card.derived else (key,)
    other = {name: replace(card.files[name], sha256="0" * 64) for name in keys}
    return replace(card, files={**card.files, **other})


@pytest.mark.parametrize("pack", ["open", "omz"])
def test_every_setting_and_file_of_the_three_parts_counts(pack: str) -> None:
    card = load_card(pack)
    detector, embedder, quality = card.detector, card.embedder, card.quality
    others = [
        replace(card, detector=replace(detector, score=detector.score / 2)),
        replace(card, detector=replace(detector, longest_side=123)),
        replace(card, embedder=replace(embedder, minimal_eye_distance=99.0)),
        replace(card, embedder=replace(embedder, mean=(1.0, 2.0, 3.0))),
        replace(card, quality=replace(quality, kind="norm")),
        with_file(card, detector.file),
        with_file(card, embedder.file),
    ]
    if quality.file is not None:
        others.append(with_file(card, quality.file))
    words = {feature_words(other) for other in [card, *others]}
    assert len(words) == 1 + len(others)
    assert feature_words(load_card(pack)) == feature_words(card)


def test_a_quality_head_counts_by_its_checksum_alone() -> None:
    card = load_card("omz")
    head = card.fusion.heads["learned"]
    one, told, other = (
        feature_words(replace(card, quality=replace(card.quality, kind="head", head=made)))
        for made in (head, replace(head, command="told otherwise"), replace(head, sha256="0" * 64))
    )
    assert one == told != other


def test_what_is_fitted_on_features_does_not_change_them() -> None:
    card = load_card("open")
    assert feature_words(replace(card, ida=None, decision=None)) == feature_words(card)
