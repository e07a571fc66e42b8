"""`facestream evaluate ijbs`: five protocols in IJB-S's files, and the traps of its evaluators."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.models.feature_store import (
    Compute,
    Features,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
)
from facestream.models.mean_fusion import Mean
from facestream.tools.eval_ijbs import IjbsChoices, evaluate_ijbs
from facestream.tools.eval_ijbs_lists import (
    PROTOCOLS,
    faces_by_source,
    read_metadata,
    read_protocol,
)
from facestream.tools.eval_options import Source
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.evaluate import app

SUBJECTS, DIMENSION = 10, 24
WITHOUT_FACES = (3, "videos/103.mp4")
"""Nobody's detector found subject 3 in this video."""


class Made(NamedTuple):
    root: Path
    vectors: dict[str, np.ndarray]
    qualities: dict[str, float]

    def choices(self, *protocols: str, aggregator: str = "mean") -> IjbsChoices:
        names = protocols or tuple(PROTOCOLS)
        return IjbsChoices(self.root / "faces", names, aggregator, "aligned", Bootstrap(10))

    def source(self) -> Source:
        return Source("open", "onnxruntime", None, self.root / "store", 1, False, False)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Subjects 0..9; 0..2 enrolled in G1, 3..5 in G2; each in videos 100 + s, 200, and UAV 300."""
    draw = np.random.default_rng(8)
    centres = draw.normal(size=(SUBJECTS, DIMENSION))
    metadata = ["SUBJECT_ID,FILENAME,SIGHTING_ID"]
    vectors: dict[str, np.ndarray] = {}
    for subject in range(SUBJECTS):
        paths = [f"videos/{100 + subject}.mp4", "videos/200.mp4", "videos/300.mp4"]
        for path in paths:
            # A line per sighting: the same subject and video come again and again.
            metadata += [f"{subject},{path},{n}" for n in range(3)]
            frames = 0 if (subject, path) == WITHOUT_FACES else 4
            for frame in range(frames):
                name = f"{subject}/videos_{Path(path).stem}_{frame:05}.jpg"
                vectors[name] = centres[subject] + 1.5 * draw.normal(size=DIMENSION)
        for image in range(3):
            metadata.append(f"{subject},img/{10 * subject + image}.jpg,0")
            vectors[f"{subject}/img_{10 * subject + image}.jpg"] = centres[subject] + (
                0.3 * draw.normal(size=DIMENSION)
            )
    write(tmp_path / "cs6_metadata.csv", metadata)
    own = [f"videos/{100 + subject}.mp4" for subject in range(SUBJECTS)]
    write(tmp_path / "cs6_surveillance_to_single-booking_probe.csv", ["FILENAME", *own])
    write(tmp_path / "cs6_surveillance_to_surveillance_probe.csv", ["FILENAME", *own])
    write(tmp_path / "cs6_uav_to_single-booking_probe.csv", ["FILENAME", "videos/300.mp4"])
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME"
    (tmp_path / "galleries").mkdir()
    for half, subjects in ((1, range(3)), (2, range(3, 6))):
        folder = tmp_path / "galleries"
        singles = [f"{s},{s},img/{10 * s}.jpg" for s in subjects]
        booking = [f"{s},{s},img/{10 * s + n}.jpg" for s in subjects for n in range(3)]
        videos = [f"{s},{s},videos/200.mp4" for s in subjects]
        for name, lines in (("single", singles), ("booking", booking), ("surveillance", videos)):
            write(folder / f"cs6_surveillance_to_{name}_g{half}.csv", [header, *lines])
    for name in vectors:
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    sources = read_metadata(tmp_path / "cs6_metadata.csv")
    qualities = dict(zip(vectors, draw.uniform(0.1, 1, len(vectors)), strict=True))
    listed = list_in_order(tmp_path, sources)
    table = np.array([vectors[name] for name in listed], np.float32)
    quality = np.array([qualities[name] for name in listed], np.float32)

    def start() -> Compute:
        def compute(rows: range) -> Features:
            some = slice(rows.start, rows.stop)
            count = len(rows)
            states = np.full(count, State.EMBEDDED, np.uint8)
            nothing = np.zeros((0, DIMENSION), np.float32)
            ones, styles = np.ones(count, np.float32), np.zeros((count, 0, 2), np.float32)
            return Features(states, table[some], nothing, ones, quality[some], styles)

        return compute

    layout = StoreLayout(len(listed), DIMENSION)
    fill_store(create_store(tmp_path / "store", StoreKey("a", "b", "c"), listed, layout), start)
    return Made(tmp_path, vectors, qualities)


def list_in_order(root: Path, sources: list[tuple[int, str]]) -> list[str]:
    return [
        name for some in faces_by_source(root / "faces", set(sources)).values() for name in some
    ]


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def unit_mean(made: Made, *prefixes: str) -> np.ndarray:
    """The mean of unit embeddings at length 1; zero without faces."""
    mine = [v for name, v in made.vectors.items() if name.startswith(prefixes)]
    total = sum((v / np.linalg.norm(v) for v in mine), np.zeros(DIMENSION))
    return total / np.linalg.norm(total) if mine else total


def by_hand(
    probes: dict[int, np.ndarray], galleries: list[dict[int, np.ndarray]], fpir: float
) -> tuple[float, float]:
    """Rank 1 over both galleries, and mean TPIR with the threshold of IJB-S's evaluators."""
    everybody = {**galleries[0], **galleries[1]}

    def others(probe: int, gallery: dict[int, np.ndarray]) -> float:
        return max(float(probes[probe] @ v) for s, v in gallery.items() if s != probe)

    mated = [p for p in probes if p in everybody]
    first = [float(probes[p] @ everybody[p]) > others(p, everybody) for p in mated]
    tpirs = []
    for gallery in galleries:
        strangers = sorted((others(p, gallery) for p in probes if p not in gallery), reverse=True)
        count = int(len(strangers) * fpir)
        threshold = strangers[count - 1] if count else strangers[0] + 1e-8
        mates = [p for p in probes if p in gallery]
        scores = {p: float(probes[p] @ gallery[p]) for p in mates}
        tpirs.append(
            np.mean([scores[p] > others(p, gallery) and scores[p] >= threshold for p in mates])
        )
    return float(np.mean(first)), float(np.mean(tpirs))


