"""`facestream evaluate fusion`: its sets, its numbers by hand, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError, ModelError
from facestream.models.caface import CAFace
from facestream.models.caface_head import HeadSize, load_head, random_head, save_head
from facestream.models.feature_store import (
    Compute,
    Features,
    FeatureStore,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
)
from facestream.models.fusion import Members
from facestream.models.pack import Pack
from facestream.models.search import SearchIndex
from facestream.models.store import load_card
from facestream.tools.eval_faces import pack_words
from facestream.tools.eval_fusion import (
    FusionChoices,
    evaluate_fusion,
    find_people,
    medium_of,
    natural_order,
)
from facestream.tools.eval_fusion_measures import Bench, Sets, draw_sets, measure_cell
from facestream.tools.eval_options import Source
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.evaluate import app

PEOPLE, FRAMES, WIDTH, STYLES = 12, 20, 128, 5
FAR = 0.05


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder of faces, its features, and a head: the worse a face, the noisier.

    Each of twelve people has a still and a video of 20 frames, of which the last shows no face.
    One more has a still alone.
    """
    folder = tmp_path_factory.mktemp("fusion")
    (folder / "faces").mkdir()
    draw = np.random.default_rng(8)
    names = [
        name
        for who in range(PEOPLE)
        for name in (f"p{who:02}/img.jpg", *(f"p{who:02}/videos_1_{n}.jpg" for n in range(FRAMES)))
    ]
    names.append(f"p{PEOPLE:02}/img.jpg")
    owner = np.array([int(name[1:3]) for name in names])
    still = np.array([name.endswith("img.jpg") for name in names])
    quality = np.where(still, 1.0, draw.uniform(0.05, 1.0, len(names))).astype("f4")
    centres = draw.normal(size=(PEOPLE + 1, WIDTH))
    noise = draw.normal(size=(len(names), WIDTH)) * (0.8 / quality[:, None])
    vectors = (centres[owner] + noise).astype("f4")
    styles = draw.normal(size=(len(names), STYLES, 2)).astype("f4")
    states = np.full(len(names), State.EMBEDDED, np.uint8)
    states[[name.endswith(f"_{FRAMES - 1}.jpg") for name in names]] = State.NO_FACE

    def start() -> Compute:
        def compute(rows: range) -> Features:
            at = slice(rows.start, rows.stop)
            nothing = np.zeros((0, WIDTH), "f4")
            return Features(states[at], vectors[at], nothing, quality[at], quality[at], styles[at])

        return compute

    key = StoreKey(pack_words(load_card("open")), "made", "data")
    layout = StoreLayout(len(names), WIDTH, STYLES)
    fill_store(create_store(folder / "store", key, names, layout), start)
    head = random_head(1, HeadSize(WIDTH, STYLES, 4), style_mix=0.5)
    save_head(folder / "head.npz", head)
    return folder


def choose(
    made: Path, *parts: str, sizes: tuple[int, ...] = (1, 4), **more: object
) -> FusionChoices:
    choices = FusionChoices(
        parts,
        ("mean", "quality", "caface"),
        made / "head.npz",
        sizes,
        3,
        FAR,
        "aligned",
        Bootstrap(20, 5),
    )
    return choices._replace(**more)  # type: ignore[arg-type]


def source(made: Path, pack: str = "open") -> Source:
    return Source(pack, "onnxruntime", None, made / "store", 1, False, False)


@pytest.fixture(scope="module")
def bench(made: Path) -> Bench:
    store = FeatureStore(made / "store")
    names = ("mean", "quality", "caface")
    return Bench(
        store,
        find_people(store),
        load_card("open"),
        {"caface": made / "head.npz"},
        names,
        FAR,
        Bootstrap(20, 5),
    )


def test_names_tell_order_and_medium() -> None:
    names = ["a/v_10.jpg", "a/v_9.jpg", "a/img.jpg"]
    assert sorted(names, key=natural_order) == ["a/img.jpg", "a/v_9.jpg", "a/v_10.jpg"]
    assert medium_of("a/v_10.jpg") == medium_of("a/v_9.jpg") != medium_of("a/w_9.jpg")


def test_the_first_face_is_enrolled_and_the_others_are_probes(bench: Bench) -> None:
    people = bench.people
    assert len(people.names) == PEOPLE + 1
    assert [bench.store.names[row] for row in people.enrolled][:2] == ["p00/img.jpg", "p01/img.jpg"]
    assert [len(rows) for rows in people.probes] == [FRAMES - 1] * PEOPLE + [0]
    assert [owner for owner, _ in people.sequences] == list(range(PEOPLE))
    frames = [bench.store.names[row] for row in people.sequences[3][1]]
    assert frames == [f"p03/videos_1_{n}.jpg" for n in range(FRAMES - 1)]


def test_sets_grow_and_halves_part_the_qualities(bench: Bench) -> None:
    sets = {level: draw_sets(bench, (1, 4), 3, level) for level in ("better half", "worse half")}
    for by_size in sets.values():
        assert len(by_size[4].rows) == len(by_size[1].rows) == 3 * PEOPLE
        for one, four in zip(by_size[1].rows, by_size[4].rows, strict=True):
            assert one.tolist() == four[:1].tolist() and len(set(four.tolist())) == 4
    quality = bench.store.quality
    for better, worse in zip(sets["better half"][4].rows, sets["worse half"][4].rows, strict=True):
        assert quality[better].min() > quality[worse].max()


