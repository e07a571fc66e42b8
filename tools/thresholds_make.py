"""What `facestream thresholds fit` does: faces to tracks of strangers, into a pack's card."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from .. import ConfigError, SourceMissing
from ..configs.paths import data_folder
from ..configs.split import Role, role_pictures
from ..configs.training import BankSettings
from ..models.open_set_tracks import Strangers
from ..models.store import written_whole
from .eval_progress import progress_bar
from .thresholds_tracks import make_tracks

if TYPE_CHECKING:
    from ..models.card import Card
    from ..models.fusion import Aggregator
    from ..train.feature_bank import Bank

BANK = BankSettings(runs=4, frames=8, strength=(0.0, 0.9))
"""Views of each picture: from nearly as taken to what detectors begin to lose."""
SPLIT_WORDS = (
    "tracks of the split's role calibration: Face Research Lab London Set (DeBruine and Jones "
    "2017, CC BY 4.0), consenting adults, and synthetic faces of SFHQ and SFHQ-T2I by David "
    "Beniaguev (MIT); vectors only, no pictures"
)
SYNTHETIC = "sfhq/"
"""How the names of the split's synthetic people begin."""
PICTURES = (".jpg", ".jpeg", ".png")

Pictures = dict[str, tuple[str, Path]]
"""By the name of a picture: whose it is, and its file."""


class Made(NamedTuple):
    """What came of it."""

    path: Path
    tracks: int
    people: int
    decisions: int
    aggregators: tuple[str, ...]


def fit_pack(
    name: str,
    faces: Path | None,
    assets: Path | None,
    *,
    tracks: int,
    seed: int,
    data: str,
    licence: str,
    keep: bool = False,
) -> Made:
    """Make a pack's tracks of strangers and name them in its card.

    faces: a folder of people; else assets: the split's role calibration. keep: leave the embedded
    views in the data folder. Raises ConfigError where the faces' origin is not said, SourceMissing
    where there are none, and what `make_bank` raises.
    """
    from ..models.store import load_card

    if faces is not None and not (data and licence):
        raise ConfigError(
            "say whose faces these are and under which licence the vectors may be used: --data and "
            "--licence; the card names both"
        )
    card = load_card(name)
    pictures = role_faces(assets, "calibration") if assets is not None else folder_faces(faces)
    place = views_place(card, pictures, BANK)
    made = strangers_of_faces(card, views_of(place, name, pictures, BANK), pictures, tracks, seed)
    source = "--assets ASSETS" if assets is not None else "FACES"
    command = f"facestream thresholds fit {source} --pack {card.name} --tracks {tracks}"
    path = install(
        card,
        made,
        licence=licence or "CC-BY-4.0",
        attribution=data or SPLIT_WORDS,
        command=f"{command} --seed {seed}",
    )
    if not keep:
        shutil.rmtree(place)
    people = len(set(made.people.tolist()))
    return Made(path, len(made.people), people, len(made.frames), made.aggregators)


def role_faces(assets: Path, role: Role) -> Pictures:
    """The pictures of everybody of one role of the split, real and synthetic."""
    found: Pictures = {}
    for who, paths in role_pictures(assets, role).items():
        for path in paths:
            name = f"{who}/{path.parent.name}" if len(paths) > 1 else who
            found[name] = who, path
    return found


def folder_faces(folder: Path | None) -> Pictures:
    """NAME/*.jpg, or NAME.jpg, of a folder; SourceMissing for one without."""
    found: Pictures = {}
    for path in sorted(folder.rglob("*")) if folder is not None else ():
        if path.suffix.lower() in PICTURES:
            inside = path.relative_to(folder) if folder is not None else path
            who = inside.stem if len(inside.parts) == 1 else inside.parts[0]
            found[inside.as_posix()] = who, path
    if not found:
        raise SourceMissing(f"{folder} holds no pictures: expected NAME/*.jpg, or NAME.jpg")
    return found


def strangers_of_faces(
    card: Card, bank: Bank, pictures: Pictures, tracks: int, seed: int
) -> Strangers:
    """Tracks of degraded views of the pictures, by every aggregator of the pack."""
    owners = [pictures[one][0] for one in bank.names]
    return make_tracks(
        bank,
        owners,
        aggregators_of(card),
        tracks=tracks,
        seed=seed,
        synthetic={who for who in owners if who.startswith(SYNTHETIC)},
    )


def views_place(card: Card, pictures: Pictures, settings: BankSettings) -> Path:
    """Where the views of these very pictures by a pack lie, in the data folder under banks/."""
    from ..models.feature_store import fingerprint_parts
    from ..train.feature_bank import bank_words

    parts = ((name, path.read_bytes()) for name, (_, path) in pictures.items())
    words = f"{card.name} {bank_words(card, settings)}"
    mark = fingerprint_parts([(words, b""), (fingerprint_parts(parts), b"")])
    return data_folder() / "banks" / mark


def views_of(place: Path, name: str, pictures: Pictures, settings: BankSettings) -> Bank:
    """The bank of the pictures by a pack, in a folder of its own: goes on where it was left."""
    from ..train.feature_bank import make_bank

    paths = {one: path for one, (_, path) in pictures.items()}
    views = len(paths) * (1 + settings.runs * settings.frames)
    with progress_bar("embedding degraded faces", views) as advance:
        return make_bank(place, paths, settings, name, on_block=advance)


def aggregators_of(card: Card) -> list[Aggregator]:
    """All that runs of a pack can fuse with; first the one that they do unless told otherwise."""
    from ..models.aggregators import HEADLESS, make_aggregator
    from ..models.pack import fusion_heads

    heads = fusion_heads(card)
    names = dict.fromkeys((card.fusion.aggregator, *HEADLESS, *heads))
    return [
        make_aggregator(name, dimension=card.embedder.dimension, head_path=heads.get(name))
        for name in names
    ]


def install(
    card: Card, strangers: Strangers, *, licence: str, attribution: str, command: str
) -> Path:
    """Write the tracks beside a card, name them there, and remove those that it named before.

    The file is called by its content: whatever comes between, a card has the file that it names.
    """
    from ..models.card import HeadSpec
    from ..models.card_file import replace_section
    from ..models.open_set_tracks import save_strangers

    data = io.BytesIO()
    save_strangers(data, strangers)
    checksum = hashlib.sha256(data.getvalue()).hexdigest()
    target = card.folder / f"{card.name}.strangers-{checksum[:8]}.npz"
    with written_whole(target) as partial:
        partial.write_bytes(data.getvalue())
    head = HeadSpec(
        target.name,
        checksum,
        licence,
        attribution,
        command,
        {"tracks": len(strangers.people), "people": len(set(strangers.people.tolist()))},
    )
    replace_section(card.path, "strangers", msgspec.to_builtins(head))
    before = card.strangers
    if before is not None and before.file != target.name:
        (card.folder / before.file).unlink(missing_ok=True)
    return target
