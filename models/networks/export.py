"""Networks as ONNX files: any batch, one file each, and the numbers of torch or no file at all."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn

from ... import ConfigError, CorruptModelFile, ModelError
from ..backends import open_session
from ..inference import Session
from ..store import written_whole
from .backbone import SIDE, Backbone
from .caface import CAFace, ChunkPart, ReadPart
from .checkpoints import find_state, read_checkpoint
from .quality_heads import EmbeddingQuality

TOLERANCE = 1e-4
"""Largest difference from torch, relative to the largest number of an output, or to 1."""
OPSET = 18
"""Operator set of the files: read by ONNX Runtime since 1.14 and by OpenVINO since 2023."""
BATCH: Mapping[int, str] = {0: "batch"}
"""The usual free axis."""
STYLE_TENSORS = ("stage2", "stage3")
"""Names of a backbone's middle maps in its file, for `embedder.style_tensors` of a card."""
SHOWN = 3
"""Names of each kind in a message."""


def export_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    axes: Mapping[int, str] = BATCH,
    inner: Sequence[str] = (),
) -> None:
    """Write a network as one ONNX file, once ONNX Runtime gives torch's numbers.

    module: in eval mode, on the CPU; its forward takes tensors only, and gives one or a tuple.
    inputs: an example of each argument, by the name it gets in the file, in the order of `forward`.
    outputs: a name for each tensor that comes out. axes: the free axes of every input and their
    names; the examples have at least 2 items along each, and the first item alone must be valid,
    since the comparison also runs on one item and on more items than were given. inner: outputs
    that stay inside the file: named tensors that a card can refer to, not computed for nothing.

    Raises ConfigError for a network in training mode, examples that are too short, or where
    onnxscript is missing; ModelError when it cannot be exported, or when numbers differ by more
    than TOLERANCE. `path` is then left as it was.
    """
    if any(part.training for part in module.modules()):
        raise ConfigError("a network is exported in eval mode: call its eval() first")
    short = [name for name, x in inputs.items() if any(x.shape[axis] < 2 for axis in axes)]
    if short:
        raise ConfigError(f"examples need 2 items along each free axis: {', '.join(short)} have 1")
    model = _trace(module, inputs, outputs, axes)
    _strip(model.graph)
    model.ClearField("metadata_props")
    session = open_session(model.SerializeToString(), device="cpu")
    for factor in (None, 1, 2):  # one item, the examples, more of them
        _compare(module, session, _resize(inputs, axes, factor), outputs)
    for index in reversed(range(len(outputs))):
        if outputs[index] in inner:
            del model.graph.output[index]
    with written_whole(path) as partial:
        partial.write_bytes(model.SerializeToString())


def export_backbone(backbone: Backbone, path: Path) -> None:
    """Write a backbone: "input" (B, 3, 112, 112) to "embedding" (B, C), raw.

    The middle maps are named STYLE_TENSORS inside: a card's `embedder.style_tensors` makes the
    styles of `Backbone.with_styles` of them. Raises as `export_onnx`.
    """
    outputs = ("embedding", *STYLE_TENSORS)
    example = {"input": example_faces(backbone)}
    export_onnx(_Maps(backbone), example, outputs, path, inner=STYLE_TENSORS)


def export_quality(network: nn.Module, path: Path, *, side: int = SIDE) -> None:
    """Write a network of faces (B, 3, side, side) to quality (B,): "input" to "quality".

    One that also gives embeddings (EmbeddingQuality) keeps them inside, as "embedding". Raises as
    `export_onnx`.
    """
    both = isinstance(network, EmbeddingQuality)
    outputs = ("embedding", "quality") if both else ("quality",)
    example = {"input": example_faces(network, side)}
    export_onnx(network, example, outputs, path, inner=outputs[:-1])


def export_caface(network: CAFace, chunk: Path, read: Path) -> None:
    """Write a CAFace's two parts: see ChunkPart and ReadPart for shapes and dtypes.

    chunk: "features", "norms", "styles", "mask" to "values", "token_sums", "mass", "weights", with
    free axes "batch" and "faces". read: the three sums to "fused" and "gain", with a free "batch".
    Sums of chunks are added in between. Raises as `export_onnx`.
    """
    size, draw = network.size, torch.Generator().manual_seed(0)
    dtype = network.cn.centres.dtype
    features = 2 * torch.randn(2, 5, size.dimension, generator=draw, dtype=dtype)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    faces = {
        "features": features,
        "norms": torch.linalg.vector_norm(features, dim=2),
        "styles": torch.randn(2, 5, size.styles, 2, generator=draw, dtype=dtype),
        "mask": mask,
    }
    part = ChunkPart(network).eval()
    names = ("values", "token_sums", "mass")
    export_onnx(part, faces, [*names, "weights"], chunk, axes={0: "batch", 1: "faces"})
    with torch.no_grad():
        sums = dict(zip(names, part(*faces.values()), strict=False))
    export_onnx(ReadPart(network).eval(), sums, ["fused", "gain"], read)


