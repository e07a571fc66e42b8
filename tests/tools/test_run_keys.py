"""`facestream run` with keys: the folder that the configuration names decides who may listen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from facestream.stream.client import subscribe
from facestream.stream.client_errors import KeyRefused
from facestream.stream.keys import KeyStore

PROGRAM = [sys.executable, "-m", "facestream.tools.cli"]
SCENE = "synthetic:?seconds=0&size=320x240&fps=5&faces=1"


def facestream(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*PROGRAM, *arguments],
        env={**os.environ, "FACESTREAM_DATA": str(folder / "data")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
    )
    return done


def free_pair() -> int:
    """A port whose neighbour is free too."""
    with zmq.Context() as context, context.socket(zmq.REP) as first:
        return first.bind_to_random_port("tcp://127.0.0.1")


@pytest.mark.parametrize("topology", ["none", "tcp"])
def test_a_run_lets_in_who_has_a_key_of_the_folder_it_names(tmp_path: Path, topology: str) -> None:
    made = facestream("keys", "new", "wall", "--keys", "doors", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    endpoint = f"tcp://127.0.0.1:{free_pair()}"
    run = subprocess.Popen(
        [
            *[*PROGRAM, "run", "--source", SCENE, "--endpoint", endpoint, "--json"],
            *["--set", "access.keys=doors", "--set", f"topology.transport={topology}"],
        ],
        env={**os.environ, "FACESTREAM_DATA": str(tmp_path / "data")},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with subscribe(endpoint, key=tmp_path / "wall.key_secret", after="oldest") as events:
            assert next(events).kind == "system"
        with subscribe(endpoint) as events, pytest.raises(KeyRefused):
            next(events)
    finally:
        run.terminate()
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert KeyStore(tmp_path / "doors").allowed()[0].keys() == {"wall"}


def test_listening_beyond_this_machine_takes_keys(tmp_path: Path) -> None:
    anywhere = ["--endpoint", "tcp://0.0.0.0:*", "--json"]
    refused = facestream("run", "--source", SCENE, *anywhere, folder=tmp_path)
    assert refused.returncode == 7
    assert "facestream keys new" in refused.stderr
