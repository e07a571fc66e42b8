"""Where a role's bank lies: elsewhere as soon as anything that made it differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facestream.configs.training import BankSettings
from facestream.models.store import load_card
from facestream.tools import train_banks
from facestream.train import feature_bank

SETTINGS = BankSettings(runs=2, frames=3)


def test_a_bank_lies_elsewhere_when_what_made_it_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[str] = []

    def make_bank(folder: Path, *_: Any, **__: Any) -> None:
        folders.append(folder.name)

    def make(settings: BankSettings = SETTINGS) -> None:
        train_banks.role_bank(tmp_path, "training", settings, "open")

    monkeypatch.setattr(feature_bank, "make_bank", make_bank)
    monkeypatch.setattr(train_banks, "role_pictures", lambda *_: {"a": (tmp_path / "a.jpg",)})
    make()
    make()
    make(replace(SETTINGS, seed=2))
    with monkeypatch.context() as patch:
        patch.setattr(feature_bank, "VIEWS_VERSION", feature_bank.VIEWS_VERSION + 1)
        make()
    card = load_card("open")
    other = replace(card, detector=replace(card.detector, score=card.detector.score / 2))
    monkeypatch.setattr("facestream.models.store.load_card", lambda _: other)
    make()
    assert folders[0] == folders[1] and len(set(folders)) == 4


def test_the_words_of_a_bank_tell_version_settings_and_networks() -> None:
    card = load_card("open")
    words = feature_bank.bank_words(card, SETTINGS)
    assert f"views {feature_bank.VIEWS_VERSION}, {SETTINGS}" in words
    assert f"detector {card.detector.kind}" in words and f"quality {card.quality.kind}" in words
