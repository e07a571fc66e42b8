"""The journal: numbers, repeats, restarts, kill -9, a full disk, files that are no journal."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import DiskFull, JournalError
from facestream.stream.events import CameraState, SightingStarted, event_id
from facestream.stream.journal import READ_PAGE, Journal

NOW = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
SETTINGS = {"journal_mode": "wal", "synchronous": 2}


def sighting(number: int, camera: str = "door", track: int | None = None) -> SightingStarted:
    return SightingStarted(
        id=event_id("test", camera, "sighting.started", number),
        camera=camera,
        decided_at=NOW,
        track=number if track is None else track,
        frame=number,
        pts=number / 25,
        captured_at=NOW,
    )


def state(number: int, camera: str = "door", detail: str = "") -> CameraState:
    return CameraState(
        id=event_id("test", camera, "camera.state", number),
        camera=camera,
        decided_at=NOW,
        state="running",
        detail=detail,
        frames=number,
        dropped={},
    )


def test_an_event_gets_its_epoch_numbers_and_time(journal: Journal) -> None:
    before = datetime.now(UTC)
    first = journal.append(sighting(1))
    second = journal.append(state(1))
    third = journal.append(sighting(2))
    assert [e.sequence for e in (first, second, third)] == [1, 2, 3]
    assert [e.previous for e in (first, second, third)] == [None, None, 1]
    assert {e.epoch for e in (first, second, third)} == {journal.epoch}
    assert first.published_at is not None and before <= first.published_at <= datetime.now(UTC)
    assert list(journal.read()) == [first, second, third]
    assert journal.newest == 3


def test_a_repeated_id_returns_what_is_stored(journal: Journal) -> None:
    first = journal.append(sighting(1))
    assert journal.append(sighting(1)) == first
    assert journal.append_many([sighting(2), sighting(2), sighting(1)])[2] == first
    assert [e.sequence for e in journal.read()] == [1, 2]


def test_an_interrupt_right_after_a_commit_does_not_give_out_its_number_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = journal._transaction

    @contextmanager
    def interrupted() -> Iterator[None]:
        with whole():
            yield
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "_transaction", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(sighting(1))
    monkeypatch.undo()
    after = journal.append(sighting(2))
    assert (after.sequence, after.previous) == (2, 1)


def test_a_commit_waits_for_the_disk(journal: Journal) -> None:
    asked = [journal._db.execute(f"PRAGMA {name}").fetchone()[0] for name in SETTINGS]
    assert asked == list(SETTINGS.values())


def test_the_highest_track_of_a_camera_is_kept_whatever_the_order(journal: Journal) -> None:
    journal.append_many([sighting(1, track=7), sighting(2, track=3), sighting(1, "hall", track=2)])
    assert journal.last_tracks() == {"door": 7, "hall": 2}


def test_epoch_and_numbering_survive_a_restart(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.db") as journal:
        epoch = journal.epoch
        journal.append_many([sighting(4), sighting(9), state(1), sighting(2, "hall")])
    with Journal.open(tmp_path / "j.db") as journal:
        assert journal.epoch == epoch
        assert journal.last_tracks() == {"door": 9, "hall": 2}
        again = journal.append(sighting(10))
        assert (again.sequence, again.previous) == (5, 2)
    with Journal.open(tmp_path / "other.db") as journal:
        assert journal.epoch != epoch
        assert journal.last_tracks() == {}


@settings(max_examples=12, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["a", "b"])), max_size=5),
        max_size=8,
    )
)
def test_any_grouping_into_batches_gives_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, str]]]
) -> None:
    folder = tmp_path_factory.mktemp("journals")
    with Journal.open(folder / "batched.db") as batched, Journal.open(folder / "one.db") as single:
        for batch in batches:
            batched.append_many([sighting(n, camera) for n, camera in batch])
            for n, camera in batch:
                single.append(sighting(n, camera))
        numbers = [(e.id, e.sequence, e.previous) for e in batched.read()]
        assert numbers == [(e.id, e.sequence, e.previous) for e in single.read()]
        assert [sequence for _, sequence, _ in numbers] == list(range(1, len(numbers) + 1))
        newest: dict[str, int] = {}
        for event in batched.read():
            assert event.previous == newest.get(event.topic)
            newest[event.topic] = event.sequence


def test_reading_filters_by_topic_prefix_and_resumes_after_a_sequence(journal: Journal) -> None:
    journal.append_many([sighting(1), state(1), sighting(2, "door2"), state(2), sighting(3)])
    prefix = "facestream/v1/sighting.started/door"
    assert [e.sequence for e in journal.read(topics=[prefix])] == [1, 3, 5]
    assert [e.sequence for e in journal.read(3)] == [4, 5]
    both = ["facestream/v1/camera.state/", "facestream/v1/sighting.started/door2"]
    assert [e.sequence for e in journal.read(2, both)] == [3, 4]
    assert list(journal.read(topics=[])) == []


def test_reading_pages_through_a_long_journal_and_sees_what_is_appended_meanwhile(
    journal: Journal,
) -> None:
    count = 2 * READ_PAGE
    journal.append_many([sighting(n) for n in range(count)])
    reader = journal.read()
    assert next(reader).sequence == 1
    journal.append(sighting(count))
    assert [e.sequence for e in reader] == list(range(2, count + 2))


def test_threads_share_a_journal_without_holes(journal: Journal) -> None:
    def work(camera: str) -> None:
        for number in range(20):
            journal.append(sighting(number, camera))

    threads = [threading.Thread(target=work, args=(camera,)) for camera in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [e.sequence for e in journal.read()] == list(range(1, 61))


def test_a_batch_with_a_bad_event_stores_nothing_of_it(journal: Journal) -> None:
    journal.append(sighting(1))
    with pytest.raises(ValueError, match="must hold plain values"):
        journal.append_many([sighting(2), sighting(3, track=object())])  # type: ignore[arg-type]
    assert [e.sequence for e in journal.read()] == [1]
    assert journal.append(sighting(4)).sequence == 2


def test_only_the_owner_may_read_a_journal(journal: Journal) -> None:
    journal.append(sighting(1))
    for path in journal.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_second_writer_is_told_that_the_first_one_runs(journal: Journal) -> None:
    with pytest.raises(JournalError, match="another facestream runs on the journal"):
        Journal.open(journal.path)
    link = journal.path.with_name("link.db")
    link.symlink_to(journal.path)
    with pytest.raises(JournalError, match="another facestream runs on the journal"):
        Journal.open(link)
    journal.close()
    Journal.open(link).close()


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_stored_in_a_file_that_is_gone(journal: Journal, replaced: bool) -> None:
    journal.append(sighting(1))
    journal.path.rename(journal.path.with_suffix(".old"))
    if replaced:
        journal.path.touch()
    for act in (lambda: journal.append(sighting(2)), lambda: journal.next_run("door")):
        with pytest.raises(JournalError, match="deleted or replaced while it was in use: nothing"):
            act()
    assert [event.sequence for event in journal.read()] == [1]


def test_closing_twice_is_no_error_and_a_closed_journal_says_so(journal: Journal) -> None:
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append(sighting(1))


WRITER = """
import sys
from datetime import UTC, datetime
from facestream.stream.events import System, event_id
from facestream.stream.journal import Journal

