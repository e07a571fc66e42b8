"""The gallery: what it keeps, what it refuses, and that nothing is ever half-made."""

from __future__ import annotations

import hashlib
import os
import pwd
import sqlite3
import stat
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import EnrolmentRefused, GalleryError, UnknownIdentity
from facestream.stream import gallery_engine, gallery_records
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change, fuse, normalise_name

EMBEDDER = "e" * 64


def digest(photo: str) -> str:
    return hashlib.sha256(photo.encode(errors="replace")).hexdigest()


def add(gallery: Gallery, name: str, vector: list[float], photo: str = "", **more: Any) -> bool:
    photo = photo or f"{name}.jpg"
    values: dict[str, Any] = {"norm": 1.0, "quality": 1.0, "pack": "open", "embedder": EMBEDDER}
    return gallery.add_sample(
        name,
        np.array(vector, np.float32),
        source=photo,
        digest=digest(photo),
        **(values | more),
    )


# What it keeps


def test_people_samples_and_history_come_back(gallery: Gallery) -> None:
    add(gallery, "Bob", [0, 3], quality=0.5, norm=3.0, notes="night shift")
    add(gallery, "Anna", [2, 0], "a1.jpg")
    add(gallery, "Anna", [2, 1], "a2.jpg")
    add(gallery, "Anna", [1, 2, 3], "a2.jpg", pack="omz")

    assert [(i.name, i.samples, i.packs) for i in gallery.identities()] == [
        ("Anna", 2, ("omz", "open")),
        ("Bob", 1, ("open",)),
    ]
    details = gallery.show("Anna")
    assert [s.source for s in details.samples] == ["a1.jpg", "a2.jpg"]
    assert [(e.pack, e.dimension) for e in details.samples[1].embeddings] == [
        ("open", 2),
        ("omz", 3),
    ]
    bob = gallery.show("Bob")
    assert bob.identity.notes == "night shift"
    assert (bob.samples[0].embeddings[0].quality, bob.samples[0].embeddings[0].norm) == (0.5, 3.0)
    assert [e.action for e in bob.history] == ["annotate", "enrol"]
    assert abs(bob.history[0].at - time.time()) < 60


def test_every_change_raises_the_version_by_one_and_is_in_the_audit_trail(gallery: Gallery) -> None:
    assert gallery.version() == 0
    add(gallery, "Anna", [1, 0])
    add(gallery, "Bob", [0, 1])
    gallery.remove("Anna")
    assert gallery.version() == 3
    trail = [(e.version, e.action, e.name) for e in gallery.history()]
    assert trail == [(1, "enrol", None), (2, "enrol", "Bob"), (3, "remove", None)]
    assert gallery.history()[0].id == gallery.history()[2].id != gallery.history()[1].id


def test_it_is_kept_on_disk_for_its_owner_only_in_write_ahead_mode(path: Path) -> None:
    with Gallery.open(path, create=True) as gallery:
        add(gallery, "Anna", [1, 0])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Gallery.open(f"sqlite:///{path}", create=False) as gallery:
        assert [i.name for i in gallery.identities()] == ["Anna"]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_the_same_photo_is_not_added_twice(gallery: Gallery) -> None:
    assert add(gallery, "Anna", [1, 0], "photo")
    assert not add(gallery, "Anna", [1, 0], "photo")
    assert gallery.version() == 1
    with pytest.raises(EnrolmentRefused, match="already enrolled as Anna"):
        add(gallery, "Bob", [1, 0], "photo")
    assert [i.name for i in gallery.identities()] == ["Anna"]
    assert gallery.holder(digest("photo"), pack="open", embedder=EMBEDDER) == "Anna"
    assert gallery.holder(digest("photo"), pack="omz", embedder=EMBEDDER) is None


def test_a_removed_person_leaves_no_embedding_in_the_file(path: Path) -> None:
    vector = np.random.default_rng(1).normal(size=128).astype(np.float32)
    with Gallery.open(path, create=True) as gallery:
        for name in ("Anna", "Bob", "Carl"):
            add(gallery, name, [float(x) for x in vector + ord(name[0])])
        secret = (vector + ord("B")).astype("<f4").tobytes()[:64]
        files = [path, path.with_name(path.name + "-wal")]
        assert any(secret in f.read_bytes() for f in files if f.exists())
        assert gallery.remove("Bob") == 1
        assert not any(secret in f.read_bytes() for f in files if f.exists())
        assert gallery.templates("open").names == ("Anna", "Carl")


