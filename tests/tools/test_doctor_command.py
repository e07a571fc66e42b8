"""`facestream doctor`: findings as data, what is wrong, and how to mend it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from facestream.models.pack import Pack
from facestream.models.store import locate
from facestream.tools import doctor as command
from facestream.tools.doctor import Check, check_folders, check_packages, check_packs, doctor

app = typer.Typer()
app.command()(doctor)
Findings = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def pack_files(open_models: Pack) -> list[Path]:
    return [locate(open_models.card, key) for key in open_models.card.files]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A data folder of its own; packs from the cache alone."""
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("FACESTREAM_MODELS", raising=False)
    yield


def examine() -> tuple[int, Findings]:
    done = CliRunner().invoke(app, ["--json"])
    checks = json.loads(done.stdout)
    assert all(set(check) == set(Check._fields) for check in checks)
    return done.exit_code, {(check["area"], check["name"]): check for check in checks}


def test_this_installation_is_in_order(open_models: Pack) -> None:
    code, found = examine()
    wrong = [check for check in found.values() if check["state"] == "wrong"]
    assert (code, wrong) == (0, [])
    assert {check["state"] for check in found.values()} <= {"ok", "note"}
    assert found["packs", "open"]["found"].startswith("complete")
    assert "onnxruntime" in found["inference", "onnxruntime cpu"]["found"]
    assert re.match(r"1 probe by \w+ \(ms: ", found["search", "512 dimensions"]["found"])
    # What runs the pack here is what doctor says can run.
    assert open_models.provider in [
        c["found"] for (area, _), c in found.items() if area == "inference" and c["state"] == "ok"
    ]
    assert found["packages", "numpy"]["found"].startswith("2.")
    assert "libavcodec" in found["video", "FFmpeg"]["found"]


def test_packs_that_were_never_asked_for_are_not_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path / "cache"))
    found = {check.name: check for check in check_packs()}
    for name in ("buffalo_l", "antelopev2"):
        assert (found[name].state, found[name].found) == ("note", "not here")
        assert f"facestream models pull {name}" in found[name].mend
    assert found["omz"].state == "note" and "FACESTREAM_MODELS" in found["omz"].mend
    assert found["open"].state == "wrong" and "models pull open" in found["open"].mend


def test_a_damaged_pack_is_wrong_and_its_mend_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack_files: list[Path]
) -> None:
    folder = tmp_path / "cache" / "models" / "open"
    folder.mkdir(parents=True)
    for path in pack_files:
        (folder / path.name).symlink_to(path)
    monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path / "cache"))
    assert next(c for c in check_packs() if c.name == "open").state == "ok"
    damaged = folder / pack_files[0].name
    damaged.unlink()
    shutil.copy(pack_files[0], damaged)
    with damaged.open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\1\2\3")
    code, found = examine()
    check = found["packs", "open"]
    assert (code, check["state"], check["found"]) == (1, "wrong", "damaged")
    assert str(damaged) in check["mend"] and "delete it" in check["mend"]


def test_a_card_that_is_no_card_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.yaml").write_text("name: odd\nfiles: [")
    monkeypatch.setenv("FACESTREAM_MODELS", str(tmp_path))
    found = {check.name: check for check in check_packs()}
    assert found["odd"].state == "wrong" and "odd.yaml" in found["odd"].mend
    assert found["open"].state == "ok"


def test_a_folder_that_cannot_be_written_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setenv("FACESTREAM_DATA", str(closed / "below"))
    # A test may run as root, who may write anywhere: the answer of the system is changed for it.
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, m: Path(p) != closed and access(p, m))
    found = {check.name: check for check in check_folders()}
    assert found["data"].state == "wrong" and "FACESTREAM_DATA" in found["data"].mend
    assert found["cache"].state == "ok"


def test_a_folder_that_is_a_file_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "file" / "below"))
    found = {check.name: check for check in check_folders()}
    assert found["data"].state == "wrong"


def test_little_space_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LEAST_FREE", 1 << 60)
    assert {check.state for check in check_folders()} == {"wrong"}


def test_missing_and_clashing_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"numpy": "2.4", "onnxruntime": "1.31", "onnxruntime-gpu": "1.31", "opencv-python": "5"}
    monkeypatch.setattr(command, "installed", here.get)
    found = {check.name: check for check in check_packages()}
    assert found["av"].state == "wrong" and found["av"].mend == "python -m pip install av"
    assert found["opencv-python-headless"].state == "note"
    clash = found["onnxruntime and onnxruntime-gpu"]
    assert clash.state == "wrong" and "uninstall" in clash.mend


def test_for_people_it_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(app, [], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "!!  packs" in done.stdout and "facestream models pull open" in done.stdout
