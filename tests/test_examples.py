"""The examples beside a real `facestream run`: what they print is what the journal holds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import facestream
from facestream.models.pack import Pack
from facestream.stream.events import AnyEvent
from facestream.stream.journal import Journal

EXAMPLES = Path(facestream.__file__).parent / "examples"
ENDLESS = "synthetic:?seconds=0&size=320x240&fps=5&faces=2&seed=2"
NODE_OLDEST = 18

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program with its output in a pipe; what is left at the end is killed."""
    with ExitStack() as stack:

        def run(*command: object) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=tmp_path,
                env={**os.environ, "FACESTREAM_DATA": str(tmp_path / "data")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield run


def read(process: subprocess.Popen[str], lines: int) -> list[str]:
    """So many lines of its output."""
    assert process.stdout is not None
    found = [process.stdout.readline().rstrip("\n") for _ in range(lines)]
    assert all(found), process.communicate(timeout=10)[1]
    return found


class Pipeline:
    """`facestream run` on an endless source, one run after another on the same journal."""

    def __init__(self, start: Start, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/events"
        self._journal = folder / "data" / "journal.db"
        self._start = start

    def begin(self, form: str) -> None:
        """Start it, publishing in JSON or msgpack."""
        self._process = self._start(
            *(sys.executable, "-m", "facestream.tools.cli", "run", "--source", ENDLESS, "--json"),
            *("--endpoint", self.endpoint, "--set", f"publish.format={form}"),
        )

    def end(self) -> list[str]:
        """Stop it; the lines that the examples print for the events of its journal."""
        self._process.send_signal(signal.SIGINT)
        _, errors = self._process.communicate(timeout=60)
        assert self._process.returncode == 130, errors
        with Journal.open(self._journal) as journal:
            return [line(event) for event in journal.read()]


def line(event: AnyEvent) -> str:
    who = getattr(event, "identity", None) or "-"
    return f"{event.sequence} {event.kind} {event.camera} {who}"


@pytest.fixture
def pipeline(start: Start, tmp_path: Path, open_models: Pack) -> Pipeline:
    return Pipeline(start, tmp_path)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node example with its packages, in a folder of its own."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("THE NODE EXAMPLE IS NOT TESTED: no node and npm; apt-get install nodejs npm")
    version = subprocess.check_output(["node", "--version"], text=True).strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE_OLDEST:
        pytest.skip(f"THE NODE EXAMPLE IS NOT TESTED: node {version} is older than {NODE_OLDEST}")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "subscribe.mjs"):
        shutil.copy(EXAMPLES / "node" / name, folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=170)
    if done.returncode:
        pytest.skip(f"THE NODE EXAMPLE IS NOT TESTED: npm install: {done.stderr.strip()[-200:]}")
    return folder / "subscribe.mjs"


def check_resuming(start: Start, pipeline: Pipeline, *command: object) -> None:
    """It is stopped in the first run of the pipeline and started again in the second."""
    pipeline.begin("json")
    process = start(*command)
    seen = read(process, 4)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    seen += process.stdout.read().splitlines()
    stored = pipeline.end()
    assert len(seen) < len(stored), "the ends of sightings came later"
    pipeline.begin("msgpack")
    process = start(*command)
    while seen[-1] in stored or len(seen) < len(stored) + 3:
        seen += read(process, 1)
    stored = pipeline.end()
    # The client counts an event as handled once the next is asked for: one may come twice.
    once = list(dict.fromkeys(seen))
    assert once == stored[: len(once)] and len(seen) - len(once) <= 1


def test_the_python_client(start: Start, pipeline: Pipeline, tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "subscribe.py", pipeline.endpoint]
    check_resuming(start, pipeline, *command, tmp_path / "python.cursor")


def test_node(start: Start, pipeline: Pipeline, node: Path, tmp_path: Path) -> None:
    command = ["node", node, pipeline.endpoint]
    check_resuming(start, pipeline, *command, tmp_path / "node.cursor")


def test_plain_zeromq(start: Start, pipeline: Pipeline) -> None:
    process = start(sys.executable, EXAMPLES / "subscribe_plain.py", pipeline.endpoint)
    pipeline.begin("json")
    seen = read(process, 3)
    stored = pipeline.end()
    begin = stored.index(seen[0])
    assert seen == stored[begin : begin + len(seen)]


def test_the_plain_example_has_ten_lines() -> None:
    _, _, code = (EXAMPLES / "subscribe_plain.py").read_text().split('"""', 2)
    lines = [line for line in code.splitlines() if line and not line.startswith("import ")]
    assert len(lines) <= 10
