"""IJB-B and IJB-C as pictures with features, and their templates."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from .. import ConfigError
from ..models.feature_store import FeatureStore, State
from ..models.pooling import Pooling, Templates, pool_templates
from ..models.scores import Labels
from .eval_faces import FaceSet, FolderPictures
from .eval_ijb_lists import IjbFiles, Media, read_landmarks, read_media
from .eval_options import Source
from .eval_verification import note_spoilt
from .eval_verify import features_of
from .report_record import Bad


class IjbSet(NamedTuple):
    """A set that is read and embedded.

    faces: what the store was made of. rows (N,): each listed picture's row in it.
    """

    files: IjbFiles
    faces: FaceSet
    media: Media
    store: FeatureStore
    rows: Labels


def read_ijb(
    files: IjbFiles, pooling: Pooling, source: Source, bad: list[Bad], *, styles: bool = False
) -> IjbSet:
    """The set with its features. A face that cannot be used is listed in `bad` with --skip-bad.

    styles: with style statistics, which trained fusers read.
    """
    noted = bad if source.skip_bad else None
    media = read_media(files.media, noted)
    if files.landmarks is None:
        raise ConfigError(
            f"{files.media.parent}: expected {files.name}_name_5pts_score.txt, got none: copy all "
            "of meta/"
        )
    # A picture may serve several templates: it is embedded once.
    names, row_of = np.unique(media.names, return_inverse=True)
    points, scores = read_landmarks(files.landmarks, names.tolist(), noted)
    pictures = FolderPictures(files.pictures, names.tolist())
    faces = FaceSet(files.name, names.tolist(), pictures, "landmarks", points, scores)
    store = features_of(faces, source, flip=pooling.add_flip, styles=styles)
    states = np.asarray(store.states)
    spoilt = np.isin(states, (State.UNREADABLE, State.NOT_FINITE))
    if spoilt.any():
        note_spoilt(store, spoilt, source.skip_bad, bad)
    return IjbSet(files, faces, media, store, row_of)


def pool(chosen: IjbSet, pooling: Pooling, wanted: Labels | None = None) -> Templates:
    """The templates, by default those with pictures; zero where no picture of theirs is usable."""
    store, media = chosen.store, chosen.media
    kept = np.flatnonzero(store.embedded[chosen.rows])
    rows = chosen.rows[kept]
    return pool_templates(
        SelectedRows.of(store.embeddings, rows),
        media.templates[kept],
        media.media[kept],
        pooling,
        flipped=SelectedRows.of(store.flipped, rows) if pooling.add_flip else None,
        detector_scores=store.detector[rows] if pooling.detector_weight else None,
        wanted=np.unique(media.templates) if wanted is None else wanted,
    )


class SelectedRows:
    """Rows of a memory-mapped array that are read when they are asked for, not before."""

    ndim = 2

    def __init__(self, array: npt.NDArray[np.floating], rows: Labels) -> None:
        """array (M, C); rows (N,): which of its rows this stands for."""
        self._array, self._rows = array, rows
        self.shape = (len(rows), array.shape[1])

    @classmethod
    def of(cls, array: npt.NDArray[np.floating], rows: Labels) -> npt.NDArray[np.floating]:
        """For `pool_templates`, which takes length, shape and blocks of rows, and nothing else."""
        return cast("npt.NDArray[np.floating]", cls(array, rows))

    def __len__(self) -> int:
        """N."""
        return len(self._rows)

    def __getitem__(self, which: Labels) -> npt.NDArray[np.floating]:
        """These of the rows, as an array of their own."""
        return np.asarray(self._array[self._rows[which]])
