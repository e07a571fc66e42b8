"""Every setting of facestream: frozen dataclasses, each field with its meaning and unit.

The docstring below a field is its documentation: docs/configuration.md is generated from it.
A YAML file has the same shape; what it leaves out keeps the default written here.
A `Range` in a field's type is checked by `load.check`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal


@dataclass(frozen=True)
class Range:
    """Which numbers a field takes: `least` and `most` are allowed themselves, `above` is not."""

    least: float | None = None
    most: float | None = None
    above: float | None = None

    def __contains__(self, number: float) -> bool:
        """Whether a number lies inside."""
        return (
            (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
        )

    def __str__(self) -> str:
        """In words: "1 or more", "above 0", "0 to 1"."""
        if self.least is not None:
            return f"{self.least:g} " + ("or more" if self.most is None else f"to {self.most:g}")
        words = [] if self.above is None else [f"above {self.above:g}"]
        words += [] if self.most is None else [f"at most {self.most:g}"]
        return " and ".join(words)


Count = Annotated[int, Range(least=1)]
Seconds = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(least=0, most=1)]


@dataclass(frozen=True)
class CameraConfig:
    """One source of video."""

    name: str
    """Name in topics and events: letters, digits, dot, dash and underscore; no two alike."""
    url: str = field(repr=False)  # it may carry a password, and a repr ends up in logs
    """rtsp://, http:// or https:// address, video file, GIF, folder of images, /dev/videoN, or
    synthetic:."""
    mode: Literal["auto", "live", "recorded"] = "auto"
    """live: the newest frame wins and drops are counted; recorded: every frame is processed.
    auto: files are recorded, the rest live."""
    stride: Count = 1
    """Process every n-th frame."""
    region: tuple[Share, Share, Share, Share] = (0.0, 0.0, 1.0, 1.0)
    """Region of interest x0, y0, x1, y1 as shares of width and height, x0 < x1 and y0 < y1; faces
    are looked for inside it only."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How RTSP carries its packets."""
    hardware: str = "none"
    """Hardware decoder: none, auto, or a name that `facestream doctor` lists (cuda, qsv, ...)."""
    fps: Annotated[float, Range(above=0)] = 25.0
    """Frames per second of a folder of images, which has no clock of its own."""
    stall_seconds: Seconds = 5.0
    """A live camera without a frame for this long is stalled and is opened again."""
    retry_first_seconds: Seconds = 0.5
    """First pause before a lost camera is opened again; it doubles, with jitter, up to
    retry_most_seconds."""
    retry_most_seconds: Seconds = 30.0
    """Longest pause between two attempts; not less than retry_first_seconds."""
    retry_attempts: Annotated[int, Range(least=0)] = 0
    """Attempts in a row before the camera is given up; 0 tries for ever."""


@dataclass(frozen=True)
class ModelsConfig:
    """Which models run, and on what."""

    pack: str = "open"
    """Model pack: open, omz, buffalo_l, antelopev2, or the path of a card; auto takes the one that
    the gallery is matched with, and open where nobody is enrolled yet."""
    backend: Literal["onnxruntime", "openvino"] = "onnxruntime"
    """Inference library."""
    device: str = "auto"
    """auto, cpu, cuda, tensorrt (onnxruntime); auto, cpu, gpu (openvino)."""
    threads: Annotated[int, Range(least=0)] = 0
    """Threads per network; 0 takes the number of cores."""


@dataclass(frozen=True)
class DetectConfig:
    """Finding faces."""

    score: Share | None = None
    """Smallest detector score; null takes the pack's own."""
    longest_side: Annotated[int, Range(least=64)] | None = None
    """Frames are scaled down to this many pixels on their longer side before detection, never up;
    null takes the pack's own. Smaller is faster and misses small faces."""
    smallest_face: Annotated[float, Range(least=0)] = 14.0
    """Faces lower than this many pixels in the frame are counted as too_small and left out."""
    batch: Count = 4
    """Frames of one size that go through the detector together, at most."""


