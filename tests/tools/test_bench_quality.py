"""`facestream bench quality`: pairs, areas, paired differences and the page."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from facestream import ConfigError
from facestream.configs.training import BankSettings, FIQATraining, RunSettings
from facestream.models.quality_head import QualityHead
from facestream.models.store import load_card
from facestream.tools import bench_quality, bench_quality_faces
from facestream.tools.bench_degraded import HeldOut
from facestream.tools.bench_quality import COLUMNS, Areas, make_pairs, measure_sources, qualities
from facestream.tools.bench_quality_faces import Scored
from facestream.tools.bench_quality_page import write_page
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.report_record import Number
from facestream.train.fiqa import QualityFaces

C, PEOPLE, VIEWS = 8, 24, 6


def faces() -> tuple[Scored, np.ndarray]:
    """One reference and VIEWS views of each; the detector's score is their quality."""
    draw = np.random.default_rng(0)
    owners = np.repeat(np.arange(PEOPLE), 1 + VIEWS)
    reference = np.arange(len(owners)) % (1 + VIEWS) == 0
    quality = np.where(reference, 1.0, draw.random(len(owners))).astype(np.float32)
    clean = draw.standard_normal((PEOPLE, C))[owners]
    noise = draw.standard_normal((len(owners), C))
    rows = (quality[:, None] * clean + (1 - quality[:, None]) * noise).astype(np.float32)
    styles = np.zeros((len(owners), 1, 2), np.float32)
    styles[:, 0, 0] = quality
    random = draw.random(len(owners)).astype(np.float32)
    nothing = np.full(len(owners), np.nan, np.float32)
    return (
        Scored(owners, reference, rows, styles, rows, styles, quality, random, random, nothing),
        quality,
    )


def head() -> QualityHead:
    """The style's mean through two linear layers: rises with quality."""
    weight = np.zeros((1, C + 3), np.float32)
    weight[0, C + 1] = 1
    one, zero = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    mean, deviation = np.zeros(C + 3, np.float32), np.ones(C + 3, np.float32)
    arrays = {"mean": mean, "deviation": deviation, "fc1.weight": weight, "fc1.bias": zero}
    return QualityHead(arrays | {"fc2.weight": one, "fc2.bias": zero}, C, 1)


def test_a_source_without_its_network_is_left_out_and_heads_read_either_pack():
    scored, quality = faces()
    found = qualities(scored, {"raw": head()}, {"raw": head()}, "omz")
    assert "LightQNet" not in found and len(found) == 6
    ranks = np.argsort(np.argsort(quality, kind="stable"))
    for name in ("own head, raw", "head of omz, raw"):
        order = np.argsort(np.argsort(found[name], kind="stable"))
        assert np.corrcoef(order, ranks)[0, 1] > 0.99


def test_every_view_meets_its_reference_and_ten_of_others():
    scored, _ = faces()
    pairs = make_pairs(scored, {"detector": scored.detector.astype(np.float64)}, seed=1)
    assert pairs.same.sum() == PEOPLE * VIEWS and (~pairs.same).sum() == 10 * PEOPLE * VIEWS
    assert np.array_equal(pairs.same, pairs.first == pairs.second)
    lost = scored._replace(reference=scored.reference & (scored.owners != 3))
    assert 3 not in make_pairs(lost, {}, seed=1).first


def test_true_quality_beats_chance_and_differences_are_paired():
    scored, quality = faces()
    sources = {"true": quality.astype(np.float64), "chance": scored.sharpness.astype(np.float64)}
    found = measure_sources(make_pairs(scored, sources, seed=1), Bootstrap(20, 1))
    for column in COLUMNS:
        one = found["true"].against(found["chance"])[column]
        assert one.high is not None and one.high < 0 and one.better == "lower"
        draws = found["true"].draws[column] - found["chance"].draws[column]
        assert one.low == pytest.approx(np.quantile(draws, 0.025))


