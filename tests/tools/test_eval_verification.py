"""`facestream evaluate verification` on real faces, in the formats of the data sets."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError, PullFailed
from facestream.models.align import ARCFACE_112, warp
from facestream.models.feature_store import FeatureStore, State
from facestream.models.inference import Image
from facestream.models.pack import Pack
from facestream.models.pull import fetch_group_photo
from facestream.models.verification import count_errors, fold_accuracy, operating_point
from facestream.tools.eval_options import Source
from facestream.tools.eval_sets import read_rmfrd, read_set
from facestream.tools.eval_verify import Choices, verify_sets
from facestream.tools.evaluate import app

Crops = list[list[Image]]
SOURCE = Source("open", "onnxruntime", None, None, 1, False, False)
CHOICES = Choices(alignment="aligned", resamples=50)


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def crops(open_models: Pack) -> Crops:
    """Four aligned crops of each of six people: plain, darker, softened, shrunk."""
    try:
        photo = np.asarray(cv2.imread(str(fetch_group_photo())), np.uint8)
    except PullFailed as error:
        pytest.skip(f"the registry's photograph is not here and cannot be brought: {error}")
    small = cv2.resize(photo, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    views = [
        photo,
        cv2.convertScaleAbs(photo, alpha=0.7),
        cv2.GaussianBlur(photo, (0, 0), 2.0),
        cv2.resize(small, photo.shape[1::-1]),
    ]
    (faces,) = open_models.detector.detect([photo])
    order = np.argsort(faces.boxes[:, 0])
    return [
        [warp(np.asarray(v, np.uint8), faces.landmarks[one], ARCFACE_112) for v in views]
        for one in order
    ]


def png(image: Image) -> bytes:
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def lay_out(folder: Path, crops: Crops) -> list[str]:
    """LFW's layout and its list of pairs: 2 folds of 6 genuine and 6 impostor pairs."""
    for person, views in enumerate(crops):
        for number, view in enumerate(views, start=1):
            path = folder / f"P{person}" / f"P{person}_{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(view))
    lines = ["2\t6"]
    for fold in range(2):
        lines += [f"P{person}\t1\t{fold + 2}" for person in range(6)]
        lines += [f"P{person}\t{fold + 1}\tP{(person + 1 + fold) % 6}\t4" for person in range(6)]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return lines[1:]


def write_bin(path: Path, crops: Crops) -> None:
    """InsightFace's .bin: 20 pairs, genuine and impostor in turn."""
    pictures, same = [], []
    for number in range(20):
        person, view = number % 6, 1 + number % 3
        other = person if number % 2 == 0 else (person + 1) % 6
        pictures += [png(crops[person][0]), png(crops[other][view])]
        same.append(number % 2 == 0)
    path.write_bytes(pickle.dumps((pictures, same), protocol=2))


def direct_scores(pack: Pack, pairs: list[tuple[Image, Image]]) -> np.ndarray:
    """Cosines worked out with the pack alone: embedding plus mirrored embedding, at length 1."""
    points = ARCFACE_112.points

    def unit(crop: Image) -> np.ndarray:
        own = warp(crop, points, pack.embedder.template)
        both = np.stack([own, own[:, ::-1]])
        total = pack.embedder.embed(np.ascontiguousarray(both)).embeddings.astype(float).sum(0)
        return np.asarray(total / np.linalg.norm(total))

    return np.array([unit(a) @ unit(b) for a, b in pairs])


def test_a_bin_set_gives_what_the_metrics_say_of_the_same_scores(
    tmp_path: Path, crops: Crops, open_models: Pack
) -> None:
    write_bin(tmp_path / "six.bin", crops)
    result = verify_sets([tmp_path / "six.bin"], CHOICES, SOURCE)
    pairs, same = [], []
    for number in range(20):
        person, view = number % 6, 1 + number % 3
        other = person if number % 2 == 0 else (person + 1) % 6
        pairs.append((crops[person][0], crops[other][view]))
        same.append(number % 2 == 0)
    scores = direct_scores(open_models, pairs)
    numbers = result.report.numbers()
    accuracy = numbers["Verification / six / accuracy"]
    assert accuracy.value == fold_accuracy(scores, same).mean
    assert accuracy.spread == fold_accuracy(scores, same).std
    roc = count_errors(scores, same)
    assert numbers["Verification / six / TAR@FAR=1e-2"].value == operating_point(roc, 0.01).tar
    threshold = numbers["Thresholds (cosine) / six / at FAR=1e-2"].value
    assert threshold == pytest.approx(operating_point(roc, 0.01).threshold, abs=1e-5)
    variant = " ".join(result.report.variant)
    assert "bootstrap over pairs for six (it does not tell identities)" in variant
    assert "flip added, raw norms" in variant
    assert len(result.report.data.fingerprint) == 16


