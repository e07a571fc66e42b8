"""CAFace's two networks: who belongs to which centre (CN), what each centre is worth (AGN).

Parameters bear the names of the head's file (models/caface_head.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..caface import EPSILON, LOG_FLOOR
from ..caface_head import DEPTH, HEADS


class Assignment(NamedTuple):
    """weights: A (B, M, N) float64, columns sum to 1, or are 0 in the padding. keys: (B, N, D)."""

    weights: Tensor
    keys: Tensor


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, into: int, hidden: int, out: int) -> None:
        """Widths of the rows in, between the layers and out."""
        super().__init__()
        self.fc1 = nn.Linear(into, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., into) to (..., out)."""
        return run_mlp(self.fc1, self.fc2, rows)


def run_mlp(first: nn.Linear, second: nn.Linear, rows: Tensor) -> Tensor:
    """second(GELU(first(rows)))."""
    out: Tensor = second(F.gelu(first(rows)))
    return out


class TransformerBlock(nn.Module):
    """A pre-norm transformer block with 8 heads and MLP ratio 4.

    drop_path: stochastic depth. In training each of the two residual branches of a set is left out
    with this probability, and what stays is scaled up by 1 / (1 - drop_path).
    """

    def __init__(self, width: int, *, drop_path: float = 0.0) -> None:
        """width: D, a multiple of 8."""
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, seen: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D). seen: (B, T) bool, which tokens are looked at; None for all."""
        tokens = tokens + self._drop(self._attend(self.norm1(tokens), seen))
        return tokens + self._drop(run_mlp(self.fc1, self.fc2, self.norm2(tokens)))

    def _attend(self, tokens: Tensor, seen: Tensor | None) -> Tensor:
        count, places, width = tokens.shape
        fused = self.qkv(tokens).reshape(count, places, 3, HEADS, width // HEADS)
        queries, keys, values = fused.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        mask = None if seen is None else seen[:, None, None, :]
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, places, width))
        return out

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * kept / (1.0 - self.drop_path)


class Assign(nn.Module):
    """Equation 2: single-head attention of the centres on the faces, softmax over the centres."""

    def __init__(self, width: int) -> None:
        """width: D."""
        super().__init__()
        self.norm_centres = nn.LayerNorm(width, eps=EPSILON)
        self.norm_keys = nn.LayerNorm(width, eps=EPSILON)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)

    def forward(self, centres: Tensor, tokens: Tensor) -> Assignment:
        """Centres (M, D) and tokens (B, N, D).

        A is taken from its logarithm in float64, cut at -600: trained networks send nearly all of
        a face to one centre, and a weight of 0 would leave the others without a mean to read.
        """
        keys = self.norm_keys(tokens)
        query = self.query(self.norm_centres(centres)) / centres.shape[1] ** 0.5
        logits = query @ self.key(keys).transpose(1, 2)  # (B, M, N)
        logs = F.log_softmax(logits.double(), dim=1)
        return Assignment(logs.clamp(min=LOG_FLOOR).exp(), keys)


class ClusterNetwork(nn.Module):
    """CN, equation 3 without its division: faces look at each other and at the centres, then are
    assigned to the centres.
    """

    def __init__(self, centres: int, width: int, *, drop_path: float = 0.1) -> None:
        """centres: M, orthonormal at the start. width: D. drop_path: of the last block; the rates
        of the blocks before grow to it linearly from 0.
        """
        super().__init__()
        start = nn.init.orthogonal_(torch.empty(centres, width))
        self.centres = nn.Parameter(F.normalize(start, dim=1))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, drop_path=drop_path * i / (DEPTH - 1)) for i in range(DEPTH)
        )
        self.assign = Assign(width)
        self.apply(_start_linear)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Assignment:
        """Tokens (B, N, D) of the faces of one chunk. mask: (B, N) bool; None for all faces."""
        count, faces, _ = tokens.shape
        centres = self.centres.expand(count, -1, -1)
        together = torch.cat([tokens, centres.to(tokens.dtype)], dim=1)  # (B, N + M, D)
        seen = None
        if mask is not None:
            seen = torch.cat([mask, mask.new_ones(count, centres.shape[1])], dim=1)
        for block in self.blocks:
            together = block(together, seen)
        # Only the faces' tokens go on: centres that moved would change their meaning.
        weights, keys = self.assign(self.centres, together[:, :faces])
        if mask is not None:
            weights = weights * mask[:, None, :]
        return Assignment(weights, keys)


class MixerBlock(nn.Module):
    """An MLP-Mixer block: one normalisation serves both steps, a gate is on the first skip."""

    def __init__(self, centres: int, width: int) -> None:
        """width: 2D, the length of a row."""
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.gate = nn.Parameter(torch.ones(1))
        self.tokens = Mlp(centres, 2 * centres, centres)
        self.channels = Mlp(width, width // 2, width)

    def forward(self, mixed: Tensor) -> Tensor:
        """(B, M, 2D) to (B, M, 2D)."""
        across = self.tokens(self.norm(mixed).transpose(1, 2)).transpose(1, 2)
        mixed = mixed * self.gate + across
        out: Tensor = mixed + self.channels(self.norm(mixed))
        return out


class AggregationNetwork(nn.Module):
    """AGN, equation 6: the centres and their mean styles to P, softmax over the centres."""

    def __init__(self, centres: int, width: int, dimension: int) -> None:
        """centres: M. width: D. dimension: C."""
        super().__init__()
        self.mixers = nn.ModuleList(MixerBlock(centres, 2 * width) for _ in range(DEPTH))
        self.head = Mlp(2 * width, 2 * width, dimension)
        self.apply(_start_linear)

    def forward(self, centres: Tensor, styles: Tensor) -> Tensor:
        """Centres (M, D) and S' (B, M, D) to P (B, M, C) float64, which sums to 1 over M."""
        mixed = torch.cat([centres.expand_as(styles), styles], dim=2)
        for mixer in self.mixers:
            mixed = mixer(mixed)
        return F.softmax(self.head(mixed).double(), dim=1)


def _start_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
