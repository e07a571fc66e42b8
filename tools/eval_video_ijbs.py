"""The protocols of IJB-S end to end: our own detector and tracker find the faces.

A template of a subject in a video is made of all tracks that mostly show the subject, by the boxes
of the truth. Whoever no track shows has a zero vector, which scores 0 to all: a miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..models.align import warp
from ..models.fusion import Aggregator, Floats, FusionState, Members
from ..models.pack import Pack
from ..models.photo import find_faces, tallest_face
from ..stream.records import Observation
from .eval_identify import FPIRS, RANKS, column_names
from .eval_ijbs import COUNTS, Fused, measure_protocol, protocol_plots
from .eval_ijbs_lists import Entry, Source, listed_protocols, read_metadata, read_protocol
from .eval_verification import Bootstrap
from .eval_video_decide import Shown, Watched
from .eval_video_record import Recording
from .eval_video_set import Clip
from .report_record import Bad, Draws, Plot, Table

TITLE = "IJB-S, end to end"


class SeenFuser:
    """Fuses what was seen of subjects in videos, and their stills."""

    def __init__(self, root: Path, pack: Pack, aggregator: Aggregator, bad: list[Bad]) -> None:
        """Stills without a face go into `bad`."""
        self._root, self._pack, self._aggregator, self._bad = root, pack, aggregator, bad
        self._states: dict[Source, FusionState] = {}
        self._done: dict[Entry, Floats] = {}

    def add_video(self, clip: Clip, recording: Recording, watched: Watched) -> None:
        """Take up the tracks of a video, each for the subject that it mostly shows."""
        shown = Shown(watched)
        subjects = {face.track: int(face.subject) for face in clip.truth.faces}
        path = f"videos/{clip.source.name}"
        for seen in recording.frames():
            for one in seen.observed.observations:
                person = shown.mostly(one.key.track)
                if person:
                    self._add((subjects[person], path), members_of(one))

    def fuse(self, entries: list[Entry]) -> Fused:
        """The templates of all entries."""
        vectors = np.stack([self._template(entry) for entry in entries])
        return Fused(np.array([entry.subject for entry in entries], np.int64), vectors)

    def _add(self, source: Source, members: Members) -> None:
        before = self._states.get(source)
        empty = self._aggregator.empty() if before is None else before
        self._states[source] = self._aggregator.update(empty, members)

    def _template(self, entry: Entry) -> Floats:
        if entry not in self._done:
            state = self._aggregator.empty()
            for source in entry.sources:
                if source[1].startswith("img/") and source not in self._states:
                    self._look_at(source)
                if source in self._states:
                    state = self._aggregator.merge(state, self._states[source])
            nothing = np.zeros(self._aggregator.dimension, np.float32)
            self._done[entry] = self._aggregator.read(state) if state.observations else nothing
        return self._done[entry]

    def _look_at(self, source: Source) -> None:
        """Take the tallest face of a still."""
        photo = cv2.imread(str(self._root / source[1]), cv2.IMREAD_COLOR)
        face = None
        if photo is not None:
            image = np.asarray(photo, np.uint8)
            face = tallest_face(find_faces(self._pack.detector, image))
        if face is None:
            why = "not readable as a picture" if photo is None else "no face found"
            self._bad.append(Bad(source[1], why))
            self._states[source] = self._aggregator.empty()
            return
        crops = {
            consumer: warp(image, face.landmarks, template)[None]
            for consumer, template in self._pack.consumers.items()
        }
        embedded = self._pack.embedder.embed(crops["embedder"])
        quality = self._pack.quality.score(
            crops=crops.get("quality", crops["embedder"]),
            embedded=embedded,
            boxes=face.box[None],
            scores=np.array([face.score], np.float32),
        )
        members = Members(
            embedded.embeddings, embedded.norms, np.asarray(quality, np.float32), embedded.styles
        )
        self._add(source, members)


def members_of(one: Observation) -> Members:
    """One observation for an aggregator."""
    return Members(
        one.embedding[None],
        np.array([one.norm], np.float32),
        np.array([one.quality], np.float32),
        one.style[None],
    )


def measure_protocols(
    root: Path,
    pack: Pack,
    aggregator: Aggregator,
    videos: Sequence[tuple[Clip, Recording, Watched]],
    bootstrap: Bootstrap,
    bad: list[Bad],
    *,
    skip_bad: bool = False,
) -> tuple[list[Table], list[Plot], dict[str, Draws]]:
    """All protocols that the set has probes for.

    Raises ConfigError for malformed lists; with skip_bad their faults go into `bad`.
    """
    noted = bad if skip_bad else None
    fuse = SeenFuser(root, pack, aggregator, bad)
    for clip, recording, watched in videos:
        fuse.add_video(clip, recording, watched)
    sources = read_metadata(root / "cs6_metadata.csv", noted)
    results = [
        measure_protocol(read_protocol(root, name, sources, noted), fuse, bootstrap, TITLE)
        for name in listed_protocols(root)
    ]
    tables = [
        Table(
            TITLE,
            "protocol",
            column_names(RANKS, FPIRS),
            [one.row for one in results],
            "By cosine. Ranks over both galleries together; TPIR: mean over G1 and G2.",
        ),
        Table("Templates", "protocol", COUNTS, [one.counts for one in results]),
    ]
    draws = {key: drawn for one in results for key, drawn in one.draws.items()}
    return tables, protocol_plots(results), draws