@dataclass(frozen=True)
class TrackConfig:
    """Following faces from frame to frame."""

    confirm_faces: Count = 3
    """Faces in a row before a track is believed."""
    lost_seconds: Seconds = 1.5
    """A track that found no face for this long has ended."""
    match_iou: Share = 0.15
    """Smallest overlap of a predicted and a detected box (intersection over union)."""


@dataclass(frozen=True)
class EmbedConfig:
    """Turning faces into embeddings."""

    batch: Count = 16
    """Faces that go through the embedder together, at most, across cameras."""
    wait_ms: Annotated[float, Range(least=0)] = 20.0
    """Longest wait for a batch to fill while cameras are live, in milliseconds."""


@dataclass(frozen=True)
class FuseConfig:
    """Fusing a track's observations into one template."""

    aggregator: Literal["auto", "mean", "quality", "learned", "caface"] = "auto"
    """mean, quality-weighted mean, learned weights, or CAFace; the last two by a head that the pack
    carries. auto takes the pack's default."""
    evidence: Annotated[int, Range(least=0)] = 5
    """Frames that weigh most, kept as evidence per track."""


@dataclass(frozen=True)
class MatchConfig:
    """Deciding who it is."""

    threshold: float | None = None
    """Smallest score that names somebody, whatever is promised below; null fits it to the gallery,
    and takes the pack's own where it carries nothing to fit to."""
    target_fpir: Annotated[float, Range(above=0, most=0.5)] | None = None
    """Share of unknown people's tracks that may be named: the threshold is fitted to the gallery to
    keep it. null takes 0.01, or what alerts_per_week comes to."""
    alerts_per_week: Annotated[float, Range(above=0)] | None = None
    """Instead: false alerts per camera and week."""
    unknown_tracks_per_week: Annotated[float, Range(above=0)] | None = None
    """Unknown people's tracks per camera and week, by which alerts become a share; null counts them
    while cameras are live."""
    top_k: Count = 3
    """Candidates listed with a decision."""
    least_frames: Count = 3
    """Observations needed before a track may be named."""
    unknown_frames: Count = 8
    """Observations needed before a track that is still in view is called unknown, or one of several
    who look alike. One that ends earlier is called so at its end."""
    score: Literal["ida", "cosine"] = "cosine"
    """cosine: plain cosine; ida: DAO with the pack's anchors. With the synthetic anchors that ship,
    IDA names no more people and keeps promised rates less well: see thresholds.md."""
    release: Annotated[float, Range(least=0)] | None = None
    """How far below the threshold, in the score's own units, a name that was given is kept; null
    takes the pack's own: see decisions.md."""
    margin: Annotated[float, Range(least=0)] | None = None
    """By how much another name must score better than the one given to take its place. Names that
    are nearer to each other than this are told as ambiguous; null takes the pack's own."""
    apart: tuple[tuple[str, ...], ...] = ()
    """Groups of live cameras that cannot show one person at the same moment, as in
    [[door, yard]]: who is named in one is not named in the others."""
    apart_seconds: Annotated[float, Range(least=0)] = 1.0
    """The least time anybody needs from one camera of such a group to another."""
    density: Literal["anchors", "learned"] = "anchors"
    """ida: where the density around a face comes from: the pack's anchors, or the network that
    learned from them (IDA-L). Thresholds are fitted with the anchors."""
    search: Literal["exact", "approximate"] = "exact"
    """exact: whoever scores best is found. approximate: only the likeliest parts of the gallery are
    looked at, and somebody may be missed; how often is measured on the gallery and logged. For
    galleries of hundreds of thousands; needs the extra faiss."""
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """exact: how the gallery's vectors are kept in memory. bfloat16 takes half of it and int8 a
    quarter; the true vectors then lie in a temporary file, the answers are the same and take
    longer."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """exact: whether a GPU searches galleries of 20,000 vectors and more, which then needs room for
    a copy of them. auto: where there is one that a CUDA or ROCm build of PyTorch can use, and it
    is the quickest; cpu: never; cuda: always, and an error where there is none."""
    cluster: str = ""
    """exact: HOST:PORT of the head of a Ray cluster whose nodes keep the vectors and search them
    together, where one machine is not enough; empty searches here. Needs the extra cluster."""


@dataclass(frozen=True)
class GalleryConfig:
    """Who is known."""

    url: str = field(default="", repr=False)  # as a camera's
    """SQLAlchemy URL of the gallery; empty takes gallery.db in the user's data folder."""
    folder: str = ""
    """Folder of photos enrolled into a temporary gallery at start: NAME.jpg, or NAME/*.jpg."""


