"""A pack's card: the one description of its networks, read strictly from YAML.

Nothing about preprocessing is a global: colour order, mean and scale, templates and tensor names
come from here. Sections that are fitted to data (`ida`, `decision`, `measured`) may be absent; a
pack without `decision` loads, but matching with it is an error that says so.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import yaml

from .. import MissingModelFile, ModelError
from .inference import AlignTemplate


@dataclass(frozen=True)
class ArchiveMember:
    """A file inside a release of a package registry, pinned by the archive's checksum."""

    package: str
    """Name in the registry."""
    version: str
    """Exact release."""
    kind: Literal["wheel", "sdist"]
    """wheel: a zip archive; sdist: a tar.gz archive."""
    archive_sha256: str
    """Checksum of the archive, 64 hexadecimal digits."""
    archive_bytes: int
    """Size of the archive."""
    member: str
    """Path of the file inside the archive."""


@dataclass(frozen=True)
class Source:
    """Where a file comes from: exactly one of the fields is given."""

    archive: ArchiveMember | None = None
    """In a release of a package registry; `facestream models pull` brings it."""
    insightface: str | None = None
    """In this pack of the insightface package's model zoo; `facestream models pull` brings it."""
    words: str | None = None
    """For people: where to get it. It is found through $FACESTREAM_MODELS."""


@dataclass(frozen=True)
class FileSpec:
    """One file as published."""

    file: str
    """File name, without a folder."""
    sha256: str
    """Checksum, 64 hexadecimal digits."""
    bytes: int
    """Size."""
    source: Source
    """Where it comes from."""
    licence: str
    """SPDX name, or words."""
    attribution: str = ""
    """Who made it."""


@dataclass(frozen=True)
class DerivedSpec:
    """A network built on this machine from published files, once."""

    builder: Literal["free_shapes", "dlib", "openvino_ir"]
    """free_shapes: free batch, clean graph; dlib: weights to ONNX; openvino_ir: IR to ONNX."""
    sources: tuple[str, ...]
    """Keys in `files`, in the order the builder wants them (openvino_ir: xml, bin)."""


@dataclass(frozen=True)
class TemplateSpec:
    """Where the five landmarks lie in a square crop."""

    size: int
    """Side of the crop in px."""
    points: tuple[tuple[float, float], ...]
    """x, y in px: left eye, right eye, nose tip, left and right mouth corner, as seen."""

    def arrays(self) -> AlignTemplate:
        """The same with points as (5, 2) float32 px."""
        return AlignTemplate(self.size, np.array(self.points, np.float32))


@dataclass(frozen=True)
class DetectorSpec:
    """The face detector."""

    kind: Literal["centerface", "yunet", "scrfd"]
    """Which decoder reads the network's outputs."""
    file: str
    """Key in `files` or `derived`."""
    score: float
    """Smallest score of a face, 0..1."""
    longest_side: int = 960
    """Frames are scaled down to this on their longer side, px, unless the configuration says
    otherwise: what the pack's embedder can use must still be found."""


@dataclass(frozen=True)
class EmbedderSpec:
    """The embedding network and its preprocessing: (pixel - mean) / std."""

    file: str
    """Key in `files` or `derived`."""
    dimension: int
    """Length of an embedding."""
    template: TemplateSpec
    """The crop it wants."""
    channel_order: Literal["RGB", "BGR"]
    """Colour order of its input."""
    mean: tuple[float, float, float]
    """Subtracted from pixels 0..255, in that order."""
    std: tuple[float, float, float]
    """Divided by afterwards."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Axis order of its input."""
    style_tensors: tuple[str, ...] = ()
    """Tensors (N, C, H, W) whose channel means and deviations are the style statistics."""
    style_channels: int = 0
    """K: channels of all style tensors together."""
    minimal_eye_distance: float = 0.0
    """Faces with less than this between the eyes, in px of the frame, are not embedded."""


