"""Class activation maps: which places of a face carry its score, as a whole and by branch.

After Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, who project
the weights of a class on the last map X (D, H, W). For a class of direction w (C,) and a head whose
embedding is affine in X, with J_p (C, D) its matrix at place p, the map is

    CAM(p) = w . J_p X(p)        and        sum over p of CAM(p) = w . (head(X) - head(0))

IResNet and the mobile backbone have such heads (linear layers and batch norms in eval mode). The
head of CQA-Face is linear once its attention M_i and its qualities S^_i are known; with the block
W_i (C, D) of its FC for branch i and the scale gamma / sqrt(var + eps) of its last batch norm,

    CAM_i(p) = S^_i M_i(p) / (H W) (scale * w) . W_i X(p)

A positive value speaks for the class, a negative one against it. models/heat.py draws the maps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ... import ConfigError, RecordError
from .backbone import Backbone
from .cqa import CQAFace


class BranchActivation(NamedTuple):
    """Where each branch of CQA-Face looks, how good it finds its part, what that adds."""

    attention: Tensor
    """M_i, (B, b, H, W), in (0, 1)."""
    qualities: Tensor
    """S^_i, (B, b), in (0, 1), higher is better."""
    activations: Tensor
    """CAM_i, (B, b, H, W), in units of w . embedding. Their sum over branches is the class
    activation map of the whole network."""


def class_activation(network: Backbone, last_map: Tensor, directions: Tensor) -> Tensor:
    """CAM (B, H, W) of a network in eval mode, by the formulas of the module's text.

    last_map: (B, D, H, W) of `Backbone.feature_map`. directions: (B, C), per face the weights of a
    class, or the template that the face is compared with; unit length gives shares of
    |embedding| cos(theta). For a head that is not affine the map is the gradient times the input.
    Nothing is added to the gradients of the weights; the result has none.

    Raises ConfigError for a network in training mode, RecordError for shapes that do not fit.
    """
    if isinstance(network, CQAFace):
        return branch_activation(network, last_map, directions).activations.sum(dim=1)
    _check(network, last_map, directions)
    with torch.inference_mode(False), torch.enable_grad():
        x = last_map.detach().clone().requires_grad_()
        score = (network.head(x) * directions.detach().clone()).sum()
        (gradient,) = torch.autograd.grad(score, x)
        return (x * gradient).sum(dim=1).detach()


@torch.no_grad()
def branch_activation(network: CQAFace, last_map: Tensor, directions: Tensor) -> BranchActivation:
    """Per branch, of a CQA-Face in eval mode; arguments and errors as `class_activation`.

    sum over branches and places of CAM_i(p) = w . (embedding - the embedding of parts that are 0).
    """
    _check(network, last_map, directions)
    maps, _, qualities = network.branches(last_map)
    norm = network.features
    assert norm.running_var is not None  # CQAFace makes it with running statistics
    scale = torch.rsqrt(norm.running_var + norm.eps) * norm.weight  # (C,)
    weights = (directions * scale) @ network.fc.weight  # (B, b * D)
    blocks = weights.reshape(*maps.shape[:2], -1)  # (B, b, D)
    projected = torch.einsum("bnc,bchw->bnhw", blocks, last_map)
    places = maps.shape[2] * maps.shape[3]
    activations = qualities[:, :, None, None] * maps * projected / places
    return BranchActivation(maps, qualities, activations)


def _check(network: Backbone, last_map: Tensor, directions: Tensor) -> None:
    if network.training:
        raise ConfigError("activation maps need the network in eval mode: call network.eval()")
    expected = (len(last_map), network.dimension)
    if tuple(directions.shape) != expected:
        raise RecordError(
            f"directions must be one row per face, {expected}, got {tuple(directions.shape)}"
        )
    if last_map.ndim != 4 or last_map.shape[1] != network.map_channels:
        raise RecordError(
            f"last_map must be (B, {network.map_channels}, H, W), got {tuple(last_map.shape)}: "
            "take it from feature_map"
        )