@dataclass(frozen=True)
class EnrolConfig:
    """What a photo must be like to enrol somebody."""

    smallest_face: Annotated[float, Range(least=0)] = 48.0
    """Smallest height of a face, in pixels of the photo."""
    least_quality: float | None = None
    """Smallest quality, in the unit of the pack's quality source; null accepts any."""
    largest: bool = False
    """Take the largest face of a photo that shows several, instead of refusing it."""
    duplicates: Literal["refuse", "merge", "add"] = "refuse"
    """What becomes of a new person who looks like somebody else in the gallery: refuse, merge
    (enrol the face as that person) or add (as somebody new all the same)."""
    duplicate_score: float | None = None
    """Cosine from which on a face looks like somebody in the gallery; null takes the pack's
    threshold, raised with the number of people enrolled."""


@dataclass(frozen=True)
class PublishConfig:
    """Where events go."""

    endpoint: str = "tcp://127.0.0.1:5555"
    """ZeroMQ endpoint that events are published on: tcp://HOST:PORT (* takes any free port),
    ipc://PATH or inproc://NAME; empty publishes nowhere. Beyond loopback tcp needs keys (see
    access)."""
    replay: str = ""
    """ZeroMQ endpoint where subscribers ask for what they missed; empty takes the one that they
    try first: the next port, or the path or name with -replay added."""
    format: Literal["msgpack", "json"] = "msgpack"
    """Encoding of event payloads on the socket."""
    heartbeat_seconds: Seconds = 1.0
    """A subscriber learns within this time that it lost an event."""
    journal: str = ""
    """Event journal (SQLite); empty takes journal.db in the user's data folder. Written before
    publishing."""
    keep_days: Annotated[float, Range(above=0)] | None = 30.0
    """Events older than this are deleted from the journal; null keeps them for ever."""
    keep_megabytes: Annotated[float, Range(above=0)] | None = 1024.0
    """The oldest events are deleted when all of them together are larger; null sets no limit."""


Policy = Literal["none", "unknown", "all"]


@dataclass(frozen=True)
class SightingsConfig:
    """The store of sightings: who was seen where and when."""

    keep: bool = False
    """Keep a record of every sighting, beside the journal."""
    url: str = field(default="", repr=False)  # as a camera's
    """File or SQLAlchemy URL of the store; empty takes sightings.db in the user's data folder."""
    templates: Policy = "none"
    """Whose fused templates are kept, which the search for a face and recurring strangers need:
    nobody's, those of unknown people, or all."""
    crops: Policy = "none"
    """Whose best pictures (fuse.evidence of them) are kept as evidence."""
    keep_days: Annotated[float, Range(above=0)] | None = 30.0
    """Sightings last seen longer ago are deleted; null keeps them for ever."""
    template_days: Annotated[float, Range(above=0)] | None = 7.0
    """Their templates are deleted sooner; null keeps them as long as the sighting."""
    crop_days: Annotated[float, Range(above=0)] | None = 7.0
    """The same of their pictures."""


