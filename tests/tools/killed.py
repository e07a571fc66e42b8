"""Killing the program at a moment that a test chooses."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds that the moment may take to come on a busy machine."""


def kill_when(reached: Callable[[], bool], *arguments: str) -> None:
    """Start `facestream ARGUMENTS` and send it SIGKILL once `reached`, before it has ended."""
    command = [sys.executable, "-m", "facestream.tools.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + PATIENCE
        while not reached():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                _, errors = process.communicate()
                raise AssertionError(f"the moment never came: {errors.decode()}")
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL


def run_to_end(*arguments: str) -> str:
    """What `facestream ARGUMENTS` prints. Raises AssertionError where it fails."""
    command = [sys.executable, "-m", "facestream.tools.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout
