"""`facestream sightings` and `facestream search`, as a person and as a script use them."""

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
    SightingsError,
    SightingsUnreadable,
    UnknownSighting,
)
from facestream.configs.paths import gallery_path, sightings_path
from facestream.configs.schema import Config
from facestream.models import pack as packs
from facestream.models.fusion import Floats
from facestream.models.inference import Image
from facestream.models.pack import Pack
from facestream.models.photo import describe_face, find_faces, tallest_face
from facestream.models.pull import fetch_group_photo
from facestream.stream.enrol import Enroller
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change
from facestream.stream.sighting_records import Crop
from facestream.stream.sighting_store import Sightings
from facestream.tools.cli import app
from facestream.tools.render import enrolment_photos

from ..stream.test_gallery import add
from ..stream.test_sighting_store import draft, key

BOX = (1.0, 2.0, 3.0, 4.0)


@pytest.fixture(scope="module")
def photos(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of several people."""
    folder = tmp_path_factory.mktemp("photos")
    photo = cv2.imread(str(fetch_group_photo()))
    enrolment_photos(photo, find_faces(open_models.detector, photo), folder)
    found = sorted(folder.rglob("*.jpg"))
    assert len(found) >= 2
    return found


def describe(pack: Pack, photo: Path) -> tuple[Floats, Image]:
    """A face's unit embedding, and the picture."""
    image = cv2.imread(str(photo))
    face = tallest_face(find_faces(pack.detector, image))
    assert face is not None
    found = describe_face(pack, image, face)
    return found.embedding / np.float32(found.norm), image


@pytest.fixture(autouse=True)
def store(
    open_models: Pack, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The default store: somebody seen twice, somebody else once, and one without a template."""
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(packs, "open_pack", lambda *_, **__: open_models)
    card = open_models.card
    first, picture = describe(open_models, photos[0])
    second, _ = describe(open_models, photos[1])
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    crop = Crop(frame=12, pts=1.2, captured_at=1001.0, quality=0.5, weight=0.4, box=BOX, jpeg=jpeg)
    plain = {"embedder": card.checksum(card.embedder.file), "quality_median": 0.5}
    drafts = [
        draft(1, 1e9, vector=first, **plain),
        draft(2, 1e9 + 600, vector=first, camera="gate", **plain),
        draft(3, 1e9 + 900, vector=second, **plain),
        draft(4, 1e9 + 999, reason="too few frames", frames=1),
    ]
    drafts[0].keeps_crops, drafts[0].crops = True, [crop]
    drafts[0].values |= {"threshold_why": "the pack's own", "best_score": 0.25}
    with Sightings.open(sightings_path(), create=True) as opened:
        opened.write(drafts)
    return sightings_path()


def call(*words: str, answer: str = "") -> Result:
    result = CliRunner().invoke(app, list(words), input=answer)
    if isinstance(result.exception, FacestreamError):
        raise result.exception
    return result


def ask(*words: str) -> dict[str, object]:
    answer: dict[str, object] = json.loads(call(*words, "--json").stdout)
    return answer


def test_list_and_its_filters() -> None:
    shown = call("sightings", "list").output
    assert "4 sightings" in shown and shown.count("unknown") == 3 and "too few frames" in shown
    assert "1 sighting," in call("sightings", "list", "--camera", "gate").output
    newest = call("sightings", "list", "--limit", "1").output
    assert "4 sightings, the newest 1 shown" in newest and key(4)[:8] in newest
    answer = ask("sightings", "list", "--unknown", "--until", "2001-09-09")
    assert answer["total"] == len(answer["sightings"]) <= 4  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--since must be a day"):
        call("sightings", "list", "--since", "yesterday")


def test_show_writes_pictures_where_it_is_told(tmp_path: Path, store: Path) -> None:
    shown = call("sightings", "show", key(1)[:6]).output
    assert key(1) in shown and "template and pictures" in shown
    assert "best score: 0.250" in shown and "threshold: the pack's own" in shown
    assert not list(tmp_path.glob("*.jpg"))
    call("sightings", "show", key(1)[:6], "--pictures", str(tmp_path / "faces"))
    (file,) = (tmp_path / "faces").iterdir()
    assert cv2.imread(str(file)) is not None
    assert ask("sightings", "show", key(1))["sighting"]["track"] == 1  # type: ignore[index]
    with pytest.raises(UnknownSighting):
        call("sightings", "show", "0000")


def test_where_else_somebody_was_seen() -> None:
    answer = ask("sightings", "like", key(1)[:8])
    hits = answer["hits"]
    assert [hit["sighting"]["track"] for hit in hits] == [2, 3]  # type: ignore[index,attr-defined]
    assert hits[0]["cosine"] == pytest.approx(1.0, abs=1e-5)  # type: ignore[index]
    shown = call("sightings", "like", key(1)[:8]).output
    assert "2 sightings searched" in shown and "not searched: 1" in shown


def test_a_stranger_is_grouped_named_and_searched(photos: list[Path]) -> None:
    (stranger,) = ask("sightings", "cluster")["strangers"]  # type: ignore[misc]
    assert [one["track"] for one in stranger["sightings"]] == [1, 2]
    assert stranger["id"] in call("sightings", "list").output
    named = ask("sightings", "name", stranger["id"], "Anna Smith")
    assert named["enrolled"] == 1 and len(named["marked"]) == 2  # type: ignore[arg-type]
    assert call("sightings", "list", "--person", "Anna Smith").output.count("Anna Smith") == 2
    assert "named: " in call("sightings", "show", key(2, "gate")).output

    answer = ask("search", str(photos[0]))
    assert answer["people"]["identity"] == "Anna Smith"  # type: ignore[index]
    found = answer["sightings"]
    assert [hit["sighting"]["track"] for hit in found["hits"]] == [1, 2, 3]  # type: ignore[index]
    assert found["without_template"] == 1  # type: ignore[index]
    shown = call("search", str(photos[0]), "--top", "2").output
    assert "this is who it is" in shown and "3 sightings searched" in shown
    assert "a stranger reaches the best score with a probability of" in " ".join(shown.split())

    # Under the name of today, whatever it was then.
    call("gallery", "edit", "Anna Smith", "--name", "Anna Jones")
    assert ask("sightings", "list", "--person", "Anna Jones")["total"] == 2
    call("gallery", "edit", "Anna Jones", "--name", "Anna Smith")
    removed = ask("gallery", "remove", "Anna Smith", "--yes")
    assert (removed["samples"], removed["sightings"]) == (1, 2)
    assert {one["track"] for one in ask("sightings", "list")["sightings"]} == {3, 4}  # type: ignore[attr-defined]


def test_somebody_enrolled_by_photo_is_found_in_the_past(
    open_models: Pack, photos: list[Path]
) -> None:
    with Gallery.open(gallery_path(), create=True) as gallery:
        Enroller(open_models, gallery).enrol_photo("Bob", photos[1])
    shown = call("sightings", "find", "Bob").output
    assert "1 sighting of Bob found (--mark names them)" in shown and key(3)[:8] in shown
    assert "1 sighting of Bob named" in call("sightings", "find", "Bob", "--mark").output
    assert "0 sightings of Bob found" in call("sightings", "find", "Bob").output
    assert ask("sightings", "unname", key(3)[:8], key(1)) == {"unnamed": 1}
    assert "1 sighting of Bob found" in call("sightings", "find", "Bob").output


def test_erase_asks_first(store: Path) -> None:
    assert call("sightings", "erase", key(1)[:8], answer="n\n").exit_code == 1
    assert ask("sightings", "erase", key(1)[:8], key(2, "gate")[:8], "--yes") == {"erased": 2}
    with pytest.raises(ConfigError, match="or --person"):
        call("sightings", "erase", "--yes")
    with pytest.raises(ConfigError, match="or --person"):
        call("sightings", "erase", key(3), "--person", "Anna", "--yes")
    assert "erased 0 sightings" in call("sightings", "erase", "--person", "Anna", "--yes").output


def test_a_person_is_not_taken_for_another_of_the_same_name(store: Path) -> None:
    with Gallery.open(gallery_path(), create=True) as gallery:
        add(gallery, "Anna", [1.0, 0.0], "a1")
        before = gallery.show("Anna").identity.id
        gallery.edit("Anna", Change(name="Anna Jones"))
        add(gallery, "Anna", [0.0, 1.0], "a2")
        now = gallery.show("Anna").identity.id
    with Sightings.open(store, create=False) as opened:
        opened.write(
            [
                draft(1, identity="Anna", uid=before),
                draft(2, identity="Anna", uid=now),
                draft(3, identity="Anna"),
                draft(4, identity="Eve", uid="e" * 32),
            ]
        )
        opened.name({key(4): None}, name="Anna", uid=before)

    def tracks(person: str) -> list[int]:
        found = ask("sightings", "list", "--person", person)["sightings"]
        return sorted(one["track"] for one in found)  # type: ignore[attr-defined]

    assert tracks("Anna Jones") == tracks(before) == [1, 4]
    assert tracks("Anna") == [2, 3] and tracks("Eve") == []
    assert ask("sightings", "erase", "--person", "Anna", "--yes") == {"erased": 2}
    assert tracks("Anna") == [] and tracks("Anna Jones") == [1, 4]
    assert ask("sightings", "erase", "--person", "Eve", "--yes") == {"erased": 1}


def test_cluster_says_what_it_could_not_group(store: Path) -> None:
    words = "not grouped: 1 (sightings.templates keeps them)"
    assert words in call("sightings", "cluster").output
    assert ask("sightings", "cluster")["without_template"] == 1
    with Sightings.open(store, create=False) as opened:
        opened.erase([key(4)])
    assert "not grouped" not in call("sightings", "cluster").output


def test_purge_takes_its_limits_from_a_configuration_or_options(tmp_path: Path) -> None:
    nothing = {"sightings": 0, "templates": 0, "crops": 0, "of_erased": 0}
    assert ask("sightings", "purge") == nothing
    assert ask("sightings", "purge", "--crop-days", "9999") == nothing
    assert ask("sightings", "purge", "--crop-days", "9")["crops"] == 1
    file = tmp_path / "c.yaml"
    file.write_text(
        "cameras: [{name: a, url: a.mp4}]\nsightings: {template_days: 1, keep_days: null}"
    )
    assert ask("sightings", "purge", str(file)) == {**nothing, "templates": 3}
    words = call("sightings", "purge", "--keep-days", "1").output
    assert "deleted by age: 4 sightings, 0 templates, 0 pictures" in words
    assert Config(cameras=()).sightings.keep_days == 30.0


def test_export_is_for_the_owner_alone_and_overwrites_nothing(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    assert ask("sightings", "export", str(file)) == {"file": str(file), "sightings": 4}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["sighting"]["track"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["crops"] == [] and file.stat().st_mode & 0o077 == 0
    before = file.read_bytes()
    with pytest.raises(FileExistsError):
        CliRunner().invoke(app, ["sightings", "export", str(file)], catch_exceptions=False)
    assert file.read_bytes() == before
    call("sightings", "export", str(tmp_path / "faces.jsonl"), "--pictures")
    faces = json.loads((tmp_path / "faces.jsonl").read_text().splitlines()[0])
    assert faces["crops"][0]["jpeg"]


def test_search_without_stores_says_what_is_missing(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "empty"))
    shown = call("search", str(photos[0])).output
    assert "no gallery to look in" in shown and "no sighting store to look in" in shown
    assert not (tmp_path / "empty").exists()
    with pytest.raises(SightingsUnreadable, match="no sighting store at"):
        call("sightings", "list")
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(EnrolmentRefused, match="no face found"):
        call("search", str(blank))
    with pytest.raises(EnrolmentRefused, match="unreadable photo"):
        call("search", str(tmp_path / "missing.jpg"))


def test_a_gallery_is_not_left_half_done_without_a_word(
    photos: list[Path], open_models: Pack, store: Path
) -> None:
    with Gallery.open(gallery_path(), create=True) as gallery:
        Enroller(open_models, gallery).enrol_photo("Bob", photos[1])
    call("sightings", "find", "Bob", "--mark")
    store.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(SightingsError, match="removed from the gallery, but not from the sight"):
        call("gallery", "remove", "Bob", "--yes")
