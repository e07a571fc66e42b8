"""`facestream bench embedder`: pairs, means over seeds, occlusion, finished runs and the page."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper

from facestream import ConfigError
from facestream.configs.face_training import EmbedderTraining
from facestream.configs.training import read_training
from facestream.models.align import ARCFACE_112
from facestream.models.fusion import Floats
from facestream.models.inference import Image
from facestream.tools import bench_embedder_measure
from facestream.tools.bench_embedder import (
    Measured,
    all_pairs,
    areas,
    chance_areas,
    cosines,
    orders,
    some_pairs,
    tars,
)
from facestream.tools.bench_embedder_faces import PLACES, Faces, occlude, occlude_all
from facestream.tools.bench_embedder_measure import Showing, measure_runs
from facestream.tools.bench_embedder_page import (
    beats_open,
    effect_words,
    magnitude_verdict,
    write_page,
)
from facestream.tools.bench_embedder_runs import (
    CQA,
    DISTIL,
    MAGNITUDES,
    PLAIN,
    PRESETS,
    TINY,
    Run,
    find_runs,
)
from facestream.tools.eval_verification import Bootstrap
from facestream.train.checkpoint import Checkpoint, Origin, save_checkpoint
from facestream.train.curve import CurveWriter, Point
from facestream.train.engine import BEST, EXPORT

BOOTSTRAP = Bootstrap(20, 1)


def test_every_later_picture_meets_everybodys_first() -> None:
    pairs = all_pairs(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2]))
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [
        (1, 0), (1, 2), (3, 0), (3, 2), (4, 0), (4, 2),
    ]  # fmt: skip
    assert pairs.same.tolist() == [True, False, False, True, False, True]


def test_a_probe_meets_its_mates_and_some_others() -> None:
    pairs = some_pairs(np.array([2, 0]), np.arange(6), 3, seed=1)
    assert pairs.same.sum() == 2 and len(pairs.same) == 8
    assert pairs.second[pairs.same].tolist() == [2, 0]
    assert len(set(pairs.second[:4].tolist())) == 4  # none twice
    assert np.array_equal(pairs.other, pairs.second)


def test_cosines_are_those_of_the_rows_of_a_pair() -> None:
    pairs = all_pairs(np.array([0, 0]), np.array([0, 1]))
    probes = np.array([[9, 9], [3, 4]], np.float32)
    gallery = np.array([[2, 0], [9, 9]], np.float32)
    assert cosines(pairs, probes, gallery).tolist() == pytest.approx([0.6])


def test_a_difference_is_paired_by_seed_and_resample() -> None:
    one = Measured(np.array([0.5, 0.7]), np.array([0.5, 0.6, 0.7]))
    other = Measured(np.array([0.4, 0.5]), np.array([0.4, 0.5, 0.6]))
    less = one.minus(other)
    assert less.seeds.tolist() == pytest.approx([0.1, 0.2])
    number = less.number
    assert number.value == pytest.approx(0.15) and number.unit == "points"
    assert number.low == pytest.approx(0.1) and number.high == pytest.approx(0.1)
    assert number.spread == pytest.approx(np.sqrt(0.005))
    single = Measured(np.array([0.2]), np.array([0.2, 0.2, 0.2]))
    assert one.minus(single).seeds.tolist() == pytest.approx([0.3, 0.5])
    assert single.number.spread is None


def test_tar_is_the_mean_over_seeds() -> None:
    owners = np.repeat(np.arange(10), 2)
    pairs = all_pairs(owners, np.tile([0, 1], 10))
    perfect = pairs.same.astype(np.float64)
    for found in tars(pairs, [perfect, -perfect], [0.05, 0.01], BOOTSTRAP):
        assert found.seeds.tolist() == [1.0, 0.0] and found.draws.tolist() == [0.5] * 20


def test_norms_that_fall_with_damage_are_in_order() -> None:
    owners = np.repeat(np.arange(5), 2)
    fair = np.arange(4.0)[::-1, None] + np.linspace(0, 0.5, 10)
    found = orders([fair, -fair], owners, BOOTSTRAP)
    assert found.within.seeds.tolist() == pytest.approx([1.0, -1.0])
    assert 0.9 < found.pooled.seeds[0] == pytest.approx(-found.pooled.seeds[1])
    apart = orders([np.array([[1.0, 9.0], [0.0, 8.0]])], np.array([0, 1]), BOOTSTRAP)
    # Both faces are in order; over all, ranks 3 1 4 2 of places 1 1 0 0 by hand.
    assert apart.within.number.value == 1.0
    by_hand = np.corrcoef([2, 4, 1, 3], [1, 1, 0, 0])[0, 1]
    assert apart.pooled.number.value == pytest.approx(by_hand)


def test_true_quality_beats_chance_which_is_a_share_of_the_misses() -> None:
    draw = np.random.default_rng(0)
    pairs = some_pairs(np.repeat(np.arange(12), 6), np.arange(12), 8, seed=1)
    bad = draw.random(len(pairs.same)) < 0.3
    scores = np.where(pairs.same, np.where(bad, -1.0, 1.0), draw.uniform(-0.5, 0.5, len(bad)))
    chance = chance_areas(pairs, [scores, scores], BOOTSTRAP)
    missed = bad[pairs.same].mean()
    assert chance.seeds.tolist() == pytest.approx([0.3 * missed] * 2)
    quality = (1.0 - bad).astype(np.float64)
    best = areas(pairs, [scores, scores], [quality, quality], BOOTSTRAP)
    high = best.minus(chance).number.high
    assert best.unit == "area" and high is not None and high < 0


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_a_share_of_the_area_gets_one_colour(share: float) -> None:
    face = np.random.default_rng(5).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    for place in PLACES:
        for seed in range(20):
            covered = occlude(face, share, place, np.random.default_rng(seed))
            changed = (covered != face).any(axis=2)
            rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
            inside = covered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert inside.shape[0] * inside.shape[1] == pytest.approx(share * 112**2, rel=0.03)
            assert (inside == inside[0, 0]).all()
            if place == "lower part":
                assert rows[-1] == 111 and len(columns) == 112


def test_faces_are_occluded_alike_whatever_comes_after() -> None:
    faces = np.zeros((3, 112, 112, 3), np.uint8)
    whole = occlude_all(faces, 0.4, "block", seed=2)
    assert np.array_equal(occlude_all(faces[:2], 0.4, "block", seed=2), whole[:2])
    assert not np.array_equal(whole[0], whole[1])


class ColourPack:
    """Embeds a crop as its mean colours in four quarters: (N, 12)."""

    template = ARCFACE_112

    def embed(self, crops: Image) -> SimpleNamespace:
        rows = crops.reshape(len(crops), 2, 56, 2, 56, 3).mean(axis=(2, 4)).reshape(-1, 12)
        return SimpleNamespace(embeddings=rows.astype(np.float32) - 127)


def make_faces(people: int) -> Image:
    draw = np.random.default_rng(0)
    small = draw.integers(0, 256, (people, 4, 4, 3)).astype(np.uint8)
    return small.repeat(28, axis=1).repeat(28, axis=2)


def write_colours(path: Path) -> None:
    """A network of one layer: mean colours in four quarters, (B, 3, 112, 112) to (B, 12)."""
    shape = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 112, 112])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 12])
    pool = helper.make_node(
        "AveragePool", ["input"], ["pooled"], kernel_shape=[56, 56], strides=[56, 56]
    )
    flat = helper.make_node("Flatten", ["pooled"], ["embedding"])
    graph = helper.make_graph([pool, flat], "colours", [shape], [out])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each preset as the engine leaves it, of one seed, with a network made by hand."""
    folder = tmp_path_factory.mktemp("runs")
    for preset in (*PRESETS, *MAGNITUDES):
        config, text = read_training(EmbedderTraining, "embedder", preset)
        place = folder / preset / "seed-1"
        (place / EXPORT).mkdir(parents=True)
        write_colours(place / EXPORT / "embedder.onnx")
        section = {"dimension": 12, "channel_order": "RGB", "mean": [127.5] * 3, "std": [127.5] * 3}
        (place / EXPORT / "embedder.yaml").write_text(yaml.safe_dump({"embedder": section}))
        weights = {"backbone.fc": torch.zeros(4, 3), "backbone.bn.running_mean": torch.zeros(3)}
        origin = Origin("embedder", text, "0123456789abcdef", "")
        save_checkpoint(place / BEST, Checkpoint(origin, 2, weights, {}, (0.4, 2)))
        validated = {
            "agreement": 0.4,
            "teacher_agreement": 0.6,
            "magnitude": 16.0,
            "order": 0.5,
        }
        classes = {} if preset == DISTIL else {"classes": 40.0}
        with CurveWriter(place, 0) as curve:
            for step in range(1, config.run.steps + 1):
                curve.add(step, {"distil": 1 / step, **classes})
            curve.add(config.run.steps, validated, validated=True)
    (folder / CQA / "seed-2").mkdir()  # not finished: left out
    return folder


