"""Runs of degraded views, banks of them, and sets that look like tracks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, SourceMissing
from facestream.configs.training import BankSettings, TrackSettings
from facestream.models.feature_store import FeatureStore
from facestream.models.photo import PhotoFace
from facestream.train.feature_bank import Bank, draw_runs, make_bank
from facestream.train.track_sets import TrackSampler, cut, to_and_fro
from facestream.train.track_views import Damage, Run, draw_run, show_frame

from .made_bank import PEOPLE, SETTINGS, C, make_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("bank") / "store")


@pytest.fixture(scope="module")
def bank(folder: Path) -> Bank:
    return Bank(FeatureStore(folder), SETTINGS)


def test_a_bank_leaves_out_pictures_without_a_face(bank: Bank, folder: Path) -> None:
    assert len(bank.names) == PEOPLE - 1 and "made/02" not in bank.names
    assert bank.embeddings.shape == (PEOPLE - 1, 3, 4, C)
    assert bank.found[1].any(axis=1).tolist() == [False, False, True]
    np.testing.assert_allclose(np.linalg.norm(bank.centres, axis=1), 1.0)
    with pytest.raises(ConfigError, match="no bank of 5 runs"):
        Bank(FeatureStore(folder), BankSettings())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), faces=st.sampled_from([2, 3, 8, 16]))
def test_sets_are_a_function_of_the_seed_and_of_their_own_people(
    bank: Bank, seed: int, faces: int
) -> None:
    sampler = TrackSampler(bank, TrackSettings())
    first, again = (sampler.draw(np.random.default_rng(seed), 5, faces) for _ in range(2))
    assert first.sets.features.shape == (5, faces, C) and first.sets.styles is not None
    assert torch.equal(first.sets.features, again.sets.features)
    assert len(set(first.people.tolist())) == 5
    torch.testing.assert_close(first.centres.norm(dim=1), torch.ones(5))
    # The length of an embedding is that of its view, whichever source it was moved to.
    lengths = torch.linalg.vector_norm(first.sets.features, dim=2)
    for row, person in enumerate(first.people.tolist()):
        own = np.linalg.norm(bank.embeddings[person], axis=-1)[bank.found[person]]
        assert np.abs(lengths[row].numpy()[:, None] - own).min(axis=1).max() < 1e-3


def test_without_spread_faces_are_the_views_themselves(bank: Bank) -> None:
    sampler = TrackSampler(bank, TrackSettings(spread=0.0, independent=0.0))
    drawn = sampler.draw(np.random.default_rng(1), 3, 8)
    for row, person in enumerate(drawn.people.tolist()):
        views = bank.embeddings[person][bank.found[person]]
        gaps = np.abs(drawn.sets.features[row].numpy()[:, None] - views).max(axis=2).min(axis=1)
        assert gaps.max() < 1e-4


def test_pseudo_sources_move_faces_by_their_share_along_the_centre(bank: Bank) -> None:
    still = TrackSampler(bank, TrackSettings(spread=0.0, sources=1, independent=0.0))
    moved = TrackSampler(bank, TrackSettings(spread=1.2, sources=1, independent=0.0))
    people = np.array([0, 3, 4])
    one = still.draw(np.random.default_rng(2), 3, 8, people)
    two = moved.draw(np.random.default_rng(2), 3, 8, people)
    assert not torch.allclose(one.sets.features, two.sets.features)
    assert torch.equal(one.sets.quality, two.sets.quality)  # type: ignore[arg-type]


def test_stretches_walk_to_and_fro_and_cover_the_set() -> None:
    assert to_and_fro(1, 6, 3).tolist() == [1, 2, 1, 0, 1, 2]
    assert to_and_fro(0, 3, 1).tolist() == [0, 0, 0]
    assert to_and_fro(0, 3, 2).tolist() == [0, 1, 0]
    for parts in (1, 2, 5):
        lengths = cut(np.random.default_rng(parts), 5, parts)
        assert lengths.sum() == 5 and len(lengths) == parts and lengths.min() >= 1


def test_one_person_is_not_enough(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "found", np.zeros_like(bank.found))
    with pytest.raises(ConfigError, match="two people"):
        TrackSampler(bank, TrackSettings())


def test_runs_are_spread_over_strengths_and_belong_to_their_picture() -> None:
    runs = draw_runs("sfhq/00001", BankSettings(runs=5, frames=6, strength=(0.0, 1.0)))
    assert runs == draw_runs("sfhq/00001", BankSettings(runs=5, frames=6, strength=(0.0, 1.0)))
    assert runs != draw_runs("sfhq/00002", BankSettings(runs=5, frames=6, strength=(0.0, 1.0)))
    assert all(len(run.frames) == 6 and run.side in (-1, 1) for run in runs)
    assert all(0.0 <= level <= 1.0 for run in runs for frame in run.frames for level in frame)
    worst = sorted(max(run.frames[0][:-1]) for run in runs)
    assert worst[0] < 0.45 and worst[-1] > 0.6
    turned = draw_run(np.random.default_rng(0), 4, 0.1, turned=True)
    assert min(frame.turn for frame in turned.frames) > 0.1


def test_a_damaged_frame_is_smaller_darker_and_the_same_again() -> None:
    image = np.full((200, 200, 3), 90, np.uint8)
    cv2.circle(image, (100, 100), 40, (200, 180, 160), -1)
    points = np.array([[85, 90], [115, 90], [100, 105], [88, 120], [112, 120]], np.float32)
    face = PhotoFace(np.array([60, 60, 140, 140], np.float32), points, 0.9)
    clean, hurt = Damage(*[0.0] * 7), Damage(0.8, 0.5, 0.5, 0.5, 0.5, 0.8, 0.5)
    run = Run([clean, hurt], 30.0, 1, 7)
    first, second = show_frame(image, face, run, 0), show_frame(image, face, run, 1)
    assert first.shape == (192, 192, 3) and second.shape == (64, 64, 3)
    assert first.dtype == second.dtype == np.uint8
    assert second.mean() < 0.7 * first.mean()
    assert np.array_equal(second, show_frame(image, face, run, 1))
    # The face keeps its place in the middle.
    assert first[96, 96].mean() > first[10, 10].mean() + 30


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path, open_models: object) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(SourceMissing, match=r"a\.jpg is not a readable picture"):
        make_bank(tmp_path / "bank", {"a": tmp_path / "a.jpg"}, SETTINGS, "open")
    with pytest.raises(ConfigError, match="one picture at least"):
        make_bank(tmp_path / "none", {}, SETTINGS, "open")
