"""Hardware video decoders: which ones work here, and taking one for a stream."""

from __future__ import annotations

import logging
from functools import cache

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

from .. import ConfigError

log = logging.getLogger(__name__)


def _fault(name: str) -> str | None:
    """Open a device of this kind for H.264; return why it cannot be used, None if it can."""
    try:
        HWAccel(name).create(av.Codec("h264", "r"))
    except NotImplementedError:
        return "this build of FFmpeg decodes no H.264 with it"
    except (av.error.FFmpegError, OSError) as error:
        return f"the device does not open ({getattr(error, 'strerror', None) or error})"
    return None


@cache
def hardware_decoders() -> tuple[str, ...]:
    """Return the names of the hardware decoders that really open here (cuda, vaapi, ...)."""
    return tuple(name for name in hwdevices_available() if _fault(name) is None)


def check_hardware(camera: str, wanted: str) -> None:
    """Raise ConfigError unless `wanted` is none, auto, or a device that this FFmpeg knows."""
    known = ["none", "auto", *hwdevices_available()]
    if wanted not in known:
        raise ConfigError(
            f"camera {camera}: hardware must be one of {', '.join(known)}, got {wanted!r}"
        )


def accelerator(camera: str, wanted: str) -> HWAccel | None:
    """Return the decoder device for `CameraConfig.hardware`, None for software.

    A device that is known but does not work is logged, and software takes over. Raises ConfigError
    for a name that FFmpeg does not know.
    """
    if wanted == "none":
        return None
    if wanted == "auto":
        working = hardware_decoders()
        if not working:
            log.warning("camera %s: no hardware decoder works here, decoding in software", camera)
            return None
        return HWAccel(working[0])
    check_hardware(camera, wanted)
    fault = _fault(wanted)
    if fault is not None:
        log.warning("camera %s: %s: %s, decoding in software", camera, wanted, fault)
        return None
    return HWAccel(wanted)
