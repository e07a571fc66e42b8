"""Who is in a simulation: identities from a folder of stills, or from the split of free faces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from .. import SourceCorrupt, SourceMissing
from ..configs.split import Role, role_pictures
from ..models.inference import Detector
from ..models.photo import find_faces, tallest_face
from .sim_heads import Bust, cut_bust

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


class Identity(NamedTuple):
    """One person: stills to enrol, and stills to render; the same ones where there is only one."""

    name: str
    enrol: tuple[Path, ...]
    render: tuple[Path, ...]


class Cast(NamedTuple):
    """Who can be enrolled, and who passes by."""

    subjects: tuple[Identity, ...]
    passers_by: tuple[Identity, ...]


def cast_from_folders(faces: Path, passers_by: Path | None) -> Cast:
    """Subjects of one folder and passers-by of another.

    A folder holds one folder per identity, or files whose names share what stands before the first
    "_" or "#". The first still of an identity is enrolled, the others are rendered. Without a
    second folder every third identity of the first passes by. Raises SourceMissing.
    """
    people = _read_folder(faces)
    if passers_by is None:
        return Cast(tuple(one for i, one in enumerate(people) if i % 3 != 2), tuple(people[2::3]))
    strangers = _read_folder(passers_by)
    known = {one.name for one in people}
    return Cast(tuple(people), tuple(one for one in strangers if one.name not in known))


def cast_from_assets(assets: Path) -> Cast:
    """The split's subjects and passers-by, from a folder with london/ and anchors/.

    Subjects are enrolled from the neutral photo and rendered from the smiling one. Raises
    SourceMissing for a picture that is not there, SourceCorrupt for one that the split does not
    know.
    """
    return Cast(_of_role(assets, "subject"), _of_role(assets, "passer-by"))


def _of_role(assets: Path, role: Role) -> tuple[Identity, ...]:
    people = []
    for name, paths in role_pictures(assets, role).items():
        neutral = tuple(p for p in paths if p.parent.name == "gallery_neutral")
        smiling = tuple(p for p in paths if p.parent.name == "probe_smiling")
        people.append(Identity(name, neutral or paths, smiling or paths))
    return tuple(people)


def _read_folder(folder: Path) -> list[Identity]:
    if not folder.is_dir():
        raise SourceMissing(f"no folder of faces at {folder}")
    stills: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            inside = path.relative_to(folder).parts
            name = inside[0] if len(inside) > 1 else re.split("[_#]", path.stem)[0]
            stills.setdefault(name, []).append(path)
    if not stills:
        raise SourceMissing(f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return [
        Identity(_plain(name), (paths[0],), tuple(paths[1:]) or (paths[0],))
        for name, paths in sorted(stills.items())
    ]


def _plain(name: str) -> str:
    """A name that every layout can hold."""
    return re.sub(r'[,"#\s]', "-", name)


def load_bust(detector: Detector, path: Path) -> Bust:
    """Cut the tallest face of a still; raises SourceCorrupt where there is none."""
    photo = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if photo is None:
        raise SourceCorrupt(f"{path} is not a readable picture: remove it or replace it")
    image = np.asarray(photo, np.uint8)
    face = tallest_face(find_faces(detector, image))
    if face is None:
        raise SourceCorrupt(f"no face was found in {path}: remove it or replace it")
    return cut_bust(image, face.box, face.landmarks)
