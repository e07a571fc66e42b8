"""`facestream train magface|cqa|caface|ida|fiqa|embedder`: networks, by the papers' recipes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import ConfigError
from ..configs.face_training import CQATraining, EmbedderTraining, FaceData, MagFaceTraining
from ..configs.split import Role
from ..configs.training import CAFaceTraining, FIQATraining, IDATraining, read_training
from .train_banks import role_bank
from .train_run import run_recipe

if TYPE_CHECKING:
    from ..models.card import Card
    from ..train.face_lists import FacePairs, LabelledFaces
    from ..train.face_recipe import FaceSplit
    from ..train.install import Kind

Config = Annotated[
    str, typer.Argument(help="Preset (configs/trainings), or a YAML file of your own.")
]
Out = Annotated[
    Path,
    typer.Option(help="Folder of the run: checkpoints, curve, export/. The same goes on with it."),
]
Assets = Annotated[
    Path | None,
    typer.Option(envvar="FACESTREAM_ASSETS", help="Where anchors/ lies: faces by the split."),
]
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

Install = Annotated[bool, typer.Option(help="Put the network into the pack's card.")]


def magface(
    config: Config,
    out: Out,
    faces: Faces = None,
    validation: Validation = None,
    pairs: Pairs = None,
) -> None:
    """Train an embedder whose magnitude is quality (MagFace).

    Example: facestream train magface magface-ms1mv2 --faces train.rec --pairs lfw.bin --out run
    """
    module = _recipe("magface")
    settings, text = read_training(MagFaceTraining, "magface", config)
    split = _split(settings.data, faces, validation, pairs)
    run_recipe("magface", module.magface_recipe(settings, split), settings.run, text, out)


def cqa(
    config: Config,
    out: Out,
    faces: Faces = None,
    validation: Validation = None,
    pairs: Pairs = None,
) -> None:
    """Train branches that look at different parts of a face and weigh them (CQA-Face).

    Example: facestream train cqa cqa-vggface2 --faces vggface2/ --pairs cplfw.bin --out run
    """
    module = _recipe("cqa")
    settings, text = read_training(CQATraining, "cqa", config)
    split = _split(settings.data, faces, validation, pairs)
    run_recipe("cqa", module.cqa_recipe(settings, split), settings.run, text, out)


def embedder(
    config: Config,
    out: Out,
    faces: Faces = None,
    validation: Validation = None,
    pairs: Pairs = None,
    assets: Assets = None,
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
    module = _recipe("embedder")
    settings, text = read_training(EmbedderTraining, "embedder", config)
    teacher = open_pack(settings.teacher) if settings.teacher else None
    if faces is not None:
        split = _split(settings.data, faces, validation, pairs)
    else:
        from ..train.face_lists import faces_of_role
        from ..train.face_recipe import split_faces

        home = _need_assets(assets)
        detector = (teacher or open_pack("open")).detector
        own, others = (
            faces_of_role(home, role, detector, "sfhq") for role in ("training", "validation")
        )
        split = split_faces(own, settings.data, others, _pairs(pairs))
    recipe = module.embedder_recipe(settings, split, teacher.embedder if teacher else None)
    run_recipe("embedder", recipe, settings.run, text, out)


def ida(
    config: Config,
    out: Out,
    assets: Assets = None,
    install: Install = False,
) -> None:
    """Train a network that predicts density in place of a pack's anchors (IDA-L).

    Example: facestream train ida ida-omz --assets ASSETS --out run
    """
    from ..models.ida import Anchors
    from ..models.pack import open_pack

    module = _recipe("ida")
    settings, text = read_training(IDATraining, "ida", config)
    pack, home = open_pack(settings.pack), _need_assets(assets)
    spec = pack.card.ida
    if spec is None or pack.anchors is None:
        raise ConfigError(
            f"pack {settings.pack!r} has no anchors to learn from: `facestream train anchors FACES "
            f"--pack {settings.pack}` comes first"
        )
    anchors = Anchors(pack.anchors, version=spec.anchor_version, k=spec.k, tau=spec.tau)
    banks = [
        role_bank(home, role, settings.bank, settings.pack) for role in ("training", "validation")
    ]
    recipe = module.ida_recipe(settings, anchors, module.faces_of_banks(*banks))
    run_recipe("ida", recipe, settings.run, text, out)
    if install:
        _install(
            pack.card,
            "density",
            out / "export" / f"{settings.pack}.ssr.npz",
            f"ida {config}",
            recipe,
        )


def caface(config: Config, out: Out, assets: Assets = None, install: Install = False) -> None:
    """Train what fuses a track's faces: CAFace, or the learned mean (preset caface-learned-…).

    Example: facestream train caface caface-omz --assets ASSETS --out run
    """
    from ..models.store import load_card

    module = _recipe("caface")
    settings, text = read_training(CAFaceTraining, "caface", config)
    home = _need_assets(assets)
    fuser = settings.fuser
    kind: Kind | None = fuser if fuser == "caface" or fuser == "learned" else None
    if install and kind is None:
        raise ConfigError(
            f"--install puts a head of caface or learned into a card, {fuser} does not "
            "run live: leave --install out"
        )
    shares: list[tuple[Role, int]] = [
        ("training", settings.training_pictures),
        ("validation", settings.validation_pictures),
    ]
    banks = [role_bank(home, role, settings.bank, settings.pack, most) for role, most in shares]
    recipe = module.caface_recipe(settings, *banks)
    run_recipe("caface", recipe, settings.run, text, out)
    if install and kind is not None:
        exported = out / "export" / f"{settings.pack}.{fuser}.npz"
        _install(load_card(settings.pack), kind, exported, f"caface {config}", recipe)


def fiqa(config: Config, out: Out, assets: Assets = None) -> None:
    """Train a quality head on a pack's own features, by label optimisation and transfer.

    Example: facestream train fiqa fiqa-omz --assets ASSETS --out run
    """
    module = _recipe("fiqa")
    settings, text = read_training(FIQATraining, "fiqa", config)
    home = _need_assets(assets)
    training, validation = (
        module.faces_of_bank(role_bank(home, role, settings.bank, settings.pack))
        for role in ("training", "validation")
    )
    recipe = module.fiqa_recipe(settings, training, validation)
    run_recipe("fiqa", recipe, settings.run, text, out)


RECIPES = (magface, cqa, caface, ida, fiqa, embedder)
LICENCE = "Apache-2.0"
ATTRIBUTION = "trained on synthetic faces of SFHQ and SFHQ-T2I by David Beniaguev (MIT)"


def _install(card: Card, kind: Kind, exported: Path, command: str, recipe: Any) -> None:
    """Name the exported network in the card, with what it validated at."""
    from ..train.install import Provenance, install_head

    words = f"facestream train {command}, seed {recipe.config.run.seed}"
    origin = Provenance(LICENCE, ATTRIBUTION, words, recipe.validate())
    path = install_head(card, kind, exported, origin)
    typer.echo(f"installed: {path}, named in {card.path}")


def _recipe(name: str) -> ModuleType:
    """A module of train. Raises ConfigError where what trains networks is not installed."""
    import importlib

    try:
        return importlib.import_module(f"..train.{name}", __package__)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "accelerate"):
            raise
        raise ConfigError(
            f"training networks needs {error.name}: pip install 'facestream[train]'"
        ) from None


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
    others: LabelledFaces | None = None if validation is None else open_faces(validation)
    return split_faces(open_faces(faces, least=data.least), data, others, _pairs(pairs))


def _pairs(paths: list[Path] | None) -> list[FacePairs]:
    from ..train.face_lists import pairs_in_bin

    return [pairs_in_bin(path) for path in paths or ()]


def _need_assets(assets: Path | None) -> Path:
    if assets is None:
        raise ConfigError(
            "--assets is missing: name the folder in which anchors/ lies (synthetic faces by the "
            "split), or set FACESTREAM_ASSETS"
        )
    return assets
