"""`facestream evaluate ijbs`: the five protocols of IJB-S with given face boxes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from typing import Protocol as Interface

import numpy as np

from .. import ConfigError
from ..models.aggregators import make_aggregator
from ..models.feature_store import FeatureStore, State, fingerprint_parts
from ..models.fusion import Aggregator, Floats, Members
from ..models.identification import search_gallery
from ..models.pack import fusion_heads
from ..models.store import load_card
from .eval_faces import FaceSet, FolderPictures, embed_faces, open_features
from .eval_identify import (
    DEFINITIONS,
    FPIRS,
    RANKS,
    Search,
    column_names,
    identification_plots,
    measure_searches,
)
from .eval_ijbs_lists import (
    PROTOCOLS,
    Entry,
    Protocol,
    Source,
    faces_by_source,
    listed_protocols,
    read_metadata,
    read_protocol,
)
from .eval_options import Source as FeatureSource
from .eval_options import check_choice
from .eval_output import model_words
from .eval_verification import Bootstrap, note_spoilt
from .report_record import Bad, Curve, Data, Draws, Plot, Result, Row, Table, write_report

TITLE = "IJB-S, boxes given"
COUNTS = ["probes", "without a face", "G1", "G2", "gallery without a face"]
"""Columns of the table that counts templates."""

AGGREGATORS = {
    "mean": "mean of unit embeddings (the live aggregator)",
    "quality": "mean of unit embeddings weighted by quality (the live aggregator)",
    "learned": "mean weighted by the pack's learned head (the live aggregator)",
    "caface": "CAFace with the pack's head (the live aggregator)",
    "raw": "mean of raw embeddings, so that norms are weights (as public evaluators do)",
}
LEARNED = ("learned", "caface")
"""Those that read the pack's head, and style statistics."""


class IjbsChoices(NamedTuple):
    """The command's own options. faces: folder of crops. protocols: () for all that are listed."""

    faces: Path
    protocols: tuple[str, ...]
    aggregator: str
    alignment: str
    bootstrap: Bootstrap


class Fused(NamedTuple):
    """Templates of entries: subjects (T,), vectors (T, C) float32 unit or zero where missing."""

    subjects: np.ndarray
    vectors: Floats

    @property
    def missing(self) -> int:
        """How many have no face."""
        return int((~self.vectors.any(axis=1)).sum())


def evaluate_ijbs(root: Path, choices: IjbsChoices, source: FeatureSource) -> Result:
    """Read the lists, embed the crops, and measure every protocol asked for.

    Raises ConfigError for malformed or missing input, and what `open_pack` raises.
    """
    check_choice("--aggregator", choices.aggregator, tuple(AGGREGATORS))
    check_choice("--alignment", choices.alignment, ("detect", "aligned"))
    bad: list[Bad] = []
    noted = bad if source.skip_bad else None
    sources = read_metadata(root / "cs6_metadata.csv", noted)
    choices = choices._replace(protocols=choices.protocols or tuple(listed_protocols(root)))
    protocols = [read_protocol(root, name, sources, noted) for name in choices.protocols]
    wanted = {
        one
        for protocol in protocols
        for entries in (protocol.probes, *protocol.galleries.values())
        for entry in entries
        for one in entry.sources
    }
    # All that the metadata lists is embedded, so that one store serves every protocol.
    crops = faces_by_source(choices.faces, wanted | set(sources))
    if not crops:
        raise ConfigError(
            f"{choices.faces}: expected crops SUBJECT/videos_NAME_FRAME.jpg and "
            "SUBJECT/img_NAME.jpg of the protocols' subjects, got none: name their folder with "
            "--faces"
        )
    store, rows = _embed(root, choices, source, crops, bad)
    fuse = Fuser(store, rows, choices.aggregator, source.pack)
    results = [measure_protocol(one, fuse, choices.bootstrap) for one in protocols]
    lists = [root / "cs6_metadata.csv", *sorted(root.glob("cs6_*_probe.csv"))]
    lists += sorted((root / "galleries").glob("*.csv"))
    parts = [(path.name, path.read_bytes()) for path in lists]
    fingerprint = fingerprint_parts([("features", store.key.data.encode()), *parts])
    report = write_report(
        "ijbs",
        "IJB-S, boxes given: " + ", ".join(choices.protocols),
        variant=_variant(choices),
        data=Data(root.name, fingerprint, {"faces": f"{len(store.names):,}"}),
        model=model_words(store),
        tables=[
            Table(
                TITLE,
                "protocol",
                column_names(RANKS, FPIRS),
                [one.row for one in results],
                "Ranks over both galleries together; TPIR: mean over G1 and G2.",
            ),
            Table(
                "Templates",
                "protocol",
                COUNTS,
                [one.counts for one in results],
            ),
        ],
        plots=protocol_plots(results),
        bad=bad,
        pairing=f"{fingerprint} {choices.bootstrap}",
    )
    return Result(report, {key: d for one in results for key, d in one.draws.items()}, [])


