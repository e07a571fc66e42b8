"""`facestream thresholds`, and the pseudo-tracks behind it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError, SourceMissing
from facestream.models import card_file as card_file_module
from facestream.models.aggregators import make_aggregator
from facestream.models.card_file import read_card
from facestream.models.fusion import Members
from facestream.models.open_set_tracks import load_strangers
from facestream.models.pack import load_card, strangers_of
from facestream.stream.gallery import Gallery
from facestream.tools.thresholds import app
from facestream.tools.thresholds_make import fit_pack, folder_faces, install
from facestream.tools.thresholds_tracks import decide_track, make_tracks

from ..train.made_bank import PEOPLE, SETTINGS, make_store

PACK = "omz"


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty people of the pack, as vectors."""
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    card = load_card(PACK)
    draw = np.random.default_rng(0)
    path = tmp_path / "people.db"
    with Gallery.open(path, create=True) as opened:
        for number in range(40):
            opened.add_sample(
                f"person {number}",
                draw.standard_normal(card.embedder.dimension).astype(np.float32),
                norm=2.0,
                quality=0.5,
                pack=PACK,
                embedder=card.checksum(card.embedder.file),
                digest=f"{number:064x}",
                source=f"{number}.jpg",
            )
    return path


def show(gallery: Path, *more: str) -> str:
    done = CliRunner().invoke(
        app, ["show", "--pack", PACK, "--gallery", str(gallery), *more], catch_exceptions=False
    )
    assert done.exit_code == 0
    return done.stdout


def test_show_tells_what_is_in_force_and_what_other_promises_take(gallery: Path) -> None:
    told = json.loads(show(gallery, "--json", "--set", "match.target_fpir=0.02"))
    strangers = strangers_of(load_card(PACK))
    assert strangers is not None
    assert (told["gallery_people"], told["target_fpir"], told["seen"]) == (40, 0.02, 0)
    low, high = told["interval"]
    assert low < told["threshold"] < high
    by_rate = {one["fpir"]: one["threshold"] for one in told["promises"]}
    assert by_rate[0.02] == told["threshold"]
    assert sorted(by_rate, reverse=True) == sorted(by_rate, key=lambda rate: by_rate[rate])
    curve = told["curve"]
    assert curve[0]["fpir"] == pytest.approx(0.5, abs=0.01)
    assert all(one["low"] <= one["fpir"] * 1.001 + 1e-9 for one in curve)
    words = " ".join(show(gallery, "--set", "match.target_fpir=0.02").split())
    assert f"threshold {told['threshold']:.3f}: fitted for FPIR 2 %" in words
    assert "unknown tracks seen here: 0" in words


def test_learned_densities_have_thresholds_of_their_own(gallery: Path) -> None:
    def threshold(density: str) -> float:
        settings = ("--set", "match.score=ida", "--set", f"match.density={density}")
        return float(json.loads(show(gallery, "--json", *settings))["threshold"])

    assert threshold("learned") != pytest.approx(threshold("anchors"), abs=1e-4)


def test_a_threshold_by_hand_is_shown_with_what_it_comes_to(gallery: Path) -> None:
    told = json.loads(show(gallery, "--json", "--set", "match.threshold=0.3"))
    assert (told["threshold"], told["target_fpir"]) == (0.3, None)
    assert told["why"].startswith("set in the configuration (match.threshold): FPIR ")


def test_the_curve_is_a_page_of_its_own(gallery: Path, tmp_path: Path) -> None:
    show(gallery, "--plot", str(tmp_path / "curve.html"))
    page = (tmp_path / "curve.html").read_text(encoding="utf-8")
    assert '<svg class="plot"' in page and page.count("<polyline") == 4
    assert "src=" not in page and "href=" not in page


def test_an_empty_gallery_has_the_packs_own_threshold(gallery: Path) -> None:
    with Gallery.open(gallery, create=False) as opened:
        for number in range(40):
            opened.remove(f"person {number}")
    told = json.loads(show(gallery, "--json"))
    assert told["why"].startswith("the pack's own") and told["curve"] == []


def test_a_promise_needs_strangers(gallery: Path) -> None:
    with pytest.raises(ConfigError, match="carries no tracks of strangers, so no rate"):
        show(gallery, "--pack", "buffalo_l", "--set", "match.target_fpir=0.01")


@pytest.fixture
def bank(tmp_path: Path):
    from facestream.models.feature_store import FeatureStore
    from facestream.train.feature_bank import Bank

    return Bank(FeatureStore(make_store(tmp_path / "bank")), SETTINGS)


