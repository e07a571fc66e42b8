"""The nodes that share one process: built, run in a thread each, and ended in the order of flow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import zmq

from .. import FacestreamError, SourceError
from ..configs.schema import Config, NodeConfig
from ..configs.topology import STAGES, address_of
from ..models.card import Card
from ..models.store import load_card
from ..stream.access import Access
from ..stream.carriers import ByReference, InMessage
from ..stream.fingerprint import settings_digest
from ..stream.hop_in import HopIn
from ..stream.hop_out import HopOut
from ..stream.meter import Meter
from ..stream.node import IDLE_SECONDS, Node, Worker
from ..stream.packing import Receiving, Sending
from ..stream.reading import Reading
from ..stream.ring import RingReader, RingWriter
from ..stream.totals import Totals

# A node loads what its own stages need: a source neither a network nor the gallery.
if TYPE_CHECKING:
    from ..models.pack import Pack
    from ..stream.deciding import Deciding
    from .build import Parts

JOIN_SECONDS = 15.0
MOST_WORKS = 32
"""Works that a node takes at once, where it does not detect in them."""


Part = TypeVar("Part")


@dataclass
class _Member:
    """One node of this process. feeders: names of the nodes before it, in whatever process."""

    config: NodeConfig
    node: Node
    inlet: Reading | HopIn
    outlet: HopOut | Deciding
    feeders: frozenset[str]
    over: bool = False


class Members:
    """Runs nodes: the one that decides, or the last, in the caller's thread."""

    def __init__(
        self,
        config: Config,
        nodes: Sequence[NodeConfig],
        topology: Sequence[NodeConfig],
        *,
        quiet: bool = False,
        note: str = "",
        session: str = "",
        pack: Pack | None = None,
        opened: Callable[[str], None] = lambda endpoint: None,
    ) -> None:
        """nodes: those of this process. topology: all there are, with endpoints.

        quiet, note, pack: as in `run.execute`. session: as in flow.Begin. opened: is told where
        events are published.
        """
        self._config = config
        # The one that decides runs in the caller's thread, which is that of its journal.
        self._nodes = sorted(nodes, key=lambda node: STAGES.index(node.stages[0]))
        self._topology = {node.name: node for node in topology}
        self._quiet, self._note, self._opened, self._pack = quiet, note, opened, pack
        self._session = session
        self._tables: dict[str, ByReference] = {}
        self._members: dict[str, _Member] = {}
        self._lock = threading.RLock()
        self._error: BaseException | None = None
        self._given_up: dict[str, SourceError] = {}
        self._ending = False
        self.interrupted = False

    @property
    def given_up(self) -> bool:
        """Whether the cameras of all sources here were opened, and given up in the end."""
        return self._failure() is not None

    def run(self) -> Totals | None:
        """Go on until the sources of this process have ended, or `end` or `stop` is called.

        Returns the totals where one of the nodes decides. Raises as `Pipeline.run`, and
        PublishError where a node cannot listen or connect.
        """
        started = time.perf_counter()
        threads: list[threading.Thread] = []
        with ExitStack() as stack:
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            stack.callback(self._release, context, threads)
            access = stack.enter_context(Access(self._config.access, context))
            try:
                threads += self._build(stack, context, access)
                for thread in threads:
                    thread.start()
                self._run(self._members[self._nodes[-1].name])
            finally:
                self._join(threads)
        error = self._error or self._failure()
        if error is not None:
            raise error
        return self._totals(time.perf_counter() - started)

    def end(self) -> None:
        """Nothing more will come from other processes; safe from another thread."""
        with self._lock:
            self._ending = True
            for member in self._members.values():
                if isinstance(member.inlet, HopIn) and not self._fed_here(member):
                    self._end(member)

    def stop(self) -> None:
        """End after the work in hand: what is read here is closed first; safe as `end`."""
        self.interrupted = True
        with self._lock:
            for member in self._members.values():
                if isinstance(member.inlet, Reading):
                    member.node.stop()
        self.end()

    def fail(self, error: FacestreamError) -> None:
        """Nodes of other processes have failed: end, and tell this as the reason; as safe."""
        self._fail(error)

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for the other nodes; who interrupts a second time does not want to wait."""
        at_once = isinstance(self._error, KeyboardInterrupt)
        deadline = time.monotonic() + (0.5 if at_once else JOIN_SECONDS)
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _release(
        self, context: zmq.Context[zmq.Socket[bytes]], threads: Sequence[threading.Thread]
    ) -> None:
        """Let go of the sockets; where a thread is blocked, its own end with the process."""
        if not any(thread.is_alive() for thread in threads):
            context.term()

    def _build(
        self,
        stack: ExitStack,
        context: zmq.Context[zmq.Socket[bytes]],
        access: Access,
    ) -> list[threading.Thread]:
        """Make the nodes; returns the threads of all but the last."""
        stages = {stage for node in self._nodes for stage in node.stages}
        models = self._config.models
        card, pack = load_card(models.pack), self._pack
        if pack is None and stages != {"source"}:
            from ..models.pack import open_pack

            pack = open_pack(
                card, backend=models.backend, device=models.device, threads=models.threads
            )
        parts = None
        if "decide" in stages:
            from .build import Parts

            parts = stack.enter_context(Parts(self._config, pack, access))
            self._opened(parts.publisher.endpoint)
        with self._lock:
            for config in self._nodes:
                self._members[config.name] = self._member(
                    config, card, pack, parts, context, access
                )
            if self._ending:
                self.end()
            if self.interrupted:
                self.stop()
            if self._error is not None:
                self._pass_on(self._error)
        return [
            threading.Thread(
                target=self._run, args=[self._members[node.name]], name=node.name, daemon=True
            )
            for node in self._nodes[:-1]
        ]

    def _member(
        self,
        config: NodeConfig,
        card: Card,
        pack: Pack | None,
        parts: Parts | None,
        context: zmq.Context[zmq.Socket[bytes]],
        access: Access,
    ) -> _Member:
        meter = Meter()
        models = f"pack {card.name} (settings {settings_digest(self._config, card)[:8]})"
        outlet: HopOut | Deciding
        if "decide" in config.stages:
            outlet = self._deciding(require(parts), meter)
        else:
            after = self._topology[config.to]
            outlet = HopOut(
                access,
                context,
                address_of(after),
                node=config.name,
                models=models,
                pixels=self._sending(config, after),
            )
        inlet: HopIn | Reading
        if "source" in config.stages:
            inlet = Reading(self._config, meter, config.cameras, session=self._session)
        else:
            inlet = HopIn(
                access,
                context,
                config.endpoint,
                node=config.name,
                models=models,
                pixels=self._receiving(config),
                most=self._config.detect.batch if "detect" in config.stages else MOST_WORKS,
                beside=outlet if isinstance(outlet, HopOut) else None,
            )
        workers, patience = self._workers(config, pack, meter)
        node = Node(inlet, workers, outlet, patience=patience)
        feeders = frozenset(n.name for n in self._topology.values() if n.to == config.name)
        return _Member(config, node, inlet, outlet, feeders)

    def _workers(
        self, config: NodeConfig, pack: Pack | None, meter: Meter
    ) -> tuple[list[Worker], float]:
        """The parts in the middle, and how long their node waits for more before they give all."""
        workers: list[Worker] = []
        if config.stages[-1] == "source":
            return workers, IDLE_SECONDS
        from ..stream.pipeline import patience_of
        from ..stream.workers import Detecting, Embedding

        if "detect" in config.stages:
            workers.append(Detecting(self._config, require(pack), meter))
        if "embed" in config.stages:
            workers.append(Embedding(self._config, require(pack), meter))
        return workers, patience_of(self._config)

    def _deciding(self, parts: Parts, meter: Meter) -> Deciding:
        from ..stream.deciding import Deciding
        from .run import make_watchers, share_counts, tell_refusals

        tell_refusals(parts)
        watchers = make_watchers(parts, quiet=self._quiet, note=self._note)
        deciding = Deciding(
            self._config,
            parts.pack.card,
            parts.match,
            parts.aggregate(),
            parts.publisher,
            parts.known,
            meter,
            watchers=watchers,
            sightings=parts.sightings,
        )
        share_counts(deciding.totals, watchers)
        return deciding

    def _sending(self, config: NodeConfig, after: NodeConfig) -> Sending:
        """How pixels travel to the next node: frames never in the message."""
        if after.endpoint.startswith("inproc://"):
            return self._table(after)
        if config.stages[-1] == "source":
            return RingWriter(self._config.topology.ring_frames)
        return InMessage()

    def _receiving(self, config: NodeConfig) -> Callable[[], Receiving]:
        """The counterpart of `_sending` for one node before this one."""
        if config.endpoint.startswith("inproc://"):
            return lambda: self._table(config)
        return RingReader if config.stages[0] == "detect" else InMessage

    def _table(self, after: NodeConfig) -> ByReference:
        """The works on their way to a node of this process; few where they are whole frames."""
        frames = after.stages[0] == "detect"
        most = [self._config.topology.ring_frames] if frames else []
        return self._tables.setdefault(after.name, ByReference(*most))

    def _run(self, member: _Member) -> None:
        """Run one node in this thread, then end those that only it gave works."""
        try:
            member.node.run()
        except BaseException as error:
            if isinstance(error, SourceError) and _gave_up(member.inlet):
                self._given_up[member.config.name] = error  # that was told, and all is decided
            else:
                self._fail(error)
        with self._lock:
            member.over = True
            after = self._members.get(member.config.to)
            if after is not None and self._fed_here(after) and self._all_over(after.feeders):
                self._end(after)

    def _fail(self, error: BaseException) -> None:
        """The first error ends the other nodes of this process, too."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            self._pass_on(error)

    def _pass_on(self, error: BaseException) -> None:
        for member in self._members.values():
            if isinstance(member.outlet, HopOut):
                member.outlet.give_up(f"another node has failed: {type(error).__name__}")
            if isinstance(member.inlet, HopIn):
                member.inlet.fail(error)
            else:
                member.node.stop()

    def _failure(self) -> SourceError | None:
        """The first failure of a source, where all sources here have failed."""
        sources = [m.config.name for m in self._members.values() if isinstance(m.inlet, Reading)]
        failed = [self._given_up[name] for name in sources if name in self._given_up]
        return failed[0] if failed and len(failed) == len(sources) else None

    def _end(self, member: _Member) -> None:
        failure = self._failure()
        if self.interrupted:
            member.node.stop()
        elif isinstance(member.inlet, HopIn):
            if failure is not None:
                member.inlet.fail(failure)
            else:
                member.inlet.end()

    def _fed_here(self, member: _Member) -> bool:
        """Whether all works of a node come from this process."""
        return member.config.endpoint.startswith("inproc://")

    def _all_over(self, names: frozenset[str]) -> bool:
        return all(self._members[name].over for name in names)

    def _totals(self, seconds: float) -> Totals | None:
        for member in self._members.values():
            if not isinstance(member.outlet, HopOut):
                totals = member.outlet.totals
                totals.seconds = seconds
                totals.interrupted = self.interrupted
                return totals
        return None


def _gave_up(inlet: Reading | HopIn) -> bool:
    """Whether cameras had been opened and were given up, in contrast to never opened."""
    return isinstance(inlet, Reading) and bool(inlet.feeds.failures)


def require(part: Part | None) -> Part:
    """What was made because a stage of this process needs it."""
    if part is None:
        raise RuntimeError("expected what the node's stages need")
    return part