@dataclass(frozen=True)
class AccessConfig:
    """Who may connect to tcp sockets."""

    keys: str = ""
    """Folder of CURVE keys; empty takes keys/ in the user's data folder. Once `facestream keys new`
    has made one there, every tcp socket asks for a key."""
    listen_without_keys: bool = False
    """Listen beyond loopback without keys: everybody who reaches the port can read who was seen."""


@dataclass(frozen=True)
class NodeConfig:
    """A part of the pipeline with a thread, process or machine of its own."""

    name: str
    """Name in logs and on the command line: letters, digits, dot, dash and underscore."""
    stages: tuple[Literal["source", "detect", "embed", "decide"], ...]
    """Which stages run here: one, or several that follow each other. detect aligns and tracks too;
    decide fuses, matches and publishes."""
    cameras: tuple[str, ...] = ()
    """Cameras that a node with the source stage reads; empty means all."""
    endpoint: str = ""
    """Where this node listens for the nodes before it: inproc://NAME, ipc://PATH or
    tcp://HOST:PORT. A node with the source stage listens nowhere."""
    address: str = ""
    """What the nodes before it connect to, where that is not its endpoint: tcp://MACHINE:PORT."""
    to: str = ""
    """The node that comes after it; empty takes the only one that begins with the next stage."""


@dataclass(frozen=True)
class TopologyConfig:
    """Which stage runs where."""

    transport: Literal["none", "inproc", "ipc", "tcp"] = "none"
    """Where no nodes are given: none runs everything in one thread; inproc, a thread per stage;
    ipc, a process per stage; tcp, processes joined as machines would be, on loopback."""
    nodes: tuple[NodeConfig, ...] = ()
    """The nodes, where they are to be named one by one."""
    window: Annotated[int, Range(least=32)] = 128
    """Frames of one recorded camera that are under way at most."""
    live_window: Annotated[int, Range(least=1)] = 8
    """Frames of one live camera that are under way at most; newer ones then replace each other at
    the source."""
    mark_frames: Count = 64
    """A recorded camera can resume from every so-manieth frame."""
    ring_frames: Annotated[int, Range(least=2)] = 16
    """Frames that the shared memory of an ipc source node holds."""


@dataclass(frozen=True)
class OutputConfig:
    """Files written for people, beside the journal."""

    folder: str = ""
    """Folder for the files below; empty writes none."""
    events: bool = True
    """events.jsonl: every event, one JSON object a line."""
    video: bool = False
    """annotated-CAMERA.mp4: the video with boxes and names."""
    page: bool = False
    """report.html: one self-contained page with timeline, best crops and scores. It shows
    faces."""
    blur_faces: bool = False
    """Show the faces on the page as a few blocks of colour, for a page that leaves the house."""


@dataclass(frozen=True)
class Config:
    """The whole configuration."""

    cameras: tuple[CameraConfig, ...]
    """Sources, all run at once; at least one."""
    models: ModelsConfig = field(default_factory=ModelsConfig)
    """Model pack and inference."""
    detect: DetectConfig = field(default_factory=DetectConfig)
    """Detection."""
    track: TrackConfig = field(default_factory=TrackConfig)
    """Tracking."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    """Embedding."""
    fuse: FuseConfig = field(default_factory=FuseConfig)
    """Fusion."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """Matching."""
    gallery: GalleryConfig = field(default_factory=GalleryConfig)
    """Gallery."""
    enrol: EnrolConfig = field(default_factory=EnrolConfig)
    """Photos of gallery.folder."""
    publish: PublishConfig = field(default_factory=PublishConfig)
    """Events."""
    sightings: SightingsConfig = field(default_factory=SightingsConfig)
    """Sightings."""
    access: AccessConfig = field(default_factory=AccessConfig)
    """Keys."""
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    """Nodes."""
    output: OutputConfig = field(default_factory=OutputConfig)
    """Files for people."""
