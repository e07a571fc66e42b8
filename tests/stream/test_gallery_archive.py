"""Export and import: the same gallery comes back, or nothing does and the reason is told."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from facestream import GalleryError
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change

from .test_gallery import EMBEDDER, add


@pytest.fixture
def gallery(place: str) -> Iterator[Gallery]:
    with Gallery.open(place, create=True) as opened:
        yield opened


def fill(gallery: Gallery) -> None:
    """Zoë (two photos, two packs), Anna with everything that can be kept and a mark, Bob."""
    add(gallery, "Zoë", [1, 0.25], "z1", quality=3.0, norm=2.0)
    add(gallery, "Anna", [0, -2], "a1")
    add(gallery, "Zoë", [0, 0.1], "z2", quality=-1.0)
    add(gallery, "Zoë", [1, 2, 3], "z1", pack="omz")
    add(gallery, "Bob", [1, 1], "b1", notes="night shift")
    kept = {"valid_from": 10.0, "valid_until": 4e9, "keep_until": 5e9, "basis": "consent 17"}
    gallery.edit("Anna", Change(labels={"team": "red", "empty": ""}, **kept))  # type: ignore[arg-type]
    gallery.make_watchlist("Staff", notes="doors A to C")
    gallery.make_watchlist("Empty")
    gallery.put_on("Staff", ["Anna", "Zoë"])
    gallery.mark_not(
        "Anna", np.array([0.6, 0.8]), pack="open", embedder=EMBEDDER, source="door", notes="Eve"
    )


def content(gallery: Gallery) -> Any:
    """All that an archive should bring along."""
    people = gallery.identities()
    templates = [gallery.templates(pack) for pack in ("open", "omz")]
    return (
        people,
        gallery.watchlists(),
        gallery.marks(),
        [gallery.show(person.name).samples for person in people],
        [(t.names, t.vectors.tolist(), t.missing, t.expired) for t in templates],
    )


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of the filled gallery."""
    with Gallery.temporary() as filled:
        fill(filled)
        filled.export(tmp_path / "people.zip")
    return tmp_path / "people.zip"


# There and back


def test_a_gallery_comes_back_whole_in_another_database(gallery: Gallery, tmp_path: Path) -> None:
    fill(gallery)
    path = tmp_path / "out.zip"
    assert gallery.export(path) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Gallery.temporary() as other:
        summary = other.import_archive(path)
        assert (summary.people, summary.samples, summary.embeddings) == (3, 4, 5)
        assert summary.marks == 1
        assert summary.skipped == {}
        assert content(other) == content(gallery)
        assert other.version() == 1
        trail = [(e.action, e.name, e.details, e.version) for e in other.history()]
        assert trail == [("import", name, "from an archive", 1) for name in ("Zoë", "Anna", "Bob")]


def test_an_archive_is_imported_into_any_database(gallery: Gallery, archive: Path) -> None:
    gallery.import_archive(archive)
    with Gallery.temporary() as original:
        fill(original)
        people = [msgspec.structs.replace(p, id="", created_at=0) for p in original.identities()]
    found = [msgspec.structs.replace(p, id="", created_at=0) for p in gallery.identities()]
    assert found == people
    add(gallery, "Dora", [1, 5])  # ids that the database counts out go on
    assert gallery.export(archive.with_name("again.zip")) == 4


def test_an_empty_gallery_can_be_moved_too(gallery: Gallery, tmp_path: Path) -> None:
    assert gallery.export(tmp_path / "nobody.zip") == 0
    assert gallery.import_archive(tmp_path / "nobody.zip").people == 0
    assert gallery.version() == 0


def test_a_reader_sees_all_of_an_import_or_nothing(
    gallery: Gallery, place: str, archive: Path
) -> None:
    seen = set()
    with Gallery.open(place, create=False) as reader:
        thread = threading.Thread(target=lambda: gallery.import_archive(archive))
        thread.start()
        while thread.is_alive():
            templates = reader.templates("open")
            seen.add((templates.version, len(templates.names)))
        thread.join(60)
        seen.add((reader.version(), len(reader.templates("open").names)))
    assert (1, 3) in seen and seen <= {(0, 0), (1, 3)}


IMPORT = """
import sys
from facestream.stream.gallery import Gallery
with Gallery.open(sys.argv[1], create=False) as gallery:
    print("begins", flush=True)
    gallery.import_archive(sys.argv[2])
    print("done", flush=True)
"""


