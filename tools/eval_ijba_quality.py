"""IJB-A by quality: faces of low and of middle quality against those of high quality, 1:1.

Guo and Zhang (2018) sorted IJB-A's faces by quality into high, middle and low, and verify the lower
ones against the high ones. Their list is not public, so it is read in a format of our own:

quality_levels.csv    SUBJECT_ID,FILE,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,QUALITY

with any other columns: rows of IJB-A's own lists with QUALITY (high, middle, low) added. A face is
a template of its own, and all pairs are compared.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..models.fusion import Floats
from ..models.pairs import PairBatch, count_pairs
from ..models.scores import Labels
from ..models.verification import operating_point
from .eval_ijb_measures import IjbChoices, Part
from .eval_ijba_lists import BOX, Face, FaceList, note_line, parse_face
from .eval_progress import progress_bar
from .eval_text import Integers
from .eval_verification import far_words, make_plots, rate_words
from .report_record import Bad, Draws, Row, Table, measured

LIST = "quality_levels.csv"
LEVELS = ("high", "middle", "low")
FARS = (1e-2, 1e-3)
_BATCH = 1 << 20


class Levels(NamedTuple):
    """Faces, each a template of its own, and the level of each (N,), by its place in LEVELS."""

    listed: FaceList
    levels: Labels


@dataclass(frozen=True)
class CrossPairs:
    """All pairs of two groups of rows, block by block. subjects (N,): of all rows."""

    first: Integers
    second: Integers
    subjects: Labels

    def __iter__(self) -> Iterator[PairBatch]:
        """Batches of about a million pairs."""
        step = max(1, _BATCH // len(self.second))
        for at in range(0, len(self.first), step):
            some = self.first[at : at + step]
            a, b = np.repeat(some, len(self.second)), np.tile(self.second, len(some))
            yield PairBatch(a, b, self.subjects[a] == self.subjects[b])


def read_levels(root: Path, bad: list[Bad] | None = None) -> Levels:
    """The list of a set. With `bad`, malformed lines are left out and listed.

    Raises ConfigError for a missing list or column, a malformed line or a face listed twice, and
    where faces of high quality, or all others, are lacking.
    """
    path = root / LIST
    if not path.is_file():
        raise ConfigError(
            f"{path}: the quality protocol needs this list, got none: add a column QUALITY (high, "
            "middle, low) to rows of IJB-A's lists"
        )
    found: dict[Face, tuple[int, int]] = {}
    # Spreadsheets put a byte order mark before what they save as CSV.
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.reader(file)
        columns = {name.strip().upper(): place for place, name in enumerate(next(rows, []))}
        if lacking := [n for n in ("SUBJECT_ID", "FILE", *BOX, "QUALITY") if n not in columns]:
            raise ConfigError(f"{path}:1: expected a header, it lacks {', '.join(lacking)}")
        for fields in rows:
            parsed = parse_face(fields, columns, ("SUBJECT_ID",))
            place = columns["QUALITY"]
            level = fields[place].strip().lower() if place < len(fields) else ""
            if parsed is None or level not in LEVELS or parsed[0] in found:
                why = "expected a subject, a box and a quality high, middle or low, each face once"
                note_line(path, rows.line_num, f"{why}, got {','.join(fields)[:60]!r}", bad)
                continue
            face, (subject,) = parsed
            found[face] = subject, LEVELS.index(level)
    subjects, levels = np.array(list(found.values()), np.int64).reshape(-1, 2).T
    if not (levels == 0).any() or not (levels > 0).any():
        raise ConfigError(f"{path}: expected faces of high and of lower quality, got one kind")
    alone = np.arange(len(found))
    return Levels(FaceList(path, list(found), alone, subjects, alone), levels)


def verify_levels(
    vectors: Floats,
    people: Labels,
    levels: Labels,
    choices: IjbChoices,
    weights: np.ndarray | None,
) -> Part:
    """TAR of the pairs between each lower level and the high one.

    vectors (N, C) unit, or zero without a face; people (N,) numbers into weights (B, people).
    Raises ConfigError where a level has no genuine or no impostor pair.
    """
    rows, rocs, few = [], [], []
    draws: dict[str, Draws] = {}
    columns = [far_words(far) for far in FARS]
    for place in range(1, len(LEVELS)):
        if not (levels == place).any():
            continue
        name = f"{LEVELS[place]} to high"
        pairs = CrossPairs(np.flatnonzero(levels == place), np.flatnonzero(levels == 0), people)
        with progress_bar(f"scoring {name}", None):
            counter = count_pairs(
                vectors, pairs, subjects=people if weights is not None else None, weights=weights
            )
            roc, drawn = counter.roc(), list(counter.resampled())
        cells = []
        for far, column in zip(FARS, columns, strict=True):
            sample = np.array([operating_point(one, far, choices.rule).tar for one in drawn])
            cells.append(measured(operating_point(roc, far, choices.rule).tar, sample))
            if len(sample):
                draws[f"Quality / {name} / {column}"] = sample
        rows.append(Row(name, [*cells, f"{int(roc.genuine):,}", f"{int(roc.impostor):,}"]))
        rocs.append((name, roc))
        few += [f"{rate_words(far)} ({name})" for far in FARS if roc.impostor * far < 1]
    variant = [
        f"quality: every face of lower against every face of high quality by {LIST}, a template "
        f"each; TAR@FAR ({choices.rule})"
    ]
    if few:
        variant.append(f"quality: too few impostor pairs to measure a FAR of {', '.join(few)}")
    table = Table("Quality", "pairs", [*columns, "genuine pairs", "impostor pairs"], rows)
    return Part([table], make_plots(rocs), draws, variant, {})
