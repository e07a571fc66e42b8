"""`facestream train magface|cqa|embedder`: networks that learn from pictures of faces."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from .. import ConfigError
from ..configs.face_training import CQATraining, EmbedderTraining, FaceData, MagFaceTraining
from ..configs.paths import data_folder
from ..configs.training import read_training
from .train_run import AsJson, Assets, Config, Out, need_assets, recipe_module, run_recipe

if TYPE_CHECKING:
    from ..models.pack import Pack
    from ..train.face_lists import FacePairs, LabelledFaces
    from ..train.face_recipe import FaceSplit

Faces = Annotated[
    Path | None,
    typer.Option(help="train.rec, a folder per identity, a .csv or a MagFace list."),
]
Validation = Annotated[
    Path | None,
    typer.Option(help="Other people to choose the weights by; default: a share is held out."),
]
Pairs = Annotated[
    list[Path] | None, typer.Option(help=".bin verification sets that are measured beside it.")
]


def magface(
    config: Config,
    out: Out,
    faces: Faces = None,
    validation: Validation = None,
    pairs: Pairs = None,
    json: AsJson = False,
) -> None:
    """Train an embedder whose magnitude is quality (MagFace).

    Example: facestream train magface magface-ms1mv2 --faces train.rec --pairs lfw.bin --out run
    """
    _learn_classes("magface", MagFaceTraining, config, out, (faces, validation, pairs), json)


def cqa(
    config: Config,
    out: Out,
    faces: Faces = None,
    validation: Validation = None,
    pairs: Pairs = None,
    json: AsJson = False,
) -> None:
    """Train branches that look at different parts of a face and weigh them (CQA-Face).

    Example: facestream train cqa cqa-vggface2 --faces vggface2/ --pairs cplfw.bin --out run
    """
    _learn_classes("cqa", CQATraining, config, out, (faces, validation, pairs), json)


def embedder(
    config: Config,
    out: Out,
    faces: Faces = None,
    validation: Validation = None,
    pairs: Pairs = None,
    assets: Assets = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="In place of the preset's; of several, each trains in OUT/seed-N, and the teacher "
            "is asked once.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Train a compact embedder, taught by another pack's and by MagFace.

    Without --faces it learns from the split's synthetic faces of role training.

    Example: facestream train embedder embedder-small --assets ASSETS --out run
    """
    from ..models.pack import open_pack

    if faces is None and validation is not None:
        raise ConfigError(
            f"--validation {validation} needs --faces: without, people of the split's role "
            "validation validate. Name the faces to train on, or leave --validation out"
        )
    module = recipe_module("embedder")
    settings, _ = read_training(EmbedderTraining, "embedder", config)
    pack = open_pack(settings.teacher) if settings.teacher else None
    if faces is not None:
        split = _split(settings.data, faces, validation, pairs)
    else:
        split = _split_roles(settings.data, need_assets(assets), pack, pairs)
    teacher = module.Remembering(pack.embedder, _said_by(pack)) if pack else None
    seeds = seed or [settings.run.seed]
    for number in seeds:
        seeded = replace(settings, run=replace(settings.run, seed=number))
        text = yaml.safe_dump(asdict(seeded), sort_keys=False)
        place = out if len(seeds) == 1 else out / f"seed-{number}"
        recipe = module.embedder_recipe(seeded, split, teacher)
        if teacher is not None:
            teacher.save()
        run_recipe("embedder", recipe, seeded.run, text, place, as_json=json)


def _learn_classes(
    name: str,
    kind: type[MagFaceTraining] | type[CQATraining],
    config: str,
    out: Path,
    given: tuple[Path | None, Path | None, list[Path] | None],
    as_json: bool,
) -> None:
    """A recipe that learns identities; given: --faces, --validation and --pairs."""
    module = recipe_module(name)
    settings, text = read_training(kind, name, config)
    recipe = getattr(module, f"{name}_recipe")(settings, _split(settings.data, *given))
    run_recipe(name, recipe, settings.run, text, out, as_json=as_json)


def _split(
    data: FaceData, faces: Path | None, validation: Path | None, pairs: list[Path] | None
) -> FaceSplit:
    from ..train.face_lists import open_faces
    from ..train.face_recipe import split_faces

    if faces is None:
        raise ConfigError(
            "--faces is missing: name a train.rec, a folder with one folder per identity, a .csv, "
            "or a MagFace list"
        )
    measured = _pairs(pairs)
    others: LabelledFaces | None = None if validation is None else open_faces(validation)
    return split_faces(open_faces(faces, least=data.least), data, others, measured)


def _split_roles(
    data: FaceData, assets: Path, teacher: Pack | None, pairs: list[Path] | None
) -> FaceSplit:
    """The split's synthetic faces of roles training and validation, as the teacher finds them."""
    from ..models.pack import open_pack
    from ..train.face_lists import faces_of_role
    from ..train.face_recipe import split_faces

    measured = _pairs(pairs)
    detector = (teacher or open_pack("open")).detector
    own, others = (
        faces_of_role(assets, role, detector, "sfhq") for role in ("training", "validation")
    )
    for role, found in (("training", own), ("validation", others)):
        if found.left_out:
            typer.echo(
                f"role {role}: no face was found in {len(found.left_out)} pictures, which are left "
                f"out: {', '.join(Path(name).name for name in found.left_out[:3])}"
                f"{' and so on' if len(found.left_out) > 3 else ''}",
                err=True,
            )
    return split_faces(own, data, others, measured)


def _said_by(pack: Pack) -> Path:
    """Where a teacher's answers are kept: features of faces, as those of `train_banks`."""
    from ..models.feature_store import fingerprint_parts
    from ..models.feature_words import feature_words

    mark = fingerprint_parts([(feature_words(pack.card), b"")])
    return data_folder() / "banks" / f"teacher-{mark}.npz"


def _pairs(paths: list[Path] | None) -> list[FacePairs]:
    """Before anything that takes long: a set that is missing or damaged is said at once."""
    from ..train.face_lists import pairs_in_bin

    return [pairs_in_bin(path) for path in paths or ()]