@pytest.mark.parametrize("then", ["change", "close"])
def test_a_write_ahead_log_that_was_in_use_is_emptied_later(
    path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(gallery_engine, "BUSY_SECONDS", 0.05)
    vector = np.random.default_rng(1).normal(size=128).astype(np.float32)
    secret, written = vector.tobytes()[:64], path.with_name(path.name + "-wal")
    with Gallery.open(path, create=True) as gallery:
        add(gallery, "Anna", [1.0] * 128)
        reader = sqlite3.connect(path, isolation_level=None)  # a second program
        add(gallery, "Bob", vector.tolist())
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM identity").fetchone()
        gallery.remove("Bob")
        assert secret in written.read_bytes()
        reader.execute("ROLLBACK")
        if then == "change":
            gallery.edit("Anna", Change(notes="new"))
            assert secret not in written.read_bytes()
    assert written.exists() and secret not in written.read_bytes()
    assert secret not in path.read_bytes()
    reader.close()


def test_who_changed_it_is_no_matter_of_the_environment(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody else")
    add(gallery, "Anna", [1, 0])
    assert gallery.history()[-1].actor == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize("source", ["a\nb.jpg", "\x1b[2Ja.jpg", "a\x00.jpg", "a\u2028b", "a\udc80"])
def test_text_that_a_terminal_obeys_is_refused(gallery: Gallery, source: str) -> None:
    with pytest.raises(GalleryError, match="source must be one line of text") as error:
        add(gallery, "Anna", [1, 0], source)
    assert str(error.value).isprintable()
    with pytest.raises(GalleryError, match="which cannot be shown"):
        add(gallery, "Anna", [1, 0], notes="\x1b[2J")
    assert gallery.version() == 0
    add(gallery, "Anna", [1, 0], notes="two\nlines\tand a tab")


def test_an_unknown_person_gets_the_nearest_name(gallery: Gallery) -> None:
    with pytest.raises(UnknownIdentity, match="which is empty"):
        gallery.show("Anna")
    add(gallery, "Anna", [1, 0])
    with pytest.raises(
        UnknownIdentity, match=r"no identity Ana in the gallery: the nearest .* Anna"
    ):
        gallery.remove("Ana")
    assert gallery.version() == 1


@pytest.mark.parametrize("vector", [[0.0, 0.0], [float("nan"), 1.0], [[1.0, 2.0]]])
def test_a_vector_that_is_no_embedding_is_refused(gallery: Gallery, vector: Any) -> None:
    with pytest.raises(GalleryError, match="embedding must be"):
        add(gallery, "Anna", vector)
    assert gallery.version() == 0


def test_a_vector_of_another_dimension_is_refused(gallery: Gallery) -> None:
    add(gallery, "Anna", [1, 0])
    with pytest.raises(GalleryError, match="have 2 numbers, got 3"):
        add(gallery, "Bob", [1, 0, 0])
    assert add(gallery, "Bob", [1, 0, 0], pack="omz")


# Templates


def test_a_template_is_the_quality_weighted_mean_of_unit_embeddings(gallery: Gallery) -> None:
    add(gallery, "Zoe", [5, 0], "z1", quality=3.0)
    add(gallery, "Anna", [0, -2], "a1")
    add(gallery, "Zoe", [0, 0.1], "z2", quality=4.0)
    add(gallery, "Omar", [1, 1, 1], pack="omz")
    templates = gallery.templates("open")
    assert templates.names == ("Zoe", "Anna")
    assert templates.vectors.dtype == np.float32
    np.testing.assert_allclose(templates.vectors, [[0.6, 0.8], [0.0, -1.0]], atol=1e-7)
    assert templates.version == 4
    assert templates.missing == ("Omar",)


def test_samples_without_any_worth_count_alike(gallery: Gallery) -> None:
    add(gallery, "Anna", [1, 0], "1", quality=0.0)
    add(gallery, "Anna", [0, 1], "2", quality=-2.0)
    np.testing.assert_allclose(gallery.templates("open").vectors, [[0.5**0.5, 0.5**0.5]], atol=1e-7)


def test_embeddings_of_two_embedders_are_never_mixed(gallery: Gallery) -> None:
    add(gallery, "Anna", [1, 0], embedder="old")
    add(gallery, "Bob", [0, 1], embedder="new")
    with pytest.raises(GalleryError, match="different embedder files of pack open"):
        gallery.templates("open")
    new = gallery.templates("open", "new")
    assert (new.names, new.missing) == (("Bob",), ("Anna",))


@settings(max_examples=30, deadline=None)
@given(
    runs=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-3, 1e3),
    rows=st.integers(1, 12),
)
def test_fusion_gives_unit_vectors_whatever_the_lengths(
    runs: list[int], seed: int, scale: float, rows: int
) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(sum(runs), 6)).astype(np.float32)
    quality = rng.uniform(-1, 2, sum(runs))
    starts = np.cumsum([0, *runs[:-1]])
    fused = fuse(raw, quality, starts)
    assert fused.shape == (len(runs), 6)
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(fuse(raw * np.float32(scale), quality, starts), fused, atol=1e-5)
    first = fuse(raw[: runs[0]], quality[: runs[0]], starts[:1])
    np.testing.assert_allclose(fused[:1], first, atol=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_records, "FUSED_ROWS", rows)  # blocks of any size give the same
        np.testing.assert_allclose(fuse(raw, quality, starts), fused, atol=1e-6)


