"""Export and import: the same gallery comes back, or nothing does and the reason is told."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import GalleryError
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_archive import MANIFEST, PEOPLE, VERSION, read_archive
from facestream.stream.gallery_records import Change
from facestream.stream.new_file import write_new

from .test_gallery import add


@pytest.fixture
def gallery(place: str) -> Iterator[Gallery]:
    with Gallery.open(place, create=True) as opened:
        yield opened


def fill(gallery: Gallery) -> None:
    """Zoë (two photos, two packs), Anna with everything that can be kept, Bob."""
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


def content(gallery: Gallery) -> Any:
    """All that an archive should bring along."""
    people = gallery.identities()
    templates = [gallery.templates(pack) for pack in ("open", "omz")]
    return (
        people,
        gallery.watchlists(),
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


@pytest.mark.parametrize("lacks", ["nothing", "files without a name", "links too"])
def test_a_new_file_gets_its_name_whole_and_takes_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    whole, link = os.open, os.link

    def refuse(place: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return whole(place, flags, *more, **named)

    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no")

    if lacks != "nothing":
        monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "link", no_link if lacks == "links too" else link)
    new, other = tmp_path / "new", tmp_path / "other"
    with write_new(new) as file:
        file.write(b"all")
        assert not new.exists()
    assert new.read_bytes() == b"all" and stat.S_IMODE(new.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError), write_new(other) as file:
        file.write(b"mine")
        other.write_bytes(b"theirs")
    with pytest.raises(KeyboardInterrupt), write_new(tmp_path / "half") as file:
        file.write(b"ha")
        raise KeyboardInterrupt
    assert other.read_bytes() == b"theirs"
    assert sorted(tmp_path.iterdir()) == [new, other]


Files = dict[str, bytes]


def change(
    path: Path, edit: Callable[[Files], None], *, seal: bool = True, packing: int = 0
) -> None:
    """Write the archive anew after `edit`; seal: with the checksums that its files then have."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    edit(files)
    if seal and MANIFEST in files:
        manifest = msgspec.json.decode(files[MANIFEST])
        manifest["files"] = {
            name: hashlib.sha256(data).hexdigest()
            for name, data in files.items()
            if name != MANIFEST
        }
        files[MANIFEST] = msgspec.json.encode(manifest)
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def in_json(name: str, *keys: Any, value: Any) -> Callable[[Files], None]:
    """Set one value deep in a JSON file."""

    def edit(files: Files) -> None:
        whole = node = msgspec.json.decode(files[name])
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        files[name] = msgspec.json.encode(whole)

    return edit


def array(values: Any, **more: Any) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        data = io.BytesIO()
        np.save(data, np.array(values, **more), allow_pickle=True)
        files["embeddings/0.npy"] = data.getvalue()

    return edit


def header(rows: int) -> bytes:
    """The beginning of a .npy of that many rows, and nothing behind it."""
    data = io.BytesIO()
    said = {"descr": "<f4", "fortran_order": False, "shape": (rows, 2)}
    np.lib.format.write_array_header_1_0(data, said)
    return data.getvalue()


def said_header(text: str) -> Callable[[Files], None]:
    """A .npy whose header says this, whatever it is."""
    said = text.encode().ljust(500) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said
    return lambda files: files.update({"embeddings/0.npy": data})


