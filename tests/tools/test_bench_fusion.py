"""`facestream bench fusion`: sets, rates by hand, differences, the page."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from facestream import ConfigError, CorruptModelFile
from facestream.configs.simulation import read_simulation
from facestream.configs.split import role_pictures
from facestream.models.aggregators import make_aggregator
from facestream.models.fusion import Members, normalise_rows
from facestream.models.pack import fusion_heads
from facestream.models.store import load_card
from facestream.tools import bench_fusion, bench_fusion_tracks
from facestream.tools.bench_fusion import (
    Cells,
    Hits,
    Measured,
    compare,
    contrast,
    measure,
    measure_pack,
    resample,
)
from facestream.tools.bench_fusion_fusers import Compared, Drawn, fusers_of, heads_of, open_head
from facestream.tools.bench_fusion_page import write_page
from facestream.tools.bench_fusion_tracks import (
    SETS,
    TRACKS,
    Tracks,
    all_tracks,
    draw_sets,
    tracks_of,
)
from facestream.tools.bench_fusion_verdict import in_short
from facestream.tools.sim_cast import cast_from_assets

ASSETS = Path(os.environ.get("FACESTREAM_ASSETS", "/nowhere"))
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="no faces: $FACESTREAM_ASSETS")
SHORT = (1, 8, 16, 32, 64)
PEOPLE, RUNS, FRAMES, C, K = 6, 3, 4, 256, 192


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    draw = np.random.default_rng(0)
    gallery = normalise_rows(draw.normal(size=(PEOPLE, C)))
    quality = np.repeat(draw.uniform(0.05, 1.0, PEOPLE * RUNS), FRAMES)
    owners = np.repeat(np.arange(PEOPLE), RUNS * FRAMES)
    noise = normalise_rows(draw.normal(size=(len(owners), C))) * (3 * (1 - quality[:, None]))
    embeddings = (gallery[owners] + noise).astype(np.float32)
    members = Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1),
        quality.astype(np.float32),
        draw.normal(size=(len(owners), K, 2)).astype(np.float32),
    )
    return Tracks("london, made", members, owners, np.arange(len(owners)) // FRAMES, gallery)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that are measured here; each module has the names by itself."""
    for module in ("bench_fusion", "bench_fusion_page"):
        monkeypatch.setattr(f"facestream.tools.{module}.SIZES", SHORT)
    for module in ("bench_fusion", "bench_fusion_page", "bench_fusion_verdict"):
        monkeypatch.setattr(f"facestream.tools.{module}.COMPARED", SHORT[1:])


@pytest.fixture(scope="module")
def cells(tracks: Tracks) -> Cells:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_fusion, "SIZES", SHORT)
        return measure(tracks, fusers_of("omz"))


def test_rates_by_hand() -> None:
    own, other = np.array([0.9, 0.5, 0.2, 0.8]), np.array([0.1, 0.6, 0.1, 0.4])
    hits = Hits(np.array([0, 0, 1, 1]), own, other, np.ones(4, np.int64))
    # FPIR 1 % of four searches lets none pass: the bar is 0.6.
    np.testing.assert_allclose(hits.value, [0.75, 0.5])
    # Of 400 searches, of which 3 are the second, it may pass, and the bar is the fourth's 0.4.
    weights = np.array([[100.0, 3.0, 197.0, 100.0]])
    np.testing.assert_allclose(hits.rates(weights), [[397 / 400, 200 / 400]])
    once = np.array([[1.0, 0.0, 0.0, 1.0]])
    np.testing.assert_allclose(hits.rates(once), [[1.0, 1.0]])


def test_sets_are_of_one_person_and_made_of_runs(tracks: Tracks) -> None:
    for size in (1, 8, 40):
        sets = draw_sets(tracks, size)
        assert len(sets) == SETS["london"] * PEOPLE and all(len(rows) == size for rows in sets)
        for rows in sets:
            assert len(set(tracks.owners[rows])) == 1
            changes = np.count_nonzero(np.diff(tracks.stretches[rows]))
            assert changes < RUNS
        assert all(np.array_equal(a, b) for a, b in zip(sets, draw_sets(tracks, size), strict=True))


def test_better_weights_find_more_and_one_face_is_the_same_to_all(cells: Cells) -> None:
    names = list(dict.fromkeys(name for name, _ in cells))
    shown = ["mean", "norm", "quality", "learned", "caface", "oracle"]
    told = ["oracle, 4th power", "oracle, runs known", "best weights", "learned, runs known"]
    assert names == [*shown, *told]
    own = {name: cells[name, 16].own.mean() for name in names}
    assert own["mean"] < own["quality"] <= own["oracle"] + 0.1
    for name in names:
        np.testing.assert_allclose(cells[name, 1].own, cells["mean", 1].own, atol=1e-5)