def test_surveillance_to_single_by_hand(made: Made) -> None:
    report = evaluate_ijbs(made.root, made.choices("surveillance-to-single"), made.source()).report
    probes = {s: unit_mean(made, f"{s}/videos_{100 + s}_") for s in range(SUBJECTS)}
    galleries = [
        {s: unit_mean(made, f"{s}/img_{10 * s}.jpg") for s in half}
        for half in (range(3), (3, 4, 5))
    ]
    assert not probes[3].any()  # a missing template is a zero vector ...
    rank, tpir = by_hand(probes, galleries, 0.1)
    numbers = report.numbers()
    key = "IJB-S, boxes given / surveillance-to-single / "
    assert numbers[key + "rank 1"].value == pytest.approx(rank)
    assert numbers[key + "TPIR@FPIR=1e-1"].value == pytest.approx(tpir)
    # int(7 * 0.01) = 0: the threshold lies above every stranger.
    assert numbers[key + "TPIR@FPIR=1e-2"].value == pytest.approx(
        by_hand(probes, galleries, 0.01)[1]
    )
    # ... and still a mated probe: it counts as a miss, it is not left out.
    assert report.tables[1].rows[0].cells == ["10", "1", "3", "3", "0"]
    assert any("zero vector and scores 0 to all" in line for line in report.variant)
    assert any("not end to end" in line for line in report.variant)


def test_booking_fuses_all_images_of_a_subject(made: Made) -> None:
    report = evaluate_ijbs(made.root, made.choices("surveillance-to-booking"), made.source()).report
    probes = {s: unit_mean(made, f"{s}/videos_{100 + s}_") for s in range(SUBJECTS)}
    galleries = [{s: unit_mean(made, f"{s}/img_") for s in half} for half in (range(3), (3, 4, 5))]
    rank, tpir = by_hand(probes, galleries, 0.1)
    numbers = report.numbers()
    key = "IJB-S, boxes given / surveillance-to-booking / "
    assert numbers[key + "rank 1"].value == pytest.approx(rank)
    assert numbers[key + "TPIR@FPIR=1e-1"].value == pytest.approx(tpir)


