"""The thread that sends: subscriptions, heartbeats, replay and retention beside the publisher."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

import msgspec
import zmq

from .. import FacestreamError, PublishError
from ..configs.schema import PublishConfig
from .access import Access
from .events import TOPIC_ROOT, AnyEvent, encode
from .journal import Journal
from .journal_reader import JournalReader
from .protocol import HEARTBEAT_ROOT, Heartbeat, replay_of
from .refusals import Refusals
from .replay import SEND_QUEUE as PAGES_QUEUE
from .replay import ReplayServer
from .subscriptions import Subscriptions

log = logging.getLogger(__name__)

# A subscriber that falls this far behind loses events (of 1-2 KB: 10-20 MB of memory each).
SEND_QUEUE = 10_000
HANDOVER_QUEUE = 1000
BATCHES_MOST = 100
LINGER_MS = 1000
PORT_TRIES = 100
ACCESS_SECONDS = 1.0
RETENTION_SECONDS = 60.0
RETENTION_PAUSE = 0.02
REBIND_SECONDS = 10.0
# A peer whose machine vanished is dropped, with all that is queued for it.
PEER_HEARTBEAT_MS = 10_000
PEER_TIMEOUT_MS = 30_000

_Batch = list[tuple[str, int, bytes]]
"""Topic, sequence and payload of events."""

BATCH, END = b"+", b""


class Broker:
    """Binds the publisher's two sockets and serves them in a thread of its own.

    Whoever publishes hands events over and goes on; no subscriber holds up anything.
    """

    def __init__(
        self,
        journal: Journal,
        config: PublishConfig,
        context: zmq.Context[zmq.Socket[bytes]],
        access: Access,
    ) -> None:
        """Raises PublishError as Access.bind. access must be of the same context."""
        self._journal = journal
        self._config = config
        self._context = context
        self._access = access
        self._failure: BaseException | None = None
        self._batches: deque[_Batch] = deque()
        heads = journal.heads()
        self._cameras = {_camera(topic) for topic in heads}
        self._head = max(heads.values(), default=0)
        # Not of topics that nothing is left of: a journal may have seen many cameras.
        self._oldest = journal.oldest
        self._heads = {topic: newest for topic, newest in heads.items() if newest >= self._oldest}
        self._refusals = (Refusals("publish.endpoint"), Refusals("publish.replay"))
        name = f"inproc://facestream-broker-{secrets.token_hex(8)}"
        with ExitStack() as stack:
            self._reader = stack.enter_context(JournalReader.open(journal.path))
            self._publisher, self._router = self._bind_both(stack)
            self.endpoint = self._publisher.get_string(zmq.LAST_ENDPOINT)
            self.replay_endpoint = self._router.get_string(zmq.LAST_ENDPOINT)
            self._inbox = stack.enter_context(context.socket(zmq.PAIR))
            self._outbox = stack.enter_context(context.socket(zmq.PAIR))
            for pair in (self._inbox, self._outbox):
                pair.linger, pair.sndhwm, pair.rcvhwm = 0, HANDOVER_QUEUE, HANDOVER_QUEUE
            self._inbox.bind(name)
            self._outbox.connect(name)
            stack.pop_all()
        self._thread = threading.Thread(target=self._run, name="facestream-broker", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> dict[str, dict[str, int]]:
        """How many messages were refused so far, by socket's setting and reason."""
        return {refusals.name: dict(refusals.counts) for refusals in self._refusals}

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if isinstance(self._failure, FacestreamError):
            raise self._failure
        if self._failure is not None:
            raise PublishError(
                f"publishing stopped ({type(self._failure).__name__}: {self._failure}): events are "
                "in the journal; start again"
            ) from self._failure

    def hand_over(self, events: Sequence[AnyEvent]) -> None:
        """Have events sent, in order. One thread at a time. Raises as `check`."""
        form = self._config.format
        # The socket wakes the thread and bounds what waits; the events themselves need no copy.
        self._batches.append([(e.topic, e.sequence, encode(e, form)) for e in events])
        while True:
            self.check()
            try:
                self._outbox.send(BATCH, zmq.DONTWAIT)
                return
            except zmq.Again:  # it is behind by a thousand batches
                self._outbox.poll(100, zmq.POLLOUT)

    def close(self) -> None:
        """Send what was handed over, for a second at most, and free the endpoints."""
        while self._thread.is_alive():
            try:
                self._outbox.send(END, zmq.DONTWAIT)
                self._thread.join()
            except zmq.Again:
                self._outbox.poll(100, zmq.POLLOUT)
        self._outbox.close()

    def _bind_both(self, stack: ExitStack) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """The two bound sockets; where any port will do, on two ports that follow each other."""
        wanted = self._config.endpoint
        tries = PORT_TRIES if not self._config.replay and _any_port(wanted) else 1
        while True:
            tries -= 1
            publisher = self._bind_publisher(wanted)
            real = publisher.get_string(zmq.LAST_ENDPOINT)
            replay = self._config.replay or replay_of(real)
            try:
                router = self._bind_router(replay)
            except BaseException as error:
                publisher.close(linger=0)
                if tries and isinstance(error, PublishError):
                    continue
                raise
            stack.callback(publisher.close, linger=0)
            stack.callback(router.close, linger=0)
            return publisher, router

    def _bind_publisher(self, endpoint: str) -> zmq.Socket[bytes]:
        publisher = self._bind(zmq.XPUB, SEND_QUEUE, endpoint, "publish.endpoint")
        checked = self._access.secured and endpoint.startswith("tcp://")
        rights = self._may_subscribe if checked else None
        self._subscriptions = Subscriptions(publisher, rights, self._refusals[0])
        return publisher

    def _bind_router(self, endpoint: str) -> zmq.Socket[bytes]:
        router = self._bind(zmq.ROUTER, PAGES_QUEUE, endpoint, "publish.replay")
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        rights = self._may_subscribe, self._access.may_read
        self._replay = ReplayServer(router, self._reader, *rights, self._refusals[1])
        return router

    def _may_subscribe(self, user: str, prefix: str) -> bool:
        """Whether a key may have all that begins with a prefix, of the cameras known so far."""
        kind, _, begins = prefix.rpartition("/")
        return self._access.may_read(user, prefix) and all(
            self._access.may_read(user, f"{kind}/{camera}")
            for camera in self._cameras
            if camera.startswith(begins)
        )

    def _bind(self, kind: int, queue: int, endpoint: str, setting: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        try:
            socket.sndhwm = queue
            # Before it is bound: connections copy it from there, and one that breaks off with
            # messages unsent would otherwise keep the context from ending for ever.
            socket.linger = LINGER_MS if kind == zmq.XPUB else 0
            socket.heartbeat_ivl, socket.heartbeat_timeout = PEER_HEARTBEAT_MS, PEER_TIMEOUT_MS
            self._access.bind(socket, endpoint, setting, "subscriber")
        except BaseException:
            socket.close(linger=0)
            raise
        return socket

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._failure = error
            log.error("publishing stopped: %s: %s", type(error).__name__, error)
        finally:
            self._publisher.close()
            self._router.close()
            self._inbox.close()
            self._reader.close()

    def _serve(self) -> None:
        """Do what comes next until everything handed over before the end was sent."""
        self._poller = self._new_poller()
        now = time.monotonic()
        heartbeat, retention, look = now + self._config.heartbeat_seconds, now, now
        more = math.inf
        while True:
            wait = min(heartbeat, retention, look) - time.monotonic()
            self._poller.poll(max(0, math.ceil(min(wait, more) * 1000)))
            if not self._forward():
                return
            now = time.monotonic()
            self._subscriptions.receive()
            self._replay.receive()
            more = self._replay.send()
            if now >= heartbeat:
                self._send_heartbeats()
                heartbeat = now + self._config.heartbeat_seconds
            if now >= retention:
                retention = now + self._expire()
            if now >= look:
                look = now + ACCESS_SECONDS
                self._rebind()

    def _new_poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        for socket in (self._inbox, self._publisher, self._router):
            poller.register(socket, zmq.POLLIN)
        return poller

    def _forward(self) -> bool:
        """Send what was handed over; False once there will be no more."""
        for _ in range(BATCHES_MOST):
            try:
                frame = self._inbox.recv(zmq.DONTWAIT)
            except zmq.Again:
                return True
            while self._batches:
                self._send(self._batches.popleft())
            if frame == END:
                return False
        return True

    def _send(self, batch: _Batch) -> None:
        for topic, sequence, payload in batch:
            if topic not in self._heads:
                self._meet(_camera(topic))
            # XPUB never waits: who cannot keep up misses events.
            self._publisher.send_multipart([topic.encode(), payload], zmq.DONTWAIT)
            self._heads[topic] = max(sequence, self._heads.get(topic, 0))
            self._head = max(sequence, self._head)

    def _meet(self, camera: str) -> None:
        """A camera's first event, perhaps: nobody may get it whose right is to a shorter name."""
        if camera not in self._cameras:
            self._cameras.add(camera)
            if self._subscriptions.outgrown():
                self._rebind_publisher()

    def _send_heartbeats(self) -> None:
        encoder = msgspec.json if self._config.format == "json" else msgspec.msgpack
        head = self._head
        for topic, newest in self._heads.items():
            heartbeat = Heartbeat(
                epoch=self._journal.epoch,
                topic=topic,
                newest=newest,
                head=head,
                oldest=min(self._oldest, head + 1),
                interval=self._config.heartbeat_seconds,
            )
            where = HEARTBEAT_ROOT + topic.removeprefix(TOPIC_ROOT)
            self._publisher.send_multipart([where.encode(), encoder.encode(heartbeat)])

    def _expire(self) -> float:
        """Delete a page of old events; seconds until the next look."""
        deleted = expire(self._journal, self._config, most=1)
        self._oldest = self._journal.oldest
        return RETENTION_PAUSE if deleted else RETENTION_SECONDS

    def _rebind(self) -> None:
        """Bind sockets again whose connections must go: whose key is good comes back by itself."""
        publisher = self._subscriptions.lost or self._access.revoked(self._publisher)
        router = self._access.revoked(self._router)
        if publisher:
            self._rebind_publisher()
        if router:
            self._router.close(linger=0)
            self._router = self._bind_router(self.replay_endpoint)
            self._poller = self._new_poller()

    def _rebind_publisher(self) -> None:
        self._publisher.close(linger=0)
        self._publisher = self._bind_publisher(self.endpoint)
        self._poller = self._new_poller()


def expire(journal: Journal, config: PublishConfig, most: int | None = None) -> int:
    """Apply the configured retention; see Journal.expire."""
    megabytes = config.keep_megabytes
    keep_bytes = None if megabytes is None else megabytes * 1e6
    return journal.expire(datetime.now(UTC), config.keep_days, keep_bytes, most)


def _camera(topic: str) -> str:
    return topic.rpartition("/")[2]


def _any_port(endpoint: str) -> bool:
    return endpoint.startswith("tcp://") and endpoint.rpartition(":")[2] in ("*", "0")
