"""`facestream node`: nodes as on machines of their own, with keys, and without a supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from facestream import ConfigError
from facestream.configs.load import from_mapping
from facestream.stream.events import CameraState, SightingEnded, System
from facestream.tools.node import together
from facestream.tools.topology import free_ports

from ..running import PROGRAM, Run, assert_same, count, running, stored, wait_for, write

URL = "synthetic:?seconds=8&size=320x240&fps=10&faces=2&seed={}"


def configuration(port: int) -> dict[str, Any]:
    return {
        "cameras": [
            {"name": "entrance", "url": URL.format(2)},
            {"name": "yard", "url": URL.format(3)},
        ],
        "publish": {"endpoint": "", "journal": "faces.db"},
        "topology": {
            "mark_frames": 8,
            "nodes": [
                {"name": "door", "stages": ["source", "detect"], "cameras": ["entrance"]},
                {"name": "yard", "stages": ["source", "detect"], "cameras": ["yard"]},
                {
                    "name": "faces",
                    "stages": ["embed", "decide"],
                    "endpoint": f"tcp://127.0.0.1:{port}",
                },
            ],
        },
    }  # fmt: skip


def keys(folder: Path, *arguments: str) -> None:
    """`facestream keys` on one of the machines."""
    subprocess.run(
        [*PROGRAM, "keys", *arguments],
        check=True,
        cwd=folder,
        env={**os.environ, "FACESTREAM_DATA": str(folder / "data")},
        capture_output=True,
        timeout=60,
    )


def test_machines_with_keys_go_on_after_one_was_killed_and_started_again(tmp_path: Path) -> None:
    content = configuration(*free_ports(1))
    gpu, box, yard = (tmp_path / name for name in ("gpu", "box", "yard"))
    for machine in (gpu, box, yard):
        machine.mkdir()
        write(machine / "c.yaml", content)
    for machine in (box, yard):
        keys(gpu, "new", machine.name, "--role", "node", "--out", str(machine))
        keys(machine, "import", f"{machine.name}.key_secret", "127.0.0.1")
    with (
        running(box, "node", "door", "c.yaml") as door,
        running(yard, "node", "yard", "c.yaml") as b,
    ):
        with running(gpu, "node", "faces", "c.yaml", "--json") as faces:
            wait_for(lambda: count(gpu / "faces.db") >= 8, faces)
            faces.process.kill()
            faces.process.wait()
        with running(gpu, "node", "faces", "c.yaml", "--json") as faces:
            for node in (door, b):  # which end by themselves once all is decided
                code, output, _ = node.end()
                assert (code, output) == (0, "")
            faces.process.send_signal(signal.SIGTERM)
            code, output, errors = faces.end()
    assert code == 130, errors
    assert json.loads(output)["interrupted"]
    events = stored(gpu / "faces.db")
    assert len({event.id for event in events}) == len(events)
    assert isinstance(events[-1], System) and events[-1].detail == "interrupted"
    content["topology"] = {}
    with running(
        gpu, "run", str(write(gpu / "one.yaml", content)), "--json", "--journal", "one.db"
    ) as run:
        run.totals()
    assert_same(stored(gpu / "one.db"), events)  # of one thread, undisturbed


def test_a_node_that_is_stopped_closes_its_cameras(tmp_path: Path) -> None:
    content = configuration(*free_ports(1))
    for camera in content["cameras"]:
        camera["url"] = camera["url"].replace("seconds=8", "seconds=0")
    file = str(write(tmp_path / "c.yaml", content))
    with (
        running(tmp_path, "node", "faces", file) as faces,
        running(tmp_path, "node", "door", file) as door,
    ):
        wait_for(lambda: count(tmp_path / "faces.db") >= 6, faces)
        stop(door)
        stop(faces)
    events = stored(tmp_path / "faces.db")
    started = {e.track for e in events if e.kind == "sighting.started"}
    assert started and {e.track for e in events if isinstance(e, SightingEnded)} == started
    assert {e.camera for e in events if isinstance(e, CameraState)} == {"entrance"}


def stop(run: Run) -> None:
    run.process.send_signal(signal.SIGTERM)
    code, _, errors = run.end()
    assert (code, errors) == (130, ""), errors


def test_nodes_of_one_process_are_started_together() -> None:
    content = configuration(5600)
    content["topology"]["nodes"][0]["stages"] = ["source"]
    content["topology"]["nodes"][0]["to"] = "finder"
    finder = {"name": "finder", "stages": ["detect"], "endpoint": "inproc://finder"}
    content["topology"]["nodes"].append(finder)
    config = from_mapping(content)
    assert [node.name for node in together(config, "finder")] == ["door", "finder"]
    assert [node.name for node in together(config, "faces")] == ["faces"]


def test_a_node_that_is_not_there_is_named() -> None:
    config = from_mapping(configuration(5600))
    with pytest.raises(ConfigError, match="is called 'dor', did you mean door"):
        together(config, "dor")
    with pytest.raises(ConfigError, match="is called 'kitchen', there are door, yard, faces"):
        together(config, "kitchen")
    standard = from_mapping(
        {"cameras": [{"name": "a", "url": "a.mp4"}], "topology": {"transport": "ipc"}}
    )
    with pytest.raises(ConfigError, match=r"topology\.nodes names no nodes: .* `facestream run`"):
        together(standard, "decide")
