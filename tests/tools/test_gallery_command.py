"""`facestream gallery`, as a person and as a script use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from facestream import (
    ConfigError,
    FacestreamError,
    GalleryError,
    GalleryUnreadable,
    UnknownIdentity,
)
from facestream.stream.gallery import Gallery
from facestream.tools.gallery import app

from ..postgres_server import PostgresServer


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, with Anna (two photos) and Bob in the default gallery."""
    monkeypatch.setenv("FACESTREAM_DATA", str(tmp_path / "data"))
    with Gallery.open(tmp_path / "data" / "gallery.db", create=True) as gallery:
        for number, name in enumerate(["Anna [Smith]", "Anna [Smith]", "Bob"]):
            gallery.add_sample(
                name,
                np.ones(4, np.float32),
                norm=2.0,
                quality=0.5,
                pack="open",
                embedder="c0ffee" * 10,
                source=f"{number}.jpg",
                digest=f"{number:064x}",
                notes="night shift" if name == "Bob" else None,
            )
    return tmp_path / "data"


def call(*words: str, answer: str = "") -> Result:
    result = CliRunner().invoke(app, list(words), input=answer)
    if isinstance(result.exception, FacestreamError):
        raise result.exception
    return result


def test_list_shows_everybody() -> None:
    shown = call("list").output
    assert "Anna [Smith]" in shown and "night shift" in shown
    assert "identities: 2, version 4" in shown


def test_list_as_json() -> None:
    answer = json.loads(call("list", "--json").stdout)
    assert answer["version"] == 4
    assert answer["gallery"].endswith("gallery.db")
    assert [(p["name"], p["samples"], p["packs"]) for p in answer["identities"]] == [
        ("Anna [Smith]", 2, ["open"]),
        ("Bob", 1, ["open"]),
    ]


def test_show_lists_photos_and_history() -> None:
    shown = call("show", "Anna [Smith]").output
    assert "0.jpg" in shown and "1.jpg" in shown and "2.jpg" not in shown
    assert "enrol" in shown and "c0ffeec0ffee" in shown
    answer = json.loads(call("show", "Bob", "--json").stdout)
    assert answer["identity"]["notes"] == "night shift"
    assert answer["samples"][0]["embeddings"][0]["dimension"] == 4
    assert [entry["action"] for entry in answer["history"]] == ["annotate", "enrol"]


def test_remove_asks_first(data: Path) -> None:
    refused = call("remove", "Bob", answer="n\n")
    assert refused.exit_code == 1
    assert "Remove Bob (1 photo)" in refused.stderr and "nothing was removed" in refused.stderr
    agreed = call("remove", "Bob", answer="y\n")
    assert agreed.exit_code == 0 and "removed Bob" in agreed.stdout
    with Gallery.open(data / "gallery.db", create=False) as gallery:
        assert [person.name for person in gallery.identities()] == ["Anna [Smith]"]


def test_remove_for_scripts() -> None:
    answer = json.loads(call("remove", "Anna [Smith]", "--yes", "--json").stdout)
    assert answer == {"removed": "Anna [Smith]", "samples": 2, "sightings": 0, "version": 5}


def test_somebody_unknown_is_an_error_before_any_question() -> None:
    with pytest.raises(UnknownIdentity, match="nearest name is Bob"):
        call("remove", "Bobb")


def test_another_gallery_can_be_named(data: Path) -> None:
    with pytest.raises(GalleryUnreadable, match="there is no gallery at"):
        call("list", "--gallery", str(data / "other.db"))
    url = f"sqlite:///{data / 'gallery.db'}"
    assert json.loads(call("list", "--gallery", url, "--json").stdout)["version"] == 4


# Changes


