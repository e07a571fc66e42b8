"""Bad input through the real command line: one line on stderr, the exit code, nothing lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from facestream.models.store import load_card, locate
from facestream.stream.events import SightingStarted
from facestream.stream.journal import Journal

SCENE = "size=480x360&fps=10&faces=2&seed=2"
SHORT = f"synthetic:?seconds=1&{SCENE}"
SECRET = "hunter-two"
CAMERA = f"rtsp://me:{SECRET}@127.0.0.1:9/cam?token={SECRET}"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command line in an empty folder, with a data folder of its own."""

    def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "FACESTREAM_DATA": str(tmp_path / "data"), **variables}
        return subprocess.run(
            [sys.executable, "-m", "facestream.tools.cli", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return start


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line that says what is wrong, nothing else, and the exit code of the exception tree."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("facestream: "), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert SECRET not in done.stderr + done.stdout


def write_drawing(path: Path, faces: int = 0) -> Path:
    """A picture with so many drawn faces."""
    from facestream.configs.schema import CameraConfig
    from facestream.stream.source import open_source

    scene = f"synthetic:?seed=2&faces={faces}&size=640x360&seconds=1"
    frame = next(iter(open_source(CameraConfig("photo", scene))))
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame.image)
    return path


# --- configuration ---

YAML_MISTAKES = {
    "unknown key": (
        "cameras: [{name: a, url: x.mp4}]\nmatch: {treshold: 0.4}",
        ["unknown key match.treshold", "did you mean threshold?"],
    ),
    "missing secret": (
        "cameras: [{name: a, url: 'rtsp://me:${NO_SUCH_SECRET}@h/cam'}]",
        ["cameras[0].url needs the environment variable NO_SUCH_SECRET"],
    ),
    "not YAML": ("cameras: [", ["not YAML"]),
    "same name": (
        "cameras: [{name: a, url: x.mp4}, {name: a, url: y.mp4}]",
        ["cameras[1].name", "give each camera its own"],
    ),
}


@pytest.mark.parametrize("mistake", YAML_MISTAKES)
def test_a_wrong_configuration(run: Run, tmp_path: Path, mistake: str) -> None:
    text, words = YAML_MISTAKES[mistake]
    (tmp_path / "config.yaml").write_text(text)
    refused(run("run", "config.yaml"), 2, "config.yaml", *words)


ARGUMENTS = {
    "nothing to run": (["run"], ["give a configuration file or --source"]),
    "no such option": (["run", "--sorce", "x"], ["--sorce", "--source", "run --help"]),
    "no such command": (["recognise"], ["recognise", "facestream --help"]),
    "no such file": (["run", "nothing.yaml"], ["nothing.yaml"]),
    "no such setting": (
        ["run", "--source", "x", "--set", "match.top=1"],
        ["match.top", "did you mean"],
    ),
}


@pytest.mark.parametrize("mistake", ARGUMENTS)
def test_wrong_arguments(run: Run, mistake: str) -> None:
    arguments, words = ARGUMENTS[mistake]
    refused(run(*arguments), 2, *words)


def test_ida_scores_need_anchors(run: Run, tmp_path: Path) -> None:
    card = load_card("open")
    text = card.folder.joinpath("open.yaml").read_text()
    for section, following in (("ida", "decision"), ("fusion", "self_test")):  # what lies beside it
        text = text[: text.index(f"\n{section}:")] + text[text.index(f"\n{following}:") :]
    text = text[: text.index("\nstrangers:")] + "\n"  # the last
    (tmp_path / "bare.yaml").write_text(text)
    files = [locate(card, key).parent for key in card.files]
    arguments = ["run", "--source", SHORT, "--pack", str(tmp_path / "bare.yaml"), "--endpoint", ""]
    models = os.pathsep.join(map(str, files))
    by_ida = (*arguments, "--set", "match.score=ida")
    words = ["no anchors", "match.score=cosine", "facestream train anchors"]
    refused(run(*by_ida, FACESTREAM_MODELS=models), 2, *words)
    learned = (*by_ida, "--set", "match.density=learned")
    words = ["no network for match.density=learned", "match.density=anchors", "train ida"]
    refused(run(*learned, FACESTREAM_MODELS=models), 2, *words)
    done = run(*arguments, "--json", FACESTREAM_MODELS=models)
    assert done.returncode == 0, done.stderr


# --- sources ---


def test_sources_that_are_not_there(run: Run, tmp_path: Path) -> None:
    refused(run("run", "--source", "nothing.mp4", "--endpoint", ""), 3, "nothing.mp4")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(1).bytes(20_000))
    refused(run("run", "--source", "noise.mp4", "--endpoint", ""), 3, "noise.mp4")


