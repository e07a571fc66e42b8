"""What an evaluation says: numbers with their uncertainty, curves, examples, and what was left out.

One record for the JSON file, the terminal and the page, so that they cannot disagree. Bootstrap
draws lie beside the JSON file, for `facestream evaluate compare`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple
from zipfile import BadZipFile

import msgspec
import numpy as np
import numpy.typing as npt

from .. import ConfigError, __version__
from ..models.scores import percentile_interval

FORMAT = "facestream evaluation 1"
LEVEL = 0.95
MOST_BAD = 1000
"""Faulty items that a report lists one by one; all are counted."""

Unit = Literal["share", "points", "score", "count", "seconds", "area"]
"""share: 0..1, written in per cent; points: a difference of shares, in percentage points."""
Draws = npt.NDArray[np.float64]


class Number(msgspec.Struct, frozen=True, omit_defaults=True):
    """One measured number.

    value: None where it is not defined. low, high: the 95 % bootstrap interval. spread: standard
    deviation over folds or splits. better: which way is better, for comparisons.
    """

    value: float | None
    unit: Unit = "share"
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    better: Literal["higher", "lower", "neither"] = "higher"


class Row(msgspec.Struct, frozen=True):
    """A row of a table."""

    label: str
    cells: list[Number | str]


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """A table of numbers: columns name the cells, `head` the labels of the rows."""

    title: str
    head: str
    columns: list[str]
    rows: list[Row]
    note: str = ""

    def keyed(self) -> dict[str, Number]:
        """Its numbers by "title / row / column"."""
        return {
            f"{self.title} / {row.label} / {column}": cell
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
            if isinstance(cell, Number)
        }


class Curve(msgspec.Struct, frozen=True, omit_defaults=True):
    """A polyline, or a staircase where steps is set: x ascending."""

    label: str
    x: list[float]
    y: list[float]
    steps: bool = False


class Plot(msgspec.Struct, frozen=True, omit_defaults=True):
    """Curves over common axes. Logarithmic axes leave out what is not above zero."""

    title: str
    x_name: str
    y_name: str
    curves: list[Curve]
    x_log: bool = False
    y_log: bool = False
    note: str = ""


class Example(msgspec.Struct, frozen=True):
    """Some faces and what was said of them; pictures are JPEG data URIs, never in the JSON file."""

    group: str
    caption: str
    pictures: list[str]


class Bad(msgspec.Struct, frozen=True):
    """One item that was left out: where (file and line, or name) and why."""

    where: str
    why: str


class Data(msgspec.Struct, frozen=True):
    """What was measured on."""

    name: str
    fingerprint: str
    facts: dict[str, str]


class Report(msgspec.Struct, frozen=True):
    """A whole evaluation.

    variant: which of the protocol's variants, in words. pairing: two reports with the same one
    were drawn from the same items with the same resamples, so their draws can be compared.
    """

    format: str
    protocol: str
    title: str
    made: str
    version: str
    variant: list[str]
    data: Data
    model: dict[str, str]
    tables: list[Table]
    plots: list[Plot]
    bad: list[Bad]
    bad_total: int
    pairing: str

    def numbers(self) -> dict[str, Number]:
        """All numbers by key."""
        return {key: cell for table in self.tables for key, cell in table.keyed().items()}


class Result(NamedTuple):
    """A report with what does not go into its JSON file: draws by number's key, and examples.

    Draw n of every number is of the same resample, so undefined ones are NaN and not left out.
    """

    report: Report
    draws: dict[str, Draws]
    examples: list[Example]


def write_report(
    protocol: str,
    title: str,
    *,
    variant: Sequence[str],
    data: Data,
    model: dict[str, str],
    tables: Sequence[Table],
    plots: Sequence[Plot] = (),
    bad: Sequence[Bad] = (),
    pairing: str = "",
) -> Report:
    """A report of now, by this version."""
    return Report(
        FORMAT,
        protocol,
        title,
        datetime.now(UTC).isoformat(timespec="seconds"),
        __version__,
        list(variant),
        data,
        model,
        list(tables),
        list(plots),
        list(bad[:MOST_BAD]),
        len(bad),
        pairing,
    )


def measured(
    value: float, draws: npt.ArrayLike = (), *, unit: Unit = "share", **more: object
) -> Number:
    """A number with the interval of its bootstrap draws (B,), where there are any that are not NaN.

    A draw is NaN where its resample lacks what the number needs.
    """
    sample = np.asarray(draws, np.float64)
    sample = sample[~np.isnan(sample)]
    low, high = percentile_interval(sample, LEVEL) if len(sample) else (None, None)
    plain = None if np.isnan(value) else float(value)
    return Number(plain, unit, low, high, **more)  # type: ignore[arg-type]


def save_report(result: Result, folder: Path) -> None:
    """Write report.json and, where there are draws, draws.npz; each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "report.json.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(result.report)) + b"\n")
    part.replace(folder / "report.json")
    draws = folder / "draws.npz"
    if not result.draws:
        draws.unlink(missing_ok=True)
        return
    keys = sorted(result.draws)
    part = folder / "draws.part.npz"
    np.savez_compressed(
        part,
        keys=np.array(json.dumps(keys)),
        **{f"d{place}": result.draws[key] for place, key in enumerate(keys)},  # type: ignore[arg-type]
    )
    part.replace(draws)


def load_report(folder: Path) -> Result:
    """What `save_report` wrote, without examples. Raises ConfigError when it is no report."""
    path = folder / "report.json" if folder.is_dir() else folder
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} holds no report.json: name a folder that `facestream evaluate` wrote"
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no report of an evaluation: {error}") from None
    if report.format != FORMAT:
        raise ConfigError(f"{path}: expected {FORMAT!r}, got {report.format!r}")
    draws: dict[str, Draws] = {}
    drawn = path.parent / "draws.npz"
    if drawn.is_file():
        try:
            with drawn.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                keys = json.loads(str(stored["keys"]))
                draws = {key: stored[f"d{place}"] for place, key in enumerate(keys)}
        except (BadZipFile, ValueError, EOFError, KeyError) as error:
            raise ConfigError(
                f"{drawn} is damaged ({error}): make the report again, or remove the file and "
                "compare without significance"
            ) from error
    return Result(report, draws, [])
