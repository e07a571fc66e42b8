"""Set fusers in which faces see each other, a recurrent one and RSA; and any fuser to export.

Neither gives a single face back once trained. `sets.FaceSets` names the shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ConfigError, RecordError
from .set_fusion import WeightedFuser, unit_features, widen
from .sets import FaceSets, check_sets, clear_padding

HEADS = 8


class RecurrentFuser(nn.Module):
    """A GRU over the unit embeddings in the order given, then a linear layer on its last state.

    Here to show what order does: the one fuser whose result changes when faces change places.
    Padding leaves the state as it is, wherever it stands. Layout ours.
    """

    def __init__(self, dimension: int) -> None:
        """dimension: C, also of the state."""
        super().__init__()
        self.dimension = dimension
        self.cell = nn.GRUCell(dimension, dimension)
        self.out = nn.Linear(dimension, dimension)

    def forward(self, sets: FaceSets) -> Tensor:
        """The fused embeddings (B, C), not normalised. Raises RecordError for sets of another C."""
        check_sets(sets, dimension=self.dimension)
        return self.aggregate(clear_padding(sets))

    def aggregate(self, sets: FaceSets) -> Tensor:
        """`forward` for sets that fit and whose padding is cleared: nothing is checked."""
        units = unit_features(sets).to(self.out.weight.dtype)
        state = units.new_zeros(units.shape[0], self.dimension)
        for face in range(units.shape[1]):
            state = torch.where(
                sets.mask[:, face, None], self.cell(units[:, face], state).to(state), state
            )
        fused: Tensor = self.out(state)
        return fused


class RSA(nn.Module):
    """Residual self-attention over all places of all maps of a set. LAYOUT OURS.

    Liu et al. (ICCV 2019) let every place of every face's last feature map look at all others of
    the set. CAFace's table 1 counts 2.62 M parameters, which are 10 D^2 at D = 512; neither gives
    the layers. Ours: T = N H W tokens of D numbers, normalised without parameters,

        x = x + O attention(Q x, K x, V x),   x = x + B relu(A x)

    with 8 heads, Q, K, V, O (D, D), A (3D, D), B (D, 3D), no biases. Then the mean map of the set
    goes through the backbone's own head. O and B start at 0: untrained, it embeds the mean map.
    Time and memory grow with the square of N, and a set cannot be fused in pieces.
    """

    def __init__(self, dimension: int, head: Callable[[Tensor], Tensor]) -> None:
        """dimension: D, a multiple of 8.

        head: maps (B, D, H, W) to raw embeddings (B, C), the bound method `backbone.head` of a
        frozen backbone in eval mode. A method is not registered, so its weights are neither trained
        nor saved here. Raises ConfigError when D is no multiple of 8.
        """
        super().__init__()
        if dimension < 1 or dimension % HEADS:
            raise ConfigError(f"D must be a multiple of {HEADS}, got {dimension}")
        self.dimension = dimension
        self.head = head
        self.qkv = nn.Linear(dimension, 3 * dimension, bias=False)
        self.proj = nn.Linear(dimension, dimension, bias=False)
        self.fc1 = nn.Linear(dimension, 3 * dimension, bias=False)
        self.fc2 = nn.Linear(3 * dimension, dimension, bias=False)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.fc2.weight)

    def forward(self, sets: FaceSets) -> Tensor:
        """The fused embeddings (B, C), not normalised.

        Raises RecordError when the sets have no maps or maps of another D.
        """
        check_sets(sets, needs=("maps",))
        if sets.maps is not None and sets.maps.shape[2] != self.dimension:
            raise RecordError(
                f"maps must be (B, N, {self.dimension}, H, W), got {tuple(sets.maps.shape)}"
            )
        return self.aggregate(clear_padding(sets))

    def aggregate(self, sets: FaceSets) -> Tensor:
        """`forward` for sets that fit and whose padding is cleared: nothing is checked."""
        maps = sets.maps
        assert maps is not None  # check_sets saw to it
        count, faces, _, height, width = maps.shape
        tokens = maps.permute(0, 1, 3, 4, 2).reshape(count, -1, self.dimension)  # (B, T, D)
        seen = sets.mask.repeat_interleave(height * width, dim=1)  # (B, T)
        tokens = tokens + self._attend(self._normalise(tokens), seen)
        tokens = tokens + self.fc2(F.relu(self.fc1(self._normalise(tokens))))
        places = tokens.reshape(count, faces, height, width, self.dimension)
        present = sets.mask[:, :, None, None, None]
        total = widen(torch.where(present, places, places.new_zeros(()))).sum(dim=1)
        mean = total / sets.mask.sum(dim=1)[:, None, None, None]
        return self.head(mean.permute(0, 3, 1, 2).to(maps.dtype))

    def _normalise(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, (self.dimension,))

    def _attend(self, tokens: Tensor, seen: Tensor) -> Tensor:
        count, places, width = tokens.shape
        fused = self.qkv(tokens).reshape(count, places, 3, HEADS, width // HEADS)
        queries, keys, values = fused.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen[:, None, None, :]
        )
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, places, width))
        return out


class FuserPart(nn.Module):
    """A fuser to export: plain tensors in and out, nothing is checked."""

    def __init__(
        self,
        fuser: WeightedFuser | RecurrentFuser | RSA,
        field: Literal["styles", "quality", "maps"] | None = None,
    ) -> None:
        """fuser: in evaluation mode; its weights are shared. field: the optional one it reads."""
        super().__init__()
        self.fuser = fuser
        self.field = field

    def forward(self, features: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """Embeddings (B, N, C), mask (B, N) bool and the field to fused embeddings (B, C)."""
        fields = {} if self.field is None else {self.field: extra}
        return self.fuser.aggregate(clear_padding(FaceSets(features, mask, **fields)))
