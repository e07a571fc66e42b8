"""Pulling: pinned archives by pip, only the named members, nothing run, nothing left behind.

The archives are built here and found through pip's own settings (no index, a local folder).
"""

from __future__ import annotations

import hashlib
import io
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from facestream import CorruptModelFile, MissingModelFile, PullFailed
from facestream.models.card import ArchiveMember
from facestream.models.pull import Progress, _reason, _size, fetch_member, pull
from facestream.models.store import CARDS, cache_folder, pack_folder

DETECTOR, EMBEDDER = b"a detector", b"an embedder" * 100
SETUP = "import pathlib\npathlib.Path({trap!r}).touch()\nfrom setuptools import setup\nsetup()\n"


def write_wheel(folder: Path) -> Path:
    path = folder / "tiny_detector-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_detector/net.onnx", DETECTOR)
        info = "tiny_detector-1.0.dist-info/"
        wheel.writestr(
            info + "METADATA", "Metadata-Version: 2.1\nName: tiny-detector\nVersion: 1.0\n"
        )
        wheel.writestr(
            info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(info + "RECORD", "")
    return path


def write_sdist(folder: Path, trap: Path) -> Path:
    """A source archive whose setup.py leaves a trace when it runs."""
    path = folder / "tiny-embedder-2.0.tar.gz"
    members = {
        "PKG-INFO": b"Metadata-Version: 1.0\nName: tiny-embedder\nVersion: 2.0\n",
        "setup.py": SETUP.format(trap=str(trap)).encode(),
        "data/net.onnx": EMBEDDER,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"tiny-embedder-2.0/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def source_of(path: Path, package: str, version: str, kind: str, member: str) -> dict[str, object]:
    data = path.read_bytes()
    return {
        "archive": {
            "package": package,
            "version": version,
            "kind": kind,
            "archive_sha256": hashlib.sha256(data).hexdigest(),
            "archive_bytes": len(data),
            "member": member,
        }
    }


class Registry:
    """A folder of archives that pip takes for its only registry, and a pack made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "registry"
        self.folder.mkdir()
        self.trap = folder / "setup-was-run"
        wheel = write_wheel(self.folder)
        sdist = write_sdist(self.folder, self.trap)
        self.raw = yaml.safe_load((CARDS / "buffalo_l.yaml").read_text(encoding="utf-8"))
        self.raw.update(name="tiny", commercial_use=True)
        member = "tiny_detector/net.onnx"
        self.set_file(
            "detector", DETECTOR, source_of(wheel, "tiny-detector", "1.0", "wheel", member)
        )
        member = "tiny-embedder-2.0/data/net.onnx"
        self.set_file(
            "embedder", EMBEDDER, source_of(sdist, "tiny-embedder", "2.0", "sdist", member)
        )
        self.path = folder / "tiny.yaml"
        self.write()

    def set_file(self, key: str, data: bytes, source: dict[str, object]) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self.raw["files"][key].update(
            file=f"{key}.onnx", sha256=digest, bytes=len(data), source=source
        )

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.raw), encoding="utf-8")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry(tmp_path)
    monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACESTREAM_MODELS", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return made


def litter() -> list[Path]:
    return [p for p in cache_folder().rglob("*") if p.name.startswith(".")]


def test_a_pull_brings_verified_members_and_runs_no_code_of_theirs(registry: Registry) -> None:
    steps: list[Progress] = []
    paths = pull(str(registry.path), steps.append)
    assert [path.read_bytes() for path in paths] == [DETECTOR, EMBEDDER]
    assert {path.parent for path in paths} == {pack_folder("tiny")}
    assert not registry.trap.exists()
    assert litter() == []
    assert [s.step for s in steps if s.step.endswith("in place")] == [
        "detector.onnx is in place",
        "embedder.onnx is in place",
    ]
    assert all(0 <= step.done <= step.total for step in steps)


def test_pulling_again_downloads_nothing_and_mends_what_is_damaged(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = pull(str(registry.path))
    steps: list[Progress] = []
    with monkeypatch.context() as offline:
        offline.setenv("PIP_FIND_LINKS", "")
        assert pull(str(registry.path), steps.append) == paths
    assert steps == []
    paths[0].write_bytes(b"damaged")
    before = paths[1].stat().st_mtime_ns
    pull(str(registry.path))
    assert paths[0].read_bytes() == DETECTOR
    assert paths[1].stat().st_mtime_ns == before


def test_an_unreachable_registry_is_one_clear_line(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(
        PullFailed, match=r"could not bring tiny-detector 1\.0: No matching"
    ) as caught:
        pull(str(registry.path))
    assert "\n" not in str(caught.value)
    assert litter() == []


def test_an_archive_with_another_checksum_is_refused(registry: Registry) -> None:
    registry.raw["files"]["detector"]["source"]["archive"]["archive_sha256"] = "0" * 64
    registry.write()
    with pytest.raises(PullFailed, match="another checksum than the one pinned"):
        pull(str(registry.path))
    assert not (pack_folder("tiny") / "detector.onnx").exists()
    assert litter() == []


def test_a_member_with_another_checksum_or_name_is_refused(registry: Registry) -> None:
    registry.raw["files"]["detector"]["sha256"] = "0" * 64
    registry.write()
    with pytest.raises(CorruptModelFile, match="expected sha256 0000"):
        pull(str(registry.path))
    registry.raw["files"]["detector"]["source"]["archive"]["member"] = "../net.onnx"
    registry.write()
    with pytest.raises(PullFailed, match=r"has no \.\./net\.onnx"):
        pull(str(registry.path))
    assert not pack_folder("tiny").exists() or not list(pack_folder("tiny").iterdir())


def test_a_file_for_people_says_where_to_get_it(registry: Registry) -> None:
    registry.raw["files"]["embedder"]["source"] = {"words": "the publisher's page"}
    registry.write()
    with pytest.raises(MissingModelFile, match="get it from the publisher's page and set"):
        pull(str(registry.path))
    assert (pack_folder("tiny") / "detector.onnx").read_bytes() == DETECTOR


def test_insightface_packs_say_how_to_get_the_package(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in sys.modules makes the import fail as if the package were not installed.
    monkeypatch.setitem(sys.modules, "insightface", None)
    steps: list[Progress] = []
    with pytest.raises(PullFailed, match=r"pip install --no-deps insightface==2\.1"):
        pull("buffalo_l", steps.append)
    assert "no commercial use" in steps[0].step


def test_one_member_of_an_archive(registry: Registry) -> None:
    archive = registry.raw["files"]["detector"]["source"]["archive"]
    source = ArchiveMember(**archive)
    digest = hashlib.sha256(DETECTOR).hexdigest()
    path = fetch_member(source, digest, len(DETECTOR))
    assert path.read_bytes() == DETECTOR
    (registry.folder / "tiny_detector-1.0-py3-none-any.whl").unlink()
    assert fetch_member(source, digest, len(DETECTOR)) == path


def test_a_failure_is_told_without_addresses() -> None:
    said = (
        "WARNING: Retrying after NewConnectionError to https://me:secret@index.example/simple/\n"
        "ERROR: Could not fetch URL https://me:secret@index.example/simple/x/: "
        "HTTPSConnectionPool(host='index.example', port=443)\n"
    )
    reason = _reason(said)
    assert "secret" not in reason
    assert "index.example" not in reason
    assert "the package index cannot be reached" in reason


def test_a_full_disk_is_told_as_such() -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    assert _reason(said).startswith("no space is left under the cache")


def test_sizes_are_taken_while_folders_come_and_go(tmp_path: Path) -> None:
    """pip tidies its temporary folders while the progress is measured."""
    (tmp_path / "kept").write_bytes(b"12345")
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            for name in "abcdefgh":
                (tmp_path / name / "deep").mkdir(parents=True)
            for name in "abcdefgh":
                shutil.rmtree(tmp_path / name)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert {_size(tmp_path) for _ in range(500)} == {5}
    finally:
        done.set()
        thread.join()


def test_ctrl_c_leaves_no_litter(registry: Registry, tmp_path: Path) -> None:
    # A registry that never answers: pip waits on it until the interrupt comes.
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        script = (
            "import os; os.environ.pop('PIP_NO_INDEX')\n"
            f"os.environ['PIP_INDEX_URL'] = 'http://127.0.0.1:{port}/'\n"
            "os.environ['PIP_FIND_LINKS'] = ''\n"
            "from facestream.models.pull import pull\n"
            f"pull({str(registry.path)!r})\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            silent.settimeout(60)
            silent.accept()[0].close()
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=30)
        finally:
            child.kill()
    assert b"KeyboardInterrupt" in errors
    deadline = time.monotonic() + 5
    while litter() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert litter() == []


ZOO = """
import pathlib

def ensure_available(sub_dir, name, root):
    print("download_path:", root)
    if name == "offline":
        raise RuntimeError("Failed downloading url https://zoo.example/offline.zip")
    folder = pathlib.Path(root) / sub_dir / name / name
    folder.mkdir(parents=True)
    (folder / "detector.onnx").write_bytes({detector!r})
    (folder / "embedder.onnx").write_bytes({embedder!r})
    (folder / "genderage.onnx").write_bytes(b"not wanted")
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of insightface's shape, whose zoo has its files at hand."""
    package = tmp_path / "site" / "insightface" / "utils"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    text = ZOO.replace("{detector!r}", repr(DETECTOR)).replace("{embedder!r}", repr(EMBEDDER))
    (package / "storage.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in ("insightface", "insightface.utils", "insightface.utils.storage"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_insightface_packs_come_through_its_zoo(
    zoo: None, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("detector", "embedder"):
        registry.raw["files"][key]["source"] = {"insightface": "buffalo_l"}
    registry.write()
    paths = pull(str(registry.path))
    assert [path.read_bytes() for path in paths] == [DETECTOR, EMBEDDER]
    assert sorted(p.name for p in pack_folder("tiny").iterdir()) == [p.name for p in paths]
    assert capsys.readouterr().out == ""
    assert litter() == []


def test_a_zoo_that_fails_is_one_line_without_addresses(zoo: None, registry: Registry) -> None:
    for key in ("detector", "embedder"):
        registry.raw["files"][key]["source"] = {"insightface": "offline"}
    registry.write()
    with pytest.raises(PullFailed, match=r"could not bring offline \(RuntimeError\)") as caught:
        pull(str(registry.path))
    assert "zoo.example" not in str(caught.value)
    assert litter() == []