class Fuses(Interface):
    """Whatever makes templates of entries."""

    def fuse(self, entries: list[Entry]) -> Fused:
        """The templates of all entries, zero vectors where there is no face."""
        ...


class Fuser:
    """Fuses the faces of an entry with the aggregator, each entry once."""

    def __init__(
        self, store: FeatureStore, rows: dict[Source, list[int]], name: str, pack: str
    ) -> None:
        """rows: the store's rows of each source."""
        self._store, self._rows, self._done = store, rows, dict[Entry, Floats]()
        self._aggregator: Aggregator | None = None
        if name != "raw":
            heads = fusion_heads(load_card(pack)) if name in LEARNED else {}
            self._aggregator = make_aggregator(
                name, dimension=store.layout.dimension, head_path=heads.get(name)
            )

    def fuse(self, entries: list[Entry]) -> Fused:
        """The templates of all entries."""
        vectors = np.stack([self._template(entry) for entry in entries])
        return Fused(np.array([entry.subject for entry in entries], np.int64), vectors)

    def _template(self, entry: Entry) -> Floats:
        if entry not in self._done:
            rows = [row for source in entry.sources for row in self._rows.get(source, [])]
            usable = np.array([row for row in rows if self._store.embedded[row]], np.int64)
            self._done[entry] = self._fuse_rows(usable)
        return self._done[entry]

    def _fuse_rows(self, rows: np.ndarray) -> Floats:
        if not len(rows):
            return np.zeros(self._store.layout.dimension, np.float32)
        embeddings = np.asarray(self._store.embeddings[rows], np.float32)
        if self._aggregator is None:
            total = embeddings.astype(np.float64).sum(axis=0)
            return np.asarray(total / np.linalg.norm(total), np.float32)
        members = Members(
            embeddings,
            np.linalg.norm(embeddings, axis=1).astype(np.float32),
            np.asarray(self._store.quality[rows], np.float32),
            np.asarray(self._store.styles[rows], np.float32),
        )
        aggregator = self._aggregator
        return aggregator.read(aggregator.update(aggregator.empty(), members))


class Measured(NamedTuple):
    """What one protocol adds to the report."""

    name: str
    row: Row
    counts: Row
    plots: list[Plot]
    draws: dict[str, Draws]


