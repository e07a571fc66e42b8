"""What all tests share: the asset folder, the packs, and a guard against forgotten sockets."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from facestream.models.pack import Pack, open_pack

from .postgres_server import PostgresServer, find_binaries

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in a shell's background: programs started by tests would inherit deafness to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast an example is made or judged depends on what else the machine does.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of real faces and clips; most tests use the registry's photographs instead."""
    folder = os.environ.get("FACESTREAM_ASSETS")
    if not folder:
        pytest.skip("FACESTREAM_ASSETS is not set: no folder of real faces and clips here")
    return Path(folder)


@pytest.fixture(scope="session")
def open_models() -> Pack:
    """The default pack, pulled by `make test` before the tests start."""
    return open_pack("open")


@pytest.fixture(scope="session")
def omz_models(assets: Path) -> Iterator[Pack]:
    """The better pack, whose files lie in the asset folder."""
    before = os.environ.get("FACESTREAM_MODELS")
    os.environ["FACESTREAM_MODELS"] = str(assets / "models")
    try:
        yield open_pack("omz")
    finally:
        if before is None:
            del os.environ["FACESTREAM_MODELS"]
        else:
            os.environ["FACESTREAM_MODELS"] = before


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this session's own."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("POSTGRESQL IS NOT TESTED: no initdb and postgres; apt-get install postgresql")
    pytest.importorskip("psycopg", reason="POSTGRESQL IS NOT TESTED: no psycopg, an extra")
    server = PostgresServer(binaries)
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new gallery can be made: a file, and again a schema on a server."""
    if request.param == "sqlite":
        return str(tmp_path / "people" / "gallery.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_gallery()


@pytest.fixture(scope="session", autouse=True)
def own_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Journals, galleries and keys of whoever runs the tests are neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACESTREAM_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """A test that leaves a non-daemon thread running fails: it would hang a real shutdown."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        left = [t for t in threading.enumerate() if t not in before and not t.daemon]
        if not left:
            return
        time.sleep(0.01)
    pytest.fail(f"threads left running: {[t.name for t in left]}")