def test_edit_changes_what_is_given_and_keeps_the_rest() -> None:
    options = {
        "--name": "Robert",
        "--basis": "consent 17",
        "--valid-from": "2020-05-01",
        "--valid-until": "2021-05-01 18:30",
        "--keep-until": "2999-01-01",
    }
    words = [word for pair in options.items() for word in pair]
    answer = json.loads(
        call("edit", "Bob", *words, "--label", "team=red", "--label", "a=b=c", "--json").stdout
    )
    person = answer["identity"]
    assert (answer["changed"], answer["version"]) == (True, 5)
    assert (person["name"], person["notes"], person["basis"]) == (
        *("Robert", "night shift", "consent 17"),
    )
    assert person["valid_from"] == datetime(2020, 5, 1).timestamp()
    assert person["valid_until"] == datetime(2021, 5, 1, 18, 30).timestamp()
    assert person["labels"] == {"team": "red", "a": "b=c"}

    shown = call("show", "Robert").output
    assert "not matched: expired on 2021-05-01 18:30" in shown
    assert "basis: consent 17" in shown and "label team: red" in shown
    assert "keep until: 2999-01-01 00:00" in shown
    assert "not matched: Robert expired on" in call("list").output

    told = call("edit", "Robert", "--valid-until", "never", "--unlabel", "team").output
    assert "changed Robert, gallery version 6" in told
    person = json.loads(call("show", "Robert", "--json").stdout)["identity"]
    assert (person["valid_until"], person["labels"]) == (None, {"a": "b=c"})
    assert "nothing to change of Robert" in call("edit", "Robert", "--name", "Robert").output


