"""The course of a training run: one line of JSON per step, in curve.jsonl and for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from .. import CorruptModelFile
from ..models.store import written_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Point(msgspec.Struct, omit_defaults=True):
    """What was measured at a step, by name; validated: on the validation split."""

    step: int
    values: dict[str, float]
    validated: bool = False


def read_curve(path: Path) -> list[Point]:
    """The points of a curve.jsonl, in order; a last line that was cut short is left out.

    Raises CorruptModelFile, with the line's number, for a file that is none.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    points = []
    for number, line in enumerate(whole, 1):
        try:
            points.append(msgspec.json.decode(line, type=Point))
        except msgspec.DecodeError as error:
            raise CorruptModelFile(
                f"{path}, line {number}: {error}; begin in another folder, or take the file away: "
                "the run goes on without the curve so far"
            ) from error
    return points


class CurveWriter:
    """Appends points to curve.jsonl and to TensorBoard's files of the same folder.

    Points of the steps that a run is going to make again are taken out first.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """step: how many steps are done; points above it are of a run that was cut off."""
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "curve.jsonl"
        kept = [point for point in read_curve(self._path) if point.step <= step]
        with written_whole(self._path) as partial:
            partial.write_bytes(b"".join(map(_line, kept)))
        self._file = self._path.open("ab")
        self._board: SummaryWriter = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, values: Mapping[str, float], *, validated: bool = False) -> None:
        """One point after `step` steps. Values that are not finite are left out: JSON has none."""
        kept = {name: value for name, value in values.items() if math.isfinite(value)}
        self._file.write(_line(Point(step, kept, validated)))
        for name, value in kept.items():
            place = f"validation/{name}" if validated else f"training/{name}"
            self._board.add_scalar(place, value, step)

    def flush(self) -> None:
        """Hand everything to the system: a killed process loses nothing after this."""
        self._file.flush()
        self._board.flush()

    def __enter__(self) -> CurveWriter:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close both."""
        self._file.close()
        self._board.close()


def _line(point: Point) -> bytes:
    return msgspec.json.encode(point) + b"\n"