@dataclass(frozen=True)
class QualitySpec:
    """Where quality comes from."""

    kind: Literal["model", "norm", "training_free"]
    """A network; the embedding's norm; or detector score x size x sharpness."""
    unit: str = ""
    """model: what its numbers are, for people; larger is better."""
    file: str | None = None
    """model: key in `files` or `derived`."""
    template: TemplateSpec | None = None
    """model: the crop it wants."""
    channel_order: Literal["RGB", "BGR"] = "BGR"
    """model: colour order of its input."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """model: subtracted from pixels 0..255."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """model: divided by afterwards."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """model: axis order of its input."""


@dataclass(frozen=True)
class FusionSpec:
    """How a track's observations are fused."""

    aggregator: Literal["mean", "quality", "caface"] = "quality"
    """Used where the configuration says auto."""
    caface_head: str | None = None
    """File of a trained CAFace head beside the card (safetensors or npz)."""


@dataclass(frozen=True)
class IdaSpec:
    """Identity density aware matching: the anchors and the parameters fitted with them."""

    anchors: str
    """File beside the card: (A, C) float16 unit vectors, .npy."""
    anchor_version: str
    """Changes whenever the anchors do; kept with every stored density."""
    k: int
    """Neighbours in a support set."""
    tau: float
    """Temperature."""
    attribution: str = ""
    """Whose faces the vectors were computed from, and their licence."""


@dataclass(frozen=True)
class DecisionSpec:
    """Defaults for naming somebody, and what they were fitted on."""

    threshold: float
    """Smallest IDA score, in cosine units."""
    cosine_threshold: float
    """Smallest plain cosine."""
    target_fmr: float
    """False-match rate that both thresholds were set for."""
    impostor_centre: float
    """Centre of the normal whose upper tail is that of IDA scores of different people."""
    impostor_spread: float
    """Standard deviation of that normal."""
    impostor_cosine_centre: float
    """The same for plain cosines."""
    impostor_cosine_spread: float
    """Standard deviation of that normal."""
    fitted_on: str
    """The faces, in words."""


@dataclass(frozen=True)
class MeasuredSpec:
    """Numbers measured on a data set."""

    data: str
    """The faces, in words."""
    command: str
    """What writes this section."""
    values: dict[str, float] = field(default_factory=dict)
    """Name and number; the name says the unit."""


@dataclass(frozen=True)
class SelfTestSpec:
    """What the embedder must give for the synthetic crop of `self_test_crop`."""

    values: tuple[float, ...]
    """First values of the embedding."""
    tolerance: float = 1e-3
    """Largest difference, relative to the largest of the values."""


@dataclass(frozen=True)
class Card:
    """A pack as its card describes it."""

    name: str
    """Name of the pack: lower-case letters, digits, dash and underscore."""
    description: str
    """What it is good at and what not."""
    licence: str
    """Licences of its networks, in short."""
    commercial_use: bool
    """Whether they allow commercial use."""
    licence_note: str
    """What a user should know about the licences and the training data."""
    files: dict[str, FileSpec]
    """Published files by key."""
    detector: DetectorSpec
    """The face detector."""
    embedder: EmbedderSpec
    """The embedding network."""
    quality: QualitySpec
    """Where quality comes from."""
    derived: dict[str, DerivedSpec] = field(default_factory=dict)
    """Networks built here from `files`, by key."""
    fusion: FusionSpec = field(default_factory=FusionSpec)
    """How observations are fused."""
    ida: IdaSpec | None = None
    """Fitted: absent means plain cosine only."""
    decision: DecisionSpec | None = None
    """Fitted: absent means that matching needs thresholds from the configuration's author."""
    measured: MeasuredSpec | None = None
    """What was measured."""
    self_test: SelfTestSpec | None = None
    """Run each time the pack is loaded."""
    folder: Path = Path()
    """Folder of the card; set when it is read."""

    def fitted_decision(self) -> DecisionSpec:
        """The decision section; raises ModelError where nothing has been fitted yet."""
        if self.decision is None:
            raise ModelError(
                f"pack {self.name!r} has no fitted decision, so nobody can be matched with it; fit "
                f"one with `facestream train calibrate --pack {self.name}` or take another pack"
            )
        return self.decision