def test_the_page_has_areas_and_differences():
    def one(value: float) -> Areas:
        numbers = {column: Number(value, "area", value, value) for column in COLUMNS}
        return Areas(numbers, {column: np.array([value, value]) for column in COLUMNS})

    sources = {"LightQNet": one(0.03), "own head, raw": one(0.02)}
    key = ("omz", "London")
    text = write_page(
        {key: sources}, {key: "9 pairs."}, ("facestream bench quality", Bootstrap(2, 1))
    )
    assert "| own head, raw | 20.0 (20.0–20.0) |" in text
    assert "Against LightQNet:" in text and "**-10.0** (-10.0 to -10.0)" in text
    assert "Against training-free" not in text and "9 pairs." in text


def test_faces_are_scored_again_when_packs_settings_or_data_differ(tmp_path, monkeypatch):
    scored, _ = faces()
    count, asked = len(scored.owners), []

    def views(held, settings, pack):
        asked.append(settings)
        return [(row, False, None, row) for row in range(count)]

    monkeypatch.setattr(bench_quality_faces, "_views", views)
    monkeypatch.setattr(
        bench_quality_faces, "_describe", lambda _, row, *packs: tuple(c[row] for c in scored[2:])
    )

    def score(settings=BankSettings(), mark="a", other="omz", card=load_card("open")):  # noqa: B008
        held = HeldOut(
            SimpleNamespace(fingerprint=mark), {}, np.zeros(3, np.int64), np.zeros(3, bool)
        )
        packs = SimpleNamespace(card=card), SimpleNamespace(card=load_card(other))
        return bench_quality_faces.score_faces(held, settings, tmp_path / "a.npz", *packs)

    first, again = score(), score()
    assert len(asked) == 1
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    card = load_card("open")
    for number, change in enumerate(
        [
            {"settings": BankSettings(seed=2)},
            {"mark": "b"},
            {"other": "open"},
            {"card": replace(card, detector=replace(card.detector, score=0.01))},
        ]
    ):
        score(**change)
        score(**change)
        assert len(asked) == 2 + number
    np.savez(tmp_path / "a.npz", **first._asdict())  # as written before there were keys
    score()
    assert len(asked) == 6


def test_heads_of_other_faces_are_not_taken_for_these(tmp_path: Path, monkeypatch):
    def quality_faces(seed: int) -> QualityFaces:
        draw = np.random.default_rng(seed)
        clean = draw.standard_normal((20, C)).astype(np.float32)
        clean /= np.linalg.norm(clean, axis=1, keepdims=True)
        whose = np.repeat(np.arange(20), VIEWS)
        own = draw.random(len(whose)).astype(np.float32)
        wrong = draw.standard_normal((len(whose), C)).astype(np.float32)
        rows = own[:, None] * clean[whose] + (1 - own[:, None]) * wrong
        return QualityFaces(rows, np.ones((len(whose), 1, 2), np.float32), own, whose, clean)

    seeds = {"training": 0, "validation": 1}
    preset = FIQATraining(RunSettings(steps=2, batch=8, validate_every=2), repeats=1)
    monkeypatch.setattr(bench_quality, "VARIANTS", {"raw, pack": {"labels": "raw"}})
    monkeypatch.setattr("facestream.configs.training.read_training", lambda *_: (preset, "text"))
    monkeypatch.setattr(
        "facestream.tools.train_banks.role_bank", lambda _, role, *more: seeds[role]
    )
    monkeypatch.setattr("facestream.train.fiqa.faces_of_bank", quality_faces)
    first = bench_quality.train_heads(tmp_path, tmp_path, "open")["raw, pack"]
    again = bench_quality.train_heads(tmp_path, tmp_path, "open")["raw, pack"]
    rows, styles = np.ones((3, C), np.float32), np.ones((3, 1, 2), np.float32)
    np.testing.assert_array_equal(first.score(rows, styles), again.score(rows, styles))
    seeds["training"] = 2
    with pytest.raises(ConfigError, match="data"):
        bench_quality.train_heads(tmp_path, tmp_path, "open")
