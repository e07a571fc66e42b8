"""Pictures of single faces for a report's page."""

from __future__ import annotations

from collections.abc import Sequence

from .eval_faces import FaceSet, align_row
from .report_page import picture_uri


def face_pictures(
    faces: FaceSet, rows: Sequence[int], pack_name: str, backend: str
) -> dict[int, str]:
    """The crops that the embedder saw, as data URIs by row; rows without a face are left out."""
    from ..models.pack import open_pack

    pack = open_pack(pack_name, backend=backend, threads=1)  # type: ignore[arg-type]
    shown = {}
    for row in rows:
        _, face = align_row(pack, faces, row)
        if face is not None:
            shown[row] = picture_uri(face.crops["embedder"])
    return shown
