"""Hiding credentials: nothing that is logged, raised, published or shown carries a password."""

from __future__ import annotations

import re

HIDDEN = "***"

_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}://\S*", re.IGNORECASE)
# user:password@ at the start, or after the :// of an address within the address. A password may
# hold a raw "@" and, wrongly but often, a raw "/". So the first form runs to the last "@" with
# something like a host after it; the second, where there is none, to the last "@" before the path,
# as FFmpeg reads it; the third hides what is left. None of them takes the "@" of
# "host:554/stream@main" for the end of a password.
_USERINFO = re.compile(
    r"""(?P<head>(?:^(?:[a-z][a-z0-9+.-]*:?/+)?+|://)(?!\[)[^:/]*:)
    (?:.*@(?=\[|[^@/]*[.:/])|[^/?\#]*@|(?!\d{1,5}[/?\#]).*@)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# The same inside a parameter: ?src=rtsp%3A%2F%2Fuser%3Apassword%40host.
_ENCODED = re.compile(r"(?P<head>%3a%2f%2f(?:(?!%3a)[^&])*%3a)[^&]*%40", re.IGNORECASE)
# Parameters that cameras and signed links use for secrets, wherever in the address they stand:
# ?user=a&password=b, /user=a_password=b_channel=1, &token=c.
_PARAMETER = re.compile(
    r"""(?<![^=&?/;])(?=[^=&?/;]*(?:pass|pwd|pw|psw|token|secret|auth|sig|key|session|cred|jwt))
    (?P<head>[^=&?/;]++=)[^&]+""",
    re.IGNORECASE | re.VERBOSE,
)


def redact(text: str) -> str:
    """Return `text` with the passwords and tokens of every URL in it replaced by "***".

    >>> redact("cannot open rtsp://admin:secret@10.0.0.7/main?token=abc")
    'cannot open rtsp://admin:***@10.0.0.7/main?token=***'
    """
    return _URL.sub(lambda found: redact_address(found[0]), text)


def redact_address(address: str) -> str:
    """Return one address as it may be shown: without passwords, even where it is no proper URL.

    A password with a space in it, or an address that lacks its scheme, can only be told where
    nothing else stands in the text. Bytes of a file name that are no text become question marks.

    >>> redact_address("admin:my secret@10.0.0.7/main")
    'admin:***@10.0.0.7/main'
    """
    address = address.encode(errors="replace").decode()
    address = _USERINFO.sub(rf"\g<head>{HIDDEN}@", address)
    if "://" not in address:
        return address  # a file, whose name may hold "key=3"
    address = _ENCODED.sub(rf"\g<head>{HIDDEN}%40", address)
    return _PARAMETER.sub(rf"\g<head>{HIDDEN}", address)
