"""Opening a camera's address: which kind of source it is, and whether it is live or recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import unquote, urlsplit

from .. import ConfigError
from ..configs.schema import CameraConfig
from .decode import VideoSource
from .hardware import check_hardware
from .images import SUFFIXES, ImageSource
from .records import Frame
from .synthetic import SyntheticSource, parse_scene
from .timing import Timeline
from .watcher import SourceInfo

Kind = Literal["video", "network", "device", "images", "synthetic"]


class Source(Protocol):
    """An opened source of video: a plain object without threads.

    info: what is known of it, without credentials. paced: live, but made of a file, so that its
    reader waits until a frame is due. dropped: frames that could not be read, by reason. first:
    frames of a smaller sequence are counted and timed, but not given; set it before iterating.
    """

    info: SourceInfo
    paced: bool
    dropped: Counter[str]
    first: int

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames once, in order; raises SourceError when the source fails."""
        ...

    def close(self) -> None:
        """Let go of the file, device or connection."""
        ...


def kind_of(url: str) -> Kind:
    """Tell what an address names; files and folders need not exist.

    >>> kind_of("rtsp://10.0.0.7/main"), kind_of("clip.mp4"), kind_of("/dev/video0")
    ('network', 'video', 'device')
    """
    if url.startswith("synthetic:"):
        return "synthetic"
    if "://" in url and not url.startswith("file://"):
        return "network"
    if url.startswith("/dev/"):
        return "device"
    path = Path(path_of(url))
    return "images" if path.is_dir() or path.suffix.lower() in SUFFIXES else "video"


def is_live(config: CameraConfig) -> bool:
    """Whether the newest frame wins: as configured, or by kind (files are recorded)."""
    if config.mode != "auto":
        return config.mode == "live"
    kind = kind_of(config.url)
    if kind == "synthetic":
        return parse_scene(config.url).live
    return kind in ("network", "device")


def check_camera(config: CameraConfig) -> None:
    """Raise ConfigError for a setting that no source can follow; opens nothing."""
    name = config.name
    if config.stride < 1:
        raise ConfigError(f"camera {name}: stride must be at least 1, got {config.stride}")
    if not config.fps > 0:
        raise ConfigError(f"camera {name}: fps must be above 0, got {config.fps}")
    if not config.stall_seconds > 0:
        raise ConfigError(
            f"camera {name}: stall_seconds must be above 0, got {config.stall_seconds}"
        )
    check_hardware(name, config.hardware)
    if kind_of(config.url) == "synthetic":
        parse_scene(config.url)


def open_source(
    config: CameraConfig,
    *,
    timeline: Timeline | None = None,
    dropped: Counter[str] | None = None,
) -> Source:
    """Open a camera; give the same `timeline` and `dropped` when it is opened again in one run.

    Frames hold the full picture; the region of interest is the detector's business. Raises
    SourceMissing, SourceCorrupt or SourceUnreachable; ConfigError for a setting that cannot be.
    """
    check_camera(config)
    live = is_live(config)
    timeline = timeline or Timeline(live=live)
    dropped = Counter() if dropped is None else dropped
    kind = kind_of(config.url)
    if kind == "synthetic":
        return SyntheticSource(config, live=live, timeline=timeline, dropped=dropped)
    if kind != "network":
        config = replace(config, url=path_of(config.url))
    if kind == "images":
        return ImageSource(config, live=live, timeline=timeline, dropped=dropped)
    return VideoSource(config, live=live, timeline=timeline, dropped=dropped)


def path_of(url: str) -> str:
    """The path that the address of a file, folder or device names."""
    return unquote(urlsplit(url).path) if url.startswith("file://") else expanduser(url)
