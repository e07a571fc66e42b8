"""Going over to another pack, as a person and as a script do it; the pack auto."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from facestream import ConfigError, FacestreamError, GalleryError, UnknownPack
from facestream.configs.schema import Config, ModelsConfig
from facestream.models import pack as packs
from facestream.models import store as models_store
from facestream.models.align import ARCFACE_112
from facestream.models.inference import Embedded, FaceBoxes
from facestream.models.quality import NormQuality
from facestream.stream.gallery import Gallery
from facestream.stream.sighting_store import Sightings
from facestream.tools.cli import app as whole_app
from facestream.tools.gallery import app
from facestream.tools.pack_in_use import with_gallery_pack

EMBEDDER = "c" * 64


class WholePicture:
    """Takes every picture for a face, and describes it by its mean colour."""

    template = ARCFACE_112
    dimension = 3

    def detect(self, images: Any, *, score: float | None = None) -> list[FaceBoxes]:
        return [
            FaceBoxes(
                np.array([[20, 20, 80, 80]], np.float32),
                (ARCFACE_112.points / 2 + 20)[None].astype(np.float32),
                np.ones(1, np.float32),
            )
            for _ in images
        ]

    def embed(self, crops: Any) -> Embedded:
        vectors = crops.mean(axis=(1, 2)).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1).astype(np.float32)
        return Embedded(vectors, norms, np.zeros((len(crops), 0, 2), np.float32))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(["Anna", "Bob"]):
        picture = np.full((100, 100, 3), 100 + number, np.uint8)
        assert cv2.imwrite(str(folder / f"{name}.png"), picture)
    return folder


@pytest.fixture(autouse=True)
def data(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Anna and Bob, enrolled with pack open; a pack omz that fits in this file."""
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    card = SimpleNamespace(
        name="omz", checksum=lambda _: EMBEDDER, embedder=SimpleNamespace(file="net"), ida=None
    )
    whole = WholePicture()
    small = SimpleNamespace(
        card=card,
        detector=whole,
        embedder=whole,
        quality=NormQuality(unit="norm"),
        consumers={"embedder": ARCFACE_112},
        anchors=None,
        learned=None,
    )
    monkeypatch.setattr(packs, "open_pack", lambda name: small)
    with Gallery.open(tmp_path / "data" / "gallery.db", create=True) as gallery:
        for name in ("Anna", "Bob"):
            gallery.add_sample(
                name,
                np.ones(4, np.float32),
                norm=1.0,
                quality=1.0,
                pack="open",
                embedder="e" * 64,
                source=f"{name}.png",
                digest=hashlib.sha256((photos / f"{name}.png").read_bytes()).hexdigest(),
            )
    return tmp_path / "data"


def call(*words: str | Path, answer: str = "") -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], input=answer)
    if isinstance(result.exception, FacestreamError):
        raise result.exception
    return result


def answer(*words: str | Path) -> Any:
    return json.loads(call(*words, "--json").stdout)


def test_a_gallery_goes_over_to_another_pack(photos: Path) -> None:
    (photos / "Bob.png").rename(photos.parent / "Bob.png")
    shown = call("reembed", photos, "--pack", "omz").output
    assert "photos embedded with pack omz: 1, refused: 0, not found: 1, gallery version 3" in shown
    assert "no photo found: Bob.png of Bob" in shown and "omz: no embedding yet of Bob" in shown
    assert "pack omz: no embedding yet of Bob" in call("list").output
    assert "no embedding yet of pack omz" in call("show", "Bob").output
    assert "no embedding yet" not in call("show", "Anna").output
    with pytest.raises(GalleryError, match="Bob would be left without an embedding of pack omz"):
        call("switch", "omz")
    done = answer("reembed", photos.parent / "Bob.png", "--pack", "omz")
    assert (done["summary"]["done"], done["waiting"], done["version"]) == (1, [], 4)
    shown = call("switch", "omz").output
    assert "pack omz is in use instead of open, gallery version 5" in shown
    assert "pack omz is in use already" in call("switch", "omz").output
    refused = call("drop-pack", "open", answer="n\n")
    assert refused.exit_code == 1 and "nothing was erased" in refused.stderr
    shown = call("drop-pack", "open", answer="y\n").output
    assert "embeddings erased: 2, photos that had no other: 0, marks: 0, gallery version 6" in shown
    (left,) = answer("packs")["packs"]
    assert (left["pack"], left["in_use"], left["people"], left["waiting"]) == ("omz", True, 2, [])


