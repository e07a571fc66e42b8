"""The command line as a whole: version, help, exit codes."""

from __future__ import annotations

import errno
import sys

import pytest
import typer
from typer.testing import CliRunner

from facestream import FacestreamError, GalleryEmpty, __version__
from facestream.tools import cli

runner = CliRunner()


def commands() -> list[list[str]]:
    """Every command with its words: ["run"], ["gallery", "list"], ..."""

    def walk(command: object, words: list[str]) -> list[list[str]]:
        below = getattr(command, "commands", None)
        if below is None:
            return [words]
        alone = [words] if getattr(command, "invoke_without_command", False) else []
        return alone + [w for name, one in below.items() for w in walk(one, [*words, name])]

    return walk(typer.main.get_command(cli.app), [])


def test_the_version() -> None:
    done = runner.invoke(cli.app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"facestream {__version__}\n")


def test_all_commands_are_there() -> None:
    names = {" ".join(words) for words in commands()}
    assert names >= {
        *("run", "demo", "enroll", "watch", "doctor", "bench"),
        *("gallery list", "gallery show", "gallery remove"),
        *("models list", "models pull", "models verify", "models describe"),
    }


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str]) -> None:
    done = runner.invoke(cli.app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0
    assert "Example" in done.output and f"facestream {' '.join(words)}" in done.output


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def app(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)


ENDINGS = {
    "ours": (GalleryEmpty("two\nlines"), 5, "facestream: two lines\n"),
    "root": (FacestreamError("what"), 1, "facestream: what\n"),
    "system": (
        PermissionError(errno.EACCES, "Permission denied", "/x/y"),
        1,
        "facestream: /x/y: Permission denied\n",
    ),
    "system, unnamed": (
        OSError(errno.ENOSPC, "No space left on device"),
        1,
        "facestream: No space left on device\n",
    ),
    "interrupt": (KeyboardInterrupt(), 130, "facestream: interrupted\n"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_every_expected_ending_is_one_line_and_a_code(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error, code, line = ENDINGS[how]
    fail_with(error, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ZeroDivisionError("a bug"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_without_arguments_the_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["facestream"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert "Usage: facestream" in shown.out and shown.err == ""
