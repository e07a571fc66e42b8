"""`facestream keys new|list|revoke|import`, as a person and as a script use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from facestream import ConfigError, FacestreamError, PublishError
from facestream.stream.keys import KeyStore, load_pair
from facestream.tools.keys import app


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder; keys for their owners are written to the current folder."""
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def call(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, FacestreamError):
        raise result.exception
    return result


def test_new_writes_the_owners_file_and_says_what_it_may(tmp_path: Path, data: Path) -> None:
    said = call("new", "wall", "--topic", "match/door", "--topic", "unknown").stdout
    assert "keys are on" in said and "wall may read match/door, unknown/*" in said
    pair = load_pair(tmp_path / "wall.key_secret")
    assert pair.secret not in said
    assert KeyStore(data / "keys").allowed()[0]["wall"].public == pair.public
    said = call("new", "box", "--role", "node").stdout
    assert "keys are on" not in said and "box may connect as a node" in said


def test_list_shows_names_roles_and_rights_but_no_secrets(tmp_path: Path) -> None:
    assert "keys: 0" in call("list").stdout and "keys are off" in call("list").stdout
    call("new", "wall", "--topic", "*/door")
    call("new", "box", "--role", "node")
    said = call("list").stdout
    assert "*/door" in said and "keys: 2" in said and "off" not in said
    listed = json.loads(call("list", "--json").stdout)
    assert listed["on"] and listed["damaged"] == {}
    assert [(k["name"], k["role"], k["topics"]) for k in listed["keys"]] == [
        ("box", "node", []),
        ("wall", "subscriber", ["*/door"]),
    ]
    assert load_pair(tmp_path / "wall.key_secret").secret not in json.dumps(listed)


def test_list_names_files_that_are_no_keys(data: Path) -> None:
    call("new", "wall")
    (data / "keys" / "allowed" / "odd.key").write_text("nonsense")
    assert "odd: damaged, lets nobody in" in call("list").stdout.replace("\n", " ")


def test_revoke_takes_a_key_off_the_list() -> None:
    call("new", "wall")
    assert "revoked wall" in call("revoke", "wall").stdout
    with pytest.raises(ConfigError, match="no key called wall"):
        call("revoke", "wall")
    assert json.loads(call("list", "--json").stdout)["keys"] == []


def test_import_takes_the_key_of_another_machine(tmp_path: Path, data: Path) -> None:
    call("new", "box", "--role", "node", "--keys", str(tmp_path / "there"))
    call("import", "box.key_secret", "machine2:6000")
    assert KeyStore(data / "keys").peer("machine2", "6000") == load_pair("box.key_secret")
    assert "a key for machine2:6000" in call("list").stdout
    Path("box.key_secret").chmod(0o644)
    with pytest.raises(PublishError, match="chmod 600"):
        call("import", "box.key_secret", "machine2:6000")


def test_answers_for_scripts(tmp_path: Path, data: Path) -> None:
    made = json.loads(call("new", "wall", "--out", str(tmp_path), "--json").stdout)
    assert made == {
        "name": "wall",
        "role": "subscriber",
        "topics": ["*"],
        "file": str(tmp_path / "wall.key_secret"),
        "folder": str(data / "keys"),
    }
    assert json.loads(call("revoke", "wall", "--json").stdout) == {"revoked": "wall"}


def test_a_mistake_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "facestream.tools.cli", "keys"]
    for words, code, text in (
        (["new", "wall", "--topic", "mach/door"], 2, "did you mean 'match'?"),
        (["new", "wall", "--role", "boss"], 2, "role"),
        (
            ["new", "wall", "--out", str(tmp_path / "nowhere")],
            7,
            "is no folder that can be written to",
        ),
        (["revoke", "wall"], 2, "no key called wall"),
        (["import", "none.key_secret", "machine2"], 7, "cannot be read"),
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert text in done.stderr and done.stderr.count("\n") == 1
        assert done.stdout == ""
