"""Fingerprints: what makes a run another one, and what does not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from facestream import SourceMissing
from facestream.configs.schema import CameraConfig, Config, DetectConfig, FuseConfig, MatchConfig
from facestream.models.store import load_card
from facestream.stream.fingerprint import settings_digest, source_fingerprint

from .conftest import write_clip


def test_a_fingerprint_tells_another_clip_and_another_reading(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    camera = CameraConfig("a", str(clip))
    first = source_fingerprint(camera)
    assert source_fingerprint(CameraConfig("b", str(clip), stall_seconds=9.0)) == first
    assert source_fingerprint(CameraConfig("a", str(clip), stride=2)) != first
    assert source_fingerprint(CameraConfig("a", str(clip), region=(0.0, 0.0, 0.5, 1.0))) != first
    os.utime(clip, ns=(0, 12345))
    changed = source_fingerprint(camera)
    assert changed != first
    clip.write_bytes(clip.read_bytes() + b"x")
    os.utime(clip, ns=(0, 12345))
    assert source_fingerprint(camera) != changed
    clip.unlink()
    with pytest.raises(SourceMissing, match=r"clip\.mp4"):
        source_fingerprint(camera)


def test_a_fingerprint_of_a_folder_changes_with_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"x")
    camera = CameraConfig("a", str(tmp_path))
    first = source_fingerprint(camera)
    (tmp_path / "notes.txt").write_bytes(b"x")
    assert source_fingerprint(camera) == first
    (tmp_path / "2.png").write_bytes(b"x")
    assert source_fingerprint(camera) != first


def test_a_fingerprint_holds_no_password_and_of_a_device_is_never_the_same() -> None:
    http = source_fingerprint(CameraConfig("a", "http://me:secret@host/clip.mp4", mode="recorded"))
    assert len(http) == 32 and "secret" not in http
    device = CameraConfig("a", "/dev/video9", mode="recorded")
    assert source_fingerprint(device) != source_fingerprint(device)


def test_settings_that_change_decisions_change_the_fingerprint_and_batches_do_not() -> None:
    card = load_card("open")
    first = settings_digest(Config(cameras=()), card)
    same = Config(cameras=(CameraConfig("a", "x"),), detect=DetectConfig(batch=9))
    assert settings_digest(same, card) == first
    others: Sequence[Config] = (
        Config(cameras=(), match=MatchConfig(threshold=0.4)),
        Config(cameras=(), fuse=FuseConfig("mean")),
        Config(cameras=(), detect=DetectConfig(score=0.9)),
    )
    assert len({first, *(settings_digest(other, card) for other in others)}) == 4
