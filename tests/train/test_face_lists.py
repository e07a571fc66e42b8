"""Labelled faces from every form of a set give the same faces, and name what is wrong with them."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from facestream import ConfigError, SourceCorrupt, SourceMissing
from facestream.configs.split import role_pictures
from facestream.models.align import ARCFACE_112, warp
from facestream.models.pack import open_pack
from facestream.models.photo import find_faces, tallest_face
from facestream.train import face_lists
from facestream.train.face_lists import (
    LabelledFaces,
    hold_out,
    open_faces,
    pairs_in_bin,
)
from facestream.train.face_pictures import decode_face

from .records import draw_face, encode, write_faces

LABELS = [0, 0, 2, 2, 2, 7]
"""Class 2 has three faces, class 7 one; they are numbered anew."""


def faces() -> list[np.ndarray]:
    """The faces that `write_faces` writes."""
    draw = np.random.default_rng(0)
    return [draw_face(draw) for _ in LABELS]


def in_folders(folder: Path) -> Path:
    for number, (label, image) in enumerate(zip(LABELS, faces(), strict=True)):
        (folder / f"{label}").mkdir(parents=True, exist_ok=True)
        (folder / f"{label}" / f"{number}.png").write_bytes(encode(image))
    (folder / ".cache").mkdir()
    (folder / "0" / "notes.txt").write_text("not a picture")
    return folder


def in_csv(folder: Path, header: str = "path,label") -> Path:
    in_folders(folder)
    lines = [f"{label}/{number}.png,{label}" for number, label in enumerate(LABELS)]
    (folder / "list.csv").write_text("\n".join([header, *lines, ""]))
    return folder / "list.csv"


def in_magface_list(folder: Path) -> Path:
    in_folders(folder)
    lines = [f"{label}/{n}.png 0 {label} {label}" for n, label in enumerate(LABELS)]
    (folder / "list.txt").write_text("\n".join([*lines, ""]))
    return folder / "list.txt"


def in_records(folder: Path) -> Path:
    return write_faces(folder / "train.rec", LABELS)


@pytest.mark.parametrize("write", [in_folders, in_csv, in_magface_list, in_records])
def test_every_form_gives_the_same_faces(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    read = open_faces(write(tmp_path))
    assert read.count == 6 and read.classes == 3 and list(read.names) == ["0", "2", "7"]
    assert read.labels.tolist() == [0, 0, 1, 1, 1, 2] and read.labels.dtype == np.int64
    assert read.identities.counts.tolist() == [2, 3, 1]
    for row, image in enumerate(faces()):
        np.testing.assert_array_equal(read.read(row), image)


def test_fingerprints_follow_labels_and_pictures_but_not_the_place(tmp_path: Path) -> None:
    first = open_faces(in_records(tmp_path))
    (tmp_path / "b").mkdir()
    moved = open_faces(in_records(tmp_path / "b"))
    assert len(first.fingerprint) == 16 and first.fingerprint == moved.fingerprint
    others = []
    for name, labels, seed in (("c", [*LABELS[:-1], 2], 0), ("d", LABELS, 1)):
        (tmp_path / name).mkdir()
        others.append(open_faces(write_faces(tmp_path / name / "train.rec", labels, seed=seed)))
    assert len({first.fingerprint, *(of.fingerprint for of in others)}) == 3
    assert first.take([0, 1]).fingerprint != first.fingerprint


def test_fingerprints_follow_landmarks_and_names(tmp_path: Path) -> None:
    header = ",".join(f"x{n},y{n}" for n in range(1, 6))
    for name, seed in (("a.png", 1), ("b.png", 2)):
        (tmp_path / name).write_bytes(encode(draw_face(np.random.default_rng(seed), 200)))

    def write(moved: float, second: str) -> LabelledFaces:
        cells = [
            ",".join(f"{x:.2f}" for x in (ARCFACE_112.points + shift).ravel())
            for shift in (20, 20 + moved)
        ]
        lines = [f"path,label,{header}", f"a.png,Ada,{cells[0]}", f"b.png,{second},{cells[1]}"]
        (tmp_path / "wild.csv").write_text("\n".join(lines))
        return open_faces(tmp_path / "wild.csv")

    first = write(0, "Bob")
    assert write(0, "Bob").fingerprint == first.fingerprint
    moved, renamed = write(1, "Bob"), write(0, "Bea")
    assert len({of.fingerprint for of in (first, moved, renamed)}) == 3
    assert moved.take([1]).fingerprint != first.take([1]).fingerprint
    assert moved.take([0]).fingerprint == first.take([0]).fingerprint


def test_hidden_files_and_folders_called_as_pictures_are_left_out(tmp_path: Path) -> None:
    in_folders(tmp_path)
    (tmp_path / "0" / "._0.png").write_bytes(b"no picture")
    (tmp_path / "0" / "more.jpg").mkdir()
    read = open_faces(tmp_path)
    assert read.count == 6 and len(read.fingerprint) == 16
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "._8.png").write_bytes(b"no picture")
    with pytest.raises(SourceMissing, match="8 is an identity without a picture"):
        open_faces(tmp_path)


def test_a_csv_aligns_by_its_landmarks(tmp_path: Path) -> None:
    image = draw_face(np.random.default_rng(1), 200)
    points = ARCFACE_112.points * 1.4 + 20
    cells = ",".join(f"{x:.2f}" for x in points.ravel())
    names = ",".join(f"x{n},y{n}" for n in range(1, 6))
    (tmp_path / "a.png").write_bytes(encode(image))
    (tmp_path / "wild.csv").write_text(f"image,identity,{names}\na.png,Ada,{cells}\n")
    read = open_faces(tmp_path / "wild.csv")
    assert list(read.names) == ["Ada"]
    np.testing.assert_array_equal(
        read.read(0), warp(image, points.round(2).astype(np.float32), ARCFACE_112)
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", r"list.csv:1: expected the header path,label"),
        ("file,person\n0/0.png,0\n", r"got 'file,person'"),
        ("path,label,x\n0/0.png,0,1\n", r"list.csv:1: "),
        ("path,label\n0/0.png\n", r"list.csv:2: expected 2 values"),
        ("path,label\n0/0.png,0\n\n,5\n", r"list.csv:4: "),
        ("path,label\n0/0.png,0\n0/9.png,0\n", r"list.csv:3: .*9.png is not there"),
        ("path,label\n0/0.png,0\n2/2.png,2\n0/0.png,2\n", r"list.csv:4: 0.png is in line 2"),
        ("path,label\n", r"expected a face per line, got none"),
        (
            "path,label,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\n0/0.png,0,1,2,3,4,5,6,7,8,9,x\n",
            r"list.csv:2: expected five landmarks",
        ),
        (
            "path,label,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\n0/0.png,0,3,3,3,3,3,3,3,3,3,3\n",
            r"list.csv:2: expected five landmarks",
        ),
    ],
)
def test_a_malformed_csv_is_refused_by_its_line(tmp_path: Path, text: str, why: str) -> None:
    in_folders(tmp_path)
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises((ConfigError, SourceMissing), match=why):
        open_faces(tmp_path / "list.csv")


@pytest.mark.parametrize("line", ["0/0.png 0", "0/0.png 0 x 0", "0/0.png 0 -1 0", "a b 0 1 2 3"])
def test_a_malformed_magface_list_is_refused_by_its_line(tmp_path: Path, line: str) -> None:
    in_folders(tmp_path)
    (tmp_path / "list.txt").write_text(f"0/1.png 0 0\n{line}\n")
    with pytest.raises(ConfigError, match=r"list.txt:2: expected .path 0 label 0."):
        open_faces(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no text"):
        open_faces(tmp_path / "list.txt")


def test_an_identity_without_a_picture_is_named(tmp_path: Path) -> None:
    (in_folders(tmp_path) / "nobody").mkdir()
    with pytest.raises(SourceMissing, match="nobody is an identity without a picture"):
        open_faces(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceMissing, match="holds no folders"):
        open_faces(tmp_path / "empty")
    with pytest.raises(SourceMissing, match="nothing is there"):
        open_faces(tmp_path / "absent")


@pytest.mark.parametrize("write", [in_folders, in_csv, in_magface_list, in_records])
def test_identities_of_one_picture_are_allowed_or_refused(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path)
    assert open_faces(path, least=1).classes == 3
    why = r"expected 2 pictures of each identity at least, got 1 of '7' \(1 of 3"
    with pytest.raises(ConfigError, match=why):
        open_faces(path, least=2)


def test_what_is_no_picture_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = in_csv(tmp_path)
    (tmp_path / "2" / "3.png").write_bytes(b"\x89PNG nothing")
    read = open_faces(path)
    with pytest.raises(SourceCorrupt, match=r"list.csv:5: .*2/3.png is not a readable picture"):
        read.read(3)
    (tmp_path / "2" / "3.png").unlink()
    with pytest.raises(SourceMissing, match=r"list.csv:5: .*2/3.png cannot be read"):
        read.read(3)
    file = in_records(tmp_path)
    damaged = file.read_bytes()
    place = damaged.index(b"IHDR", damaged.index(b"IHDR") + 4)
    file.write_bytes(damaged[:place] + b"XXXX" + damaged[place + 4 :])
    with pytest.raises(SourceCorrupt, match=r"train.rec, key 2, byte \d+ is not a readable"):
        open_faces(file).read(1)


def test_labels_of_records_are_whole_numbers(tmp_path: Path) -> None:
    path = write_faces(tmp_path / "train.rec", [0, 0.5, 1])  # type: ignore[list-item]
    with pytest.raises(SourceCorrupt, match=r"train.rec, key 2, byte \d+: .* got 0.5"):
        open_faces(path)


def test_crops_of_other_sizes_are_resized_and_others_refused() -> None:
    image = draw_face(np.random.default_rng(2), 224)
    small = cv2.resize(image, (112, 112), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(decode_face(encode(image), "a.png"), small)
    with pytest.raises(SourceCorrupt, match=r"a.png: expected a square crop, .* got 100 x 224"):
        decode_face(encode(image[:, :100]), "a.png")
    with pytest.raises(SourceCorrupt, match="0 bytes"):
        decode_face(b"", "a.png")


def test_pairs_of_a_bin_set(tmp_path: Path) -> None:
    images = faces()
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([encode(image) for image in images], [True, False, True])))
    pairs = pairs_in_bin(path)
    assert pairs.title == "lfw" and pairs.same.tolist() == [True, False, True]
    np.testing.assert_array_equal(pairs.pictures.read(3), images[3])
    path.write_bytes(pickle.dumps(([b"x", b"y"], [True])))
    with pytest.raises(SourceCorrupt, match=r"other.bin, picture 1 is not a readable picture"):
        pairs_in_bin(path.rename(tmp_path / "other.bin")).pictures.read(1)
    with pytest.raises(SourceMissing, match="nothing is there"):
        pairs_in_bin(tmp_path / "absent.bin")


def many(classes: int) -> LabelledFaces:
    class Blank:
        def name(self, row: int) -> str:
            return f"face {row}"

        def content(self, row: int) -> bytes:
            return bytes([row])

        def read(self, row: int) -> np.ndarray:
            return np.full((112, 112, 3), row, np.uint8)

    labels = np.repeat(np.arange(classes), 2)
    return LabelledFaces("many", Blank(), labels, [f"n{n}" for n in range(classes)])


def test_identities_are_held_out_by_the_hash_of_their_names() -> None:
    whole = many(20)
    training, validation = hold_out(whole, 0.25, seed=3)
    assert (training.classes, validation.classes) == (15, 5)
    assert set(training.names).isdisjoint(validation.names)
    assert validation.read(2)[0, 0, 0] // 2 == list(whole.names).index(validation.names[1])
    assert validation.labels.tolist() == np.repeat(np.arange(5), 2).tolist()
    turned = whole.take(range(19, -1, -1))
    assert set(hold_out(turned, 0.25, seed=3)[1].names) == set(validation.names)
    assert set(hold_out(whole, 0.25, seed=4)[1].names) != set(validation.names)
    with pytest.raises(ConfigError, match="leaves 1 to validate and 19 to train"):
        hold_out(whole, 0.05)


def test_faces_of_a_role_are_aligned(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = dict(list(role_pictures(assets, "calibration", "london").items())[:3])
    (tmp_path / "grey.png").write_bytes(encode(np.full((200, 200, 3), 127, np.uint8)))
    people["london/none"] = (tmp_path / "grey.png",)
    monkeypatch.setattr(face_lists, "role_pictures", lambda *_: people)
    detector = open_pack("open", threads=1).detector
    read = face_lists.faces_of_role(assets, "calibration", detector, "london")
    assert list(read.names) == list(people)[:3] and read.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert list(read.left_out) == [str(tmp_path / "grey.png")]
    crop = read.read(0)
    assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8
    # Aligned again, a face stays where it is.
    face = tallest_face(find_faces(detector, crop))
    assert face is not None and np.abs(face.landmarks - ARCFACE_112.points).max() < 6
    crop[:] = 0
    assert read.read(0).any()
    monkeypatch.setattr(face_lists, "role_pictures", lambda *_: {"x": (tmp_path / "grey.png",)})
    with pytest.raises(SourceMissing, match="no face was found in any picture of the role"):
        face_lists.faces_of_role(assets, "calibration", detector)
