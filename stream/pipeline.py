"""The main job in one process and one thread: all parts joined in a single node.

Reader threads decode; everything else runs in the caller's thread, in frame order per camera, so
that decisions need no locks and repeat exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..configs.schema import Config
from ..models.pack import Pack
from .aggregate import AggregateStage
from .deciding import Deciding
from .match import GalleryIndex, MatchStage
from .meter import Meter
from .node import IDLE_SECONDS, Node
from .publish import Publisher
from .reading import Reading
from .sighting_keeper import SightingKeeper
from .source import is_live
from .totals import Totals
from .watcher import Watcher
from .workers import Detecting, Embedding, Frames


class Pipeline:
    """Runs a configuration until its sources end or `stop` is called."""

    def __init__(
        self,
        config: Config,
        pack: Pack,
        match: MatchStage,
        aggregate: AggregateStage,
        publisher: Publisher,
        gallery: Callable[[], GalleryIndex],
        watchers: Sequence[Watcher] = (),
        sightings: SightingKeeper | None = None,
    ) -> None:
        """The parts are built by the caller (`tools.build`), so that tests can exchange them.

        gallery: the index that `match` searches; it is asked again and again, for its version.
        sightings: who stores them; None stores none.
        """
        self.meter = Meter()
        # Kept for those watchers only: pixels are let go early when nobody wants them.
        self.frames: Frames = {}
        frames = self.frames if any(watcher.wants_frames for watcher in watchers) else None
        deciding = Deciding(
            config,
            pack.card,
            match,
            aggregate,
            publisher,
            gallery,
            self.meter,
            watchers=watchers,
            frames=frames,
            sightings=sightings,
        )
        self.totals = deciding.totals
        self._node = Node(
            Reading(config, self.meter),
            [
                Detecting(config, pack, self.meter, frames=frames),
                Embedding(config, pack, self.meter),
            ],
            deciding,
            patience=patience_of(config),
        )

    def run(self) -> Totals:
        """Read, decide and publish until the sources end; everything decided is flushed on the way.

        A recorded camera goes on where a killed run of the same source left it. Raises SourceError
        when a recorded source cannot be opened, or all cameras were given up; JournalError and
        DiskFull when events cannot be stored; and what a watcher raises.
        """
        started = time.perf_counter()
        try:
            self._node.run()
        finally:
            self.totals.seconds = time.perf_counter() - started
        return self.totals

    def stop(self) -> None:
        """Ask `run` to end after the work in hand; safe from a signal handler."""
        self.totals.interrupted = True
        self._node.stop()


def patience_of(config: Config) -> float:
    """How long a node waits for more before its workers give what they hold, in seconds."""
    live = any(is_live(camera) for camera in config.cameras)
    return config.embed.wait_ms / 1000.0 if live else IDLE_SECONDS