journal, number = Journal.open(sys.argv[1]), 0
while True:
    number += 1
    event = System(id=event_id(journal.epoch, "-", number, journal.newest), camera="-",
                   decided_at=datetime.now(UTC), state="started", detail="x" * 500)
    print(journal.append(event).sequence, flush=True)
"""


def test_kill_9_loses_no_event_that_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    told = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(40):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            # What the pipe still holds was committed too; the last line may be cut.
            rest = writer.stdout.read().split("\n")[:-1]
            told = int(rest[-1]) if rest else told
            writer.wait(10)
        with Journal.open(path) as journal:
            sequences = [e.sequence for e in journal.read()]
            assert sequences == list(range(1, len(sequences) + 1))
            # One more may have been committed before its line was printed.
            assert len(sequences) - told in (0, 1)


def fill(journal: Journal) -> int:
    """Append until the disk is full; how many events went in."""
    for number in range(10_000):
        try:
            journal.append(state(number, detail="x" * 2000))
        except DiskFull as error:
            assert "nothing stored is lost; free space and start again" in str(error)
            return number
    raise AssertionError("the disk did not fill up")


def test_a_full_database_refuses_events_and_keeps_the_stored_ones(journal: Journal) -> None:
    journal._db.execute("PRAGMA max_page_count = 40")
    stored = fill(journal)
    assert stored > 10
    assert [e.sequence for e in journal.read()] == list(range(1, stored + 1))
    journal._db.execute("PRAGMA max_page_count = 4000")
    assert journal.append(sighting(1)).sequence == stored + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_writing_goes_on_once_there_is_space(
    small_disk: Path,
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    with Journal.open(small_disk / "journal.db") as journal:
        stored = fill(journal)
        assert [e.sequence for e in journal.read()] == list(range(1, stored + 1))
    with Journal.open(small_disk / "journal.db") as journal:
        assert [e.sequence for e in journal.read()] == list(range(1, stored + 1))
        ballast.unlink()
        assert journal.append(sighting(1)).sequence == stored + 1


def test_a_journal_cannot_be_created_on_a_full_disk(small_disk: Path) -> None:
    with pytest.raises(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)) == 4096:
            pass
    with pytest.raises(DiskFull):
        Journal.open(small_disk / "journal.db")


def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, not a database" * 10)
    before = text.read_bytes()
    with pytest.raises(JournalError, match="not a SQLite file"):
        Journal.open(text)
    assert text.read_bytes() == before

    foreign = tmp_path / "other.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    before = foreign.read_bytes()
    with pytest.raises(JournalError, match="a SQLite file but no facestream journal"):
        Journal.open(foreign)
    assert foreign.read_bytes() == before


def test_a_newer_journal_asks_for_a_newer_facestream(journal: Journal) -> None:
    journal._db.execute("PRAGMA user_version = 3")
    journal.close()
    with pytest.raises(JournalError, match="version 3, this facestream reads 2: update"):
        Journal.open(journal.path)


def test_a_damaged_journal_says_what_to_do(journal: Journal) -> None:
    journal.append_many([state(n, detail="x" * 2000) for n in range(50)])
    journal.close()
    with journal.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xde\xad" * 20_000)
    with (
        pytest.raises(JournalError, match=r"damaged .*: restore a copy, or move it away"),
        Journal.open(journal.path) as opened,
    ):
        list(opened.read())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"file/journal.db cannot be opened"):
        Journal.open(tmp_path / "file" / "journal.db")
    with pytest.raises(JournalError, match="directory"):
        Journal.open(tmp_path)


def test_missing_folders_are_created(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "a" / "b" / "journal.db") as journal:
        assert journal.append(sighting(1)).sequence == 1
