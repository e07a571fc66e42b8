"""models.pack=auto: the pack that the gallery is matched with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .. import ConfigError
from ..configs.paths import gallery_path
from ..configs.schema import Config, ModelsConfig

if TYPE_CHECKING:
    from ..stream.gallery import Gallery


def pack_of(gallery: Gallery) -> str:
    """The pack that a gallery is matched with; the usual one where nobody is enrolled.

    Raises ConfigError where the gallery cannot say, GalleryUnreadable where it cannot be read.
    """
    used, packs = gallery.packs.in_use(), gallery.packs.list()
    if used is None and packs:
        raise ConfigError(
            f"models.pack=auto takes the gallery's pack, but the gallery holds those of "
            f"{', '.join(sorted({one.pack for one in packs}))}, and none is in use: say which "
            "with `facestream gallery switch PACK`"
        )
    return ModelsConfig.pack if used is None else used.pack


def with_gallery_pack(config: Config) -> Config:
    """The configuration with the gallery's pack in the place of models.pack=auto.

    Raises ConfigError where the gallery cannot say, GalleryUnreadable where it cannot be read.
    """
    if config.models.pack != "auto":
        return config
    pack = ModelsConfig.pack  # for photos of this run alone, and where nobody is enrolled yet
    if not config.gallery.folder and (config.gallery.url or gallery_path().exists()):
        from ..stream.gallery import Gallery  # slow to import

        with Gallery.open(config.gallery.url or gallery_path(), create=False) as gallery:
            pack = pack_of(gallery)
    return dataclasses.replace(config, models=dataclasses.replace(config.models, pack=pack))
