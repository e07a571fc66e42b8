"""Held-out faces as taken and degraded, embedded once, for `facestream bench ida` and `quality`.

- london: the split's role subject, two photos of each person; everybody else's role trains.
- wild: people of CelebA's in-the-wild part, for research only; nothing trained or fitted here saw
  them; what the published embedders saw is not documented.
- others: one small picture each of MOST_OTHERS CelebA people who are not in wild; for research
  only, too.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import typer

from .. import SourceCorrupt
from ..configs.split import role_pictures
from ..configs.training import BankSettings
from ..models.scores import Labels
from ..train.feature_bank import Bank, make_bank
from .bench_accuracy_stills import find_wild

LONDON = BankSettings(runs=10, frames=2, strength=(0.0, 0.9))
WILD = BankSettings(runs=2, frames=1, strength=(0.05, 0.6))
"""Milder: these pictures are small and blurred before anything is done to them."""
OTHERS = BankSettings(runs=1, frames=1)
MOST_OTHERS = 1600


class HeldOut(NamedTuple):
    """A bank of P pictures, whose each is (P,), and which are for the gallery (P,) bool.

    pictures: file of each.
    """

    bank: Bank
    pictures: dict[str, Path]
    owners: Labels
    enrolled: np.ndarray


def london(assets: Path, folder: Path, pack: str) -> HeldOut:
    """The neutral photos are for the gallery, the smiling ones are probed."""
    people = role_pictures(assets, "subject", "london")
    pictures = {f"{who}/{path.parent.name}": path for who, of in people.items() for path in of}
    bank = _bank(folder / f"{pack}-london", pictures, LONDON, pack)
    owners = _numbers([name.rpartition("/")[0] for name in bank.names])
    neutral = np.array([name.endswith("gallery_neutral") for name in bank.names])
    return HeldOut(bank, pictures, owners, neutral)


def wild(assets: Path, folder: Path, pack: str, enrolled: int = 2) -> HeldOut | None:
    """Ten pictures each, of which the first `enrolled` are for the gallery; None without them."""
    pictures = wild_pictures(assets)
    if pictures is None:
        return None
    bank = _bank(folder / f"{pack}-wild", pictures, WILD, pack)
    owners = np.array([int(name.partition("/")[0]) for name in bank.names])
    place = np.array([int((owners[:row] == owner).sum()) for row, owner in enumerate(owners)])
    return HeldOut(bank, pictures, owners, place < enrolled)


def others(assets: Path, folder: Path, pack: str) -> HeldOut | None:
    """One picture each of people who are not in wild; None without them."""
    pictures = others_pictures(assets)
    if pictures is None:
        return None
    bank = _bank(folder / f"{pack}-others", pictures, OTHERS, pack)
    return HeldOut(bank, pictures, _numbers(bank.names), np.ones(len(bank.names), bool))


def wild_pictures(assets: Path, most: int = 10) -> dict[str, Path] | None:
    """The first `most` pictures of everybody in wild, by OWNER/FILE; None without them."""
    found = find_wild(assets)
    if found is None:
        return None
    taken: dict[str, Path] = {}
    counts: Counter[int] = Counter()
    for file, owner in zip(found.files, found.owners.tolist(), strict=True):
        if counts[owner] < most:
            taken[f"{owner:05}/{file}"] = found.folder / file
        counts[owner] += 1
    return taken


def others_pictures(assets: Path, most: int = MOST_OTHERS) -> dict[str, Path] | None:
    """One picture each of `most` people who are not in wild, by number; None without them."""
    path = assets / "celeba" / "aligned89x109.csv"
    if find_wild(assets) is None or not path.is_file():
        return None
    in_wild = {row["identity"] for row in _rows(assets / "celeba" / "wild.csv")}
    first: dict[str, str] = {}
    for row in _rows(path):
        if row["identity"] not in in_wild:
            first.setdefault(row["identity"], row["image"])
    pictures = {f"{int(who):05}": path.with_suffix("") / file for who, file in first.items()}
    return dict(sorted(pictures.items())[:most])


def _bank(folder: Path, pictures: Mapping[str, Path], settings: BankSettings, pack: str) -> Bank:
    views = len(pictures) * (1 + settings.runs * settings.frames)
    with typer.progressbar(length=views, label=folder.name) as bar:
        return make_bank(folder, pictures, settings, pack, on_block=bar.update)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"image", "identity"} <= rows[0].keys():
        raise SourceCorrupt(f"{path}: expected the columns image and identity")
    return rows


def _numbers(names: list[str]) -> Labels:
    return np.unique(names, return_inverse=True)[1]
