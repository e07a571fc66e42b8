"""kill -9 of any node, or of all: the events of a recorded clip are those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from facestream.models.pack import Pack
from facestream.stream.events import AnyEvent, CameraState, System, decode

from .running import (
    Run,
    assert_same,
    count,
    is_over,
    running,
    scene_of,
    stored,
    undisturbed,
    wait_for,
    write,
)

# A node is killed when the journal holds so many events.
KILLS = {
    "ipc": {"embed": 6, "source": 8, "detect": 10, "decide": 12},
    "tcp": {"source-detect": 6, "decide": 8, "embed": 10},
}


def configuration(folder: Path, transport: str) -> dict[str, Any]:
    return {
        "cameras": [{"name": "hall", "url": str(folder / "clip.mp4")}],
        "gallery": {"folder": str(folder / "photos")},
        "publish": {"endpoint": "", "journal": f"{transport}.db"},
        "topology": {"transport": transport, "mark_frames": 8, "window": 32, "ring_frames": 4},
    }


@pytest.fixture
def scene(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_of(open_models, tmp_path_factory)


@pytest.fixture
def expected(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> list[AnyEvent]:
    events = undisturbed(open_models, tmp_path_factory)
    assert len(events) > 18  # so that kills lie in the middle
    return events


class Listener:
    """Everything that is published, as it comes, in a thread."""

    def __init__(self, endpoint: str) -> None:
        self.payloads: list[bytes] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=[endpoint])
        self._thread.start()

    def _listen(self, endpoint: str) -> None:
        with self._context.socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.subscribe("facestream/v1/")
            socket.connect(endpoint)
            while not self._over.is_set():
                if socket.poll(50):
                    topic, payload = socket.recv_multipart()
                    if b"/heartbeat/" not in topic:
                        self.payloads.append(payload)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._context.term()


def assert_repeats_are_the_same(payloads: list[bytes]) -> None:
    """What is sent again has the same id, and nothing else has."""
    by_id: dict[str, set[bytes]] = {}
    for payload in payloads:
        by_id.setdefault(decode(payload).id, set()).add(payload)
    assert by_id and all(len(different) == 1 for different in by_id.values())


def tells(pid: int, address: str) -> bool:
    """Whether other users may read a camera's address, which may carry a password."""
    shown = [Path(f"/proc/{pid}/{file}").read_bytes() for file in ("cmdline", "environ")]
    return address.encode() in b"".join(shown)


def has_named_memory(pid: int) -> bool:
    """Whether a process shares memory by a name, which would be left when it is killed."""
    return "/dev/shm" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("transport", KILLS)
def test_every_node_killed_in_turn_changes_nothing(
    scene: Path, expected: list[AnyEvent], tmp_path: Path, transport: str
) -> None:
    content = configuration(scene, transport)
    content["publish"]["endpoint"] = f"ipc://{tmp_path}/events"
    listener = Listener(content["publish"]["endpoint"])
    try:
        with running(tmp_path, "run", str(write(tmp_path / "c.yaml", content)), "--json") as run:
            first = wait_for(lambda: len(run.children()) == len(KILLS[transport]), run)
            assert first
            pids = set(run.children().values())
            assert not any(tells(pid, str(scene / "clip.mp4")) for pid in pids)
            for node, events in KILLS[transport].items():
                wait_for(lambda events=events: count(tmp_path / f"{transport}.db") >= events, run)
                assert not any(map(has_named_memory, run.children().values()))
                run.kill(node)
                pids |= set(run.children().values())
            code, _, errors = run.end()
    finally:
        listener.close()
    assert code == 0, errors
    # A busy machine may start a node so late that others say they wait for it.
    lines = [line for line in errors.splitlines() if "answer" not in line]
    # Two that were killed within one look of the supervisor are told in the order of nodes.
    assert sorted(lines) == [
        f"node {node} was killed by SIGKILL and is started again"
        for node in sorted(KILLS[transport])
    ]
    events = stored(tmp_path / f"{transport}.db")
    assert_same(expected, events)
    assert len({event.id for event in events}) == len(events)
    assert_repeats_are_the_same(listener.payloads)
    # Nothing is left: no process, no socket of a node.
    assert all(is_over(pid) for pid in pids)
    assert not list(tmp_path.glob("facestream-*"))


