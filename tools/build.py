"""Builds the running parts from a configuration: what `run`, `demo` and `bench` have in common."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import zmq

from .. import ConfigError, GalleryEmpty
from ..configs.paths import gallery_path, journal_path, sightings_path
from ..configs.schema import Config, MatchConfig
from ..models.aggregators import make_aggregator
from ..models.anchor_check import card_anchors
from ..models.card import Card
from ..models.ida import Anchors
from ..models.open_set_tracks import Strangers
from ..models.pack import Pack, open_pack
from ..stream.access import Access
from ..stream.aggregate import AggregateStage
from ..stream.enrol import Enroller
from ..stream.enrol_records import EnrolmentSummary
from ..stream.gallery import Gallery
from ..stream.journal import Journal
from ..stream.known import KnownPeople
from ..stream.match import MatchStage
from ..stream.pipeline import Pipeline
from ..stream.publish import Publisher
from ..stream.searching import index_maker
from ..stream.sighting_keeper import CAUGHT_UP, SightingKeeper
from ..stream.sighting_store import Sightings
from ..stream.thresholds import DecisionNumbers, PackRules, Rules
from ..stream.thresholds_fit import FittedRules
from ..stream.thresholds_seen import SeenScores, nothing_seen, scores_path
from ..stream.watcher import Watcher
from .pack_in_use import with_gallery_pack

log = logging.getLogger(__name__)


class Parts:
    """Everything a run holds open, closed in the right order by `with`."""

    def __init__(
        self, config: Config, pack: Pack | None = None, access: Access | None = None
    ) -> None:
        """Open pack, gallery, journal and sockets; nothing is read from a camera yet.

        access: that of this process, where it has other sockets too.
        Raises ModelError, ConfigError, GalleryError, JournalError, PublishError,
        SightingsError.
        """
        config = with_gallery_pack(config)
        self.config = config
        self._stack = ExitStack()
        try:
            models = config.models
            self.pack = pack or open_pack(
                models.pack, backend=models.backend, device=models.device, threads=models.threads
            )
            check_score(self.pack, config)
            self.enrolment: EnrolmentSummary | None = None
            self.gallery = self._stack.enter_context(self._open_gallery())
            self.known = self._stack.enter_context(know(self.gallery, self.pack, config.match))
            journal = config.publish.journal or journal_path()
            self.journal = self._stack.enter_context(Journal.open(journal))
            setting = setting_words(self.pack.card, config)
            self.seen = SeenScores(scores_path(Path(journal)), setting)
            self._stack.callback(self.seen.close)
            rules = rules_for(self.pack.card, self.pack.strangers, config, self.seen)
            self.match = MatchStage(
                self.known,
                config.match,
                rules,
                spread=spread_of(self.pack.card, config.match),
            )
            if isinstance(rules, FittedRules):
                self.seen.judge = lambda score: rules.share(self.known()[1], score)
            access = access or self._open_access()
            self.publisher = self._stack.enter_context(
                Publisher(self.journal, config.publish, access.context, access)
            )
            self.sightings = self._keep_sightings() if config.sightings.keep else None
        except BaseException:
            self._stack.close()
            raise

    def pipeline(self, watchers: Sequence[Watcher] = ()) -> Pipeline:
        """A pipeline over these parts."""
        return Pipeline(
            self.config,
            self.pack,
            self.match,
            self.aggregate(),
            self.publisher,
            self.known,
            watchers,
            self.sightings,
        )

    def aggregate(self) -> AggregateStage:
        """A stage that fuses as the configuration and the pack say."""
        card, name = self.pack.card, aggregator_of(self.pack.card, self.config)
        aggregator = make_aggregator(
            name,
            dimension=card.embedder.dimension,
            head_path=self.pack.fusion_heads.get(name),
        )
        return AggregateStage(aggregator, self.config.fuse.evidence, self.sightings)

    def __enter__(self) -> Parts:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close socket, journal, the follower of the gallery and the gallery."""
        self._stack.close()

    def _open_access(self) -> Access:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._stack.callback(context.term)
        return self._stack.enter_context(Access(self.config.access, context))

    def _keep_sightings(self) -> SightingKeeper:
        wanted, card = self.config.sightings, self.pack.card
        place = wanted.url or sightings_path()
        store = self._stack.enter_context(Sightings.open(place, create=True))
        keeper = SightingKeeper(
            store,
            wanted,
            self.gallery,
            epoch=self.journal.epoch,
            embedder=card.checksum(card.embedder.file),
        )
        self._stack.callback(keeper.close)
        keeper.catch_up(self.journal.read(max(0, self.journal.newest - CAUGHT_UP)))
        return keeper

    def _open_gallery(self) -> Gallery:
        wanted = self.config.gallery
        if not wanted.folder:
            return Gallery.open(wanted.url or gallery_path(), create=not wanted.url)
        gallery = Gallery.temporary()
        try:
            enroller = Enroller(
                self.pack, gallery, self.config.enrol, aggregator=self.config.fuse.aggregator
            )
            self.enrolment = enroller.enrol_folder(Path(wanted.folder))
            self.enrolment.require_somebody()
        except BaseException:
            gallery.close()
            raise
        return gallery


def know(gallery: Gallery, pack: Pack, match: MatchConfig) -> KnownPeople:
    """The gallery's people as this pack knows them, followed until it is closed.

    Raises GalleryEmpty when people are enrolled, but none with this pack.
    """
    card = pack.card
    known = KnownPeople(
        gallery,
        pack=card.name,
        embedder=card.checksum(card.embedder.file),
        dimension=card.embedder.dimension,
        anchors=pack.learned if match.density == "learned" else anchors_of(pack),
        make_index=index_maker(match),
    )
    if known.missing and not known()[2]:
        known.close()
        raise GalleryEmpty(
            f"{gallery.place} holds {len(known.missing)} people, but none enrolled with pack "
            f"{card.name}: enrol their photos with `facestream enroll --pack {card.name}`"
        )
    return known