def test_packs_are_shown_side_by_side(photos: Path) -> None:
    call("reembed", photos / "Anna.png", "--pack", "omz")
    found = answer("packs")
    assert found["version"] == 3
    assert [(p["pack"], p["in_use"], p["samples_waiting"]) for p in found["packs"]] == [
        ("omz", False, 1),
        ("open", True, 0),
    ]
    assert answer("list")["packs"] == found["packs"]
    shown = call("packs").output
    assert "c" * 12 in shown and "packs: 2, version 3" in shown


def test_who_is_named_is_left_behind(photos: Path) -> None:
    call("reembed", photos / "Anna.png", "--pack", "omz")
    shown = call("switch", "omz", "--without", "Bob").output
    assert "not matched any more: Bob" in shown
    with pytest.raises(GalleryError, match="Bob would be left without an embedding:"):
        call("drop-pack", "open", "--yes")
    dropped = answer("drop-pack", "open", "--yes", "--without", "Bob")
    assert (dropped["embeddings"], dropped["samples"], dropped["without"]) == (2, 1, ["Bob"])


@pytest.mark.parametrize("command", ["packs", "reembed", "switch", "drop-pack"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: facestream gallery {command}" in call(command, "--help").output


# The pack auto


@pytest.mark.parametrize(
    "words",
    [
        ("enroll", "photos"),
        ("search", "photos/Anna.png"),
        ("gallery", "not", "Anna", "--photo", "photos/Anna.png"),
        ("sightings", "like", "3f"),
        ("sightings", "cluster"),
        ("sightings", "name", "3f", "Cid"),
        ("sightings", "find", "Anna"),
        ("anchors", "verify"),
        ("thresholds", "show"),
    ],
)
def test_commands_take_the_pack_in_use_and_the_usual_one_for_a_new_gallery(
    words: tuple[str, ...], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("reembed", data.parent / "photos", "--pack", "omz")
    call("switch", "omz")
    Sightings.open(data / "sightings.db", create=True).close()
    monkeypatch.chdir(data.parent)

    def refuse(name: str) -> None:
        raise UnknownPack(f"asked for {name}")

    monkeypatch.setattr(packs, "open_pack", refuse)
    monkeypatch.setattr(models_store, "load_card", refuse)

    def asked(*options: str) -> str:
        error = CliRunner().invoke(whole_app, [*words, *options]).exception
        assert isinstance(error, UnknownPack), error
        return str(error)

    assert asked() == "asked for omz"
    assert asked("--pack", "open") == "asked for open"
    if words[0] == "enroll":  # which makes a gallery where there is none
        assert asked("--gallery", "new.db") == f"asked for {ModelsConfig.pack}"


def pack_of(config: Config, **changed: str) -> str:
    gallery = dataclasses.replace(config.gallery, **changed)
    return with_gallery_pack(dataclasses.replace(config, gallery=gallery)).models.pack


AUTO = Config(cameras=(), models=ModelsConfig(pack="auto"))


def test_auto_is_the_pack_in_use(photos: Path, data: Path) -> None:
    assert pack_of(AUTO) == "open"
    call("reembed", photos, "--pack", "omz")
    assert pack_of(AUTO) == "open"
    call("switch", "omz")
    assert pack_of(AUTO) == pack_of(AUTO, url=str(data / "gallery.db")) == "omz"
    assert pack_of(dataclasses.replace(AUTO, models=ModelsConfig(pack="open"))) == "open"
    # Photos of this run alone are embedded with the pack that is used everywhere else.
    assert pack_of(AUTO, folder=str(photos)) == ModelsConfig.pack


def test_auto_without_a_gallery_is_the_default_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "nothing"))
    assert pack_of(AUTO) == ModelsConfig.pack
    with pytest.raises(GalleryError, match="there is no gallery at"):
        pack_of(AUTO, url=str(tmp_path / "none.db"))
    with Gallery.open(tmp_path / "empty.db", create=True):
        assert pack_of(AUTO, url=str(tmp_path / "empty.db")) == ModelsConfig.pack


def test_auto_where_no_pack_was_chosen_says_what_to_do(data: Path) -> None:
    call("reembed", data.parent / "photos", "--pack", "omz")
    old = sqlite3.connect(data / "gallery.db")  # as an old gallery of several packs is
    old.execute("UPDATE gallery_state SET pack = '', embedder = ''")
    old.commit()
    old.close()
    with pytest.raises(ConfigError, match="holds those of omz, open, and none is in use"):
        pack_of(AUTO)
    call("switch", "omz")
    assert pack_of(AUTO) == "omz"
