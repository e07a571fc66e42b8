"""Rights to topics: how they are written, and what they cover. Needs msgspec alone."""

from __future__ import annotations

import difflib
import re

from .. import ConfigError
from .events import KINDS, TOPIC_ROOT
from .protocol import HEARTBEAT_ROOT

EVERYTHING = "*"

_CAMERA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\*?")


def parse_right(text: str) -> str:
    """A right in its one spelling: "*" for everything, else KIND/CAMERA, where one may be "*".

    "match", "match/" and "facestream/v1/match/" are short for "match/*". CAMERA is the name of one
    camera, or how names of cameras begin and a star: "match/door" is not for the camera door-2,
    "match/door*" is. Raises ConfigError for an unknown kind or what no camera is called.
    """
    short = text.removeprefix(f"{TOPIC_ROOT}/")
    kind, _, camera = short.partition("/")
    kind, camera = kind or "*", camera or "*"
    if kind != "*" and kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KINDS)}"
        raise ConfigError(f"--topic {text}: unknown kind of event {kind!r}; {hint}")
    if camera != "*" and not _CAMERA.fullmatch(camera):
        raise ConfigError(
            f"--topic {text}: expected KIND/CAMERA, KIND or *, as in match/door, or match/door* "
            "for all cameras whose names begin so; several rights are several --topic"
        )
    return EVERYTHING if kind == camera == "*" else f"{kind}/{camera}"


def covers(right: str, topic: str) -> bool:
    """Whether a topic, or its heartbeat, is inside a right.

    A subscription brings every topic that begins with it. One that is covered brings nothing that
    is not, save other cameras whose names go on where that of a right to one camera ends.
    """
    if right == EVERYTHING:
        return True
    for root in (HEARTBEAT_ROOT, TOPIC_ROOT):  # a heartbeat's topic begins with both
        if topic.startswith(f"{root}/"):
            kind, whole, camera = topic.removeprefix(f"{root}/").partition("/")
            allowed_kind, _, allowed_camera = right.partition("/")
            begins, star, _ = allowed_camera.partition("*")
            return (
                bool(whole)  # else "match" lets "match.revised" through as well
                and allowed_kind in ("*", kind)
                and (camera.startswith(begins) if star else camera == begins)
            )
    return False
