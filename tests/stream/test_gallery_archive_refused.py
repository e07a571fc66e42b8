"""Archives that are damaged, forged or old: refused in words, and nothing is imported."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
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

from .test_gallery_archive import fill


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of the filled gallery."""
    with Gallery.temporary() as filled:
        fill(filled)
        filled.export(tmp_path / "people.zip")
    return tmp_path / "people.zip"


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
    "a mark that is not there": (
        in_json(PEOPLE, *ANNA, "marks", 0, "row", value=99),
        "an embedding of 'Anna' is not there",
    ),
    "a mark that is a photo of somebody": (
        in_json(PEOPLE, *ANNA, "marks", 0, "row", value=0),
        "'Anna' is somebody else's too",
    ),
    "a mark seen in two lines": (
        in_json(PEOPLE, *ANNA, "marks", 0, "source", value="a\nb"),
        "where a mark of Anna was seen",
    ),
    "a mark of another length": (
        array(np.ones((5, 2), np.float32)),
        "a mark of 'Anna' is no unit vector",
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


def test_an_archive_from_before_there_were_marks_is_imported(archive: Path) -> None:
    def age(files: Files) -> None:
        in_json(MANIFEST, "version", value=1)(files)
        people = msgspec.json.decode(files[PEOPLE])
        for person in people["people"]:
            del person["marks"]
        files[PEOPLE] = msgspec.json.encode(people)
        array(np.load(io.BytesIO(files["embeddings/0.npy"]))[:4])(files)  # without the marked face

    change(archive, age)
    with Gallery.temporary() as gallery:
        summary = gallery.import_archive(archive)
        assert (summary.people, summary.embeddings, summary.marks) == (3, 5, 0)


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