def test_scores_are_those_of_the_live_search(bench: Bench) -> None:
    rows = [bench.people.probes[who][:5] for who in range(PEOPLE)]
    templates = bench.fuse(bench.aggregators["quality"], Sets(rows, np.arange(PEOPLE)))
    owners = np.arange(len(bench.gallery))
    index = SearchIndex(bench.gallery, owners, anchors=bench.matchers["ida"])
    for by in ("ida", "cosine"):
        scores = bench.score(templates, by)
        for row, hits in enumerate(index.search(templates, len(owners), by=by)):
            live = {hit.identity: hit.score for hit in hits}
            assert scores[row] == pytest.approx([live[one] for one in owners], abs=1e-6)


def test_a_cell_by_hand() -> None:
    """Two probes against three enrolled: own scores .9 and .5, others up to .6."""
    scores = np.array([[0.9, 0.1, 0.2], [0.6, 0.5, 0.3]])
    owners = np.array([0, 1])
    none = measure_cell(scores, owners, 0.0, Bootstrap(0))
    assert (none.tar, none.rank, len(none.tar_draws)) == (0.5, 0.5, 0)
    assert measure_cell(scores, owners, 0.25, Bootstrap(0)).tar == 1.0  # .6 is one of four
    tied = measure_cell(np.array([[0.5, 0.5], [0.1, 0.5]]), owners, 0.5, Bootstrap(0))
    assert tied.rank == 0.5  # a tie counts against the system


def test_the_grid_is_what_live_aggregators_give(made: Path, bench: Bench) -> None:
    result = evaluate_fusion(made / "faces", choose(made, "sets"), source(made))
    numbers = result.report.numbers()
    sets = draw_sets(bench, (1, 4), 3, "worse half")[4]
    unit = np.asarray(bench.store.embeddings, float)
    unit[bench.store.embedded] /= np.linalg.norm(unit[bench.store.embedded], axis=1)[:, None]
    fused = np.stack([unit[rows].mean(axis=0) for rows in sets.rows])
    fused /= np.linalg.norm(fused, axis=1, keepdims=True)
    scores = fused @ unit[bench.people.enrolled].T
    expected = measure_cell(scores, sets.owners, FAR, Bootstrap(0))
    tar = numbers["Sets: TAR@FAR=0.05 / worse half: mean, cosine / N=4"]
    assert tar.value == pytest.approx(expected.tar)
    assert tar.low is not None and tar.high is not None and tar.low <= expected.tar <= tar.high
    rank = numbers["Sets: rank 1 / worse half: mean, cosine / N=4"]
    assert rank.value == pytest.approx(expected.rank)
    # One face fused is that face, whatever fuses it.
    for name in ("quality", "caface"):
        for matcher in ("cosine", "ida"):
            single = numbers[f"Sets: TAR@FAR=0.05 / any: {name}, {matcher} / N=1"].value
            mean = numbers[f"Sets: TAR@FAR=0.05 / any: mean, {matcher} / N=1"].value
            assert single == pytest.approx(mean)
    gain = numbers["Sets: relative gain over the mean in TAR / worse half: quality, cosine / N=4"]
    quality = numbers["Sets: TAR@FAR=0.05 / worse half: quality, cosine / N=4"].value
    assert quality is not None and tar.value is not None
    assert gain.value == pytest.approx(quality / tar.value - 1)
    # More faces and better ones are worth more here.
    of = {key.removeprefix("Sets: TAR@FAR=0.05 / "): n.value for key, n in numbers.items()}
    assert of["any: mean, cosine / N=4"] > of["any: mean, cosine / N=1"]
    assert of["better half: mean, cosine / N=1"] > of["worse half: mean, cosine / N=1"]
    assert set(result.draws) <= set(numbers)


def test_the_share_and_the_chunk_of_a_medium(made: Path, bench: Bench) -> None:
    result = evaluate_fusion(made / "faces", choose(made, "share", "chunk"), source(made))
    numbers = result.report.numbers()
    whole = Sets([rows for _, rows in bench.people.sequences], np.arange(PEOPLE))
    templates = bench.fuse(bench.aggregators["quality"], whole)
    expected = measure_cell(bench.score(templates, "ida"), whole.owners, FAR, Bootstrap(0))
    seen = "Share seen: TAR@FAR=0.05 / quality, ida / "
    assert numbers[seen + "100%"].value == pytest.approx(expected.tar)
    assert {key.removeprefix(seen) for key in numbers if key.startswith(seen)} == {
        "10%", "25%", "50%", "75%", "100%"
    }  # fmt: skip
    alike = "Chunk size: cosine to the template of one chunk / smallest / "
    # 19 faces fit into a chunk of 32; in chunks of 16 they are two.
    for same in ("32", "64", "all at once"):
        assert numbers[alike + same].value == pytest.approx(1.0, abs=1e-6)
    assert numbers[alike + "1"].value < 1.0 - 1e-9
    assert any("live 16" in line for line in result.report.variant)


