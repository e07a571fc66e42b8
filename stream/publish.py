"""Publishing: an event goes to the journal, then to whoever listens on the ZeroMQ socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import zmq

from ..configs.schema import AccessConfig, PublishConfig
from .access import Access
from .broker import RETENTION_SECONDS, Broker, expire
from .events import AnyEvent
from .journal import Checkpoint, Journal


class Publisher:
    """Journals events and sends them. Safe to share by threads: the wire keeps the journal's order.

    A subscriber that is not connected, or too slow, does not hold up anything and misses events on
    the wire; they stay in the journal, where it can ask for them at the replay endpoint.
    """

    def __init__(
        self,
        journal: Journal,
        config: PublishConfig,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        access: Access | None = None,
    ) -> None:
        """Bind `config.endpoint` and the replay endpoint; "" publishes nowhere and only journals.

        The journal stays yours. Retention is applied in either case.
        context: given to share inproc:// endpoints with subscribers of this process; else a private
        one. access: of that same context, which is then needed; None takes one of its own, with the
        keys in the user's data folder. Raises PublishError when an endpoint is malformed, in use,
        or tcp beyond loopback without keys.
        """
        self.journal = journal
        self.endpoint = ""
        """Where the socket is bound, with the port that was really taken; "" for nowhere."""
        self.replay_endpoint = ""
        """Where subscribers ask for what they missed; "" for nowhere."""
        self._config = config
        self._guard = threading.Lock()
        self._broker: Broker | None = None
        self._own_access: Access | None = None
        self._own_context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._retention = 0.0
        if not config.endpoint:
            self._expire()
            return
        if context is None:
            context = self._own_context = zmq.Context()
        try:
            if access is None:
                access = self._own_access = Access(AccessConfig(), context)
            self._broker = Broker(journal, config, context, access)
        except BaseException:
            self.close()
            raise
        self.endpoint = self._broker.endpoint
        self.replay_endpoint = self._broker.replay_endpoint

    @property
    def refused(self) -> Mapping[str, Mapping[str, int]]:
        """How many messages its sockets refused, by the socket's setting and the reason."""
        return {} if self._broker is None else self._broker.refused

    def publish(self, event: AnyEvent) -> AnyEvent:
        """Journal one event, then send it; returns it as stored. Raises as `Journal.append`."""
        return self.publish_many([event])[0]

    def publish_many(
        self, events: Sequence[AnyEvent], checkpoints: Mapping[str, Checkpoint | None] = {}
    ) -> list[AnyEvent]:
        """Journal events in one transaction, then send them in order; returns them as stored.

        An event that the journal knows already is sent again as it is stored there: nobody can tell
        whether it had left when an earlier run was cut off, and its id tells subscribers.
        checkpoints: as in Journal.append_many, stored in the same transaction.
        Raises DiskFull or JournalError; then nothing of this call was stored or sent. Raises, too,
        what ended the thread that sends: from then on nothing is published.
        """
        with self._guard:
            if self._broker is not None:
                self._broker.check()
            stored = self.journal.append_many(events, checkpoints)
            if self._broker is not None and stored:
                self._broker.hand_over(stored)
            elif not self.endpoint and time.monotonic() >= self._retention:
                self._expire()
        return stored

    def close(self) -> None:
        """Send what is queued, for a second at most, and free the endpoints. Twice is no error."""
        with self._guard:
            if self._broker is not None:
                self._broker.close()
                self._broker = None
            if self._own_access is not None:
                self._own_access.close()
                self._own_access = None
            if self._own_context is not None:
                self._own_context.term()
                self._own_context = None

    def __enter__(self) -> Publisher:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _expire(self) -> None:
        """Retention where no thread does it."""
        expire(self.journal, self._config)
        self._retention = time.monotonic() + RETENTION_SECONDS
