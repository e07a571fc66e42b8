"""`facestream evaluate quality`: both definitions, several sources, FIQA's own files."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.models.discard import (
    area_under_discard,
    best_discard_area,
    discard_fixed,
    discard_reestimate,
)
from facestream.models.feature_store import (
    Compute,
    Features,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
)
from facestream.tools.eval_options import Source
from facestream.tools.eval_quality import (
    FMRS,
    Pairs,
    QualityChoices,
    area_columns,
    curve_of,
    discard_plots,
    discard_table,
    evaluate_quality,
    read_qualities,
)
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.evaluate import app

PEOPLE, VIEWS = 15, 4


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """pair_list.txt, two METHOD_db.txt, and a store: noise falls as the true quality rises."""
    draw = np.random.default_rng(3)
    quality = draw.uniform(0.1, 1.0, PEOPLE * VIEWS)
    owner = np.repeat(np.arange(PEOPLE), VIEWS)
    centres = draw.normal(size=(PEOPLE, 24))
    noise = draw.normal(size=(len(owner), 24)) * (0.4 / quality[:, None])
    embeddings = ((centres[owner] + noise) * quality[:, None]).astype("f4")
    names = [f"p{o:02}/{n}.jpg" for n, o in enumerate(owner)]
    lines = []
    for a in range(len(owner)):
        mates = [b for b in range(a + 1, len(owner)) if owner[a] == owner[b]]
        others = draw.choice(np.flatnonzero(owner != owner[a]), 6, replace=False)
        lines += [f"{names[a]} {names[b]} 1" for b in mates]
        lines += [f"{names[a]} {names[b]} 0" for b in others]
    (tmp_path / "pair_list.txt").write_text("\n".join(lines) + "\n")
    truth = [f"/data/{name} {q:.6f}" for name, q in zip(names, quality, strict=True)]
    chance = [f"{name} {q:.6f}" for name, q in zip(names, draw.uniform(size=60), strict=True)]
    (tmp_path / "TRUTH_db.txt").write_text("\n".join(truth) + "\n")
    (tmp_path / "CHANCE_db.txt").write_text("\n".join(chance) + "\n")
    items = list(dict.fromkeys(name for line in lines for name in line.split()[:2]))
    order = [names.index(item) for item in items]

    def start() -> Compute:
        def compute(rows: range) -> Features:
            at = order[rows.start : rows.stop]
            states = np.full(len(at), State.EMBEDDED, np.uint8)
            flat = np.zeros((len(at), 0, 2), np.float32)
            score = quality[at].astype("f4")
            return Features(
                states, embeddings[at], np.zeros((0, 24), "f4"), score, score[::-1], flat
            )

        return compute

    store = create_store(tmp_path / "store", StoreKey("m", "n", "d"), items, StoreLayout(60, 24))
    fill_store(store, start)
    return tmp_path


def choose(
    made: Path, *definitions: str, own: tuple[str, ...] = (), resamples: int = 0
) -> QualityChoices:
    files = (made / "TRUTH_db.txt", made / "CHANCE_db.txt")
    return QualityChoices(None, "aligned", False, own, files, definitions, Bootstrap(resamples))


def source(made: Path) -> Source:
    return Source("open", "onnxruntime", None, made / "store", 1, False, False)


def test_areas_are_those_of_the_curves_of_each_definition(made: Path) -> None:
    from facestream.models.feature_store import FeatureStore

    choices = choose(made, "reestimate", "fixed")
    report = evaluate_quality(made / "pair_list.txt", choices, source(made)).report
    store = FeatureStore(made / "store")
    unit = np.asarray(store.embeddings, float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rows = {name: row for row, name in enumerate(store.names)}
    lines = [line.split() for line in (made / "pair_list.txt").read_text().splitlines()]
    scores = np.array([unit[rows[a]] @ unit[rows[b]] for a, b, _ in lines])
    same = np.array([label == "1" for _, _, label in lines])
    listed = read_qualities(made / "TRUTH_db.txt", store.names)
    pair = np.array([min(listed[rows[a]], listed[rows[b]]) for a, b, _ in lines])
    numbers = report.numbers()
    redone = area_under_discard(discard_reestimate(scores, same, pair, 0.01))
    fixed = discard_fixed(scores, same, pair, 0.01)
    area = numbers["Area under the curve, reestimate / TRUTH / AUC, FMR=1e-2"]
    assert area.value == pytest.approx(redone, abs=1e-9) and area.better == "lower"
    part = numbers["Area under the curve, fixed / TRUTH / pAUC 0.2, FMR=1e-2"]
    assert part.value == pytest.approx(area_under_discard(fixed, 0.2), abs=1e-9)
    best = numbers["Area under the curve, fixed / best possible / pAUC 0.2, FMR=1e-2"]
    assert best.value == pytest.approx(best_discard_area(float(fixed.fnmr[0]), 0.2))
    assert (best.value or 0) <= (part.value or 0)


def test_a_good_quality_has_less_area_than_chance(made: Path) -> None:
    report = evaluate_quality(
        made / "pair_list.txt", choose(made, "reestimate", "fixed"), source(made)
    ).report
    for table in report.tables:
        rows = {row.label: row.cells[0] for row in table.rows}
        assert rows["TRUTH"].value < rows["CHANCE"].value  # type: ignore[union-attr,operator]


def test_the_two_definitions_never_share_a_table_or_a_plot(made: Path) -> None:
    report = evaluate_quality(
        made / "pair_list.txt", choose(made, "reestimate", "fixed"), source(made)
    ).report
    assert [table.title for table in report.tables] == [
        "Area under the curve, reestimate",
        "Area under the curve, fixed",
    ]
    for plot in report.plots:
        steps = {curve.steps for curve in plot.curves}
        assert steps == {"fixed" in plot.title}
        assert [curve.label for curve in plot.curves] == ["TRUTH", "CHANCE"]
    alone = evaluate_quality(made / "pair_list.txt", choose(made, "fixed"), source(made)).report
    assert len(alone.tables) == 1 and not any("reestimate" in line for line in alone.variant)


def test_the_pack_the_norm_and_the_detector_are_sources_too(made: Path) -> None:
    result = evaluate_quality(
        made / "pair_list.txt",
        choose(made, "fixed", own=("pack", "norm", "detector"), resamples=10),
        source(made),
    )
    labels = [row.label for row in result.report.tables[0].rows]
    assert labels == ["pack's quality", "norm", "detector", "TRUTH", "CHANCE", "best possible"]
    # The stored detector scores are the true quality, which the list repeats.
    rows = {row.label: row.cells[0] for row in result.report.tables[0].rows}
    assert rows["detector"].value == pytest.approx(rows["TRUTH"].value, abs=1e-5)  # type: ignore[union-attr]
    assert any("over identities, 10 resamples" in line for line in result.report.variant)
    assert len(result.draws) == 5 * 6


@pytest.mark.parametrize("impostors", [3, 100, 101])
def test_few_impostors_leave_out_no_fmr_and_shift_no_curve(impostors: int) -> None:
    """A public script appends nothing where there are 100 or fewer, and later points move up."""
    draw = np.random.default_rng(impostors)
    same = np.arange(impostors + 40) < 40
    scores = draw.normal(size=len(same)) + 2 * same
    alone = np.arange(len(same))
    pairs = Pairs(scores, same, alone, alone, {"any": draw.uniform(size=len(same))})
    for definition in ("reestimate", "fixed"):
        table, _ = discard_table(definition, pairs, Bootstrap(0))
        assert len(table.rows[0].cells) == len(table.columns) == len(area_columns(definition))
        for fmr in FMRS:
            curve = curve_of(definition, pairs, "any", fmr)
            # Below one impostor's share nobody may pass: only genuine scores above all of them.
            allowed = np.sort(scores[~same])[::-1][int(fmr * impostors)]
            assert curve.fnmr[0] == pytest.approx(np.mean(scores[same] <= allowed))
        plots = discard_plots(definition, pairs)
        assert [plot.title[-8:] for plot in plots] == ["FMR=1e-2", "FMR=1e-3", "FMR=1e-4"]
        assert all(len(plot.curves) == 1 for plot in plots)


def test_what_is_wrong_with_pairs_or_features_is_refused_or_counted(made: Path) -> None:
    listed = made / "pair_list.txt"
    whole = listed.read_text()
    lines = whole.splitlines()
    listed.write_text("\n".join([*lines, "p00/0.jpg p01/4.jpg x"]) + "\n")
    choices = choose(made, "fixed")
    with pytest.raises(ConfigError, match=rf"pair_list\.txt:{len(lines) + 1}: "):
        evaluate_quality(listed, choices, source(made))
    skipping = source(made)._replace(skip_bad=True)
    report = evaluate_quality(listed, choices, skipping).report
    assert [one.where for one in report.bad] == [f"pair_list.txt:{len(lines) + 1}"]
    listed.write_text(whole)
    with pytest.raises(ConfigError, match=r"60 of 60 listed pictures .* p00/0\.jpg"):
        evaluate_quality(listed, choices, source(made)._replace(features=None))
    states = np.lib.format.open_memmap(made / "store" / "states.npy", mode="r+")
    states[0] = State.NOT_FINITE
    states.flush()
    with pytest.raises(ConfigError, match=r"1 of 60 faces cannot be used.* features not finite"):
        evaluate_quality(listed, choices, source(made))
    report = evaluate_quality(listed, choices, skipping).report
    assert [(one.where, one.why) for one in report.bad] == [("p00/0.jpg", "features not finite")]
    left = sum("p00/0.jpg" not in line.split() for line in lines)
    assert report.data.facts["pairs"] == f"{left:,}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a.jpg 0.5\nb.jpg high\n", r'q\.txt:2: expected "path score", got \'b\.jpg high\''),
        ("a.jpg 0.5\nb.jpg nan\n", r"q\.txt:2"),
        ("a.jpg 0.5\n0.7\n", r"q\.txt:2"),
        ("a.jpg 0.5\n", "got 0 for b.jpg"),
        ("a.jpg 0.5\nx/b.jpg 1\ny/b.jpg 2\n", "got 2 for b.jpg"),
    ],
)
def test_faults_in_a_list_of_qualities_are_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "q.txt").write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_qualities(tmp_path / "q.txt", ["a.jpg", "b.jpg"])


def test_paths_with_spaces_and_other_roots_are_matched(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("/mnt/my set/a.jpg 0.25\nsub/b.jpg 0.5\n")
    assert read_qualities(tmp_path / "q.txt", ["a.jpg", "sub/b.jpg"]).tolist() == [0.25, 0.5]


def test_the_page_shows_faces_of_the_worst_and_best_quality(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    names = [f"p{person}/{view}.png" for person in range(3) for view in range(3)]
    shade = {}
    for place, name in enumerate(names):
        shade[name] = 20 + 25 * place
        picture = draw.integers(-9, 9, (112, 112, 3)) + shade[name]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture.astype(np.uint8))
    lines = [f"{a} {b} {int(a[:2] == b[:2])}" for n, a in enumerate(names) for b in names[n + 1 :]]
    (tmp_path / "pair_list.txt").write_text("\n".join(lines) + "\n")
    qualities = [f"{name} {255 - shade[name]}" for name in names]
    (tmp_path / "DARK_db.txt").write_text("\n".join(qualities) + "\n")
    files = (tmp_path / "DARK_db.txt",)
    choices = QualityChoices(
        None, "aligned", False, (), files, ("fixed",), Bootstrap(0), pictures=True
    )
    embed = Source("open", "onnxruntime", tmp_path / "store", None, 1, False, False)
    result = evaluate_quality(tmp_path / "pair_list.txt", choices, embed)
    by_group = {one.group: one for one in reversed(result.examples)}  # the first of each
    worst = by_group["Faces of the lowest quality (DARK)"]
    best = by_group["Faces of the highest quality (DARK)"]
    assert (worst.caption, best.caption) == ("quality 35", "quality 235")
    for one, name in ((worst, "p2/2.png"), (best, "p0/0.png")):
        data = base64.b64decode(one.pictures[0].removeprefix("data:image/jpeg;base64,"))
        shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        # The embedder's crop is wider than the picture: only the middle is in both.
        assert shown[50:-50, 50:-50].mean() == pytest.approx(shade[name], abs=3)
    pairs = [one for one in result.examples if one.group.startswith("Genuine pairs rejected")]
    assert all(len(one.pictures) == 2 and " and " in one.caption for one in pairs)
    plain = evaluate_quality(tmp_path / "pair_list.txt", choices._replace(pictures=False), embed)
    assert plain.examples == [] and plain.report.tables == result.report.tables


def test_the_command_says_which_definition_it_used(made: Path) -> None:
    arguments = ["quality", str(made / "pair_list.txt"), "--features", str(made / "store")]
    options = ["--source", "norm", "--definition", "fixed", "--resamples", "0", "--json"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["variant"][0].startswith("fixed (ISO/IEC 29794-1)")
    wrong = CliRunner().invoke(app, [*arguments, "--definition", "mixed"])
    assert "--definition must be reestimate, fixed or both" in str(wrong.exception)
