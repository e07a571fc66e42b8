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

from facestream import ConfigError, PublishError
from facestream.configs.schema import PublishConfig
from facestream.stream.cursor import Cursor, CursorFile
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
            number = 0
            while not stop.wait(0.02):
                number += 1
                publisher.publish_many(
                    [msgspec.structs.replace(e, id=f"{number}-{e.kind}") for e in examples()]
                )

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


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Publisher]:
    """A publisher that has published one event of every kind and is silent."""
    config = PublishConfig("tcp://127.0.0.1:*", heartbeat_seconds=0.1)
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, config) as publisher,
    ):
        publisher.publish_many(examples())
        yield publisher


def sequences(lines: list[str]) -> list[int]:
    return [json.loads(line)["sequence"] for line in lines]


def test_from_the_start_and_from_where_the_last_run_ended(
    stored: Publisher, tmp_path: Path
) -> None:
    cursor = ["--from-start", "--cursor", str(tmp_path / "watch.cursor")]
    arguments = [stored.endpoint, "--json", "--timeout", "30", *cursor]
    assert sequences(output(*arguments, "--count", "2")) == [1, 2]
    assert sequences(output(*arguments, "--count", "3")) == [3, 4, 5]


def test_the_replay_endpoint_can_be_named(tmp_path: Path) -> None:
    config = PublishConfig(f"ipc://{tmp_path}/events", replay=f"ipc://{tmp_path}/asked")
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, config) as publisher,
    ):
        publisher.publish_many(examples())
        arguments = ["--json", "--from-start", "--count", "1", "--timeout", "30"]
        assert sequences(output(config.endpoint, "--replay", config.replay, *arguments)) == [1]


def test_what_the_journal_no_longer_holds_is_told(stored: Publisher, tmp_path: Path) -> None:
    cursor = tmp_path / "watch.cursor"
    CursorFile(cursor).write(Cursor("another", 3), 0.0)
    arguments = [stored.endpoint, "--json", "--cursor", str(cursor), "--timeout", "30"]
    done = CliRunner().invoke(app, [*arguments, "--count", "2"])
    assert done.exit_code == 7
    assert sequences(done.stdout.splitlines()) == [1, 2]
    (line,) = [line for line in done.stderr.splitlines() if "lost" in line]
    assert line.startswith("facestream: events after 3 (epoch another) are lost")


def test_a_damaged_cursor_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "watch.cursor").write_text("{")
    with pytest.raises(ConfigError, match="delete this one to begin anew"):
        output("tcp://127.0.0.1:9", "--cursor", str(tmp_path / "watch.cursor"))


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="cannot be read"):
        output("tcp://127.0.0.1:9", "--key", str(tmp_path / "me.key_secret"))


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


def test_look_alikes_and_causes_are_told_in_words() -> None:
    found = {event.kind: event for event in examples()}
    twins = msgspec.structs.replace(found["match"], ambiguous=("ada", "grace"))
    assert "  ada or grace  score 0.470" in format_event(twins).plain
    moved = msgspec.structs.replace(found["match.revised"], identity=None, cause="track")
    assert "ada -> unknown (seen on another track now)" in format_event(moved).plain


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
