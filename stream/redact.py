"""Hiding credentials: nothing that is logged, raised, published or shown carries a password."""

from __future__ import annotations

import re

HIDDEN = "***"

# scheme://user:password@host. A password may hold a raw "@" (the last one before the path ends the
# user part, as FFmpeg reads it) or, wrongly but often, a raw "/": the second form catches that
# one without taking "host:554/stream@main" for a password.
_USERINFO = re.compile(
    r"""(?P<head>[a-z][a-z0-9+.-]*://[^\s:/?#@'"\[]*):
        (?:[^\s/?#'"]*|(?!\d{1,5}[/?#])[^\s'"]*)@""",
    re.IGNORECASE | re.VERBOSE,
)
# Parameters that cameras and signed links use for secrets: ?user=a&password=b, &token=c.
_PARAMETER = re.compile(
    r"""(?P<head>[?&;][^=&\s'"]*(?:pass|pwd|token|secret|auth|sig|key)[^=&\s'"]*=)[^&#\s'"]+""",
    re.IGNORECASE | re.VERBOSE,
)


def redact(text: str) -> str:
    """Return `text` with the passwords and tokens of every URL in it replaced by "***".

    >>> redact("cannot open rtsp://admin:secret@10.0.0.7/main?token=abc")
    'cannot open rtsp://admin:***@10.0.0.7/main?token=***'
    """
    text = _USERINFO.sub(rf"\g<head>:{HIDDEN}@", text)
    return _PARAMETER.sub(rf"\g<head>{HIDDEN}", text)