def measure_protocol(
    protocol: Protocol, fuse: Fuses, bootstrap: Bootstrap, title: str = TITLE
) -> Measured:
    """Ranks over both galleries together, TPIR as the mean over each alone. title: of the table."""
    probes = fuse.fuse(protocol.probes)
    galleries = {name: fuse.fuse(entries) for name, entries in protocol.galleries.items()}
    searches = [
        Search(name, search_gallery(probes.vectors, probes.subjects, one.vectors, one.subjects))
        for name, one in galleries.items()
    ]
    vectors = np.concatenate([one.vectors for one in galleries.values()])
    owners = np.concatenate([one.subjects for one in galleries.values()])
    ranks = search_gallery(probes.vectors, probes.subjects, vectors, owners)
    searches.append(Search("both", ranks, closed_only=True))
    table, draws = measure_searches(protocol.name, searches, definition="ijbs", bootstrap=bootstrap)
    rows = {row.label: row.cells for row in table.rows}
    count = len(RANKS)
    cells = [*rows["both"][:count], *rows["mean"][count:]]
    kept = {}
    for place, column in enumerate(table.columns):
        origin = "both" if place < count else "mean"
        if (key := f"{protocol.name} / {origin} / {column}") in draws:
            kept[f"{title} / {protocol.name} / {column}"] = draws[key]
    sizes = [len(one.subjects) for one in galleries.values()]
    lost = sum(one.missing for one in galleries.values())
    counts = [len(probes.subjects), probes.missing, *sizes, lost]
    return Measured(
        protocol.name,
        Row(protocol.name, list(cells)),
        Row(protocol.name, [f"{number:,}" for number in counts]),
        identification_plots(searches),
        kept,
    )


def _embed(
    root: Path,
    choices: IjbsChoices,
    source: FeatureSource,
    crops: dict[Source, list[str]],
    bad: list[Bad],
) -> tuple[FeatureStore, dict[Source, list[int]]]:
    """The features of all crops, and each source's rows."""
    names = [name for some in crops.values() for name in some]
    pictures = FolderPictures(choices.faces, names)
    faces = FaceSet(root.name, names, pictures, choices.alignment)  # type: ignore[arg-type]
    if source.features is not None:
        store = open_features(faces, source.features, flip=False)
    else:
        store = embed_faces(
            faces, source.embed_options(), flip=False, styles=choices.aggregator in LEARNED
        )
    spoilt = np.isin(np.asarray(store.states), (State.UNREADABLE, State.NOT_FINITE))
    if spoilt.any():
        note_spoilt(store, spoilt, source.skip_bad, bad)
    places = {name: row for row, name in enumerate(names)}
    return store, {one: [places[name] for name in some] for one, some in crops.items()}


def _variant(choices: IjbsChoices) -> list[str]:
    lines = [
        "faces as cropped by given boxes: not end to end; a face that is not found in its crop "
        "is missing",
        f"templates: one per subject and video, fused by {AGGREGATORS[choices.aggregator]}; "
        "booking: all images of a subject",
        "a template without a face is a zero vector and scores 0 to all",
        "ranks: closed set over G1 and G2 together; ties count against the system",
        f"TPIR at rank 1, mean over G1 and G2; threshold (ijbs): {DEFINITIONS['ijbs']}",
    ]
    if absent := [name for name in PROTOCOLS if name not in choices.protocols]:
        lines.append(f"not measured: {', '.join(absent)}")
    if "multi-view-to-booking" in choices.protocols:
        lines.append("multi-view: every video of a subject that the metadata lists")
    if choices.bootstrap.resamples:
        resamples, seed = choices.bootstrap
        lines.append(
            f"intervals: 95 % bootstrap over the probes' subjects, {resamples} resamples, "
            f"seed {seed}"
        )
    return lines


def protocol_plots(results: list[Measured]) -> list[Plot]:
    """The CMC of all protocols on one plot, and the open-set curves of all on another."""
    cmcs: list[Curve] = []
    opens: list[Curve] = []
    for one in results:
        for curve in one.plots[0].curves:
            if curve.label == "both":
                cmcs.append(Curve(one.name, curve.x, curve.y))
        for plot in one.plots[1:]:
            opens += [Curve(f"{one.name}, {c.label}", c.x, c.y) for c in plot.curves]
    plots = [Plot("CMC, both galleries", "rank", "identification rate", cmcs, x_log=True)]
    if opens:
        x_name, y_name = "FPIR", "TPIR"
        plots.append(Plot("Open-set identification", x_name, y_name, opens, x_log=True))
    return plots