def read_card(path: Path) -> Card:
    """Read and check a card.

    Raises MissingModelFile when there is no such file, and ModelError naming the file, the key
    and, for an unknown key, its nearest match.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingModelFile(f"{path}: no such model card") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a readable model card ({error})") from None
    return parse_card(text, path)


def parse_card(text: str, path: Path) -> Card:
    """Check the text of a card as if it were the file `path`; errors as in `read_card`."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: a model card must be a mapping, got {type(raw).__name__}")
    _check_keys(raw, Card, str(path), "")
    if "folder" in raw:
        raise ModelError(f"{path}: 'folder' is set by the program, remove it from the card")
    try:
        card = msgspec.convert(raw, Card)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: {error}") from None
    _check_values(card, path)
    return dataclasses.replace(card, folder=path.resolve().parent)


def replace_section(path: Path, section: str, values: dict[str, Any]) -> None:
    """Write one top-level section of a card anew (ida, decision, measured, self_test).

    The rest of the file, comments included, stays as it is; a section that is not there yet is
    added at the end. Raises ModelError, and changes nothing, when the result is not a valid card.
    """
    text = path.read_text(encoding="utf-8")
    block = yaml.safe_dump({section: values}, sort_keys=False, allow_unicode=True, width=96)
    # A section runs to the next line that begins in the first column.
    found = re.search(rf"^{re.escape(section)}:.*\n(?:(?:[ \t-].*)?\n)*", text, re.MULTILINE)
    if found:
        gap = "\n" if found.group().endswith("\n\n") else ""
        text = text[: found.start()] + block + gap + text[found.end() :]
    else:
        text = text.rstrip("\n") + "\n\n" + block
    parse_card(text, path)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _check_keys(raw: Any, kind: Any, path: str, where: str) -> None:
    """Raise ModelError for a key that the dataclass behind `kind` does not have."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is dict and isinstance(raw, dict):
        for key, value in raw.items():
            _check_keys(value, typing.get_args(kind)[1], path, f"{where}{key}.")
    if not dataclasses.is_dataclass(kind) or not isinstance(raw, dict):
        return
    hints = typing.get_type_hints(kind)
    for key, value in raw.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(hints)}"
            raise ModelError(f"{path}: unknown key '{where}{key}'; {hint}")
        _check_keys(value, hints[key], path, f"{where}{key}.")


def _check_values(card: Card, path: Path) -> None:
    """Raise ModelError where values of the right type do not fit together."""

    def expect(holds: bool, message: str) -> None:
        if not holds:
            raise ModelError(f"{path}: {message}")

    expect(bool(re.fullmatch(r"[a-z0-9][a-z0-9_-]*", card.name)), f"bad pack name {card.name!r}")
    for key, spec in card.files.items():
        where = f"files.{key}"
        expect(Path(spec.file).name == spec.file, f"{where}.file must be a plain file name")
        sums = [spec.sha256, *([spec.source.archive.archive_sha256] if spec.source.archive else [])]
        for checksum in sums:
            expect(
                bool(re.fullmatch(r"[0-9a-f]{64}", checksum)),
                f"{where} needs sha256 sums of 64 hexadecimal digits, got {checksum!r}",
            )
        given = [v for v in dataclasses.astuple(spec.source) if v is not None]
        expect(len(given) == 1, f"{where}.source needs exactly one of archive, insightface, words")
    for key, derived in card.derived.items():
        wanted = 2 if derived.builder == "openvino_ir" else 1
        expect(
            len(derived.sources) == wanted and all(s in card.files for s in derived.sources),
            f"derived.{key} needs {wanted} sources out of files, got {', '.join(derived.sources)}",
        )
        expect(key not in card.files, f"{key!r} is both in files and in derived")
    networks = {"detector.file": card.detector.file, "embedder.file": card.embedder.file}
    templates = {"embedder.template": card.embedder.template}
    if card.quality.kind == "model":
        expect(
            bool(card.quality.file and card.quality.template and card.quality.unit),
            "quality.kind model needs quality.file, quality.template and quality.unit",
        )
    if card.quality.file is not None:
        networks["quality.file"] = card.quality.file
    if card.quality.template is not None:
        templates["quality.template"] = card.quality.template
    known = [*card.files, *card.derived]
    for where, network in networks.items():
        expect(network in known, f"{where} is {network!r}, expected one of {', '.join(known)}")
    for where, template in templates.items():
        expect(len(template.points) == 5, f"{where} needs 5 points, got {len(template.points)}")
    expect(
        bool(card.embedder.style_tensors) == bool(card.embedder.style_channels),
        "embedder.style_tensors and embedder.style_channels go together",
    )
