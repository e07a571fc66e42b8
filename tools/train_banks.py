"""Banks of degraded faces by role of the split, embedded once and kept in the data folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..configs.paths import data_folder
from ..configs.split import Role, role_pictures
from ..configs.training import BankSettings
from .eval_progress import progress_bar

if TYPE_CHECKING:
    from ..train.feature_bank import Bank


def role_bank(
    assets: Path, role: Role, settings: BankSettings, pack: str, most: int | None = None
) -> Bank:
    """The synthetic faces of a role, as taken and degraded, by a pack.

    most: so many people, the first in the order of the split. Features are biometric data, also of
    synthetic faces as far as a reader can tell: they lie in the data folder under banks/.
    Raises as `role_pictures` and `train.feature_bank.make_bank`.
    """
    from ..models.feature_store import fingerprint_parts
    from ..models.store import load_card
    from ..train.feature_bank import bank_words, make_bank

    people = role_pictures(assets, role, "sfhq")
    pictures = {name: paths[0] for name, paths in islice(people.items(), most)}
    card = load_card(pack)
    parts = [card.name, bank_words(card, settings), role, str(most)]
    mark = fingerprint_parts([(part, b"") for part in parts])
    views = len(pictures) * (1 + settings.runs * settings.frames)
    with progress_bar(f"embedding degraded faces of role {role}", views) as advance:
        return make_bank(data_folder() / "banks" / mark, pictures, settings, pack, on_block=advance)
