"""IJB-S: which (subject, path) make up the probes and galleries of its five protocols.

cs6_metadata.csv              subject, "videos/4012.mp4" or "img/77.jpg", ...
cs6_*_probe.csv               one path per line after a header
galleries/cs6_*_g1.csv, _g2   template, subject, path after a header
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from .eval_identify import need_disjoint
from .report_record import Bad

Source = tuple[int, str]
"""A subject in a video or an image: the unit that faces belong to."""

PROTOCOLS = {
    "surveillance-to-single": ("surveillance_to_single-booking", "single"),
    "surveillance-to-booking": ("surveillance_to_single-booking", "booking"),
    "multi-view-to-booking": ("surveillance_to_surveillance", "booking"),
    "surveillance-to-surveillance": ("surveillance_to_surveillance", "surveillance"),
    "uav-to-booking": ("uav_to_single-booking", "booking"),
}
"""Name of a protocol: its list of probes and its galleries."""


class Entry(NamedTuple):
    """One template: whose it is and where its faces are."""

    subject: int
    sources: tuple[Source, ...]


class Protocol(NamedTuple):
    """The templates of one protocol: probes, and the galleries by name."""

    name: str
    probes: list[Entry]
    galleries: dict[str, list[Entry]]


def listed_protocols(root: Path) -> list[str]:
    """The protocols that a set has probes for, as simulated sets have some only.

    Raises ConfigError when there is none.
    """
    found = []
    for name, (probe_list, _) in PROTOCOLS.items():
        path = root / f"cs6_{probe_list}_probe.csv"
        if path.is_file() and len(path.read_text(encoding="utf-8").split()) > 1:
            found.append(name)
    if not found:
        raise ConfigError(f"{root}: expected lists cs6_*_probe.csv with probes, got none")
    return found


def read_protocol(
    root: Path, name: str, sources: list[Source], bad: list[Bad] | None = None
) -> Protocol:
    """One of PROTOCOLS. sources: of `read_metadata`.

    Raises ConfigError for a missing list and for an empty probe list or gallery. A malformed line,
    a path that the metadata does not know and a subject in both galleries go into `bad`; without
    it they are a ConfigError too.
    """
    probe_list, gallery = PROTOCOLS[name]
    path = root / f"cs6_{probe_list}_probe.csv"
    wanted = dict.fromkeys(fields[0] for _, fields in _rows(path, 1, bad))
    known = {one for _, one in sources}
    if unknown := [one for one in wanted if one not in known]:
        if bad is None or len(unknown) == len(wanted):
            raise ConfigError(
                f"{path}: {len(unknown)} of {len(wanted)} paths are not in cs6_metadata.csv, the "
                f"first is {unknown[0]}: check that the lists belong together"
            )
        faults = [Bad(f"{path.name}: {one}", "not in cs6_metadata.csv") for one in unknown]
        bad += [one for one in faults if one not in bad]
    probes = [Entry(source[0], (source,)) for source in sources if source[1] in wanted]
    if name == "multi-view-to-booking":
        # EVERY video of the subject, also those that the list of probes does not name.
        subjects = dict.fromkeys(entry.subject for entry in probes)
        probes = [
            Entry(one, tuple(s for s in sources if s[0] == one and s[1].startswith("videos")))
            for one in subjects
        ]
    galleries = {f"G{half}": read_gallery(root, gallery, half, bad) for half in (1, 2)}
    owners = {half: np.array([e.subject for e in some]) for half, some in galleries.items()}
    need_disjoint([(f"{gallery} {half}", some) for half, some in owners.items()], bad)
    return Protocol(name, probes, galleries)


def read_metadata(path: Path, bad: list[Bad] | None = None) -> list[Source]:
    """Every (subject, path) once, in the order of the file.

    Raises ConfigError for a malformed line, with its number, unless there is `bad`, which takes it.
    """
    found: dict[Source, None] = {}
    for number, fields in _rows(path, 2, bad):
        if not fields[0].isdecimal() or not fields[1].startswith(("videos/", "img/")):
            got = ",".join(fields[:2])
            why = f'expected "subject,videos/..." or "subject,img/...", got {got!r}'
            _note(path, number, why, bad)
            continue
        found[int(fields[0]), fields[1]] = None
    return list(found)


def read_gallery(root: Path, gallery: str, half: int, bad: list[Bad] | None = None) -> list[Entry]:
    """The templates of one gallery: by subject for booking, else one per line."""
    path = root / "galleries" / f"cs6_surveillance_to_{gallery}_g{half}.csv"
    lines: list[Source] = []
    for number, fields in _rows(path, 3, bad):
        if not fields[1].isdecimal():
            _note(path, number, f"expected a subject's number, got {fields[1]!r}", bad)
            continue
        lines.append((int(fields[1]), fields[2]))
    if not lines:
        raise ConfigError(f"{path}: expected templates with subjects and paths, got none")
    if gallery != "booking":
        return [Entry(line[0], (line,)) for line in dict.fromkeys(lines)]
    subjects = dict.fromkeys(subject for subject, _ in lines)
    return [Entry(one, tuple(line for line in lines if line[0] == one)) for one in subjects]


def _note(path: Path, number: int, why: str, bad: list[Bad] | None) -> None:
    """Raise ConfigError for a line, or list it; several protocols may read it, it counts once."""
    if bad is None:
        raise ConfigError(f"{path}:{number}: {why}")
    if (fault := Bad(f"{path.name}:{number}", why)) not in bad:
        bad.append(fault)


def _rows(path: Path, columns: int, bad: list[Bad] | None) -> Iterator[tuple[int, list[str]]]:
    """Lines after the header with at least so many columns, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: expected {path.name}, one of IJB-S's lists") from None
    rows = csv.reader(text.splitlines())
    next(rows, None)
    empty = True
    for fields in rows:
        if not fields:
            continue
        if len(fields) < columns or not all(field.strip() for field in fields[:columns]):
            got = ",".join(fields)
            _note(path, rows.line_num, f"expected {columns} columns, got {got!r}", bad)
            continue
        empty = False
        yield rows.line_num, [field.strip() for field in fields]
    if empty:
        raise ConfigError(f"{path}: expected lines after the header, got none")


def crop_key(source: Source) -> str:
    """How crops of a source are named, as public evaluators name them: subject/videos_4012.

    >>> crop_key((7, "videos/4012.mp4")), crop_key((7, "img/77.jpg"))
    ('7/videos_4012', '7/img_77')
    """
    subject, path = source
    return f"{subject}/{path.split('/')[0]}_{Path(path).stem}"


def faces_by_source(folder: Path, sources: set[Source]) -> dict[Source, list[str]]:
    """The crops of each source: FOLDER/SUBJECT/videos_4012_FRAME.jpg and FOLDER/SUBJECT/img_77.jpg.

    Names are relative to the folder, frames in order of name. Sources without crops are left out.
    """
    by_key = {crop_key(source): source for source in sources}
    found: dict[Source, list[str]] = {}
    for picture in sorted(folder.glob("*/*")):
        subject = picture.parent.name
        source = by_key.get(f"{subject}/{picture.stem}")
        if source is None:
            source = by_key.get(f"{subject}/{picture.stem.rpartition('_')[0]}")
        if source is not None:
            found.setdefault(source, []).append(f"{subject}/{picture.name}")
    return found
