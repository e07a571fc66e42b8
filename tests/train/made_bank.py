"""A bank of features without pictures, for tests of sets and fusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facestream.configs.training import BankSettings
from facestream.models.feature_store import (
    Compute,
    Features,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
)

SETTINGS = BankSettings(runs=3, frames=4)
PEOPLE, C, K = 12, 16, 2


def make_store(folder: Path, *, seed: int = 0, prefix: str = "made") -> Path:
    """A bank of people whose runs are of known quality, which shows in their styles.

    The second person has one run, the third no face.
    """
    draw = np.random.default_rng(seed)
    views = 1 + SETTINGS.runs * SETTINGS.frames
    count = PEOPLE * views
    centres = draw.normal(size=(PEOPLE, 1, C))
    quality = np.concatenate(
        [np.ones((PEOPLE, 1)), np.repeat(draw.uniform(size=(PEOPLE, 3)), 4, axis=1)], axis=1
    )
    # Frames of a run err in one direction, as those of a blurred camera do.
    own, shared = draw.normal(size=(2, PEOPLE, views, C))
    shared = np.repeat(shared[:, ::4], 4, axis=1)[:, 3 : 3 + views]
    noise = (0.3 * own + 1.2 * shared) * (1 - quality[..., None])
    vectors = (centres + noise).reshape(count, C).astype(np.float32)
    styles = np.repeat(quality.reshape(count, 1, 1), K, axis=1) * np.ones(2)
    states = np.full((PEOPLE, views), State.EMBEDDED, np.uint8)
    states[1, 1:9] = State.NO_FACE
    states[2] = State.NO_FACE

    def start() -> Compute:
        def compute(rows: range) -> Features:
            at = slice(rows.start, rows.stop)
            flat = quality.reshape(count)[at].astype(np.float32)
            return Features(
                states.reshape(count)[at],
                vectors[at],
                np.zeros((0, C), np.float32),
                flat,
                flat,
                styles[at].astype(np.float32),
            )

        return compute

    names = [
        f"{prefix}/{p:02}#{view}"
        for p in range(PEOPLE)
        for view in ("clean", *(f"{r}.{f:02}" for r in range(3) for f in range(4)))
    ]
    layout = StoreLayout(count, C, styles=K)
    fill_store(create_store(folder, StoreKey("made", "made", f"{seed:016}"), names, layout), start)
    return folder
