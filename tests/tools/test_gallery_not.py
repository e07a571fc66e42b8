"""`facestream gallery not`, as a person and as a script use it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from facestream import (
    ConfigError,
    EnrolmentRefused,
    FacestreamError,
    GalleryError,
    SightingsUnreadable,
    UnknownIdentity,
    UnknownSighting,
)
from facestream.configs.paths import gallery_path, sightings_path
from facestream.models import pack as packs
from facestream.models.pack import Pack
from facestream.models.photo import describe_face, find_faces, tallest_face
from facestream.models.pull import fetch_group_photo
from facestream.stream.enrol import Enroller
from facestream.stream.gallery import Gallery
from facestream.stream.sighting_store import Sightings
from facestream.tools.gallery import app
from facestream.tools.render import enrolment_photos

from ..stream.test_sighting_store import draft, key


@pytest.fixture(scope="module")
def photos(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of several people."""
    folder = tmp_path_factory.mktemp("photos")
    photo = cv2.imread(str(fetch_group_photo()))
    enrolment_photos(photo, find_faces(open_models.detector, photo), folder)
    found = sorted(folder.rglob("*.jpg"))
    assert len(found) >= 2
    return found


@pytest.fixture(autouse=True)
def enrolled(
    open_models: Pack, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anna is enrolled from the first photo."""
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(packs, "open_pack", lambda *_, **__: open_models)
    with Gallery.open(gallery_path(), create=True) as gallery:
        Enroller(open_models, gallery).enrol_photo("Anna", photos[0])


def call(*words: str) -> Result:
    result = CliRunner().invoke(app, ["not", *words])
    if isinstance(result.exception, FacestreamError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_mark_is_made_by_the_pack_that_the_gallery_is_matched_with(
    photos: list[Path], open_models: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def opened(name: str) -> Pack:
        asked.append(name)
        return open_models

    monkeypatch.setattr(packs, "open_pack", opened)
    call("Anna", "--photo", str(photos[1]))
    vector = np.eye(256, dtype=np.float32)[0]
    with Gallery.open(gallery_path(), create=False) as gallery:
        gallery.add_sample(
            "Anna",
            vector,
            norm=1.0,
            quality=1.0,
            pack="omz",
            embedder="0" * 64,
            source="anna.jpg",
            digest="1" * 64,
        )
        gallery.packs.switch("omz")
    call("Anna", "--photo", str(photos[1]))
    assert asked == ["open", "omz"]


def test_a_photo_is_marked_listed_and_taken_back(photos: list[Path], open_models: Pack) -> None:
    made = json.loads(call("Anna", "--photo", str(photos[1]), "--note", "no", "--json").output)
    mark = made["marked"]
    assert (mark["name"], mark["source"], mark["notes"]) == ("Anna", photos[1].name, "no")
    with Gallery.open(gallery_path(), create=False) as gallery:
        assert gallery.version() == made["version"]
        (kept,) = gallery.roster("open").negatives["Anna"]
    image = cv2.imread(str(photos[1]))
    face = tallest_face(find_faces(open_models.detector, image))
    assert face is not None
    found = describe_face(open_models, image, face)
    assert float(kept @ found.embedding / found.norm) == pytest.approx(1.0, abs=1e-5)
    listed = call("--list").output
    assert mark["id"][:8] in listed and "Anna" in listed and "marks: 1, in" in listed
    assert json.loads(call("Anna", "--list", "--json").output)["marks"] == [mark]
    undone = call("--undo", mark["id"][:8]).output
    assert f"taken back: that {photos[1].name} is not Anna" in undone
    assert "marks: 0" in call("--list").output
    with pytest.raises(GalleryError, match="there is no mark"):
        call("--undo", mark["id"])


def test_a_sighting_is_marked_by_its_template(photos: list[Path], open_models: Pack) -> None:
    image = cv2.imread(str(photos[1]))
    face = tallest_face(find_faces(open_models.detector, image))
    assert face is not None
    found = describe_face(open_models, image, face)
    embedder = open_models.card.checksum(open_models.card.embedder.file)
    vector = found.embedding / found.norm
    with Sightings.open(sightings_path(), create=True) as store:
        store.write(
            [
                draft(1, 1e9, vector=vector, embedder=embedder, quality_median=0.5),
                draft(2, 1e9 + 9, reason="too few frames", frames=1),
            ]
        )
    told = call("Anna", "--sighting", key(1)[:12]).output
    assert f"marked: sighting {key(1)[:8]}, camera" in told and "is not Anna" in told
    with Gallery.open(gallery_path(), create=False) as gallery:
        (kept,) = gallery.roster("open").negatives["Anna"]
    assert float(kept @ vector) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ConfigError, match=r"no template of sighting .* by pack open is kept"):
        call("Anna", "--sighting", key(2))
    with pytest.raises(UnknownSighting):
        call("Anna", "--sighting", "0" * 32)


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["Anna"], ConfigError, "give one of --sighting, --photo, --list and --undo"),
        (["Anna", "--list", "--undo", "a"], ConfigError, "give one of"),
        (["--sighting", "a1"], ConfigError, "NAME is missing"),
        (["Anna", "--sighting", "a1"], SightingsUnreadable, "sightings.db"),
        (["Nobody", "--photo", "1"], UnknownIdentity, "no identity Nobody"),
        (["Anna", "--photo", "0"], EnrolmentRefused, "is enrolled as Anna: remove Anna"),
        (["Anna", "--photo", "missing.jpg"], EnrolmentRefused, "unreadable photo"),
    ],
)
def test_what_cannot_be_marked_is_refused_in_words(
    photos: list[Path], words: list[str], error: type[FacestreamError], says: str
) -> None:
    words = [str(photos[int(word)]) if word in ("0", "1") else word for word in words]
    with pytest.raises(error, match=says):
        call(*words)
    with Gallery.open(gallery_path(), create=False) as gallery:
        assert gallery.marks() == ()
