"""Who plays which role: the one split of the licence-clean faces, by identity.

A face that sets a threshold must not be recognised with it, and a face that measures density must
never be a probe, so each identity has one role. Two identities in one role may meet; two roles
never share an identity.

- training, validation: for models that are fitted and chosen. Synthetic faces, one picture each.
- anchor: the vectors that IDA measures density with (`facestream train anchors`).
- calibration: sets thresholds (`facestream train calibrate`). The synthetic ones are kept apart for
  it and not used: to IDA they are too easy, since its anchors are their siblings.
- subject: enrolled, and walking through the simulated videos.
- passer-by: in those videos, enrolled nowhere. Chosen by eye: adults, facing the camera.

The London Set has two photos of each person, one to enrol and one to recognise. Thresholds and
subjects both need such pairs, so each has half of its people, by the hash of their identifier.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from .. import ConfigError, SourceCorrupt, SourceMissing

Role = Literal["training", "validation", "anchor", "calibration", "subject", "passer-by"]
ROLES: tuple[Role, ...] = get_args(Role)
COLUMNS = ("identity", "role", "sha256")


class Assigned(NamedTuple):
    """One identity: "london/005" or "sfhq/00017", its role, and the checksum of its pictures.

    sha256: the first 16 hexadecimal digits, over its pictures in order of their paths.
    """

    identity: str
    role: Role
    sha256: str


def read_split() -> dict[str, Assigned]:
    """The split that ships with the package, by identity."""
    path = importlib.resources.files(__package__) / "splits" / "faces.csv"
    return parse_split(path.read_text(encoding="utf-8").splitlines())


def parse_split(lines: Iterable[str]) -> dict[str, Assigned]:
    """Read a split; lines that start with # say nothing.

    Raises ConfigError, with the line's number, for another header, an unknown role and an identity
    that is there twice.
    """
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not numbered or tuple(numbered[0][1].split(",")) != COLUMNS:
        raise ConfigError(f"a split begins with the line {','.join(COLUMNS)}")
    split: dict[str, Assigned] = {}
    for number, line in numbered[1:]:
        assigned = _parse_line(number, line)
        if assigned.identity in split:
            raise ConfigError(f"line {number}: {assigned.identity} has a role already")
        split[assigned.identity] = assigned
    return split


def identities(role: Role, source: str = "") -> Iterator[str]:
    """The identities of one role, sorted; of one source ("london", "sfhq") where it is named."""
    for identity, assigned in sorted(read_split().items()):
        if assigned.role == role and identity.startswith(f"{source}/" if source else ""):
            yield identity


def role_pictures(assets: Path, role: Role, source: str = "") -> dict[str, tuple[Path, ...]]:
    """The pictures of everybody of one role, in a folder with london/ and anchors/.

    Raises SourceMissing for a picture that is not there, SourceCorrupt for one that the split does
    not know.
    """
    split = read_split()
    found = {}
    for name in identities(role, source):
        found[name] = split_pictures(assets, name)
        if checksum(found[name]) != split[name].sha256:
            raise SourceCorrupt(f"the pictures of {name} in {assets} are not those of the split")
    return found


def split_pictures(assets: Path, identity: str) -> tuple[Path, ...]:
    """The pictures of one identity of the split, in order of path; raises SourceMissing."""
    source, _, number = identity.partition("/")
    folder = assets / ("london" if source == "london" else "anchors")
    pattern = f"*/{number}_*.jpg" if source == "london" else f"{number}.jpg"
    found = tuple(sorted(folder.glob(pattern)))
    if not found:
        raise SourceMissing(f"no picture of {identity} in {folder}: expected {pattern}")
    return found


def checksum(paths: tuple[Path, ...]) -> str:
    """What the split's column sha256 says of these pictures."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _parse_line(number: int, line: str) -> Assigned:
    cells = next(csv.reader([line]))
    if len(cells) != len(COLUMNS) or not all(cells):
        raise ConfigError(f"line {number}: expected {', '.join(COLUMNS)}, got {len(cells)} values")
    for role in ROLES:
        if cells[1] == role:
            return Assigned(cells[0], role, cells[2])
    raise ConfigError(f"line {number}: expected a role of {', '.join(ROLES)}, got {cells[1]!r}")
