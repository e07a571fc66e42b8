"""Which version of the code a number or a network was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def revision() -> str:
    """The git revision of this code, and whether it was changed since; unknown outside of git."""
    try:
        top = _git("rev-parse", "--show-toplevel")
        if Path(top).resolve() != ROOT:
            return "unknown"
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.yaml")
        return _git("rev-parse", "--short=9", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
