"""Scores of unknown tracks: what is kept, for how long, and what it is good for."""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from facestream import JournalError
from facestream.stream.events import SightingEnded
from facestream.stream.thresholds_seen import DAY, KEEP_DAYS, MOST, SeenScores, scores_path
from facestream.stream.watcher import SourceInfo

START = 1_800_000_000.0


def ended(at: float, score: float | None = 0.3, **changes: object) -> SightingEnded:
    time = datetime.fromtimestamp(at, UTC)
    fields = {
        "id": "a", "camera": "door", "decided_at": time, "track": 1, "frame": 9, "pts": 1.0,
        "captured_at": time, "identity": None, "score": score, "cosine": score, "threshold": 0.5,
        "target_fpir": 0.01, "false_positive_probability": 0.4, "candidates": (), "frames": 5,
        "quality_min": 0.1, "quality_median": 0.2, "quality_max": 0.3, "evidence": (),
        "pack": "omz", "gallery_version": 3, "started_at": time, "duration": 2.0, "faces": 20,
        "reason": "unknown", "best_score": score,
    }  # fmt: skip
    return SightingEnded(**(fields | changes))  # type: ignore[arg-type]


def open_scores(path: Path, now: list[float], setting: str = "omz mean") -> SeenScores:
    scores = SeenScores(path, setting, clock=lambda: now[0])
    scores.judge = lambda score: 1.0 - score
    for camera in ("door", "yard"):
        scores.source(SourceInfo(camera, "rtsp://x", True, 1, 1, None, None, None))
    return scores


def test_a_file_is_made_with_the_first_score_for_its_owner_alone(tmp_path: Path) -> None:
    path = scores_path(tmp_path / "data" / "journal.db")
    scores = open_scores(path, [START])
    assert not len(scores.seen().shares) and not path.exists()
    scores.event(ended(START), None)
    assert scores.seen().shares.tolist() == pytest.approx([0.7])
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    scores.close()
    assert open_scores(path, [START]).seen().shares.tolist() == pytest.approx([0.7])


def test_only_live_tracks_that_ended_unknown_with_a_score_count(tmp_path: Path) -> None:
    scores = open_scores(tmp_path / "s.db", [START])
    scores.event(ended(START, reason="matched", identity="Anna"), None)
    scores.event(ended(START, reason="too few frames"), None)
    scores.event(ended(START, None), None)
    scores.event(ended(START, camera="clip"), None)
    scores.source(SourceInfo("yard", "clip.mp4", False, 1, 1, None, None, None))
    scores.event(ended(START, camera="yard"), None)
    scores.judge = lambda score: None
    scores.event(ended(START), None)
    assert not (tmp_path / "s.db").exists()
    scores.close()


def test_no_name_and_no_track_is_in_the_file(tmp_path: Path) -> None:
    scores = open_scores(tmp_path / "s.db", [START])
    scores.event(ended(START, id="event-id-4711", track=4711), None)
    scores.close()
    assert b"4711" not in (tmp_path / "s.db").read_bytes()


def test_old_scores_go(tmp_path: Path) -> None:
    now = [START]
    scores = open_scores(tmp_path / "s.db", now)
    scores.event(ended(START), None)
    now[0] = START + (KEEP_DAYS + 1) * DAY
    assert not len(scores.seen().shares)
    scores.event(ended(now[0], 0.9), None)
    now[0] = START  # also from the file
    assert scores.seen().shares.tolist() == pytest.approx([0.1])
    scores.close()


def test_no_more_than_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST >= 10_000
    monkeypatch.setattr("facestream.stream.thresholds_seen.MOST", 5)
    scores = open_scores(tmp_path / "s.db", [START])
    for number in range(8):
        scores.event(ended(START, number / 10), None)
    assert scores.seen().shares.tolist() == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.3])
    scores.close()


def test_other_packs_and_aggregators_are_left_alone(tmp_path: Path) -> None:
    first = open_scores(tmp_path / "s.db", [START])
    second = open_scores(tmp_path / "s.db", [START], "open mean")
    first.event(ended(START), None)
    second.event(ended(START, 0.8), None)
    assert first.seen().shares.tolist() == pytest.approx([0.7])
    assert second.seen().shares.tolist() == pytest.approx([0.2])
    first.close()
    second.close()


def test_tracks_are_counted_by_camera_and_week_once_a_day_has_passed(tmp_path: Path) -> None:
    now = [START + DAY / 2]
    scores = open_scores(tmp_path / "s.db", now)
    for hour in range(12):
        scores.event(ended(START + hour * 3600.0, camera="door" if hour % 2 else "yard"), None)
    assert scores.seen().per_week is None
    now[0] = START + 2 * DAY
    assert scores.seen().per_week == pytest.approx(12 / 2 / 2 * 7)
    scores.close()


def test_a_file_that_cannot_be_used_costs_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 40)
    scores = open_scores(path, [START])
    scores.event(ended(START), None)
    assert "scores of unknown tracks cannot be kept there" in caplog.text
    with pytest.raises(JournalError, match="thresholds then rest on the pack alone"):
        scores.seen()
    scores.close()