def test_intervals_hold_the_value_and_differences_are_paired(cells: Cells) -> None:
    first, named = resample(cells["quality", 16])
    for rate in (first, named):
        assert 0.0 <= rate.low <= rate.value <= rate.high <= 1.0
    same = compare(cells, "quality", "quality")
    assert same == (0.0, 0.0, 0.0)
    there, back = compare(cells, "quality", "mean"), compare(cells, "mean", "quality")
    assert there.value == pytest.approx(-back.value) and there.low == pytest.approx(-back.high)


def test_columns_are_augmented_where_sets_repeat_views(
    tracks: Tracks, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facestream.tools.bench_fusion_page.SIZES", (1, 16))
    views = RUNS * FRAMES
    assert (cells["mean", 64].distinct <= views).all() and (cells["mean", 1].distinct == 1).all()
    repeated = [len(set(rows.tolist())) for rows in draw_sets(tracks, 16)]
    np.testing.assert_array_equal(cells["caface", 16].distinct, repeated)
    quarter = np.where(np.arange(SETS["london"] * PEOPLE) % 4 == 0, 12, 16)
    made = {
        key: dataclasses.replace(hits, distinct=quarter) if key[1] == 16 else hits
        for key, hits in cells.items()
    }
    page = write_page({"omz": Measured({"london, made": made}, {})}, "bench")
    assert "| sets | N=1 | N=16 (augmented) |" in page and "N=1 (augmented)" not in page
    assert "| that repeat a view, % | 0 | 25 |" in page
    assert "| distinct views, mean | 1.0 | 15.0 |" in page


def test_the_page_tells_everything(cells: Cells) -> None:
    done = Measured({"london, made": cells}, {"simulated, night": 3})
    page = write_page({"omz": done}, "facestream bench fusion --folder banks")
    assert "### omz: london, made" in page and "N=64 (augmented)" in page
    assert "| caface - learned |" not in page and "| learned, runs known - learned |" in page
    places = [
        page.index(words)
        for words in (
            "## omz in short",
            "Nothing is said of simulated, night: only 3 people have a set, and 20 are",
            "## How it was measured",
            "\n## omz\n",
            "| TPIR at FPIR 1 %, mean",
            "| TPIR less that of learned",
            "### omz: london, made",
        )
    ]
    assert places == sorted(places)
    against = page[places[-2] :]
    assert "\n| caface | " in against and "\n| learned | " not in against[:400]
    assert f"\n- *London*: the {PEOPLE} people" in page and "- *wild*" not in page
    assert "the pack's own quality, lightqnet in omz;" in page and "do not run live" not in page


def test_the_page_describes_what_was_measured(cells: Cells) -> None:
    head = {("caface-guided", n): hits for (name, n), hits in cells.items() if name == "caface"}
    omz = Measured({"london, strong": cells | head, "simulated, night": cells | head}, {})
    open_ = Measured({"london, strong": cells}, {})
    page = write_page({"omz": omz, "open": open_}, "bench")
    assert "damage strong 0.55 to 0.9 on a scale" in page
    assert "preset night, 12 pictures per second" in page
    assert "lightqnet in omz and training-free in open;" in page
    assert "Others do not run live." in page and "Not trained for open: caface-guided. " in page
    assert page.count("Not measured for") == 1
    assert "Not measured for open: simulated night." in page
    nothing = write_page({"omz": Measured({}, {"simulated, night": 0})}, "bench")
    assert "only 0 people" in nothing and "| TPIR" not in nothing


def made_cells(found: dict[str, float]) -> Cells:
    """Cells in which each fuser names this share of ten people, 10 searches each, at every size."""
    owners = np.repeat(np.arange(10), 10)
    place = np.tile(np.arange(10), 10)
    return {
        (name, size): Hits(
            owners,
            np.where(place < 10 * share, 0.9, 0.1),
            np.full(100, 0.5),
            np.full(100, size),
        )
        for name, share in found.items()
        for size in SHORT
    }


def test_aims_are_judged_by_the_numbers() -> None:
    plain = {"mean": 0.2, "norm": 0.2, "quality": 0.4, "oracle": 0.8, "oracle, 4th power": 1.0}
    won = made_cells(plain | {"learned": 0.7, "caface": 0.5, "nan": 0.8})
    lost = made_cells(plain | {"learned": 0.4, "caface": 0.9, "nan": 0.1, "oracle": 0.3})
    text = in_short("omz", {"london, made": won, "wild": lost}, "learned")
    # Everybody has the same share in every resample: intervals have no width.
    for line in (
        "| *learned*, what omz fuses with: TPIR, % | 70.0 | 40.0 |",
        "| *learned* less the best of mean, norm and quality "
        "| quality: +30.0 (+30.0 to +30.0) | quality: +0.0 (+0.0 to +0.0) |",
        "| *caface* less *learned* | -20.0 (-20.0 to -20.0) | +50.0 (+50.0 to +50.0) |",
        "| the best of what does not run live, less *learned* "
        "| nan: +10.0 (+10.0 to +10.0) | nan: -30.0 (-30.0 to -30.0) |",
        "| share of the gap from *quality* to *oracle* that *learned* closes "
        "| 75 % | no clear gap |",
        "| share of the gap from *quality* to *oracle, 4th power* that *caface* closes "
        "| 17 % | 83 % |",
        "*learned* on london made, +20.0 (+20.0 to +20.0) before caface; *caface* on wild, ",
        "- Aim, *learned* clearly ahead of mean, norm and quality: **met** on london made; "
        "**missed** on wild (level with quality).",
        "- Aim, *caface* clearly ahead of mean, norm, quality and learned: **met** on wild; "
        "**missed** on london made (clearly behind learned).",
        "- Aim, half of the gap, *learned*: **met** on london made (75 %). "
        "No gap is clear on wild.",
        "- Aim, half of the gap, *caface*: **missed** on london made (25 %). ",
        "- **Clearly ahead of *learned*, which omz fuses with:** *caface* on wild, "
        "+50.0 (+50.0 to +50.0); *nan* on london made, +10.0 (+10.0 to +10.0). Of 10 comparisons",
    ):
        assert line in text, line


def test_a_share_that_is_not_clear_is_said(cells: Cells) -> None:
    half = contrast(cells, (("oracle", 0.5), ("quality", 0.5), ("mean", -1.0)))
    there, back = compare(cells, "oracle", "mean"), compare(cells, "quality", "mean")
    assert half.value == pytest.approx((there.value + back.value) / 2)
    owners = np.repeat(np.arange(10), 10)
    # The gap is clear; the head finds everybody of half of the people, the others as quality does.
    ahead = Hits(owners, np.where(owners < 5, 0.9, 0.1), np.full(100, 0.5), np.full(100, 1))
    plain = dict.fromkeys(("mean", "norm", "quality"), 0.0)
    made = made_cells(plain | {"oracle": 1.0, "oracle, 4th power": 1.0})
    made |= {("learned", size): ahead for size in SHORT}
    text = in_short("omz", {"wild": made}, "learned")
    assert "**met** on wild (50 %; whether more than half is not clear)." in text
    assert "- **Nothing is clearly ahead of *learned*, which omz fuses with.** Of 3 " in text


def test_of_few_people_nothing_is_measured(
    tracks: Tracks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_fusion, "all_tracks", lambda *given: iter([tracks]))
    monkeypatch.setattr(bench_fusion, "measure", lambda *given: {})
    assert measure_pack("omz", tmp_path, tmp_path, {}, []) == ({}, {"london, made": PEOPLE})
    monkeypatch.setattr(bench_fusion, "LEAST_PEOPLE", PEOPLE)
    assert measure_pack("omz", tmp_path, tmp_path, {}, []) == ({"london, made": {}}, {})


def test_tracks_are_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--tracks must be one of light, "):
        list(all_tracks("omz", tmp_path, tmp_path, ["dark"]))
    for kind in ("london", "simulated"):
        monkeypatch.setattr(
            bench_fusion_tracks, f"{kind}_tracks", lambda pack, assets, banks, name: name
        )
    monkeypatch.setattr(bench_fusion_tracks, "wild_tracks", lambda *given: None)
    assert list(all_tracks("omz", tmp_path, tmp_path)) == list(TRACKS)[:-1]
    assert list(all_tracks("omz", tmp_path, tmp_path, ["strong"])) == ["strong"]
    chosen = tracks_of(["omz", "open"], ["strong", "omz:wild"])
    assert chosen == {"omz": ["strong", "wild"], "open": ["strong"]}
    with pytest.raises(ConfigError, match="open:wild: expected a pack of omz, got open"):
        tracks_of(["omz"], ["open:wild"])


def drawn(tracks: Tracks, rows: np.ndarray) -> Drawn:
    members = Members(*(column[rows] for column in tracks.members))
    target = tracks.gallery[tracks.owners[rows[0]]]
    units = normalise_rows(members.embeddings)
    return Drawn(members, units @ target, tracks.stretches[rows], target)


def test_oracles_by_hand(tracks: Tracks) -> None:
    # Two runs of the first person: three faces of one, one of the other.
    one = drawn(tracks, np.array([0, 1, 1, FRAMES]))
    fusers, units = fusers_of("omz"), normalise_rows(one.members.embeddings)
    squares = np.maximum(one.truth, 1e-3) ** 2
    for name, weights in (
        ("oracle", squares),
        ("oracle, 4th power", squares**2),
        ("oracle, runs known", squares / np.array([3, 3, 3, 1])),
    ):
        expected = weights @ units
        np.testing.assert_allclose(
            fusers[name].fuse([one])[0], expected / np.linalg.norm(expected), atol=1e-6
        )
    best = float(fusers["best weights"].fuse([one])[0] @ one.target)
    draw = np.random.default_rng(3)
    for _ in range(50):
        other = draw.dirichlet(np.ones(4)) @ units
        assert best >= other @ one.target / np.linalg.norm(other) - 1e-6


def test_heads_in_files_are_rows_of_their_own(tracks: Tracks, tmp_path: Path) -> None:
    card = load_card("omz")
    for kind in ("learned", "caface"):
        path = fusion_heads(card)[kind]
        fuse = open_head(path, card).fuse
        live = make_aggregator(kind, dimension=C, head_path=path)
        long = drawn(tracks, np.concatenate([np.arange(8)] * 5))
        for one in (drawn(tracks, np.arange(8)), long):
            expected = live.read(live.update(live.empty(), one.members))
            np.testing.assert_allclose(fuse([one, one])[1], expected, atol=2e-5)
        again = fusers_of("omz", {"again": path})["again"].fuse
        np.testing.assert_array_equal(again([long]), fuse([long]))
    given = [Path("x/omz.nan.npz"), Path("y/open.nan.npz"), Path("omz.caface-guided.npz")]
    assert heads_of(["omz", "open"], given) == {
        "omz": {"nan": given[0], "caface-guided": given[2]},
        "open": {"nan": given[1]},
    }
    for wrong in ("open.nan.npz", "omz.npz", "omz.nan.pt"):
        with pytest.raises(ConfigError, match=r"PACK\.NAME\.npz of the packs omz, got"):
            heads_of(["omz"], [Path(wrong)])
    for twice in (["omz.caface.npz"], ["omz.mean.npz"], ["x/omz.nan.npz", "y/omz.nan.npz"]):
        with pytest.raises(ConfigError, match=r"omz has [a-z]+ already: give"):
            heads_of(["omz"], [Path(one) for one in twice])
    np.savez(tmp_path / "omz.nothing.npz", some=np.zeros(1))
    with pytest.raises(CorruptModelFile, match=r"omz\.nothing\.npz"):
        open_head(tmp_path / "omz.nothing.npz", card)


def test_what_was_measured_is_taken_up_until_head_or_tracks_change(
    tracks: Tracks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_fusion, "SIZES", (2, 4))
    calls = []

    def fuse(sets: Sequence[Drawn]) -> np.ndarray:
        calls.append(len(sets))
        return np.stack([one.members.embeddings[0] for one in sets])

    first = measure(tracks, {"one": Compared(fuse, "a")}, tmp_path)
    again = measure(tracks, {"two": Compared(fuse, "a")}, tmp_path)
    assert len(calls) == 2
    for size in (2, 4):
        for field in ("owners", "own", "other", "distinct"):
            np.testing.assert_array_equal(
                getattr(first["one", size], field), getattr(again["two", size], field)
            )
    measure(tracks, {"one": Compared(fuse, "b")}, tmp_path)
    moved = tracks._replace(gallery=tracks.gallery[::-1].copy())
    measure(moved, {"one": Compared(fuse, "a")}, tmp_path)
    assert len(calls) == 6


def test_a_simulated_set_is_one_track_in_a_row(tracks: Tracks) -> None:
    simulated = tracks._replace(words="simulated, made")
    for rows in draw_sets(simulated, 3):
        assert len(set(simulated.stretches[rows])) == 1
        steps = np.abs(np.diff(rows))
        assert (steps == 1).all()
    assert len(draw_sets(simulated, 3)) == SETS["simulated"] * PEOPLE


@needs_assets
def test_people_of_simulated_video_are_named_by_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(read_simulation("easy"), subjects=2)
    monkeypatch.setattr(bench_fusion_tracks, "read_simulation", lambda name: settings)
    monkeypatch.setattr(bench_fusion_tracks, "FPS", 2)
    monkeypatch.setattr(bench_fusion_tracks, "SECONDS", 4.0)
    people = cast_from_assets(ASSETS)
    few = people._replace(subjects=people.subjects[:2])
    monkeypatch.setattr("facestream.tools.sim_cast.cast_from_assets", lambda assets: few)
    found = bench_fusion_tracks.simulated_tracks("omz", ASSETS, tmp_path, "easy")
    names = sorted(role_pictures(ASSETS, "subject", "london"))
    seen = {names[owner] for owner in np.unique(found.owners)}
    assert seen and seen <= {one.name for one in few.subjects}
    assert len(found.members.norms) == len(found.owners) == len(found.stretches)
    likeness = bench_fusion.true_likeness(found)
    assert likeness.mean() > 0.3  # the pack knows whom it sees
