"""The command `facestream bench strangers`, and the page that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import ConfigError, __version__
from .bench_papers import Assets, Folder, Packs, Seed
from .revision import revision

if TYPE_CHECKING:
    from .bench_strangers import Row

COLUMNS = ("BCubed F", "precision", "recall", "people found", "pure groups")


def bench_strangers(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Markdown page to write.")] = Path(
        "docs/benchmarks/strangers.md"
    ),
    assets: Assets = None,
    pack: Packs = None,
    seed: Seed = 1,
) -> None:
    """Group sightings of strangers by linkage and by HDBSCAN, and write a page about it.

    Example: facestream bench strangers --folder banks/
    """
    from .bench_accuracy import find_packs
    from .bench_accuracy_stills import find_wild
    from .bench_papers import assets_of, write_out
    from .bench_strangers import measure_pack

    place = assets_of(assets)
    wild = find_wild(place)
    if wild is None:
        raise ConfigError(f"no pictures of strangers: {place} has no celeba/wild.csv")
    packs, _ = find_packs(pack)
    numbers = {name: measure_pack(name, wild, folder, seed) for name in packs}
    chosen = "".join(f" --pack {name}" for name in pack or ())
    command = f"facestream bench strangers --folder banks{chosen} --seed {seed}"
    people = int(wild.owners.max()) + 1
    write_out(out, write_page(numbers, command, people, len(wild.files)), packs)


def write_page(
    numbers: Mapping[str, Sequence[Row]], command: str, people: int, pictures: int
) -> str:
    """The whole page in Markdown; rows by pack."""
    from .bench_strangers import DRAWS, MOST

    head = f"""# Strangers who recur

Written by

    {command}

on {datetime.now(UTC):%Y-%m-%d}, facestream {__version__}, revision {revision()}.

What `facestream sightings cluster` is worth, and why it groups as it does. {people} people of
CelebA's in-the-wild part with {pictures} pictures, which nothing fitted here saw; what the
published embedders saw is not documented. A sighting is a template of 1, 2 or 4 different pictures,
fused as the pack does live: other pictures each time, where the frames of a track come from one
moment. Every second person is seen once, the others 2 to {MOST} times, as far as their pictures go.
{DRAWS} draws of the pictures, each for both halves of the people: means over them, and the standard
deviation.

- *linkage*: average linkage of the scores, cut at the pack's threshold, which is made for one pair,
  or at the threshold with the best F on the other half of the people.
- *HDBSCAN* (scikit-learn), groups of two or more, by excess of mass or by leaves; what it calls
  noise is a group of its own.
- *people found*: share of the people seen repeatedly who have a group of their own, with two or
  more of their sightings and nobody else. *pure groups*: share of the groups of two or more that
  show one person.
"""
    parts = [head]
    for pack, rows in numbers.items():
        parts += [f"## Pack `{pack}`", ""]
        for size in dict.fromkeys(row.size for row in rows):
            word = "1 picture" if size == 1 else f"{size} pictures"
            parts += [f"### `{pack}`: {word} a sighting", ""]
            parts += [*_table([row for row in rows if row.size == size]), ""]
    return "\n".join(parts)


def _table(rows: Sequence[Row]) -> list[str]:
    from .bench_accuracy_page import markdown

    lines = []
    for row in rows:
        bar = row.thresholds
        spread = f" ± {bar.std():.3f}" if bar.std() > 1e-9 else ""
        threshold = "" if (bar != bar).any() else f"{bar.mean():.3f}{spread}"
        cells = zip(row.values.mean(axis=0), row.values.std(axis=0), strict=True)
        percent = [f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in cells]
        lines.append([row.score, row.method, threshold, *percent])
    return markdown(["Score", "Groups", "Threshold", *COLUMNS], lines)