def test_multi_view_takes_every_video_of_a_subject(made: Made) -> None:
    sources = read_metadata(made.root / "cs6_metadata.csv")
    protocol = read_protocol(made.root, "multi-view-to-booking", sources)
    # The list of probes names one video of each subject; the metadata has three.
    assert [len(entry.sources) for entry in protocol.probes] == [3] * SUBJECTS
    report = evaluate_ijbs(made.root, made.choices("multi-view-to-booking"), made.source()).report
    probes = {s: unit_mean(made, f"{s}/videos_") for s in range(SUBJECTS)}
    galleries = [{s: unit_mean(made, f"{s}/img_") for s in half} for half in (range(3), (3, 4, 5))]
    numbers = report.numbers()
    key = "IJB-S, boxes given / multi-view-to-booking / "
    assert numbers[key + "rank 1"].value == pytest.approx(by_hand(probes, galleries, 0.1)[0])
    assert report.tables[1].rows[0].cells[1] == "0"  # subject 3 has faces in other videos
    assert any("every video of a subject" in line for line in report.variant)


def test_there_is_one_template_per_subject_and_video(made: Made) -> None:
    sources = read_metadata(made.root / "cs6_metadata.csv")
    assert len(sources) == SUBJECTS * 6  # lines repeat, sources do not
    uav = read_protocol(made.root, "uav-to-booking", sources)
    assert [entry.subject for entry in uav.probes] == list(range(SUBJECTS))
    assert all(len(entry.sources) == 1 for entry in uav.probes)
    video = read_protocol(made.root, "surveillance-to-surveillance", sources)
    assert video.galleries["G1"][2].sources == ((2, "videos/200.mp4"),)


@pytest.mark.parametrize("aggregator", ["mean", "quality", "raw"])
def test_the_live_aggregators_fuse(made: Made, aggregator: str) -> None:
    result = evaluate_ijbs(made.root, made.choices(aggregator=aggregator), made.source())
    assert [row.label for row in result.report.tables[0].rows] == list(PROTOCOLS)
    assert all((row.cells[0].value or 0) > 0.5 for row in result.report.tables[0].rows)  # type: ignore[union-attr]
    words = {"mean": "mean of unit", "quality": "weighted by quality", "raw": "norms are weights"}
    assert any(words[aggregator] in line for line in result.report.variant)
    assert set(result.draws) <= set(result.report.numbers())
    assert Mean.name == "mean"


def test_the_command_reads_pictures_and_prints_a_table(made: Made) -> None:
    for name, vector in made.vectors.items():
        shade = np.clip(128 + 40 * vector[:3], 0, 255).astype(np.uint8)
        picture = np.full((112, 112, 3), shade, np.uint8)
        cv2.imwrite(str(made.root / "faces" / name), picture)
    faces = ["--faces", str(made.root / "faces"), "--alignment", "aligned", "--workers", "1"]
    options = ["--protocol", "uav-to-booking", "--store", str(made.root / "own"), "--json"]
    result = CliRunner().invoke(app, ["ijbs", str(made.root), *faces, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["tables"][0]["rows"][0]["label"] == "uav-to-booking"
    assert report["data"]["facts"]["faces"] == "146"


def test_by_default_every_protocol_with_probes_is_measured(made: Made) -> None:
    (made.root / "cs6_uav_to_single-booking_probe.csv").unlink()
    (made.root / "cs6_surveillance_to_surveillance_probe.csv").write_text("FILENAME\n")
    choices = made.choices()._replace(protocols=())
    report = evaluate_ijbs(made.root, choices, made.source()).report
    assert [row.label for row in report.tables[0].rows] == list(PROTOCOLS)[:2]
    assert any(
        line.startswith("not measured: multi-view-to-booking, surveillance-to-surveillance, uav")
        for line in report.variant
    )
    (made.root / "cs6_surveillance_to_single-booking_probe.csv").unlink()
    with pytest.raises(ConfigError, match=r"expected lists cs6_\*_probe\.csv"):
        evaluate_ijbs(made.root, choices, made.source())


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("cs6_metadata.csv", "x,videos/1.mp4\n", r"cs6_metadata\.csv:2: expected .subject,videos"),
        ("cs6_metadata.csv", "4,movies/1.mp4\n", r"cs6_metadata\.csv:2: expected"),
        ("cs6_metadata.csv", "4\n", r"cs6_metadata\.csv:2: expected 2 columns"),
        ("cs6_metadata.csv", "", "expected lines after the header, got none"),
        ("cs6_uav_to_single-booking_probe.csv", "videos/9.mp4\n", "1 of 1 paths are not in cs6_m"),
        ("cs6_uav_to_single-booking_probe.csv", "", "expected lines after the header"),
        ("galleries/cs6_surveillance_to_booking_g1.csv", "", "expected lines after the header"),
        ("galleries/cs6_surveillance_to_booking_g2.csv", "1,x,y\n", "g2.csv:2: expected a subject"),
    ],
)
def test_faults_in_the_lists_are_named(made: Made, file: str, text: str, why: str) -> None:
    (made.root / file).write_text("HEADER\n" + text)
    with pytest.raises(ConfigError, match=why):
        evaluate_ijbs(made.root, made.choices(), made.source())