def test_finished_runs_are_found_with_what_they_learned(runs: Path) -> None:
    found = find_runs(runs)
    assert tuple(found) == (*PRESETS, *MAGNITUDES) and all(len(of) == 1 for of in found.values())
    run = found[CQA][0]
    assert (run.seed, run.steps, run.best_step, run.settings["attention"]) == (1, 2000, 2, True)
    assert run.parameters == 12  # of statistics none
    assert run.at("agreement", validated=True) == (0.4, 0.4)


def test_what_is_missing_or_of_other_settings_is_said(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train embedder embedder-tiny --seed 1 --seed 2"):
        find_runs(tmp_path)
    copied = tmp_path / "runs"
    shutil.copytree(runs, copied)
    (copied / CQA / "seed-1").rename(copied / CQA / "seed-4")
    assert find_runs(copied)  # the seed is the run's, not the folder's
    best = copied / PLAIN / "seed-1" / "best.pt"
    held = torch.load(best, weights_only=True)
    held["origin"]["data"] = "other faces"
    torch.save(held, best)
    with pytest.raises(ConfigError, match="expected the settings and faces of embedder-tiny"):
        find_runs(copied)


def test_a_page_is_written_of_runs_faces_and_packs(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crops = make_faces(16).repeat(2, axis=0)
    crops[1::2] = crops[1::2] // 2 + 60
    owners, turns = np.divmod(np.arange(32), 2)

    class Held(Faces):
        def crops(self, template: object) -> Image:
            return crops

    faces = Held("London", [Path("a")] * 32, np.zeros((32, 5, 2), np.float32), owners, turns)
    pack = SimpleNamespace(
        detector=SimpleNamespace(detect=lambda images: [None]),
        embedder=ColourPack(),
        card=SimpleNamespace(
            name="open", embedder=SimpleNamespace(file=""), checksum=lambda file: "colours"
        ),
    )
    monkeypatch.setattr(bench_embedder_measure, "open_pack", lambda name, threads: pack)
    monkeypatch.setattr(bench_embedder_measure, "london", lambda assets, detector: faces)
    monkeypatch.setattr(bench_embedder_measure, "wild", lambda assets: None)
    monkeypatch.setattr(
        bench_embedder_measure, "detector_scores", lambda detector, crops: np.ones(len(crops))
    )
    found = measure_runs(runs, tmp_path, Bootstrap(10, 1))
    assert found.pairs == {"London": (16, 240)} and found.people == {"London": 16}
    # All presets are one network here, and it is that of both packs.
    for of in found.occlusion["London"].values():
        assert np.array_equal(of[CQA].draws, of[PLAIN].draws)
    for by_name in found.against["London"].values():
        assert by_name["open"].seeds == by_name["omz"].seeds
        assert by_name["open"].seeds == pytest.approx(by_name[TINY].seeds, abs=0.1)
    page = write_page(found, "facestream bench embedder --folder RUNS", Bootstrap(10, 1))
    for words in ("## Training", "| lower part, 60 % |", "2,000 of 32", "| – | 0.400"):
        assert words in page
    assert "no difference is shown" in page
    assert "in 6 the interval holds 0" in page
    assert "None of them becomes the pack" in page


def made(value: float, low: float, high: float) -> Measured:
    return Measured(np.array([value]), np.array([low] * 5 + [high] * 5))


def test_a_pack_is_beaten_by_the_lower_ends_where_it_can_be() -> None:
    def beats(*columns: tuple[Measured, Measured]) -> bool:
        by_rate = {n: {TINY: own, "open": other} for n, (own, other) in enumerate(columns)}
        return beats_open(SimpleNamespace(against={"faces": by_rate}), TINY)  # type: ignore[arg-type]

    better, worse = made(0.8, 0.7, 0.9), made(0.5, 0.45, 0.55)
    touching, perfect = made(0.6, 0.4, 0.8), made(1.0, 1.0, 1.0)
    assert beats((better, worse)) and not beats((worse, better))
    assert not beats((better, worse), (touching, worse))
    assert beats((better, worse), (better, perfect)) and not beats((better, perfect))


def test_effects_are_counted_by_their_intervals() -> None:
    low, high, nothing = made(0.3, 0.28, 0.32), made(0.6, 0.58, 0.62), made(0.02, 0.01, 0.03)
    rows = [(low, high), (high, low), (high, low), (low, low), (nothing, nothing)]
    table = {("block", n / 10): {PLAIN: a, CQA: b} for n, (a, b) in enumerate(rows)}
    words = effect_words({None: {PLAIN: low, CQA: high}, **table})  # type: ignore[dict-item]
    assert "Of 5 occlusions, CAL and QAN together raise TAR in 1 and lower it in 2" in words
    assert "in 2 the interval holds 0" in words and "In 1 neither" in words


def test_embeddings_are_kept_between_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = find_runs(runs)[TINY][0]
    show = Showing({TINY: [run]}, runs / "kept")
    crops = make_faces(3)
    once = show.students(crops, "faces", [TINY])[TINY][0]
    assert once.shape == (3, 12) and once.dtype == np.float32

    def refuse(*_: object) -> Floats:
        raise AssertionError("asked again")

    monkeypatch.setattr("facestream.models.embedder.OnnxEmbedder.embed", refuse)
    np.testing.assert_array_equal(show.students(crops, "faces", [TINY])[TINY][0], once)


def test_a_course_is_told_from_its_ends() -> None:
    curve = [Point(n + 1, {"distil": float(n)}) for n in range(30)]
    curve += [Point(10, {"agreement": 0.1}, validated=True), Point(30, {"agreement": 0.4}, True)]
    run = Run(TINY, 1, {"run": {"steps": 30}}, "", curve, 30, 1, Path("x"))
    assert run.at("distil", validated=False) == (4.5, 24.5)
    assert run.at("agreement", validated=True) == (0.1, 0.4)
    assert run.at("classes", validated=False) is None


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        (made(0.8, 0.7, 0.9), "so much of the order is MagFace's doing"),
        (made(0.1, 0.0, 0.2), "the norm tells more without MagFace"),
        (made(0.4, 0.3, 0.5), "no difference is shown"),
    ],
)
def test_the_norms_order_is_put_down_to_magface_by_the_pair(margin: Measured, words: str) -> None:
    other = Measured(np.array([0.4]), np.full(10, 0.4))
    found = {
        name: SimpleNamespace(order=SimpleNamespace(within=one))
        for name, one in zip(MAGNITUDES, (margin, other), strict=True)
    }
    assert words in magnitude_verdict(SimpleNamespace(magnitude=found))  # type: ignore[arg-type]