def test_an_import_that_is_killed_brought_everybody_or_nobody(
    gallery: Gallery, place: str, tmp_path: Path
) -> None:
    with Gallery.temporary() as many:
        for number in range(400):
            add(many, f"P{number}", [1.0, number])
        many.export(tmp_path / "many.zip")
    command = [sys.executable, "-c", IMPORT, place, str(tmp_path / "many.zip")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stdout.readline() == "begins\n"
        program.send_signal(signal.SIGKILL)
        whole = "done" in program.stdout.read()
    there = gallery.version()
    assert there in ((1,) if whole else (0, 1))
    assert len(gallery.identities()) == len(gallery.history()) == 400 * there
    if not there:
        assert gallery.import_archive(tmp_path / "many.zip").people == 400


# Conflicts


def test_people_who_are_in_the_way_are_told_and_nothing_is_imported(
    gallery: Gallery, archive: Path
) -> None:
    add(gallery, "Anna", [1, 0], "another photo")
    add(gallery, "Carl", [1, 0], "b1")
    add(gallery, "Zack", [1, 0], "z0")
    before = content(gallery)
    with pytest.raises(
        GalleryError,
        match=r"nothing was imported: the name Anna belongs to somebody else .*and 1 more.*--skip",
    ):
        gallery.import_archive(archive)
    assert content(gallery) == before and gallery.version() == 3

    summary = gallery.import_archive(archive, skip=True)
    assert summary.people == 1
    assert summary.skipped == {
        "Anna": "the name Anna belongs to somebody else in the gallery",
        "Bob": "a photo of Bob is enrolled as Carl",
    }
    assert gallery.version() == 4
    assert [person.name for person in gallery.identities()] == ["Anna", "Carl", "Zack", "Zoë"]
    assert gallery.show("Anna").identity.watchlists == ()


def test_an_archive_is_not_imported_twice(gallery: Gallery, archive: Path) -> None:
    gallery.import_archive(archive)
    gallery.edit("Anna", Change(name="Anna Smith"))
    with pytest.raises(GalleryError, match="Zoë is in the gallery already"):
        gallery.import_archive(archive)
    summary = gallery.import_archive(archive, skip=True)
    assert summary.people == 0 and gallery.version() == 2
    assert summary.skipped["Anna"] == "Anna is in the gallery already, as Anna Smith"


def test_an_old_archive_brings_nobody_back_who_was_erased(gallery: Gallery, archive: Path) -> None:
    gallery.import_archive(archive)
    gallery.remove("Anna")
    gallery.edit("Bob", Change(keep_until=5.0))
    gallery.purge()
    gallery.remove("Zoë")
    version = gallery.version()
    with pytest.raises(GalleryError, match=r"was erased .*and 2 more.*--skip.*--erased brings"):
        gallery.import_archive(archive)
    summary = gallery.import_archive(archive, skip=True)
    assert summary.people == 0 and set(summary.skipped) == {"Anna", "Bob", "Zoë"}
    assert gallery.version() == version
    assert gallery.import_archive(archive, erased=True).people == 3
    with pytest.raises(GalleryError, match=r"is in the gallery already .and 2 more.; --skip"):
        gallery.import_archive(archive)


def test_a_watchlist_of_the_same_name_is_used(gallery: Gallery, archive: Path) -> None:
    gallery.make_watchlist("Staff", notes="ours")
    gallery.import_archive(archive)
    empty, staff = gallery.watchlists()
    assert (empty.members, staff.notes, staff.members) == ((), "ours", ("Anna", "Zoë"))


def test_embeddings_of_another_length_are_refused(gallery: Gallery, archive: Path) -> None:
    add(gallery, "Carl", [1, 0, 0, 0], pack="omz")
    with pytest.raises(GalleryError, match="of pack omz in this gallery have 4 numbers, got 3"):
        gallery.import_archive(archive, skip=True)
    assert gallery.version() == 1


# Files


def test_nothing_is_overwritten_and_nothing_half_written_stays(
    archive: Path, tmp_path: Path
) -> None:
    before = archive.read_bytes()
    with Gallery.temporary() as gallery:
        with pytest.raises(GalleryError, match="already: name another"):
            gallery.export(archive)
        with pytest.raises(GalleryError, match="cannot write the archive"):
            gallery.export(tmp_path / "no" / "folder.zip")
        with pytest.raises(GalleryError, match="there is no archive at"):
            gallery.import_archive(tmp_path / "none.zip")
        with pytest.raises(GalleryError, match="cannot read the archive"):
            gallery.import_archive(tmp_path)
        with pytest.raises(GalleryError, match=r"cannot write the archive .*too long"):
            gallery.export(tmp_path / ("n" * 300))
        long = tmp_path / ("n" * 251 + ".zip")
        gallery.export(long)  # as long as the file system lets a name be
    assert archive.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == sorted([archive, long])
