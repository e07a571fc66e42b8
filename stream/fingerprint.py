"""What makes two runs the same: the source as it is read, and whatever decides.

A killed run is gone on with only where both are as they were.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from pathlib import Path

import msgspec

from .. import SourceMissing, __version__
from ..configs.schema import CameraConfig, Config
from ..models.card import Card
from .images import list_images
from .redact import redact_address
from .source import kind_of, path_of


def source_fingerprint(camera: CameraConfig) -> str:
    """What a recorded camera reads and how, as 32 hexadecimal digits.

    Files count with their size and time of change. A device gives other pictures every time: so
    does this. Raises SourceMissing where a file cannot be looked at.
    """
    kind = kind_of(camera.url)
    files: list[tuple[str, int, int]] = []
    if kind in ("video", "images"):
        path = Path(path_of(camera.url))
        try:
            for file in list_images(path) if kind == "images" else [path]:
                found = file.stat()
                files.append((file.name, found.st_size, found.st_mtime_ns))
        except OSError as error:
            where = redact_address(str(path))
            raise SourceMissing(f"{where}: cannot be looked at ({error.strerror})") from error
    once = secrets.token_hex(16) if kind == "device" else ""
    how = (camera.stride, camera.region, camera.fps)
    content = msgspec.msgpack.encode((camera.url, how, files, once))
    return blake2b(content, digest_size=16).hexdigest()


def settings_digest(config: Config, card: Card) -> str:
    """32 hexadecimal digits that change with whatever changes decisions, the gallery excepted.

    Batch sizes and devices are left out: they do not.
    """
    detect, fitted = config.detect, (card.fusion, card.ida, card.decision)
    content = msgspec.msgpack.encode(
        (
            __version__,
            (detect.score, detect.longest_side, detect.smallest_face),
            (config.track, config.fuse, config.match),
            (card.name, {key: file.sha256 for key, file in card.files.items()}),
            (card.detector, card.embedder, card.quality, fitted),
        )
    )
    return blake2b(content, digest_size=16).hexdigest()
