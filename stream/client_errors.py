"""What a subscriber is told when something is wrong: the errors of `stream/client`.

PublishError
├── KeyRefused      the publisher refused the key, or asks for one; the subscription is over
├── NotAllowed      the key has no right to what was asked for; the subscription is over
├── VersionTooNew   publisher and client speak different protocols; the subscription is over
└── EventsLost      some events cannot be had any more; iteration may go on behind the gap
"""

from __future__ import annotations

from typing import Literal

from .. import PublishError

Loss = Literal["expired", "epoch", "no answer"]


class KeyRefused(PublishError):
    """The publisher refused the subscriber's key, or asks for one where none was given."""


class NotAllowed(PublishError):
    """The subscriber's key has no right to the kinds or cameras that were asked for."""


class VersionTooNew(PublishError):
    """The publisher speaks another version of the protocol than this client."""


class EventsLost(PublishError):
    """Events that may have been asked for cannot be had any more.

    The next event that is asked for is the first behind the gap.
    """

    def __init__(self, why: str, reason: Loss, epoch: str, first: int, last: int | None) -> None:
        """Made by the client; why: in words."""
        which = f"after {first - 1}" if last is None else f"{first} to {last}"
        super().__init__(
            f"events {which} (epoch {epoch}) are lost, as far as they were asked for: {why}; what "
            "comes after them can be read"
        )
        self.reason: Loss = reason
        """expired: the journal no longer holds them. epoch: the publisher has another journal.
        no answer: the replay socket did not answer."""
        self.epoch = epoch
        """The epoch that `first` and `last` count in."""
        self.first = first
        """First sequence that may be missing."""
        self.last = last
        """Last sequence that may be missing; None where nobody knows."""