@pytest.mark.parametrize(
    ("words", "error", "reason"),
    [
        ([], ConfigError, "nothing to change: give an option"),
        (["--valid-until", "tomorrow"], ConfigError, "--valid-until must be a day such as"),
        (["--keep-until", "9999-99-99"], ConfigError, "--keep-until must be a day such as"),
        (["--label", "team"], ConfigError, "--label must be KEY=VALUE, got 'team'"),
        (["--label", "=red"], GalleryError, "a label's key"),
        (["--name", "Anna [Smith]"], GalleryError, "belongs to somebody else"),
        (
            ["--valid-from", "2021-01-01", "--valid-until", "2020-01-01"],
            GalleryError,
            "valid_until must come after valid_from",
        ),
    ],
)
def test_an_edit_that_is_refused_says_why(
    words: list[str], error: type[FacestreamError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        call("edit", "Bob", *words)
    assert json.loads(call("list", "--json").stdout)["version"] == 4


def test_purge_erases_whose_time_is_over() -> None:
    call("edit", "Bob", "--keep-until", "2020-01-01")
    assert "not matched: Bob was to be kept until 2020-01-01" in call("list").output
    shown = call("purge").output
    assert "erased Bob" in shown and "identities erased: 1, gallery version 6" in shown
    assert json.loads(call("purge", "--json").stdout) == {
        "purged": [],
        "sightings": 0,
        "version": 6,
    }


def test_audit_tells_who_did_what_and_names_nobody_who_is_gone() -> None:
    call("edit", "Bob", "--notes", "day shift")
    assert "notes" in call("audit", "Bob").output
    call("remove", "Bob", "--yes")
    shown = call("audit").output
    assert "Anna [Smith]" in shown and "erased " in shown and "Bob" not in shown
    answer = json.loads(call("audit", "--json").stdout)
    assert [entry["action"] for entry in answer["entries"]] == [
        *("enrol", "enrol", "annotate", "enrol", "edit", "remove")
    ]
    assert answer["entries"][-1]["name"] is None and answer["version"] == 6
    with pytest.raises(UnknownIdentity):
        call("audit", "Bob")


def test_watchlists_are_made_filled_listed_and_removed() -> None:
    def lists(*words: str) -> Result:
        return call("watchlist", *words)

    assert "made Staff, gallery version 5" in lists("make", "Staff", "--notes", "doors").output
    assert "put on Staff: 2 of 2" in lists("add", "Staff", "Bob", "Anna [Smith]").output
    assert json.loads(lists("add", "Staff", "Bob", "--json").stdout) == {"added": 0, "version": 6}
    shown = lists("list").output
    assert "Anna [Smith], Bob" in shown and "watchlists: 1, version 6" in shown
    assert "watchlists: Staff" in call("show", "Bob").output
    assert json.loads(lists("take", "Staff", "Bob", "--json").stdout)["taken"] == 1
    (staff,) = json.loads(lists("list", "--json").stdout)["watchlists"]
    assert (staff["members"], staff["notes"]) == (["Anna [Smith]"], "doors")
    lists("remove", "Staff")
    assert json.loads(lists("list", "--json").stdout)["watchlists"] == []
    with pytest.raises(GalleryError, match="no watchlist Staff"):
        lists("add", "Staff", "Bob")


# Marks and moving


def test_show_tells_who_the_person_is_not_and_how_to_take_it_back(data: Path) -> None:
    face = np.array([1, 0, 0, 0], np.float32)
    with Gallery.open(data / "gallery.db", create=False) as gallery:
        made = gallery.mark_not("Bob", face, pack="open", embedder="c0ffee" * 10, source="door")
    shown = " ".join(call("show", "Bob").output.split())
    assert all(word in shown for word in (made.id[:8], "door", made.actor))
    assert "marks 'not this person': 1" in shown and "gallery not --undo MARK" in shown
    assert "marks" not in call("show", "Anna [Smith]").output
    (mark,) = json.loads(call("show", "Bob", "--json").stdout)["marks"]
    assert (mark["id"], mark["created_at"]) == (made.id, made.created_at)
    assert "taken back" in call("not", "--undo", made.id[:8]).output
    assert "marks" not in call("show", "Bob").output


def test_a_gallery_is_moved_as_one_file(data: Path, tmp_path: Path) -> None:
    path, other = str(tmp_path / "people.zip"), str(tmp_path / "new" / "other.db")
    assert f"people exported: 2, into {path}" in call("export", path).output.replace("\n", "")
    shown = call("import", path, "--gallery", other).output
    assert "people imported: 2 (3 photos, 0 marks), left out: 0, gallery version 1" in shown
    with pytest.raises(GalleryError, match="in the gallery already"):
        call("import", path, "--gallery", other)
    skipped = call("import", path, "--gallery", other, "--skip").output
    assert "left out: Bob is in the gallery already" in skipped
    answer = json.loads(call("import", path, "--gallery", other, "--skip", "--json").stdout)
    assert (answer["version"], answer["summary"]["people"]) == (1, 0)
    assert sorted(answer["summary"]["skipped"]) == ["Anna [Smith]", "Bob"]


def test_no_gallery_is_made_for_an_archive_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"no archive")
    with pytest.raises(GalleryError, match="no whole archive"):
        call("import", str(tmp_path / "photo.jpg"), "--gallery", str(tmp_path / "new.db"))
    assert not (tmp_path / "new.db").exists()


# As programs


def test_a_server_is_used_by_its_address_and_its_password_is_never_shown(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url, path = postgres.new_gallery(), str(tmp_path / "people.zip")
    call("export", path)
    call("import", path, "--gallery", url)
    shown = call("list", "--gallery", url).output + call("list", "--gallery", url, "--json").stdout
    assert "Bob" in shown and "***" in shown
    assert postgres.password not in shown


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["show", "Nobody"], 5, "no identity Nobody in the gallery"),
        (["edit", "Bob"], 2, "nothing to change"),
        (["import", "none.zip"], 5, "there is no archive at none.zip"),
        (["list", "--gallery", "postgresql://a:hush@127.0.0.1:1/people"], 5, "a:***@127.0.0.1:1"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    words: list[str], code: int, reason: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "facestream.tools.cli", "gallery", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**os.environ}
    )
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.startswith("facestream: ") and done.stderr.count("\n") == 1
    assert reason in done.stderr and "hush" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("list", "show", "edit", "remove", "purge", "audit", "export", "import"),
        *(f"watchlist {name}" for name in ("list", "make", "remove", "add", "take")),
    ],
)
def test_help_has_an_example(command: str) -> None:
    assert f"Example: facestream gallery {command}" in call(*command.split(), "--help").output
