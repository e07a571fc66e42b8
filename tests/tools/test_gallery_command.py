"""`facestream gallery list|show|remove`, as a person and as a script use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from facestream import FacestreamError, GalleryUnreadable, UnknownIdentity
from facestream.stream.gallery import Gallery
from facestream.tools.gallery import app


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
    assert answer == {"removed": "Anna [Smith]", "samples": 2, "version": 5}


def test_somebody_unknown_is_an_error_before_any_question() -> None:
    with pytest.raises(UnknownIdentity, match="nearest name is Bob"):
        call("remove", "Bobb")


def test_another_gallery_can_be_named(data: Path) -> None:
    with pytest.raises(GalleryUnreadable, match="there is no gallery at"):
        call("list", "--gallery", str(data / "other.db"))
    url = f"sqlite:///{data / 'gallery.db'}"
    assert json.loads(call("list", "--gallery", url, "--json").stdout)["version"] == 4


@pytest.mark.parametrize("command", ["list", "show", "remove"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: facestream gallery {command}" in call(command, "--help").output
