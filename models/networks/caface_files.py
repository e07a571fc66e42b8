"""CAFace weights in files: the live system's head (.npz) and the authors' checkpoint.

The network's parameters bear the names of the head, so between those two nothing is renamed; the
authors' names are mapped one to one, and what is missing or left over is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ... import ConfigError, CorruptModelFile
from ..caface_head import DEPTH, HEADS, CAFaceHead, HeadSize, head_shapes
from .caface import CAFace
from .checkpoints import find_state, read_checkpoint

_COUNTER = "sim.bn.num_batches_tracked"  # torch keeps it, nothing reads it
_PREFIX = "aggregator."
_CENTRES = "aggregator.fusion_net.clustering_layer.group_token"
# An alias of cfcs.0, the norm's table, which is computed, and counters.
_IGNORED = {
    "aggregator.style_maker.cfc",
    "aggregator.style_maker.bn.num_batches_tracked",
    "aggregator.norm_emb.pe",
    "aggregator.norm_emb.norm_bn.num_batches_tracked",
}
_NAMED = 5
"""So many keys are named in an error."""


def network_from_head(head: CAFaceHead, *, dtype: torch.dtype = torch.float32) -> CAFace:
    """The network of a head, with its conventions, in evaluation mode."""
    network = CAFace(head.size, division=head.division, rounding=head.rounding).to(dtype)
    state = {name: torch.from_numpy(array) for name, array in head.arrays.items()}
    network.load_state_dict(state | {_COUNTER: torch.tensor(0)})
    return network.eval()


def head_from_network(network: CAFace) -> CAFaceHead:
    """The head that runs the network's weights live; `caface_head.save_head` writes it.

    Raises ConfigError unless the network's keys are "style+norm", CorruptModelFile when a weight
    is not finite.
    """
    if network.keys != "style+norm" or network.norm is None:
        raise ConfigError(
            f'a CAFace head has keys "style+norm", this network has "{network.keys}": '
            "train one of those for live use"
        )
    arrays = {
        name: tensor.detach().cpu().numpy().astype(np.float64)
        for name, tensor in network.state_dict().items()
        if name != _COUNTER
    }
    return CAFaceHead(network.size, arrays, network.division, network.norm.rounding)


def load_caface(path: Path) -> CAFace:
    """The authors' released checkpoint (their "catv9_g4_conf512_small"), in evaluation mode.

    Reads tensors only, never code. Raises MissingModelFile, or CorruptModelFile when it is no
    checkpoint at all or not CAFace's (see network_from_checkpoint).
    """
    state = find_state(read_checkpoint(path), source=path.name)
    return network_from_checkpoint(state, source=path.name)


def network_from_checkpoint(state: Mapping[str, Tensor], *, source: str = "checkpoint") -> CAFace:
    """The network of the authors' tensors by their names, float32, in evaluation mode.

    Keys outside of "aggregator." (the backbone, the identities' centres) are left alone. C, K, M, G
    and N come from the shapes. The network divides and rounds as the release does ("clip1",
    "trunc"). source: what messages call it. Raises CorruptModelFile naming the keys when one is
    missing, left over, of another shape, or not finite.
    """
    own = {key: value for key, value in state.items() if key.startswith(_PREFIX)}
    names = checkpoint_keys()
    missing = sorted(set(names) - set(own))
    unknown = sorted(set(own) - set(names) - _IGNORED)
    if missing or unknown:
        raise CorruptModelFile(
            f"{source} must hold the keys of the authors' CAFace: {len(missing)} missing "
            f"({_list(missing)}), {len(unknown)} unknown ({_list(unknown)})"
        )
    size = _checkpoint_size(own, source)
    shapes = head_shapes(size)
    wrong = [
        f"{key} is {tuple(own[key].shape)} instead of {_shape_there(name, shapes[name])}"
        for key, name in names.items()
        if tuple(own[key].shape) != _shape_there(name, shapes[name])
    ]
    if wrong:
        raise CorruptModelFile(
            f"{source}: a CAFace of {size} has other shapes: {len(wrong)} wrong ({_list(wrong)})"
        )
    for key in names:
        if not bool(own[key].isfinite().all()):
            raise CorruptModelFile(f"{source}: {key} must hold finite numbers only")
    arrays = {name: own[key].double().reshape(shapes[name]).numpy() for key, name in names.items()}
    return network_from_head(CAFaceHead(size, arrays, division="clip1", rounding="trunc"))


def checkpoint_keys() -> dict[str, str]:
    """Every array of a head in the authors' release: their key to our name."""
    layer, mlp = "fusion_net.clustering_layer", "fusion_net.conf_mlp"
    modules = {
        "style_maker.linear": "sim.linear",
        "style_maker.bn": "sim.bn",
        f"{layer}.cluster_block.norm_tokens": "cn.assign.norm_centres",
        f"{layer}.cluster_block.norm_x": "cn.assign.norm_keys",
        f"{layer}.cluster_block.assign.q_proj": "cn.assign.query",
        f"{layer}.cluster_block.assign.k_proj": "cn.assign.key",
        f"{mlp}.{DEPTH}.fc1": "agn.head.fc1",
        f"{mlp}.{DEPTH}.fc2": "agn.head.fc2",
    }
    keys = {
        "style_maker.cfcs.0": "sim.mix",
        "style_maker.relu.weight": "sim.prelu",
        "style_maker.bn.running_mean": "sim.bn.running_mean",
        "style_maker.bn.running_var": "sim.bn.running_var",
        "norm_emb.norm_bn.running_mean": "norm.running_mean",
        "norm_emb.norm_bn.running_var": "norm.running_var",
        "norm_emb.scale": "norm.scale",
        f"{layer}.group_token": "cn.centres",
    }
    for i in range(DEPTH):
        theirs, ours = f"{layer}.blocks.{i}", f"cn.blocks.{i}"
        for part in ("norm1", "norm2"):
            modules[f"{theirs}.{part}"] = f"{ours}.{part}"
        for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            modules[f"{theirs}.{part}"] = f"{ours}.{part.split('.')[1]}"
        theirs, ours = f"{mlp}.{i}", f"agn.mixers.{i}"
        modules[f"{theirs}.ln"] = f"{ours}.norm"
        keys[f"{theirs}.skip_connect_gate"] = f"{ours}.gate"
        for part in ("tokens", "channels"):
            for step in ("fc1", "fc2"):
                modules[f"{theirs}.{part}_mlp_block.{step}"] = f"{ours}.{part}.{step}"
    for theirs, ours in modules.items():
        for kind in ("weight", "bias"):
            keys[f"{theirs}.{kind}"] = f"{ours}.{kind}"
    return {_PREFIX + theirs: ours for theirs, ours in keys.items()}


def _shape_there(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array of ours in the authors' checkpoint."""
    if name == "cn.centres":
        return (1, *shape)
    return () if name == "norm.scale" or name.endswith(".gate") else shape


def _checkpoint_size(own: Mapping[str, Tensor], source: str) -> HeadSize:
    mix = own["aggregator.style_maker.cfcs.0"]
    code = own["aggregator.style_maker.linear.bias"]
    out = own[f"aggregator.fusion_net.conf_mlp.{DEPTH}.fc2.bias"]
    centres = own[_CENTRES]
    if centres.ndim != 3 or not mix.ndim or centres.shape[2] <= code.numel():
        raise CorruptModelFile(
            f"{source}: {_CENTRES} must be (1, M, D) with D above the style code's "
            f"{code.numel()}, got {tuple(centres.shape)}"
        )
    token = centres.shape[2]
    if token % HEADS:
        raise CorruptModelFile(
            f"{source}: CAFace's tokens must be a multiple of {HEADS}, got {token}"
        )
    return HeadSize(out.numel(), mix.shape[0], centres.shape[1], code.numel(), token - code.numel())


def _list(lines: list[str]) -> str:
    if not lines:
        return "none"
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return ", ".join(lines[:_NAMED]) + more