def example_faces(network: nn.Module, side: int = SIDE) -> Tensor:
    """Noise (2, 3, side, side) in -1..1, of the dtype of the network's weights."""
    dtype = next(network.parameters()).dtype
    draw = torch.Generator().manual_seed(0)
    return 2 * torch.rand(2, 3, side, side, generator=draw, dtype=dtype) - 1


def load_state(module: nn.Module, path: Path) -> None:
    """Load weights under the module's own names (a file of its state_dict), and set eval mode.

    Raises MissingModelFile, or CorruptModelFile when it is no checkpoint, or names, shapes or
    numbers are wrong; nothing is loaded then.
    """
    state = find_state(read_checkpoint(path), source=path.name)
    own = module.state_dict()
    faults = [
        f"{what} {len(names)} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for what, names in (
            ("it lacks", [name for name in own if name not in state]),
            ("it has unknown", [name for name in state if name not in own]),
            (
                "other shapes in",
                [n for n in own if n in state and state[n].shape != own[n].shape],
            ),
            ("not finite", [n for n, x in state.items() if not bool(x.isfinite().all())]),
        )
        if names
    ]
    if faults:
        raise CorruptModelFile(
            f"{path.name} does not hold the weights of this network: {'; '.join(faults)}"
        )
    module.load_state_dict(state)
    module.eval()


class _Maps(nn.Module):
    """A backbone that also gives its middle maps."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.train(backbone.training)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stages = self.backbone.stages(images)
        return self.backbone.head(stages.last), stages.second, stages.third


def _trace(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], axes: Mapping[int, str]
) -> ModelProto:
    """The network as torch exports it. Raises ConfigError and ModelError as `export_onnx`."""
    free = {axis: torch.export.Dim(name) for axis, name in axes.items()}
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=tuple(dict(free) for _ in inputs),
            )
    except ImportError as error:
        raise ConfigError(
            f"export needs onnxscript ({error}): pip install 'facestream[train]'"
        ) from error
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = next((line for line in str(cause).splitlines() if line.strip()), "")
        raise ModelError(
            f"torch cannot export {type(module).__name__}: {type(cause).__name__}: {reason[:300]}"
        ) from error
    assert program is not None  # None is of the old exporter
    model: ModelProto = program.model_proto
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself: packages it does not find, deprecations.

    Several packages log, some of them under levels of their own.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _strip(graph: GraphProto) -> None:
    """Take out notes of the exporter: stack traces with paths of this machine, names of modules."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del graph.value_info[:]  # runtimes infer these shapes


def _resize(
    inputs: Mapping[str, Tensor], axes: Mapping[int, str], factor: int | None
) -> dict[str, Tensor]:
    """The examples with `factor` times as many items along each free axis; None: with one."""
    resized = dict(inputs)
    for name in inputs:
        for axis in axes:
            given = inputs[name].shape[axis]
            length = 1 if factor is None else factor * given + (factor > 1)
            resized[name] = resized[name].index_select(axis, torch.arange(length) % given)
    return resized


def _compare(
    module: nn.Module, session: Session, inputs: Mapping[str, Tensor], names: Sequence[str]
) -> None:
    """Raise ModelError unless ONNX Runtime gives torch's numbers for these inputs."""
    with torch.no_grad():
        given = module(*inputs.values())
    wanted = [x.numpy() for x in ((given,) if isinstance(given, Tensor) else given)]
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs.values())
    try:
        got = session.run({name: x.numpy() for name, x in inputs.items()})
    except ModelError as error:
        # Python code that asks for a free length makes it a fixed one.
        raise ModelError(f"the exported network takes no inputs {shapes}: {error}") from error
    for name, ours in zip(names, wanted, strict=True):
        theirs = got[name]
        if (theirs.shape, theirs.dtype) != (ours.shape, ours.dtype):
            raise ModelError(
                f"output {name} must be {ours.shape} {ours.dtype} as in torch, the exported "
                f"network gives {theirs.shape} {theirs.dtype} for inputs {shapes}"
            )
        expected = ours.astype(np.float64)
        if not np.isfinite(expected).all():
            raise ModelError(
                f"output {name} has numbers that are not finite in torch, for inputs {shapes}: "
                "check the weights"
            )
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
        largest = float(np.abs(theirs - expected).max(initial=0.0))
        if not largest <= allowed:  # NaN is refused as well
            raise ModelError(
                f"output {name} of the exported network differs from torch by {largest:.3g}, "
                f"allowed is {allowed:.3g}, for inputs {shapes}: nothing was written"
            )