def test_a_camera_that_does_not_answer_is_given_up_and_its_password_kept(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(
        "cameras: [{name: gate, url: '${GATE}', retry_attempts: 2, retry_first_seconds: 0.01}]\n"
        "publish: {endpoint: ''}\noutput: {folder: out}\n"
    )
    done = run("run", "config.yaml", "--json", GATE=CAMERA)
    refused(done, 3, "127.0.0.1", "given up (retry_attempts is 2)")
    written = [p.read_bytes() for d in ("out", "data") for p in (tmp_path / d).iterdir()]
    assert b"given up" in b"".join(written)
    assert SECRET.encode() not in b"".join(written)


def test_video_without_faces_is_no_error(run: Run, tmp_path: Path) -> None:
    source = "synthetic:?faces=0&seconds=1&size=320x240"
    done = run("run", "--source", source, "--endpoint", "", "--output", "out", "--page", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sighting" not in (tmp_path / "out" / "events.jsonl").read_text()
    assert "</html>" in (tmp_path / "out" / "report.html").read_text()


# --- gallery ---


def test_galleries_that_know_nobody(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(run("run", "--source", SHORT, "--gallery", "empty"), 5, "no photos in empty")
    refused(run("run", "--source", SHORT, "--gallery", "nowhere.db"), 5, "nowhere.db")
    (tmp_path / "text.db").write_text("this is no gallery at all" * 50)
    refused(run("run", "--source", SHORT, "--gallery", "text.db"), 5, "text.db")
    write_drawing(tmp_path / "walls" / "Anna.png")
    done = run("run", "--source", SHORT, "--gallery", "walls")
    refused(done, 5, "nobody was enrolled", "Anna.png: no face found")


def test_photos_with_no_face_or_several(run: Run, tmp_path: Path) -> None:
    write_drawing(tmp_path / "Wall.png")
    refused(run("enroll", "Wall.png", "--json"), 5, "no face")
    write_drawing(tmp_path / "Both.png", faces=2)
    refused(run("enroll", "Both.png", "--json"), 5, "2 faces", "--largest")
    (tmp_path / "Half.png").write_bytes((tmp_path / "Wall.png").read_bytes()[:2000])
    refused(run("enroll", "Half.png", "--json"), 5, "unreadable photo")


# --- models ---


def test_models_that_are_damaged_or_unknown(run: Run, tmp_path: Path) -> None:
    refused(run("run", "--source", SHORT, "--pack", "opne"), 4, "did you mean 'open'?")
    card = load_card("open")
    whole = locate(card, "centerface_published")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / whole.name).write_bytes(whole.read_bytes()[:100_000])
    arguments = ["run", "--source", SHORT, "--endpoint", ""]
    done = run(*arguments, FACESTREAM_MODELS=str(tmp_path / "cut"))
    refused(done, 4, whole.name, "got 100000", "models pull open")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / whole.name).write_bytes(bytes(whole.stat().st_size))
    done = run(*arguments, FACESTREAM_MODELS=str(tmp_path / "wrong"))
    refused(done, 4, whole.name, "expected sha256")
    done = run(*arguments, FACESTREAM_CACHE=str(tmp_path / "no-cache"))
    refused(done, 4, "not on this machine", "get it with `facestream models pull open`")
    assert not (tmp_path / "data").exists()


# --- where events go ---


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = run("run", "--source", SHORT, "--endpoint", endpoint)
    refused(done, 7, endpoint, "in use", "tcp://127.0.0.1:*")
    refused(run("run", "--source", SHORT, "--endpoint", "tcp://0.0.0.0:5555"), 7, "127.0.0.1")


def test_a_journal_that_another_run_writes(run: Run, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "busy.db") as journal:
        done = run("run", "--source", SHORT, "--endpoint", "", "--journal", "busy.db")
        assert journal.newest == 0
    refused(done, 6, "another facestream runs on the journal", "busy.db")
    (tmp_path / "notes.db").write_text("my notes, no journal" * 100)
    done = run("run", "--source", SHORT, "--endpoint", "", "--journal", "notes.db")
    refused(done, 6, "notes.db is no facestream journal")
    assert (tmp_path / "notes.db").read_text().startswith("my notes")


def test_an_output_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run("run", "--source", SHORT, "--endpoint", "", "--output", "file/out")
    refused(done, 2, "output.folder file/out cannot be written")
    refused(run("demo", "--folder", "file/out"), 2, "--folder file/out cannot be written")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def many_tracks() -> Sequence[str]:
    """A run of which one event after the other is told: tracks end as soon as they are lost."""
    endless = "synthetic:?seconds=0&size=480x360&fps=10&faces=2&seed=2"
    return [
        *("run", "--source", endless, "--set", "cameras[0].stride=4", "--endpoint", "", "--json"),
        *("--set", "track.lost_seconds=0.01", "--set", "track.confirm_faces=1"),
    ]


def test_a_disk_that_fills_up_under_the_journal(run: Run, small_disk: Path) -> None:
    journal = small_disk / "journal.db"
    done = run(*many_tracks(), "--journal", str(journal))
    refused(done, 6, "no space left for the journal", "nothing stored is lost")
    with Journal.open(journal) as opened:
        events = list(opened.read())
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert sum(isinstance(e, SightingStarted) for e in events) >= 2


def test_a_disk_that_fills_up_under_the_output(run: Run, small_disk: Path, tmp_path: Path) -> None:
    output, journal = small_disk / "out", tmp_path / "journal.db"
    done = run(*many_tracks(), "--output", str(output), "--journal", str(journal))
    refused(done, 1, f"output.folder {output} cannot be written", "No space left", "journal.db")
    with Journal.open(journal) as opened:
        kinds = [e.kind for e in opened.read()]
    assert kinds.count("sighting.started") == kinds.count("sighting.ended") >= 2
