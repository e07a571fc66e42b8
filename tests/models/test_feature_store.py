"""The feature store: embed once, go on after a kill, refuse what does not belong together."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from facestream import ConfigError, FacestreamError, RecordError
from facestream.models.feature_store import (
    BLOCK,
    Compute,
    Features,
    FeatureStore,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
    fingerprint_parts,
)

KEY = StoreKey("tiny 1234", "aligned crops", "00ff")
COUNT = 5 * BLOCK + 7
LAYOUT = StoreLayout(COUNT, 8, styles=2, flip=True)
NAMES = [f"face/{number:04}.jpg" for number in range(COUNT)]


def features_of(rows: range) -> Features:
    """What a pack would say: a function of the row alone."""
    random = [np.random.default_rng(row) for row in rows]
    vectors = np.array([r.normal(size=(6, 8)) for r in random], np.float32)
    states = np.array([State.NO_FACE if row % 50 == 3 else State.EMBEDDED for row in rows], "u1")
    styles = vectors[:, 2, :4].reshape(-1, 2, 2)
    return Features(
        states, vectors[:, 0], vectors[:, 1], vectors[:, 3, 0], vectors[:, 3, 1], styles
    )


def start() -> Compute:
    return features_of


def start_and_die(folder: str) -> Compute:
    """A worker that is killed at its second block, the first time a worker gets there."""
    calls: list[range] = []

    def compute(rows: range) -> Features:
        calls.append(rows)
        mark = Path(folder, "died")
        if len(calls) == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return features_of(rows)

    return compute


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    store = create_store(tmp_path / "whole", KEY, NAMES, LAYOUT)
    fill_store(store, start)
    return contents(store.folder)


def test_every_face_has_its_row_and_keeps_it(tmp_path: Path) -> None:
    seen: list[int] = []
    store = create_store(tmp_path / "store", KEY, NAMES, LAYOUT)
    fill_store(store, start, on_block=seen.append)
    assert store.complete and sum(seen) == COUNT
    again = FeatureStore(tmp_path / "store")
    assert again.key == KEY and again.names == NAMES
    expected = features_of(range(COUNT))
    good = expected.states == State.EMBEDDED
    np.testing.assert_array_equal(again.embedded, good)
    np.testing.assert_array_equal(again.embeddings[good], expected.embeddings[good])
    np.testing.assert_array_equal(again.flipped[good], expected.flipped[good])
    np.testing.assert_array_equal(again.styles[good], expected.styles[good])
    np.testing.assert_array_equal(again.quality[good], expected.quality[good])
    assert not again.embeddings[~good].any()


def test_a_complete_store_is_not_computed_again(tmp_path: Path) -> None:
    fill_store(create_store(tmp_path, KEY, NAMES, LAYOUT), start)

    def never() -> Compute:
        raise AssertionError("nothing is left to embed")

    fill_store(create_store(tmp_path, KEY, NAMES, LAYOUT), never)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_feature_store as t
done = []
def stop_in_the_middle():
    def compute(rows):
        if len(done) == 3:
            print("three blocks", flush=True)
            sys.stdin.read()  # until it is killed
        return t.features_of(rows)
    return compute
store = t.create_store(Path(sys.argv[1]), t.KEY, t.NAMES, t.LAYOUT)
t.fill_store(store, stop_in_the_middle, on_block=done.append)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_after_kill_9_nothing_is_lost_or_doubled_and_the_bytes_are_the_same(
    tmp_path: Path, undisturbed: dict[str, bytes], workers: int
) -> None:
    folder = tmp_path / "store"
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), here],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "three blocks\n"
        with pytest.raises(ConfigError, match="is being filled by another program"):
            fill_store(FeatureStore(folder), start)
        child.kill()
        child.wait(60)
    store = create_store(folder, KEY, NAMES, LAYOUT)
    assert store.pending() == [3, 4, 5] and store.faces_done() == 3 * BLOCK
    with pytest.raises(ConfigError, match=f"192 of {COUNT} faces"):
        store.require_complete()
    embedded: list[int] = []
    fill_store(store, start, workers=workers, on_block=embedded.append)
    assert sum(embedded) == COUNT - 3 * BLOCK
    assert contents(folder) == undisturbed


def test_a_killed_worker_is_an_error_and_the_next_run_goes_on(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    folder = tmp_path / "store"
    store = create_store(folder, KEY, NAMES, LAYOUT)
    dying: Callable[[], Compute] = partial(start_and_die, str(tmp_path))
    with pytest.raises(FacestreamError, match="run the command again"):
        fill_store(store, dying, workers=2)
    assert not store.complete
    fill_store(store, dying, workers=2)
    assert contents(folder) == undisturbed


def test_float16_halves_the_room_and_what_it_cannot_hold_is_marked(tmp_path: Path) -> None:
    layout = StoreLayout(3, 8, dtype="float16")

    def huge() -> Compute:
        def compute(rows: range) -> Features:
            kept = features_of(rows)._replace(
                states=np.ones(3, np.uint8),
                flipped=np.zeros((0, 8), np.float32),
                styles=np.zeros((3, 0, 2), np.float32),
            )
            kept.embeddings[1, 4] = 1e6
            kept.embeddings[2, 4] = np.nan
            return kept

        return compute

    store = create_store(tmp_path, KEY, NAMES[:3], layout)
    fill_store(store, huge)
    assert store.embeddings.dtype == np.float16
    assert list(store.states) == [State.EMBEDDED, State.NOT_FINITE, State.NOT_FINITE]
    assert not store.embeddings[1:].any()


def test_a_wrong_mix_is_refused_and_says_in_what(tmp_path: Path) -> None:
    create_store(tmp_path, KEY, NAMES, LAYOUT)
    other = [*NAMES[:-1], "another.jpg"]
    for key, names, layout, what in (
        (StoreKey("tiny 9", KEY.preprocessing, KEY.data), NAMES, LAYOUT, "pack"),
        (StoreKey(KEY.pack, "photos", KEY.data), NAMES, LAYOUT, "preprocessing"),
        (StoreKey(KEY.pack, KEY.preprocessing, "11"), NAMES, LAYOUT, "data"),
        (KEY, NAMES, StoreLayout(COUNT, 8, styles=2, flip=False), "flip"),
        (KEY, other, LAYOUT, "list of names"),
    ):
        with pytest.raises(ConfigError, match=f"features of another {what}: it has .*--store"):
            create_store(tmp_path, key, names, layout)


def test_folders_and_lists_that_are_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no feature store"):
        FeatureStore(tmp_path)
    for names, why in (
        ([], "one face at least"),
        (["a", "a"], "'a' twice"),
        (["a\nb"], "one line"),
        ([""], "not empty"),
        (["b\udcff.jpg"], r"UTF-8, got 'b\\udcff\.jpg'"),
    ):
        with pytest.raises(ConfigError, match=why):
            create_store(tmp_path, KEY, names, StoreLayout(len(names), 8))
    create_store(tmp_path / "s", KEY, NAMES, LAYOUT)
    for damage in (b"", b"\x93NUMPY\x01\x00", None):
        array = tmp_path / "s" / "states.npy"
        whole = array.read_bytes()
        array.write_bytes(damage) if damage is not None else array.unlink()
        with pytest.raises(ConfigError, match=r"states\.npy is missing or damaged .*embed again"):
            FeatureStore(tmp_path / "s")
        array.write_bytes(whole)
    os.truncate(array, 130)
    with pytest.raises(ConfigError, match=r"states\.npy is missing or damaged"):
        FeatureStore(tmp_path / "s")
    (tmp_path / "s" / "names.txt").write_text("something else\n")
    with pytest.raises(ConfigError, match=r"names\.txt is not the list"):
        FeatureStore(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a store's header"):
        FeatureStore(tmp_path / "s")


def test_a_store_is_not_begun_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "ANNA.jpg").write_bytes(b"a photo")
    with pytest.raises(ConfigError, match=r"no feature store and holds other files, such as ANNA"):
        create_store(tmp_path, KEY, NAMES, LAYOUT)
    with pytest.raises(ConfigError, match="got a file"):
        create_store(tmp_path / "ANNA.jpg", KEY, NAMES, LAYOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["ANNA.jpg"]
    begun = tmp_path / "s"  # by a run that was killed before the header was there
    create_store(begun, KEY, NAMES, LAYOUT)
    (begun / "store.json").rename(begun / "store.json.part")
    assert create_store(begun, KEY, NAMES, LAYOUT).pending()


def test_features_of_another_shape_are_refused(tmp_path: Path) -> None:
    store = create_store(tmp_path, KEY, NAMES, LAYOUT)

    def narrow() -> Compute:
        return lambda rows: features_of(rows)._replace(
            embeddings=np.zeros((len(rows), 4), np.float32)
        )

    with pytest.raises(RecordError, match=r"embeddings of a block must be \(64, 8\)"):
        fill_store(store, narrow)


def test_the_fingerprint_knows_names_bytes_and_order() -> None:
    parts = [("a", b"1"), ("b", b"2")]
    fingerprint = fingerprint_parts(parts)
    assert fingerprint == fingerprint_parts(iter(parts)) and len(fingerprint) == 16
    others = [parts[::-1], [("a", b"12"), ("b", b"")], [("c", b"1"), ("b", b"2")], parts[:1]]
    assert all(fingerprint_parts(other) != fingerprint for other in others)


def test_a_full_disk_is_told_before_anything_is_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create_store(tmp_path, KEY, NAMES, LAYOUT)

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def never() -> Compute:
        raise AssertionError("there is no room for what would be embedded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OSError, match=r"No space left on device.*states\.npy"):
            fill_store(store, never)
    assert store.faces_done() == 0
    fill_store(store, start)  # goes on once there is room
    assert FeatureStore(tmp_path).complete


def test_a_store_that_is_filled_has_its_room(tmp_path: Path) -> None:
    layout = StoreLayout(COUNT, 2000, styles=2, flip=True)
    store = create_store(tmp_path, KEY, NAMES, layout)
    rows = tmp_path / "embeddings.npy"
    assert rows.stat().st_blocks * 512 < rows.stat().st_size
    with pytest.raises(RecordError):  # rows of another dimension, once the room is taken
        fill_store(store, start)
    assert rows.stat().st_blocks * 512 >= rows.stat().st_size