def test_faults_in_the_lists_can_be_left_out_and_are_counted(made: Made) -> None:
    whole = evaluate_ijbs(made.root, made.choices(), made.source()).report
    for file, line in (
        ("cs6_metadata.csv", "x,videos/1.mp4"),
        ("cs6_uav_to_single-booking_probe.csv", "videos/9.mp4"),
        ("galleries/cs6_surveillance_to_booking_g2.csv", "1,x,y"),
        ("galleries/cs6_surveillance_to_single_g1.csv", "1"),
    ):
        with (made.root / file).open("a") as listed:
            listed.write(line + "\n")
    report = evaluate_ijbs(made.root, made.choices(), made.source()._replace(skip_bad=True)).report
    assert sorted(re.sub(r":\d+$", ":N", one.where) for one in report.bad) == [
        "cs6_metadata.csv:N",
        "cs6_surveillance_to_booking_g2.csv:N",
        "cs6_surveillance_to_single_g1.csv:N",
        "cs6_uav_to_single-booking_probe.csv: videos/9.mp4",
    ]  # each once, though several protocols read these lists
    assert report.tables == whole.tables


def test_galleries_that_share_a_subject_are_refused_or_listed(made: Made) -> None:
    with (made.root / "galleries" / "cs6_surveillance_to_booking_g2.csv").open("a") as listed:
        listed.write("0,0,img/0.jpg\n")
    with pytest.raises(ConfigError, match=r"booking G1 and booking G2 must not share .* got 1 in"):
        evaluate_ijbs(made.root, made.choices(), made.source())
    report = evaluate_ijbs(made.root, made.choices(), made.source()._replace(skip_bad=True)).report
    assert [one.where for one in report.bad] == ["galleries booking G1 and booking G2: subject 0"]


def test_an_empty_gallery_is_said_though_faults_are_left_out(made: Made) -> None:
    path = made.root / "galleries" / "cs6_surveillance_to_single_g1.csv"
    path.write_text("HEADER\n1,x,y\n")
    with pytest.raises(ConfigError, match=r"single_g1\.csv: expected templates with subjects"):
        evaluate_ijbs(made.root, made.choices(), made.source()._replace(skip_bad=True))


def test_features_that_are_not_finite_are_refused_or_listed(made: Made) -> None:
    states = np.lib.format.open_memmap(made.root / "store" / "states.npy", mode="r+")
    states[5] = State.NOT_FINITE
    states.flush()
    with pytest.raises(ConfigError, match=r"1 of 146 faces cannot be used.* not finite"):
        evaluate_ijbs(made.root, made.choices(), made.source())
    report = evaluate_ijbs(made.root, made.choices(), made.source()._replace(skip_bad=True)).report
    assert [one.why for one in report.bad] == ["features not finite"]


def test_missing_lists_and_crops_are_said(made: Made) -> None:
    empty = made.choices()._replace(faces=made.root / "galleries")
    with pytest.raises(ConfigError, match="expected crops SUBJECT/videos_NAME_FRAME"):
        evaluate_ijbs(made.root, empty, made.source())
    with pytest.raises(ConfigError, match="--aggregator must be"):
        evaluate_ijbs(made.root, made.choices(aggregator="x"), made.source())
    (made.root / "galleries" / "cs6_surveillance_to_single_g2.csv").unlink()
    with pytest.raises(ConfigError, match=r"expected cs6_surveillance_to_single_g2\.csv"):
        evaluate_ijbs(made.root, made.choices(), made.source())
