"""kill -9 in a run that keeps sightings: each is there once, whole, as without the kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from facestream.configs.load import from_mapping
from facestream.models.pack import Pack
from facestream.stream.events import SightingEnded
from facestream.stream.sighting_records import sighting_id
from facestream.stream.sighting_store import Sightings
from facestream.tools.run import execute

from .postgres_server import PostgresServer
from .running import assert_close, count, running, scene_of, stored, wait_for, write

pytestmark = pytest.mark.timeout(600)  # three runs, long on busy cores

VARIES = ("id", "epoch", "uid", "started_at", "seen_at", "ended_at")


def content(scene: Path, store: str, journal: str) -> dict[str, Any]:
    return {
        "cameras": [{"name": "hall", "url": str(scene / "clip.mp4")}],
        "gallery": {"folder": str(scene / "photos")},
        "publish": {"endpoint": "", "journal": journal},
        "sightings": {"keep": True, "url": store, "templates": "all", "crops": "all"},
        "topology": {"mark_frames": 4},
    }


def kept(store: str) -> tuple[list[dict[str, Any]], list[str]]:
    """All that a store keeps but what differs from run to run; and the ids."""
    with Sightings.open(store, create=False) as opened:
        records = sorted(opened.list(), key=lambda one: one.track)
        details = [msgspec.to_builtins(opened.show(one.id)) for one in records]
    for one in details:
        assert sum(frame["weight"] for frame in one["weights"]) == pytest.approx(
            1.0 if one["weights"] else 0.0
        )
        for crop in one["crops"]:
            del crop["captured_at"]
        for key in VARIES:
            del one["sighting"][key]
    return details, [one.id for one in records]


def test_a_killed_run_keeps_every_sighting_once(
    open_models: Pack,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    postgres: PostgresServer,
) -> None:
    scene = scene_of(open_models, tmp_path_factory)
    whole = str(tmp_path / "whole.db")
    execute(
        from_mapping(content(scene, whole, str(tmp_path / "whole-journal.db"))),
        pack=open_models,
        quiet=True,
    )
    expected, _ = kept(whole)
    assert len(expected) >= 5 and {one["sighting"]["template"] for one in expected} >= {True}
    assert all(one["weights"] and one["crops"] for one in expected if one["sighting"]["template"])

    place, journal = postgres.new_gallery(), tmp_path / "killed.db"
    file = str(write(tmp_path / "c.yaml", content(scene, place, str(journal))))
    with running(tmp_path, "run", file, "--json") as run:
        wait_for(lambda: count(journal) >= 9, run)
        run.process.kill()
        run.process.wait()
    with running(tmp_path, "run", file, "--json") as run:
        run.totals()
    got, ids = kept(place)
    assert_close(expected, got, "")
    ended = [event for event in stored(journal) if isinstance(event, SightingEnded)]
    assert sorted(ids) == sorted(sighting_id(e.epoch, e.camera, e.track) for e in ended)