# Names


def test_a_name_has_one_form() -> None:
    assert normalise_name("  Zoe\u0301  Müller ") == "Zoé Müller"
    assert normalise_name("石川 さくら") == "石川 さくら"
    assert normalise_name("می\u200cنا") == "می\u200cنا"


@pytest.mark.parametrize(
    "name", ["", "   ", "\u200d", "a\nb", "a\tb", "\x00", "a\u202eb", "caf\udce9", "x" * 201]
)
def test_a_name_that_cannot_be_shown_is_refused(gallery: Gallery, name: str) -> None:
    with pytest.raises(EnrolmentRefused) as refusal:
        add(gallery, name, [1, 0], "photo")
    assert str(refusal.value).isprintable()
    assert gallery.identities() == []


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=220))
def test_a_normal_name_is_already_in_its_form(name: str) -> None:
    try:
        tidy = normalise_name(name)
    except EnrolmentRefused:
        return
    assert normalise_name(tidy) == tidy
    assert 1 <= len(tidy) <= 200
    assert unicodedata.is_normalized("NFC", tidy)


# Sharing


def test_a_temporary_gallery_is_shared_by_threads() -> None:
    with Gallery.temporary() as gallery:
        work = [
            threading.Thread(
                target=lambda n=n: [add(gallery, f"{n}-{i}", [1, i]) for i in range(9)]
            )
            for n in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(20)
        assert gallery.version() == 36
        assert len(gallery.templates("open").names) == 36
    with Gallery.temporary() as other:
        assert other.identities() == []


def test_writers_take_turns_and_a_second_program_sees_each_change(path: Path) -> None:
    with Gallery.open(path, create=True) as one, Gallery.open(path, create=False) as two:
        failures: list[BaseException] = []

        def enrol(gallery: Gallery, prefix: str) -> None:
            try:
                for i in range(15):
                    add(gallery, f"{prefix}{i}", [1, i])
            except BaseException as error:
                failures.append(error)

        work = [threading.Thread(target=enrol, args=pair) for pair in ((one, "a"), (two, "b"))]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(20)
        assert failures == []
        assert one.version() == two.version() == 30
        assert one.templates("open").names == two.templates("open").names


def test_a_reader_sees_one_version_while_another_program_writes(path: Path) -> None:
    """Names, vectors and version of a read belong together: version = number of samples here."""
    with Gallery.open(path, create=True) as writer, Gallery.open(path, create=False) as reader:
        thread = threading.Thread(target=lambda: [add(writer, f"{i}", [1, i]) for i in range(40)])
        thread.start()
        while thread.is_alive():
            templates = reader.templates("open")
            assert len(templates.names) == templates.version
        thread.join(20)
