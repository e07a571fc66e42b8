"""Faces that are embedded on a cluster: pictures go along with the work, so no node needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ConfigError
from ..models.feature_store import Features, Spread, fingerprint_parts
from .cluster import spread_over_cluster
from .eval_faces import FaceSet, embed_rows, read_picture

if TYPE_CHECKING:
    from ..models.card import Card


@dataclass(frozen=True)
class SentPictures:
    """Pictures that were read where they lie, one per row; None where that failed."""

    data: Sequence[bytes | None]

    def read(self, row: int) -> bytes:
        """The picture's bytes. Raises OSError where it could not be read."""
        if (data := self.data[row]) is None:
            raise FileNotFoundError(f"picture {row} of the block could not be read")
        return data


@dataclass(frozen=True)
class EmbedSent:
    """Opens a pack on a node and embeds the sets that are sent there."""

    pack: str | Path
    backend: str
    mark: str
    """`card_mark` of the pack on the machine of the command."""
    flip: bool
    styles: bool

    def __call__(self) -> Callable[[FaceSet], Features]:
        """Raises ConfigError when the pack is another here, and what `open_pack` raises."""
        from ..models.pack import open_pack

        pack = open_pack(self.pack, backend=self.backend, threads=1)  # type: ignore[arg-type]
        if card_mark(pack.card) != self.mark:
            raise ConfigError(
                f"pack {pack.card.name} is not the one on the machine of the command: install the "
                "same card and files on every node"
            )
        return lambda faces: embed_rows(
            pack, faces, range(len(faces.names)), flip=self.flip, styles=self.styles
        )


def card_mark(card: Card) -> str:
    """Fingerprint of all in a card that features depend on."""
    parts = (card.files, card.derived, card.detector, card.embedder, card.quality)
    return fingerprint_parts([("card", repr(parts).encode())])


def send_rows(faces: FaceSet, rows: range) -> FaceSet:
    """These rows as a set of their own that holds its pictures."""
    span = slice(rows.start, rows.stop)
    return FaceSet(
        faces.title,
        faces.names[span],
        SentPictures([read_picture(faces.pictures, row) for row in rows]),
        faces.alignment,
        None if faces.landmarks is None else faces.landmarks[span],
        None if faces.detector is None else faces.detector[span],
    )


def embed_on_cluster(
    address: str, faces: FaceSet, pack: str, card: Card, backend: str, *, flip: bool, styles: bool
) -> Spread:
    """What `fill_blocks` needs to have blocks embedded on the nodes of a Ray cluster.

    pack: the name or path that was given; a name is looked up on each node, a path must be there.
    """
    there = pack if pack == card.name else card.path.resolve()
    start = EmbedSent(there, backend, card_mark(card), flip, styles)
    return partial(spread_over_cluster, address, start, partial(send_rows, faces))
