"""`facestream bench quality`: pairs, areas, paired differences and the page."""

import numpy as np
import pytest

from facestream.models.quality_head import QualityHead
from facestream.tools.bench_quality import COLUMNS, Areas, make_pairs, measure_sources, qualities
from facestream.tools.bench_quality_faces import Scored
from facestream.tools.bench_quality_page import write_page
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.report_record import Number

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