def test_a_killed_supervisor_takes_its_nodes_with_it_and_the_next_run_goes_on(
    scene: Path, expected: list[AnyEvent], tmp_path: Path
) -> None:
    file = str(write(tmp_path / "c.yaml", configuration(scene, "tcp")))
    with running(tmp_path, "run", file, "--json") as run:
        wait_for(lambda: count(tmp_path / "tcp.db") >= 8, run)
        children = run.children()
        assert len(children) == 3
        run.process.kill()
        run.process.wait()
        for pid in children.values():
            wait_for_end(pid)
    assert not list(tmp_path.glob("facestream-*"))
    with running(tmp_path, "run", file, "--json") as run:
        run.totals()
    events = stored(tmp_path / "tcp.db")
    assert_same(expected, events)
    assert len({event.id for event in events}) == len(events)


def wait_for_end(pid: int) -> None:
    """Wait for a process that is not a child of ours, nor of anybody any more."""
    subprocess.run(
        ["timeout", "60", "tail", f"--pid={pid}", "-s", "0.05", "-f", "/dev/null"], check=True
    )


# --- live ---


def live(folder: Path, transport: str) -> dict[str, Any]:
    content = configuration(folder, transport)
    url = "synthetic:?seconds=0&size=640x360&fps=60&faces=3&seed=2&live=1"
    content["cameras"] = [{"name": "hall", "url": url, "mode": "live"}]
    content["topology"]["live_window"] = 4
    content["gallery"] = {}
    return content


def test_live_cameras_go_on_after_a_node_was_killed_and_count_what_was_lost(tmp_path: Path) -> None:
    journal = tmp_path / "ipc.db"
    file = str(write(tmp_path / "c.yaml", live(tmp_path, "ipc")))
    with running(tmp_path, "run", file, "--json") as run:
        wait_for(lambda: count(journal) >= 6, run)
        run.kill("embed")
        held = count(journal)
        wait_for(lambda: count(journal) >= held + 6, run)
        run.process.send_signal(signal.SIGINT)
        code, output, errors = run.end()
    assert code == 130
    assert errors.splitlines() == ["node embed was killed by SIGKILL and is started again"]
    totals = msgspec.json.decode(output)
    assert totals["interrupted"]
    dropped = totals["dropped"]["hall"]
    assert dropped["newer"] > 0  # more frames than two cores can look at
    assert 0 < dropped["node restarted"] <= 4  # those that were under way
    events = stored(journal)
    assert isinstance(events[-1], System) and events[-1].detail == "interrupted"
    started = [e.track for e in events if e.kind == "sighting.started"]
    ended = [e.track for e in events if e.kind == "sighting.ended"]
    assert sorted(started) == sorted(ended) and len(set(started)) == len(started)
    assert any(isinstance(e, CameraState) for e in events)


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    file = str(write(tmp_path / "c.yaml", live(tmp_path, "tcp")))
    with running(tmp_path, "run", file, "--json") as run:
        wait_for(lambda: count(tmp_path / "tcp.db") >= 3, run)
        children = run.children()
        os.kill(children["decide"], signal.SIGSTOP)  # nothing can end cleanly any more
        run.process.send_signal(signal.SIGINT)
        interrupted_twice(run)
        code, _, errors = run.end()
    assert code == 130 and "Traceback" not in errors
    assert all(is_over(pid) for pid in children.values())


def interrupted_twice(run: Run) -> None:
    """A second Ctrl-C."""
    wait_for(lambda: not catches(run.process.pid, signal.SIGTERM), run)  # the first was taken
    run.process.send_signal(signal.SIGINT)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in lines if line.startswith("SigCgt")]
    return bool(int(mask, 16) >> (number - 1) & 1)