def measure_people(gallery: Gallery, pack: Pack) -> None:
    """Keep the densities of a pack's people, and none of anchors that the pack has no more."""
    embedder = pack.card.checksum(pack.card.embedder.file)
    models = [one for one in (anchors_of(pack), pack.learned) if one is not None]
    for model in models:
        gallery.measure(pack.card.name, embedder, model)
    gallery.forget_densities(pack.card.name, embedder, but=models)


@contextmanager
def matching(pack: Pack, config: Config, gallery: Gallery) -> Iterator[MatchStage]:
    """Decisions by a gallery as a run takes them, without a run. Raises as `know`, `rules_for`."""
    rules = rules_for(pack.card, pack.strangers, config)
    spread = spread_of(pack.card, config.match)
    with know(gallery, pack, config.match) as known:
        yield MatchStage(known, config.match, rules, spread=spread)


def anchors_of(pack: Pack) -> Anchors | None:
    """The pack's anchors with the parameters of its card; None where it has none."""
    if pack.card.ida is None or pack.anchors is None:
        return None
    return card_anchors(pack.card, pack.anchors)


def check_score(pack: Pack, config: Config) -> None:
    """Raise ConfigError for IDA scores without what they need: they would be plain cosines."""
    if config.match.score == "ida" and config.match.density == "learned" and pack.learned is None:
        raise ConfigError(
            f"pack {pack.card.name} has no network for match.density=learned: set "
            f"match.density=anchors, or train one with `facestream train ida`"
        )
    if config.match.score == "ida" and anchors_of(pack) is None:
        name = pack.card.name
        raise ConfigError(
            f"pack {name} has no anchors, which match.score=ida needs: set match.score=cosine, or "
            f"compute them with `facestream train anchors FACES/ --pack {name}`"
        )


def aggregator_of(card: Card, config: Config) -> str:
    """Name of the aggregator that a configuration fuses with."""
    chosen = config.fuse.aggregator
    return card.fusion.aggregator if chosen == "auto" else chosen


def setting_words(card: Card, config: Config) -> str:
    """What scores depend on: those of one setting are alike, whatever the gallery."""
    embedder = card.checksum(card.embedder.file)[:12]
    return f"{card.name} {embedder} {aggregator_of(card, config)} {config.match.score}"


def rules_for(
    card: Card,
    strangers: Strangers | None,
    config: Config,
    seen: SeenScores | None = None,
) -> Rules:
    """The rules that a configuration decides by: fitted to its gallery wherever they can be.

    strangers: the pack's. seen: what is kept of unknown tracks here. Raises ConfigError for a
    promise that the pack cannot keep, ModelError where nothing says where to draw the line.
    """
    match = config.match
    if strangers is None:
        if match.target_fpir is not None or match.alerts_per_week is not None:
            raise ConfigError(
                f"pack {card.name} carries no tracks of strangers, so no rate can be promised with "
                f"it: make them with `facestream thresholds fit FACES/ --pack {card.name}`, or set "
                "match.threshold"
            )
        return PackRules(match, decision_numbers(card, config))
    doubts = doubts_of(strangers, card, config)
    if doubts:
        log.warning("thresholds are less sure than they say: %s", doubts)
    nobody = DecisionNumbers(1.0, 1.0, why="nobody is enrolled to fit a threshold to")
    instead = nobody if card.decision is None else decision_numbers(card, config)
    return FittedRules(
        strangers.by(aggregator_of(card, config), match.least_frames),
        match,
        PackRules(match, instead),
        seen=nothing_seen if seen is None else seen.seen,
        doubts=doubts,
    )


def doubts_of(strangers: Strangers, card: Card, config: Config) -> str:
    """In what the strangers' tracks were decided otherwise than a run does; empty: in nothing."""
    fused, least = aggregator_of(card, config), config.match.least_frames
    first, longest = int(strangers.frames.min()), int(strangers.frames.max())
    found = []
    if fused not in strangers.aggregators:
        found.append(
            f"the strangers were fused by {strangers.aggregators[0]}, this run fuses by {fused}"
        )
    if least < first:
        found.append(
            f"the strangers were decided from {first} faces on, this run decides from {least}"
        )
    if least > longest:
        found.append(
            f"the strangers' tracks have {longest} faces at most, this run decides from {least}"
        )
    return " and ".join(found)


def spread_of(card: Card, match: MatchConfig) -> float:
    """Standard deviation of the pack's impostor scores; 0 where it is not known."""
    fitted = card.decision
    if fitted is None:
        return 0.0
    by_ida = match.score == "ida"
    return (fitted.impostor_spread if by_ida else fitted.impostor_cosine_spread) or 0.0


def decision_numbers(card: Card, config: Config) -> DecisionNumbers:
    """What the card says about scores; an operator's own threshold does without a fitted card.

    Raises ModelError when neither says where to draw the line.
    """
    if card.decision is None and config.match.threshold is not None:
        return DecisionNumbers(config.match.threshold, config.match.threshold)
    fitted = card.fitted_decision()
    return DecisionNumbers(
        threshold=fitted.threshold,
        cosine_threshold=fitted.cosine_threshold,
        impostor_centre=fitted.impostor_centre,
        impostor_spread=fitted.impostor_spread,
        impostor_cosine_centre=fitted.impostor_cosine_centre,
        impostor_cosine_spread=fitted.impostor_cosine_spread,
        why=f"the pack's own, for a false-match rate of {fitted.target_fmr:g} per comparison of "
        "photographs",
    )