def test_chunks_are_of_the_size_that_was_asked_for(made: Path) -> None:
    head = load_head(made / "head.npz")
    draw = np.random.default_rng(2)
    vectors = draw.normal(size=(10, WIDTH)).astype("f4")
    members = Members(
        vectors,
        np.linalg.norm(vectors, axis=1),
        np.ones(10, "f4"),
        draw.normal(size=(10, STYLES, 2)).astype("f4"),
    )
    fours = CAFace(head, chunk=4)
    state = fours.update(fours.empty(), members)
    assert (state.summed, len(state.pending.norms)) == (8, 2)
    rows = [fours.weigh(members.take(slice(at, at + 4))) for at in (0, 4)]
    assert state.mass == pytest.approx(np.concatenate(rows).sum(axis=0))


def test_speed_is_relative_to_the_embedder(made: Path, open_models: Pack) -> None:
    report = evaluate_fusion(made / "faces", choose(made, "speed"), source(made)).report
    numbers = report.numbers()
    for name in ("mean", "quality", "caface"):
        values = [
            numbers[f"Fusion: speed relative to the embedder / {name} / N={n}"].value
            for n in (16, 512)
        ]
        assert all(value is not None and value > 0 for value in values)
    assert "onnxruntime" in report.tables[-1].note


def test_what_cannot_be_measured_is_refused(made: Path, tmp_path: Path) -> None:
    faces = made / "faces"
    with pytest.raises(
        ConfigError, match=r"sets of 16 faces.*need 32 faces.*fullest have 19 and 19"
    ):
        evaluate_fusion(faces, choose(made, "sets", sizes=(16,)), source(made))
    with pytest.raises(ConfigError, match=r"--part must be sets, share, chunk or speed, got x"):
        evaluate_fusion(faces, choose(made, "x"), source(made))
    with pytest.raises(ConfigError, match=r"holds features of pack open .*those of omz"):
        evaluate_fusion(faces, choose(made, "sets"), source(made, "omz"))
    for name in ("learned", "caface"):  # the pack's own heads, on features with other styles
        choices = choose(made, "sets", head=None, aggregators=(name,))
        with pytest.raises(ModelError, match=r"fitted to 192 style channels.*gives 5"):
            evaluate_fusion(faces, choices, source(made))
    save_head(tmp_path / "other.npz", random_head(1, HeadSize(16, STYLES, 2)))
    with pytest.raises(ModelError, match=r"fitted to 16 numbers.*gives 128"):
        evaluate_fusion(faces, choose(made, "sets", head=tmp_path / "other.npz"), source(made))
    save_head(tmp_path / "styles.npz", random_head(1, HeadSize(WIDTH, STYLES + 1, 2)))
    with pytest.raises(ModelError, match=r"fitted to 6 style channels.*gives 5"):
        evaluate_fusion(faces, choose(made, "sets", head=tmp_path / "styles.npz"), source(made))
    with pytest.raises(ConfigError, match="expected one folder of pictures per identity"):
        evaluate_fusion(faces, choose(made, "sets"), source(made)._replace(features=None))


def test_faces_that_cannot_be_used_are_refused_or_counted(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "store", tmp_path / "store")
    states = np.lib.format.open_memmap(tmp_path / "store" / "states.npy", mode="r+")
    states[3], states[4] = State.NOT_FINITE, State.UNREADABLE
    states.flush()
    stored = source(made)._replace(features=tmp_path / "store")
    with pytest.raises(ConfigError, match=r"2 of 253 faces cannot be used.* features not finite"):
        evaluate_fusion(made / "faces", choose(made, "sets"), stored)
    skipping = stored._replace(skip_bad=True)
    report = evaluate_fusion(made / "faces", choose(made, "sets"), skipping).report
    assert [(one.where, one.why) for one in report.bad] == [
        ("p00/videos_1_2.jpg", "features not finite"),
        ("p00/videos_1_3.jpg", "not a readable picture"),
    ]


def test_what_is_not_measured_is_named_in_the_report(made: Path) -> None:
    choices = choose(made, "sets", "chunk", aggregators=("mean", "quality"))
    report = evaluate_fusion(made / "faces", choices, source(made)).report
    assert not any("caface" in key for key in report.numbers())
    assert any(line.startswith("caface is not measured") for line in report.variant)


def test_the_command_writes_a_report(made: Path, tmp_path: Path) -> None:
    words = ["fusion", str(made / "faces"), "--features", str(made / "store")]
    words += ["--head", str(made / "head.npz"), "--part", "sets", "--part", "chunk", "--json"]
    for name in ("mean", "quality", "caface"):
        words += ["--aggregator", name]
    words += ["--size", "2", "--far", "0.05", "--resamples", "0", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"] == "fusion"
    titles = [table["title"] for table in report["tables"]]
    assert titles[0] == "Sets: TAR@FAR=0.05" and titles[-1].startswith("Chunk size: cosine")
    assert "<svg" in (tmp_path / "report.html").read_text()
