"""A private PostgreSQL server in a temporary folder, from the binaries that are installed."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PATIENCE = 60.0
USER = "facestream"


def find_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`, the newest where Debian keeps several."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    places = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    folders += sorted(places, key=lambda path: int(path.parent.name), reverse=True)
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    return None


class PostgresServer:
    """Listens on loopback, wants a password, and leaves nothing when stopped."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.password = secrets.token_hex(8)
        self._count = 0
        self.folder = Path(tempfile.mkdtemp(prefix="fs-pg-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self._start_somewhere()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # the folder itself is closed to others
        options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        command = [self._binaries / "initdb", "-D", self.folder / "data", "-U", USER]
        subprocess.run(
            [*command, "--no-locale", "--encoding=UTF8", *options],
            check=True,
            capture_output=True,
            timeout=PATIENCE,
            cwd=self.folder,
            **self._as,
        )

    def _start_somewhere(self) -> None:
        """Start it on a port that nobody has taken since it was found free."""
        for attempt in range(5):
            self.port = _free_port()
            try:
                self.start()
                return
            except RuntimeError as error:
                self.stop()
                if attempt == 4 or "could not bind" not in str(error):
                    raise

    def start(self) -> None:
        """Start it on its port, and return once it answers."""
        import psycopg

        settings = ["fsync=off", "shared_buffers=16MB", "max_connections=40", "jit=off"]
        command = [self._binaries / "postgres", "-D", self.folder / "data"]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-k", self.folder]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(part for one in settings for part in ("-c", one))],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url("postgres", "postgresql"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                over = self._process.poll() is not None or time.monotonic() > deadline
                if over:
                    log_text = (self.folder / "log").read_text()[-2000:]
                    raise RuntimeError(f"PostgreSQL did not start: {log_text}") from None
                time.sleep(0.05)

    def url(self, database: str, scheme: str = "postgresql") -> str:
        """The URL of a database, with the password in it."""
        return f"{scheme}://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_gallery(self) -> str:
        """The URL of a new, empty schema: as good as a database, and made in a moment."""
        import psycopg

        self._count += 1
        name = f"people{self._count}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def freeze(self) -> None:
        """Let it hang: connections stay, and nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was frozen."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, what: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, what)  # first, so that no more children come
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for child in children.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), what)

    def stop(self) -> None:
        """End it at once: connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # no long farewell
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
            self._process = None

    def close(self) -> None:
        """End it and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
