"""The client where only msgspec and pyzmq are installed: a fresh environment receives an event."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

import facestream
from facestream.configs.schema import PublishConfig
from facestream.stream.journal import Journal
from facestream.stream.keys import KeyStore
from facestream.stream.publish import Publisher

from .wire import sighting

RECEIVE = """
import sys
from facestream.stream.client import subscribe

endpoint, cursor, key = sys.argv[1:]
with subscribe(endpoint, after="oldest", cursor=cursor, key=key, timeout=60) as events:
    print(next(events).id)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with msgspec, pyzmq, and this package's files."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "msgspec", "pyzmq"],
        capture_output=True,
        text=True,
        timeout=150,
    )
    if done.returncode:
        pytest.skip(f"msgspec and pyzmq cannot be installed here: {done.stderr.strip()[-200:]}")
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "facestream").symlink_to(Path(facestream.__file__).parent)
    return python


def test_an_event_arrives_with_nothing_else_installed(python: Path, tmp_path: Path) -> None:
    listing = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    names = subprocess.check_output([python, "-c", listing], text=True, cwd=tmp_path).split()
    assert sorted(names) == ["msgspec", "pyzmq"]
    key = KeyStore(tmp_path / "keys").create("me", "subscriber", (), tmp_path)[1]
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, PublishConfig(f"ipc://{tmp_path}/events")) as publisher,
    ):
        publisher.publish(sighting(1))
        command = [python, "-c", RECEIVE, publisher.endpoint, tmp_path / "me.cursor", key]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=tmp_path)
    assert done.stdout.strip() == "door-1", done.stderr