ANNA = ("people", 1)
BAD: dict[str, tuple[Callable[[Files], None], str]] = {
    "a newer format": (
        in_json(MANIFEST, "version", value=VERSION + 1),
        "newer facestream .*update",
    ),
    "another format": (in_json(MANIFEST, "format", value="zip"), "its format is 'zip'"),
    "a path out of it": (
        lambda f: f.update({"../../etc/evil": b"x"}),
        "'../../etc/evil', which no",
    ),
    "an absolute path": (lambda f: f.update({"/etc/evil": b"x"}), "'/etc/evil', which no"),
    "another file": (lambda f: f.update({"photo.jpg": b"x"}), "'photo.jpg', which no"),
    "no manifest": (lambda f: f.pop(MANIFEST) and None, f"no {MANIFEST}"),
    "no people": (lambda f: f.pop(PEOPLE) and None, f"{PEOPLE} is missing"),
    "no embeddings": (lambda f: f.pop("embeddings/1.npy") and None, "embeddings/1.npy is missing"),
    "too many blocks": (lambda f: f.update({"embeddings/7.npy": b"x"}), "2 blocks and 3 files"),
    "no JSON": (lambda f: f.update({PEOPLE: b"{"}), "people.json: "),
    "bytes that are no text": (lambda f: f.update({PEOPLE: b'"\xff"'}), "people.json: "),
    "deep JSON": (lambda f: f.update({PEOPLE: b"[" * 100000}), "people.json: "),
    "a missing key": (lambda f: f.update({PEOPLE: b"{}"}), "missing required field"),
    "a name that cannot be shown": (
        in_json(PEOPLE, *ANNA, "name", value="a\nb"),
        "cannot be print",
    ),
    "a name in another form": (
        in_json(PEOPLE, *ANNA, "name", value=" Anna"),
        "not in its one form",
    ),
    "two of one name": (in_json(PEOPLE, *ANNA, "name", value="Zoë"), "two people have the same na"),
    "a bad id": (in_json(PEOPLE, *ANNA, "id", value="../x"), "people.json: "),
    "a time that is none": (in_json(PEOPLE, *ANNA, "keep_until", value=-1), "a time of Anna"),
    "no validity": (in_json(PEOPLE, *ANNA, "valid_until", value=5), "must come after"),
    "a bad label": (in_json(PEOPLE, *ANNA, "labels", value={"a=": ""}), "a label's key"),
    "a zero byte": (in_json(PEOPLE, *ANNA, "notes", value="\0"), "what is kept of Anna"),
    "a character that a terminal obeys": (
        in_json(PEOPLE, *ANNA, "notes", value="\x1b[2J"),
        "what is kept of Anna.*U[+]001B",
    ),
    "a file name of two lines": (
        in_json(PEOPLE, *ANNA, "samples", 0, "source", value="a\nb"),
        "the file name of a photo of Anna",
    ),
    "a digest that is none": (
        in_json(PEOPLE, *ANNA, "samples", 0, "digest", value="a\0"),
        "the digest of a photo of Anna",
    ),
    "a pack that cannot be shown": (
        in_json(PEOPLE, "blocks", 0, "pack", value="o\x1bpen"),
        "the name of a pack",
    ),
    "an embedder that cannot be shown": (
        in_json(PEOPLE, "blocks", 0, "embedder", value="\0"),
        "the checksum of an embedder",
    ),
    "an unknown list": (
        in_json(PEOPLE, *ANNA, "watchlists", value=["No"]),
        "watchlist that is not",
    ),
    "two lists of one name": (
        in_json(PEOPLE, "watchlists", 0, "name", value="Staff"),
        "two watchlists have the same name",
    ),
    "a photo of two": (
        in_json(PEOPLE, *ANNA, "samples", 0, "digest", value=hashlib.sha256(b"z1").hexdigest()),
        "two photos are the same",
    ),
    "a row that is not there": (
        in_json(PEOPLE, *ANNA, "samples", 0, "embeddings", 0, "row", value=99),
        "an embedding of 'Anna' is not there",
    ),
    "a row below none": (
        in_json(PEOPLE, *ANNA, "samples", 0, "embeddings", 0, "row", value=-1),
        "people.json: ",
    ),
    "a row of two": (
        in_json(PEOPLE, *ANNA, "samples", 0, "embeddings", 0, "row", value=0),
        "'Anna' is somebody else's too",
    ),
    "a row of nobody": (in_json(PEOPLE, *ANNA, "samples", value=[]), "an embedding is nobody's"),
    "no array": (lambda f: f.update({"embeddings/0.npy": b"x"}), "embeddings/0.npy: "),
    "a pickle": (array([{}], dtype=object), "embeddings/0.npy: "),
    "numbers of another kind": (array(np.ones((4, 2))), r"expected \(N, C\) float32"),
    "a zero": (array(np.zeros((4, 2), np.float32)), "must be finite and not zero"),
    "a quality that no sum survives": (
        in_json(PEOPLE, *ANNA, "samples", 0, "embeddings", 0, "quality", value=1.7e308),
        "'Anna': .*quality within",
    ),
    "a header with odd keys": (said_header("{[]: 1}"), "embeddings/0.npy: "),
    "a header that does not end": (said_header("(((("), "embeddings/0.npy: "),
    "a header of too many rows": (
        said_header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 400 + ", 2)}"),
        "embeddings/0.npy: ",
    ),
    "no number": (array(np.full((4, 2), np.nan, np.float32)), "must be finite and not zero"),
    "a header of more than memory": (
        lambda f: f.update({"embeddings/0.npy": header(1 << 45)}),
        "embeddings/0.npy: ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_archive_that_is_none_is_refused_in_words(archive: Path, case: str) -> None:
    edit, reason = BAD[case]
    change(archive, edit)
    with Gallery.temporary() as gallery:
        with pytest.raises(GalleryError, match=reason) as error:
            gallery.import_archive(archive)
        assert str(archive) in str(error.value)
        assert gallery.version() == 0 and gallery.identities() == []


def test_what_was_changed_after_the_export_is_told(archive: Path) -> None:
    change(archive, in_json(PEOPLE, *ANNA, "notes", value="other"), seal=False)
    with pytest.raises(
        GalleryError, match=r"people\.json has another checksum than manifest\.json"
    ):
        read_archive(archive)


def test_an_archive_that_was_packed_again_is_refused(archive: Path) -> None:
    change(archive, lambda files: None, packing=zipfile.ZIP_DEFLATED)
    with pytest.raises(GalleryError, match="it is compressed"):
        read_archive(archive)


def test_a_file_that_stands_in_it_twice_is_refused(archive: Path) -> None:
    with (
        zipfile.ZipFile(archive, "a") as more,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        more.writestr(PEOPLE, b"{}")
    with pytest.raises(GalleryError, match="holds a file twice"):
        read_archive(archive)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_reads_the_same(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    whole = WHOLE.get("bytes")
    if whole is None:
        path.unlink(missing_ok=True)
        with Gallery.temporary() as gallery:
            fill(gallery)
            gallery.export(path)
        whole = WHOLE["bytes"] = path.read_bytes()
        WHOLE["content"] = msgspec.json.encode(read_archive(path).content)
    broken = bytearray(whole)
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] ^= data.draw(st.integers(1, 255))
    else:
        del broken[data.draw(st.integers(0, len(broken) - 1)) :]
    path.write_bytes(broken)
    try:
        found = read_archive(path)
    except GalleryError:
        return
    assert msgspec.json.encode(found.content) == WHOLE["content"]


WHOLE: dict[str, bytes] = {}
