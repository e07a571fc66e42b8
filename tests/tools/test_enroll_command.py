"""`facestream enroll`: what is printed, what ends up in the gallery, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from facestream import (
    ConfigError,
    EnrolmentRefused,
    FacestreamError,
    GalleryEmpty,
    UnknownPack,
)
from facestream.configs.paths import gallery_path, journal_path
from facestream.models import pack as packs
from facestream.models.align import ARCFACE_112
from facestream.models.ida import Anchors
from facestream.models.inference import FaceBoxes, Image
from facestream.models.pack import Pack
from facestream.models.quality import NormQuality
from facestream.stream.enrol_clip import ClipWatcher
from facestream.stream.enrol_records import Refusal
from facestream.stream.gallery import Gallery
from facestream.tools.build import anchors_of
from facestream.tools.enroll import enroll

from ..stream.small_pack import MeanColour, OneFace

app = typer.Typer()
app.command()(enroll)


ANCHORS = Anchors(np.eye(3, dtype=np.float32), version="v1", k=2, tau=1.0)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder; the pack `open` is one that fits in this file."""
    card = SimpleNamespace(
        name="open",
        checksum={"net": "a" * 64}.get,
        embedder=SimpleNamespace(file="net", minimal_eye_distance=0.0, dimension=3),
        ida=SimpleNamespace(anchor_version="v1", k=2, tau=1.0),
        decision=SimpleNamespace(
            cosine_threshold=0.9, impostor_cosine_centre=0.0, impostor_cosine_spread=0.1
        ),
        fusion=SimpleNamespace(aggregator="quality"),
        detector=SimpleNamespace(longest_side=640),
    )
    small = SimpleNamespace(
        card=card,
        detector=OneFace(),
        embedder=MeanColour(),
        quality=NormQuality(unit="norm"),
        consumers={"embedder": ARCFACE_112},
        anchors=ANCHORS.vectors,
        learned=None,
        fusion_heads={},
    )

    def open_pack(name: str) -> object:
        if name != "open":
            raise UnknownPack(f"no pack {name}")
        return small

    monkeypatch.setattr(packs, "open_pack", open_pack)
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Anna twice, Bob once, and a picture without a face."""
    folder = tmp_path / "photos"
    for number, name in enumerate(["Anna/1.png", "Anna/2.png", "Bob.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = (0, 0, 200 + number) if name == "Bob.png" else (200 + number, 0, 0)
        assert cv2.imwrite(str(path), np.full((400, 400, 3), colour, np.uint8))
    assert cv2.imwrite(str(folder / "Night.png"), np.zeros((400, 400, 3), np.uint8))
    return folder


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_folder_goes_to_the_default_gallery_and_refusals_are_told(
    data: Path, photos: Path
) -> None:
    result = call(photos)
    assert result.exit_code == 0, result.output
    assert "refused: no face found" in result.stdout
    assert "3 enrolled, 0 known already, 1 refused in" in result.stdout
    assert "refused because: no face 1" in result.stdout
    with Gallery.open(data / "gallery.db", create=False) as gallery:
        assert [(p.name, p.samples) for p in gallery.identities()] == [("Anna", 2), ("Bob", 1)]
        anchors = anchors_of(packs.open_pack("open"))
        assert anchors is not None and anchors.own < 0.9  # so that the nearest one is their own
        found = gallery.templates("open", "a" * 64, model=anchors)
        np.testing.assert_allclose(found.densities, anchors.template_density(found.vectors))


def test_json_for_scripts_and_a_second_run_that_changes_nothing(photos: Path) -> None:
    first = json.loads(call(photos, "--json", "--note", "2026").stdout)
    assert (first["enrolled"], first["known"], first["refused"]) == (3, 0, 1)
    bob = next(p for p in first["photos"] if p["identity"] == "Bob")
    assert (bob["source"], bob["status"], bob["face_height"]) == ("Bob.png", "enrolled", 60.0)
    second = call(photos, "--json")
    assert second.exit_code == 0
    again = json.loads(second.stdout)
    assert (again["enrolled"], again["known"], again["refused"]) == (0, 3, 1)
    assert again["version"] == first["version"]


def test_one_photo_under_a_name_into_a_gallery_of_choice(tmp_path: Path, photos: Path) -> None:
    place = tmp_path / "people.db"
    result = call(photos / "Bob.png", "--name", "Robert", "--gallery", place)
    assert result.exit_code == 0, result.output
    with Gallery.open(place, create=False) as gallery:
        assert [p.name for p in gallery.identities()] == ["Robert"]


def test_nobody_enrolled_is_exit_code_5_with_the_reason(photos: Path) -> None:
    result = call(photos / "Night.png", "--json")
    assert isinstance(result.exception, GalleryEmpty)
    assert result.exception.exit_code == 5
    assert "no face found" in str(result.exception)
    assert json.loads(result.stdout)["refused"] == 1


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("--smallest-face", "80"), "face 60 px tall, at least 80 needed"),
        (("--least-quality", "1000"), r"quality 202, at least 1000 needed \(norm\)"),
    ],
)
def test_the_gates_can_be_set(photos: Path, option: tuple[str, str], reason: str) -> None:
    result = call(photos / "Bob.png", *option)
    assert isinstance(result.exception, GalleryEmpty)
    with pytest.raises(GalleryEmpty, match=reason):
        raise result.exception


@pytest.mark.parametrize(
    ("words", "error"),
    [(("nowhere",), EnrolmentRefused), ((".", "--pack", "unknown"), UnknownPack)],
)
def test_a_mistake_leaves_no_empty_gallery_behind(
    data: Path, words: tuple[str, ...], error: type[FacestreamError]
) -> None:
    assert isinstance(call(*words).exception, error)
    assert not data.exists()


def test_a_table_says_who_is_who_and_what_is_kept_of_them(
    tmp_path: Path, data: Path, photos: Path
) -> None:
    table = photos / "people.csv"
    table.write_text(
        "path,name,basis,label:team\nAnna/1.png,Anna,consent 7,red\nBob.png,Bob,,\nno.png,Cid,,\n"
    )
    result = json.loads(call(table, "--json").stdout)
    assert (result["enrolled"], result["refused"], result["causes"]) == (2, 1, {"unreadable": 1})
    assert result["photos"][2]["source"] == "no.png (line 4)"
    with Gallery.open(data / "gallery.db", create=False) as gallery:
        anna, bob = gallery.identities()
        assert (anna.basis, anna.labels, bob.basis) == ("consent 7", {"team": "red"}, "")
        assert gallery.show("Anna").samples[0].source == "1.png"
    assert isinstance(call(table, "--note", "x").exception, ConfigError)
    table.write_text("path,name\nAnna/1.png\n")
    refusal = call(table).exception
    assert isinstance(refusal, EnrolmentRefused) and "line 2" in str(refusal)


def test_a_clip_is_enrolled_under_its_name(tmp_path: Path, data: Path) -> None:
    codec = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(tmp_path / "Anna.mkv"), codec, 10, (400, 400))
    for _ in range(8):
        writer.write(np.full((400, 400, 3), 200, np.uint8))
    writer.release()
    result = call(tmp_path / "Anna.mkv", "--seconds", "0.55", "--basis", "consent 7")
    assert result.exit_code == 0, result.output
    with Gallery.open(data / "gallery.db", create=False) as gallery:
        details = gallery.show("Anna")
        assert details.samples[0].source == "Anna.mkv (0:00.2-0:00.5, 4 faces)"
        assert details.identity.basis == "consent 7"
    again = json.loads(call(tmp_path / "Anna.mkv", "--json").stdout)
    assert (again["known"], again["photos"][0]["status"]) == (1, "known")
    refused = call(tmp_path / "Anna.mkv", "--name", "Bob")
    assert isinstance(refused.exception, GalleryEmpty)
    assert "already enrolled as Anna" in str(refused.exception)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("rtsp://10.0.0.1/main",), "a camera's address says nobody's name"),
        (("rtsp://10.0.0.1/main", "--name", "Anna"), "a live source has no end"),
        ((".", "--seconds", "3"), "--seconds is for a clip"),
    ],
)
def test_options_that_do_not_belong_together(words: tuple[str, ...], reason: str) -> None:
    error = call(*words).exception
    assert isinstance(error, ConfigError) and reason in str(error)
    assert not gallery_path().exists()


@pytest.mark.parametrize(
    "address",
    ["rtsp://admin:hunter2@10.0.0.7", "rtsp://10.0.0.7/main?password=hunter2", "clip"],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_passwords_of_a_camera_are_not_shown(
    address: str, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch(self: ClipWatcher, url: str, seconds: float | None) -> None:
        raise Refusal("too few frames", "2 usable faces")

    monkeypatch.setattr(ClipWatcher, "watch", watch)
    if address == "clip":  # a file's name is no secret
        address = str(tmp_path / "key=3.mp4")
        Path(address).touch()
    result = call(address, "--name", "Anna", "--seconds", "1", *options)
    assert isinstance(result.exception, GalleryEmpty)
    told = " ".join(f"{result.stdout} {result.stderr} {result.exception}".split())
    assert "hunter2" not in told
    if "://" in address:
        assert "nobody was enrolled from rtsp://" in told and "10.0.0.7" in result.stdout
    else:
        assert "key=3.mp4" in result.stdout and address not in result.stdout


def test_an_address_without_its_scheme_is_not_shown_with_its_password() -> None:
    error = call("admin:hunter2@10.0.0.7/main", "--name", "Anna").exception
    assert isinstance(error, EnrolmentRefused)
    assert str(error) == "no photo, folder, table or clip at admin:***@10.0.0.7/main"


def test_a_table_that_names_a_photo_twice_knows_it_the_second_time(photos: Path) -> None:
    table = photos / "people.csv"
    row = "Anna/1.png,Anna,consent 7,red\n"
    table.write_text(f"path,name,basis,label:team\n{row}{row}")
    result = json.loads(call(table, "--json").stdout)
    assert [one["status"] for one in result["photos"]] == ["enrolled", "known"]


def test_look_alikes_are_refused_merged_or_added(photos: Path) -> None:
    assert cv2.imwrite(str(photos / "Zoe.png"), np.full((400, 400, 3), (190, 0, 0), np.uint8))
    result = call(photos)
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert "refused: looks like Anna at 1.00: merge, add or refuse?" in words
    assert "refused because: no face 1, looks like somebody else 1" in words
    merged = json.loads(call(photos, "--duplicates", "merge", "--json").stdout)
    assert merged["photos"][-1]["identity"] == "Anna"
    assert merged["photos"][-1]["remark"] == "Zoe looks like Anna at 1.00: merged"


def test_an_interrupted_run_tells_what_was_done_and_goes_on_the_next_time(
    data: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        assert cv2.imwrite(
            str(photos / f"P{number:02}.png"), np.full((320, 320, 3), (9, 200, number), np.uint8)
        )
    detect = OneFace.detect
    seen = 0

    def interrupted(self: OneFace, images: Sequence[Image], **options: Any) -> list[FaceBoxes]:
        nonlocal seen
        seen += len(images)
        if seen > 40:
            raise KeyboardInterrupt
        return detect(self, images, **options)

    monkeypatch.setattr(OneFace, "detect", interrupted)
    result = call(photos, "--json", "--duplicates", "add")
    assert result.exit_code == 130
    report = json.loads(result.stdout)
    assert (report["whole"], report["enrolled"], report["refused"]) == (False, 31, 1)
    with Gallery.open(data / "gallery.db", create=False) as gallery:
        assert sum(person.samples for person in gallery.identities()) == 31
    monkeypatch.setattr(OneFace, "detect", detect)
    result = call(photos, "--duplicates", "add")
    assert "32 enrolled, 31 known already, 1 refused" in result.stdout
    # Of many photos only those are listed that have something to say.
    assert "Night.png" in result.stdout and "Anna/1.png" not in result.stdout


def test_help_has_an_example() -> None:
    assert "Example: facestream enroll" in call("--help").output


def test_paths_follow_the_data_folder(data: Path) -> None:
    assert (gallery_path(), journal_path()) == (data / "gallery.db", data / "journal.db")


def test_real_photos_with_a_real_pack(
    monkeypatch: pytest.MonkeyPatch, assets: Path, omz_models: Pack
) -> None:
    monkeypatch.setattr(packs, "open_pack", lambda name: omz_models)
    folder = assets / "london" / "gallery_neutral"
    result = call(sorted(folder.glob("*.jpg"))[0], "--name", "Ada", "--pack", "omz", "--json")
    assert result.exit_code == 0, result.output
    (photo,) = json.loads(result.stdout)["photos"]
    assert photo["status"] == "enrolled" and photo["face_height"] > 150
