"""The pack `auto`: the one that the gallery is matched with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from .. import ConfigError, GalleryMissing
from ..configs.paths import gallery_path
from ..configs.schema import Config, ModelsConfig
from .gallery_text import open_gallery

if TYPE_CHECKING:
    from ..stream.gallery import Gallery

AUTO = "auto"

PACK = typer.Option(
    AUTO,
    "--pack",
    help="Model pack, or the path of a card; auto: the one the gallery is in use with.",
)


def pack_of(gallery: Gallery) -> str:
    """The pack that a gallery is matched with; the usual one where nobody is enrolled.

    Raises ConfigError where the gallery cannot say, GalleryUnreadable where it cannot be read.
    """
    used, packs = gallery.packs.in_use(), gallery.packs.list()
    if used is None and packs:
        raise ConfigError(
            f"the pack auto is the gallery's, but the gallery holds those of "
            f"{', '.join(sorted({one.pack for one in packs}))}, and none is in use: say which "
            "with `facestream gallery switch PACK`"
        )
    return ModelsConfig.pack if used is None else used.pack


def chosen_pack(pack: str, place: str) -> str:
    """The pack that `--pack` names, for the gallery that `--gallery` names.

    auto: the pack of that gallery; the usual one where there is none yet. Raises as `pack_of`.
    """
    if pack != AUTO:
        return pack
    try:
        with open_gallery(place) as gallery:
            return pack_of(gallery)
    except GalleryMissing:
        return ModelsConfig.pack


def with_gallery_pack(config: Config) -> Config:
    """The configuration with the gallery's pack in the place of models.pack=auto.

    Raises ConfigError where the gallery cannot say, GalleryUnreadable where it cannot be read.
    """
    if config.models.pack != AUTO:
        return config
    pack = ModelsConfig.pack  # for photos of this run alone, and where nobody is enrolled yet
    if not config.gallery.folder and (config.gallery.url or gallery_path().exists()):
        with open_gallery(config.gallery.url) as gallery:
            pack = pack_of(gallery)
    return dataclasses.replace(config, models=dataclasses.replace(config.models, pack=pack))