def test_lfw_folders_keep_their_folds_and_identities(tmp_path: Path, crops: Crops) -> None:
    lay_out(tmp_path, crops)
    result = verify_sets([tmp_path / "pairs.txt"], CHOICES, SOURCE)
    numbers = result.report.numbers()
    assert numbers["Counts / pairs / genuine pairs"].value == 12
    assert numbers["Counts / pairs / identities"].value == 6
    assert (numbers["Whole curve / pairs / AUC"].value or 0) > 0.9
    assert any("over identities" in line for line in result.report.variant)
    assert any("folds as the list gives them" in line for line in result.report.variant)
    worst = [one for one in result.examples if "Genuine pairs with the lowest" in one.group]
    assert len(worst) == 6 and all(len(one.pictures) == 2 for one in worst)


def test_the_command_writes_json_page_and_draws_and_embeds_once(
    tmp_path: Path, crops: Crops
) -> None:
    lay_out(tmp_path, crops)
    pairs, out = str(tmp_path / "pairs.txt"), tmp_path / "out"
    arguments = ["verification", pairs, "--alignment", "aligned", "--resamples", "20"]
    store = ["--store", str(tmp_path / "store"), "--workers", "2"]
    result = CliRunner().invoke(app, [*arguments, *store, "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"report.json", "report.html", "draws.npz"}
    assert "<img" in (out / "report.html").read_text()
    before = json.loads((out / "report.json").read_text())
    # From the store alone, after the pictures are gone.
    for person in tmp_path.glob("P*"):
        for picture in person.iterdir():
            picture.unlink()
    features = ["--features", str(tmp_path / "store"), "--json"]
    again = CliRunner().invoke(app, [*arguments, *features])
    assert again.exit_code == 0, again.output
    report = json.loads(again.stdout)
    assert report["tables"] == before["tables"] and report["data"] == before["data"]
    shown = CliRunner().invoke(app, ["show", str(out)])
    assert "Verification: pairs" in shown.output
    same = CliRunner().invoke(app, ["compare", str(out), str(out), "--json"])
    assert same.exit_code == 0, same.output
    verdicts = {row["cells"][-1] for row in json.loads(same.stdout)["tables"][0]["rows"]}
    assert verdicts == {"no difference shown", "not tested"}


def test_no_images_means_no_faces(tmp_path: Path, crops: Crops) -> None:
    write_bin(tmp_path / "six.bin", crops)
    assert verify_sets([tmp_path / "six.bin"], CHOICES._replace(pictures=False), SOURCE)[2] == []


def test_a_missing_picture_is_named_or_counted(tmp_path: Path, crops: Crops) -> None:
    lay_out(tmp_path, crops)
    (tmp_path / "P2" / "P2_0001.jpg").unlink()
    (tmp_path / "P3" / "P3_0004.jpg").write_bytes(b"not a picture")
    pairs = tmp_path / "pairs.txt"
    with pytest.raises(ConfigError, match=r"1 of 24 listed pictures .* P2/P2_0001\.jpg"):
        verify_sets([pairs], CHOICES, SOURCE)
    result = verify_sets([pairs], CHOICES, SOURCE._replace(skip_bad=True))
    assert sorted((one.where, one.why) for one in result.report.bad) == [
        ("P2/P2_0001.jpg", "not a readable picture"),
        ("P3/P3_0004.jpg", "not a readable picture"),
    ]
    numbers = result.report.numbers()
    # Left out: two genuine pairs of P2_0001, its impostor pair with P3_0004, and another of that.
    assert numbers["Counts / pairs / genuine pairs"].value == 10
    assert numbers["Counts / pairs / impostor pairs"].value == 10


def test_a_face_that_is_not_found_counts_as_rejected(tmp_path: Path, crops: Crops) -> None:
    lay_out(tmp_path, crops)
    for person in range(6):  # whole pictures with room around the face, as photo sets have
        for path in (tmp_path / f"P{person}").iterdir():
            face = np.asarray(cv2.imread(str(path)), np.uint8)
            path.write_bytes(png(cv2.copyMakeBorder(face, 60, 60, 60, 60, cv2.BORDER_REPLICATE)))
    (tmp_path / "P0" / "P0_0002.jpg").write_bytes(png(np.full((232, 232, 3), 90, np.uint8)))
    store = tmp_path / "store"
    source = SOURCE._replace(store=store)
    result = verify_sets([tmp_path / "pairs.txt"], CHOICES._replace(alignment="detect"), source)
    states = FeatureStore(store).states
    assert (states == State.NO_FACE).sum() == 1 and (states == State.EMBEDDED).sum() == 23
    numbers = result.report.numbers()
    lost = numbers["Counts / pairs / pairs with a face not found"].value
    assert lost == 2  # its genuine pair and its impostor pair
    assert (numbers["Verification / pairs / TAR@FAR=1e-2"].value or 0) <= 11 / 12


def test_ytf_fuses_all_frames_of_a_video(tmp_path: Path, crops: Crops) -> None:
    lines = ["split number, first name, second name, is same"]
    for person, views in enumerate(crops):
        for video, some in enumerate((views[:2], views[2:])):
            folder = tmp_path / f"P{person}" / str(video)
            folder.mkdir(parents=True)
            for frame, view in enumerate(some):
                (folder / f"{video}.{frame + 9}.jpg").write_bytes(png(view))
    for person in range(6):
        lines.append(f"{person % 2 + 1}, P{person}/0, P{person}/1, 1")
        lines.append(f"{person % 2 + 1}, P{person}/0, P{(person + 1) % 6}/1, 0")
    splits = tmp_path / "splits.txt"
    splits.write_text("\n".join(lines) + "\n")
    (chosen,) = read_set(splits, images=None, kind=None, alignment="aligned")
    assert chosen.faces.names[:2] == ["P0/0/0.9.jpg", "P0/0/0.10.jpg"]  # by number, not by letter
    assert np.bincount(chosen.owners).tolist() == [2] * 12
    result = verify_sets([splits], CHOICES, SOURCE)
    assert result.report.numbers()["Counts / splits / identities"].value == 6
    assert any("one template of all frames" in line for line in result.report.variant)
    (thinned,) = read_set(splits, images=None, kind=None, alignment="aligned", every=2)
    assert np.bincount(thinned.owners).tolist() == [1] * 12
    with pytest.raises(ConfigError, match="video P0/0 has no frames"):
        read_set(splits, images=tmp_path / "elsewhere", kind=None, alignment="aligned")


def test_rmfrd_pairs_by_folder(tmp_path: Path, crops: Crops) -> None:
    for person, views in enumerate(crops):
        for folder, some in (("AFDB_masked_face_dataset", views[:2]), ("AFDB_face_dataset", views)):
            (tmp_path / folder / f"P{person}").mkdir(parents=True)
            for number, view in enumerate(some):
                (tmp_path / folder / f"P{person}" / f"{number}.jpg").write_bytes(png(view))
    normal, masked = read_rmfrd(tmp_path, "aligned")
    assert normal.pairs.same.sum() == 6 * 2 * 4 and len(normal.pairs.same) == 96
    assert masked.pairs.same.sum() == 6 and len(masked.pairs.same) == 12
    assert normal.pairs.subjects is not None
    assert "seed 0" in normal.words
    again, _ = read_rmfrd(tmp_path, "aligned")
    np.testing.assert_array_equal(again.pairs.second, normal.pairs.second)
    result = verify_sets([tmp_path], CHOICES._replace(pictures=False), SOURCE)
    assert [row.label for row in result.report.tables[0].rows] == [
        "RMFRD masked-to-normal",
        "RMFRD masked-to-masked",
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--rule", "best"], "--rule must be at_most or nearest, got best"),
        (["--alignment", "x"], "--alignment must be"),
        (["--kind", "x"], "--kind must be"),
        (["--features", "nowhere"], "no feature store"),
        (["-o", f"{__file__}/report"], "test_eval_verification.py is a file: name another folder"),
    ],
)
def test_wrong_options_say_what_is_right(
    tmp_path: Path, crops: Crops, options: list[str], why: str
) -> None:
    write_bin(tmp_path / "six.bin", crops)
    result = CliRunner().invoke(app, ["verification", str(tmp_path / "six.bin"), *options])
    assert isinstance(result.exception, ConfigError) and why in str(result.exception)


def test_a_store_of_other_faces_or_without_flip_is_refused(tmp_path: Path, crops: Crops) -> None:
    write_bin(tmp_path / "six.bin", crops)
    store = tmp_path / "store"
    verify_sets([tmp_path / "six.bin"], CHOICES._replace(flip=False), SOURCE._replace(store=store))
    with pytest.raises(ConfigError, match="holds no mirrored faces"):
        verify_sets([tmp_path / "six.bin"], CHOICES, SOURCE._replace(features=store))
    with pytest.raises(ConfigError, match=r"features of another flip: .* --store"):
        verify_sets([tmp_path / "six.bin"], CHOICES, SOURCE._replace(store=store))
    (tmp_path / "other.bin").write_bytes((tmp_path / "six.bin").read_bytes())
    with pytest.raises(ConfigError, match="the first difference: other/0"):
        verify_sets([tmp_path / "other.bin"], CHOICES, SOURCE._replace(features=store))


@pytest.fixture
def every_command() -> Callable[[str], str]:
    return lambda command: CliRunner().invoke(app, [command, "--help"]).output


@pytest.mark.parametrize("command", ["verification", "compare", "show"])
def test_every_command_has_help_with_an_example(
    command: str, every_command: Callable[[str], str]
) -> None:
    assert f"Example: facestream evaluate {command}" in every_command(command)
