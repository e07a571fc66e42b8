"""The last layer of face recognition training: one weight vector per class, and the softmax loss.

The classes may be sampled (partial FC, An et al., CVPR 2022) and spread over processes; loss and
gradients are those of one process with all of them. The loss of one face is
softplus(log sum over other classes of exp(s cos theta_j) - s t), t its target cosine with margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from ... import ConfigError, RecordError
from .margins import Margin
from .row_shards import RowShards, RowSlice, take_rows

_LEAST_NORM = 1e-6  # shorter embeddings and weights are not stretched to length 1
_ROWS_DRAWN = 4096  # weights drawn at once, so that all processes walk through one sequence

Start = Literal["unit", "normal"]


class ClassLayer(nn.Module):
    """Class weights (count, dimension) of this process, and the loss of a batch of embeddings.

    weight: of classes offset .. offset + count, all classes when group is None. The rows are not
    normalised; cosines are taken with their directions.
    Its state_dict holds this process's rows; `own_rows` and `load_rows` move them to another number
    of processes.
    """

    steps: Tensor

    def __init__(
        self,
        dimension: int,
        classes: int,
        margin: Margin,
        *,
        sample_rate: float = 1.0,
        group: dist.ProcessGroup | None = None,
        averaged_gradients: bool = False,
        start: Start = "unit",
        seed: int = 0,
    ) -> None:
        """dimension C of embeddings; classes of all processes together, at least 2.

        sample_rate, in (0, 1]: share of this process's classes used in a training step: those of
        the batch, all of them, filled up with random others. In evaluation all are used.
        group: the processes that share the classes, None for one process with all of them.
        averaged_gradients: say True when the network before this layer is trained with gradients
        averaged over the group, as DistributedDataParallel does: embeddings then get the gradient
        times the number of processes, whose average is the gradient of the whole batch's loss.
        start: "unit", rows uniform in (-1, 1) brought to length 1 (AdaFace, MagFace), or "normal",
        N(0, 0.01^2) (insightface). The whole matrix depends on the seed only, not on the group;
        samples depend on seed, step and rank.
        Raises ConfigError for values outside their ranges.
        """
        super().__init__()
        if dimension < 1 or classes < 2:
            raise ConfigError(
                f"a class layer needs dimension >= 1 and classes >= 2, got {dimension}, {classes}"
            )
        if not 0 < sample_rate <= 1:
            raise ConfigError(f"sample_rate must be in (0, 1], got {sample_rate}: 1 takes them all")
        if start not in get_args(Start):
            raise ConfigError(f"start must be one of {', '.join(get_args(Start))}, got {start!r}")
        self.dimension = dimension
        self.classes = classes
        self.margin = margin
        self.sample_rate = sample_rate
        self.seed = seed
        self._shards = RowShards(classes, group)
        self._gradient_factor = float(self._shards.world if averaged_gradients else 1)
        self.weight = nn.Parameter(self._draw_weights(start))
        self.register_buffer("steps", torch.tensor(0))

    @property
    def offset(self) -> int:
        """Number of the first class of this process."""
        return self._shards.offset

    @property
    def count(self) -> int:
        """How many classes this process holds."""
        return self._shards.count

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Loss of the batch, a scalar: mean over all faces of all processes, plus the penalty.

        features (B, dimension) raw embeddings, labels (B,) int64 in 0 .. classes - 1: this
        process's part of the batch, equally large in each. Computed in float32 (float64 for
        float64 features) whatever autocast says. Every process returns the same value; backward
        gives each the gradient of its own features and its own classes.
        Raises RecordError for other shapes and labels.
        """
        self._check_batch(features, labels)
        with torch.autocast(features.device.type, enabled=False):
            norms, directions = _split(features)
            directions = self._shards.gather(directions, summed=True, factor=self._gradient_factor)
            norms = self._shards.gather(norms, summed=False, factor=self._gradient_factor)
            labels = self._gather_labels(labels)
            return self._loss(directions, norms, labels)

    def cosines(self, features: Tensor) -> Tensor:
        """Cosines (B, count) of raw embeddings (B, dimension) to the classes of this process."""
        with torch.autocast(features.device.type, enabled=False):
            return _cosines(_split(features)[1], self.weight)

    def own_rows(self) -> RowSlice:
        """This process's weights with their offset, on the CPU, for a file."""
        return RowSlice(self.offset, self.weight.detach().cpu().clone())

    def load_rows(self, slices: Sequence[RowSlice]) -> None:
        """Takes this process's rows out of the slices that any number of processes saved.

        `take_rows` does the same for an optimiser's state, which has the weight's shape. Raises
        CorruptModelFile when rows are missing, RecordError when they have another dimension or
        there are more of them than classes.
        """
        held = max((rows.offset + len(rows.rows) for rows in slices), default=0)
        if held > self.classes:
            raise RecordError(
                f"class weights must be of {self.classes} classes, got rows up to {held}: build "
                "the layer with the number of classes it was saved with"
            )
        rows = take_rows(slices, self.offset, self.offset + self.count)
        if rows.shape != self.weight.shape:
            raise RecordError(
                f"class weights must have {self.dimension} columns, got {tuple(rows.shape)}: "
                "build the layer with the dimension it was saved with"
            )
        with torch.no_grad():
            self.weight.copy_(rows)

    def _loss(self, directions: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of unit directions (B, C) with norms (B,) and labels (B,) of all processes."""
        local = labels - self.offset
        faces = ((local >= 0) & (local < self.count)).nonzero()[:, 0]
        columns = local[faces]
        weight: Tensor = self.weight
        if self.training and self.sample_rate < 1:
            kept = self._sample(columns)
            weight = weight[kept]
            columns = torch.searchsorted(kept, columns)
        cosines = _cosines(directions, weight)  # (B, S)
        own = cosines.new_zeros(len(labels)).index_put((faces,), cosines[faces, columns])
        targets = self.margin.move_targets(self._shards.sum(own), norms)
        others = self.margin.scale * self.margin.move_others(cosines, targets)
        others = others.index_put((faces, columns), others.new_tensor(-torch.inf))
        excess = self._log_sum(others) - self.margin.scale * targets
        return -functional.logsigmoid(-excess).mean() + self.margin.penalty(norms)

    def _log_sum(self, logits: Tensor) -> Tensor:
        """log(sum(exp(logits))) (B,) over the columns (B, S) of all processes."""
        highest = self._shards.maximum(logits.amax(dim=1))
        return self._shards.sum((logits - highest[:, None]).exp().sum(dim=1)).log() + highest

    def _sample(self, columns: Tensor) -> Tensor:
        """Ascending numbers (S,) of the classes used: those in columns, and random others."""
        wanted = min(self.count, max(2, int(self.sample_rate * self.count)))
        present = torch.zeros(self.count, dtype=torch.bool, device=columns.device)
        present[columns] = True
        positive = present.nonzero()[:, 0]
        source = torch.Generator().manual_seed(
            self.seed + int(self.steps) * self._shards.world + self._shards.rank
        )
        self.steps += 1
        order = torch.randperm(self.count, generator=source).to(columns.device)
        negative = order[~present[order]]
        return torch.cat([positive, negative[: max(0, wanted - len(positive))]]).sort().values

    def _gather_labels(self, labels: Tensor) -> Tensor:
        """Labels of all processes, each of which checks them all: none is left waiting."""
        labels = self._shards.gather(labels, summed=False)
        low, high = labels.aminmax()
        if low < 0 or high >= self.classes:
            raise RecordError(
                f"labels must lie in 0..{self.classes - 1}, got {int(low)}..{int(high)}: "
                "count the identities of the training list again"
            )
        return labels

    def _check_batch(self, features: Tensor, labels: Tensor) -> None:
        """Raises RecordError for shapes and types that are not a batch's."""
        if features.ndim != 2 or features.shape[1] != self.dimension or not len(features):
            raise RecordError(
                f"features must be (B, {self.dimension}) with B > 0, got {tuple(features.shape)}"
            )
        if labels.shape != features.shape[:1] or labels.dtype != torch.int64:
            raise RecordError(
                f"labels must be ({len(features)},) int64, got {tuple(labels.shape)} {labels.dtype}"
            )
        self._shards.expect_equal(len(features), features.device)

    def _draw_weights(self, start: Start) -> Tensor:
        """This process's rows (count, C) of a matrix that depends on the seed only."""
        source = torch.Generator().manual_seed(self.seed)
        rows = torch.empty(self.count, self.dimension)
        for low in range(0, self.classes, _ROWS_DRAWN):
            drawn = torch.empty(min(_ROWS_DRAWN, self.classes - low), self.dimension)
            if start == "unit":
                drawn = functional.normalize(drawn.uniform_(-1, 1, generator=source))
            else:
                drawn.normal_(0, 0.01, generator=source)
            first, last = max(low, self.offset), min(low + len(drawn), self.offset + self.count)
            if first < last:
                rows[first - self.offset : last - self.offset] = drawn[first - low : last - low]
        return rows


def _split(features: Tensor) -> tuple[Tensor, Tensor]:
    """Norms (B,) and directions (B, C), in float32 at least."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    norms = torch.linalg.vector_norm(wide, dim=1)
    return norms, wide / norms.clamp_min(_LEAST_NORM)[:, None]


def _cosines(directions: Tensor, weight: Tensor) -> Tensor:
    """Cosines (B, S) of unit directions (B, C) to weights (S, C) of any length."""
    return directions @ functional.normalize(weight.to(directions), eps=_LEAST_NORM).T
