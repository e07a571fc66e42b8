"""`facestream watch` on a real publisher: lines for people, JSON for scripts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.configs.schema import PublishConfig
from facestream.stream.events import KINDS, decode
from facestream.stream.journal import Journal
from facestream.stream.publish import Publisher
from facestream.tools.docs import examples
from facestream.tools.watch import STYLES, format_event, watch

app = typer.Typer()
app.command()(watch)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """A publisher that sends one event of every kind again and again."""
    stop = threading.Event()
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, PublishConfig("tcp://127.0.0.1:*")) as publisher,
    ):

        def work() -> None:
            while not stop.wait(0.02):
                publisher.publish_many(examples())

        thread = threading.Thread(target=work)
        thread.start()
        yield publisher.endpoint
        stop.set()
        thread.join(10)


def output(*arguments: str) -> list[str]:
    """The lines that the command prints on stdout."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_one_event_is_one_line(endpoint: str) -> None:
    lines = output(endpoint, "--count", str(2 * len(KINDS)), "--timeout", "10")
    assert len(lines) == 2 * len(KINDS)
    (match,) = {line for line in lines if " match " in line}
    assert "entrance" in match and "#7" in match
    assert "ada  score 0.470 (threshold 0.380)  9 frames fused" in match
    assert any("ada -> grace" in line for line in lines)
    assert any("running, 1 frames: 1920x1080, h264" in line for line in lines)


def test_json_lines_are_events(endpoint: str) -> None:
    lines = output(endpoint, "--json", "--count", str(len(KINDS)), "--timeout", "10")
    assert {decode(line.encode()).kind for line in lines} == set(KINDS)
    assert all(json.loads(line)["epoch"] for line in lines)


def test_kinds_and_cameras_are_filtered(endpoint: str) -> None:
    arguments = ["--kind", "match", "--kind", "system", "--camera", "-", "--count", "3"]
    lines = output(endpoint, "--json", *arguments, "--timeout", "10")
    assert [json.loads(line)["kind"] for line in lines] == ["system"] * 3


def test_it_ends_when_nothing_comes() -> None:
    assert output("tcp://127.0.0.1:9", "--timeout", "0.1") == []


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'match'"):
        output("tcp://127.0.0.1:9", "--kind", "mtch")


def test_every_kind_has_a_colour_and_fits_one_line() -> None:
    assert set(STYLES) == set(KINDS)
    assert all("\n" not in format_event(event).plain for event in examples())


def test_markup_in_a_name_is_printed_as_it_is() -> None:
    event = next(event for event in examples() if event.kind == "match")
    renamed = msgspec.structs.replace(event, identity="[red]ada[/red]")
    assert "[red]ada[/red]" in format_event(renamed).plain


def test_ctrl_c_ends_it_without_a_traceback_of_zeromq(endpoint: str) -> None:
    code = "import sys, typer\nfrom facestream.tools.watch import watch\ntyper.run(watch)"
    command = [sys.executable, "-X", "dev", "-c", code, endpoint]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=10)
    assert "Traceback" not in errors and "ResourceWarning" not in errors
    assert run.returncode == 130


def test_the_help_has_an_example() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert "Example: facestream watch --kind match" in " ".join(done.stdout.split())