def test_tracks_are_decided_as_a_run_decides_them(bank) -> None:
    mean, quality = (
        make_aggregator(name, dimension=bank.embeddings.shape[-1]) for name in ("mean", "quality")
    )
    views = [(0, run, frame) for run in range(3) for frame in range(4)]
    decided = decide_track(bank, views, [quality, mean])
    assert [frames for _, frames, _ in decided] == [1, 2, 3, 4, 6, 9, 12]  # due, and at the end
    state = mean.empty()
    for count, view in enumerate(views, 1):
        vector = bank.embeddings[view]
        norm = np.array([np.linalg.norm(vector)], np.float32)
        quality = np.array([bank.quality[view]], np.float32)
        state = mean.update(state, Members(vector[None], norm, quality, bank.styles[view][None]))
        if count == 6:
            np.testing.assert_allclose(decided[4][0][1], mean.read(state), atol=1e-6)


def test_everybody_has_tracks_of_views_with_a_face_and_of_nobody_else(bank) -> None:
    owners = [f"person {n:02}" for n in range(len(bank.names))]
    mean = make_aggregator("mean", dimension=bank.embeddings.shape[-1])
    every = make_tracks(bank, owners, [mean], tracks=3, seed=1, synthetic={"person 00"})
    made = every.by("mean", 3)
    assert len(made.people) == 3 * len(set(made.people.tolist()))
    assert len(set(made.people.tolist())) == len(bank.names) == PEOPLE - 1
    assert made.synthetic.tolist() == (made.people == 0).tolist()
    centres = bank.centres[made.people[made.tracks]]
    others = bank.centres[(made.people[made.tracks] + 1) % len(bank.names)]
    own = (made.vectors * centres).sum(axis=1)
    assert np.mean(own > (made.vectors * others).sum(axis=1)) > 0.85
    again = make_tracks(bank, owners, [mean], tracks=3, seed=1)
    np.testing.assert_array_equal(again.steps, every.steps)
    left: list[str | None] = [None, *owners[1:]]
    assert len(make_tracks(bank, left, [mean], tracks=3, seed=1).people) == len(every.people) - 3


def crash(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_was_made_is_named_in_the_card_and_read_again(
    bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card_file = tmp_path / "mine.yaml"
    text = load_card(PACK).path.read_text(encoding="utf-8")
    card_file.write_text(text[: text.index("\nstrangers:")], encoding="utf-8")
    owners = [f"person {n:02}" for n in range(len(bank.names))]
    mean = make_aggregator("mean", dimension=bank.embeddings.shape[-1])
    words = {"licence": "MIT", "attribution": "nobody", "command": "a test"}
    before = install(
        read_card(card_file), make_tracks(bank, owners, [mean], tracks=1, seed=1), **words
    )
    made = make_tracks(bank, owners, [mean], tracks=2, seed=1)
    monkeypatch.setattr(card_file_module, "replace_section", crash)
    with pytest.raises(KeyboardInterrupt):  # the card has the file that it names
        install(read_card(card_file), made, **words)
    spec = read_card(card_file).strangers
    assert spec is not None and spec.file == before.name
    assert hashlib.sha256(before.read_bytes()).hexdigest() == spec.sha256
    monkeypatch.undo()
    path = install(read_card(card_file), made, **words)
    assert path.is_file() and not before.exists()
    spec = read_card(card_file).strangers
    assert spec is not None and (spec.file, spec.licence) == (path.name, "MIT")
    assert spec.validation == {"tracks": len(made.people), "people": len(bank.names)}
    read = load_strangers(path, bank.embeddings.shape[-1])
    np.testing.assert_array_equal(read.people, made.people)


def test_faces_are_named_by_folder_or_file(tmp_path: Path) -> None:
    for name in ("ann/1.jpg", "ann/2.JPG", "bob.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = folder_faces(tmp_path)
    assert {name: who for name, (who, _) in found.items()} == {
        "ann/1.jpg": "ann", "ann/2.JPG": "ann", "bob.png": "bob",
    }  # fmt: skip
    with pytest.raises(SourceMissing, match="holds no pictures"):
        folder_faces(tmp_path / "ann" / "empty")
    with pytest.raises(ConfigError, match="say whose faces these are"):
        fit_pack(PACK, tmp_path, None, tracks=1, seed=1, data="", licence="")
