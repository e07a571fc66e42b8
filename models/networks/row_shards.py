"""Rows of a matrix dealt to the processes of a group, and the sums with gradient this needs.

Every process computes the same loss from all faces and its own rows. So what is summed over
processes is used alike by all of them, and each has the sum's whole gradient; what each uses with
its own rows only has a gradient that is to be summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch import distributed as dist

from ... import ConfigError, CorruptModelFile, RecordError


class RowSlice(NamedTuple):
    """Rows offset .. offset + n of a matrix: rows (n, D)."""

    offset: int
    rows: Tensor


def take_rows(slices: Sequence[RowSlice], low: int, high: int) -> Tensor:
    """Rows low .. high (high - low, D) out of slices that cover them, in any order.

    So a matrix saved in parts is read again in other parts. Raises CorruptModelFile for rows that
    no slice holds.
    """
    found: list[Tensor] = []
    at = low
    while at < high:
        holder = next((s for s in slices if s.offset <= at < s.offset + len(s.rows)), None)
        if holder is None:
            held = ", ".join(f"{s.offset}..{s.offset + len(s.rows)}" for s in slices)
            raise CorruptModelFile(
                f"rows {low}..{high} are needed, row {at} is in none of the slices {held or '-'}: "
                "give the slices of every process that saved them"
            )
        end = min(high, holder.offset + len(holder.rows))
        found.append(holder.rows[at - holder.offset : end - holder.offset])
        at = end
    return torch.cat(found)


class RowShards:
    """Which of a matrix's rows this process holds, and its exchanges with the others.

    rows: of the whole matrix. group: the processes that share it, None for a process of its own.
    Slices are contiguous, in the order of ranks, and as equal as can be; the first ones hold one
    row more where the count does not divide. Every process must make the same calls.
    """

    def __init__(self, rows: int, group: dist.ProcessGroup | None) -> None:
        """Raises ConfigError when there are fewer rows than processes."""
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world = 1 if group is None else dist.get_world_size(group)
        if rows < self.world:
            raise ConfigError(
                f"{rows} rows cannot be dealt to {self.world} processes: each needs at least one"
            )
        share, left = divmod(rows, self.world)
        self.offset = self.rank * share + min(self.rank, left)
        self.count = share + (self.rank < left)

    def gather(self, rows: Tensor, *, summed: bool, factor: float = 1.0) -> Tensor:
        """All processes' rows (B, ...) below each other (world * B, ...), in the order of ranks.

        summed: whether each process uses the result with its own part of the matrix only, so that
        gradients have to be summed; otherwise all use it alike, and each takes its own part of the
        gradient. factor: multiplied to the gradient.
        """
        if self.group is None:
            return rows
        gathered = _Gather.apply(rows, self.group, summed, factor)  # type: ignore[no-untyped-call]
        return cast(Tensor, gathered)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of all processes' values, the same shape; its gradient goes to each as it is."""
        if self.group is None:
            return values
        return cast(Tensor, _Sum.apply(values, self.group))  # type: ignore[no-untyped-call]

    def maximum(self, values: Tensor) -> Tensor:
        """Largest of all processes' values, the same shape, without gradient."""
        largest = values.detach().clone()
        if self.group is not None:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return largest

    def expect_equal(self, count: int, device: torch.device) -> None:
        """Raises RecordError in every process when their counts differ."""
        if self.group is None:
            return
        counts = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(self.world)]
        own = torch.tensor([count], dtype=torch.int64, device=device)
        dist.all_gather(counts, own, group=self.group)
        sizes = [int(c) for c in counts]
        if len(set(sizes)) > 1:
            raise RecordError(
                f"all processes must bring equally large batches, got {sizes}: drop the last one"
            )


class _Gather(torch.autograd.Function):
    """all_gather of rows; backwards the own part, summed over processes before if asked."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, group: dist.ProcessGroup, summed: bool, factor: float
    ) -> Tensor:
        ctx.group, ctx.summed, ctx.factor, ctx.rows = group, summed, factor, len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        whole = gradients[0].contiguous()
        if ctx.summed:
            whole = whole.clone()
            dist.all_reduce(whole, group=ctx.group)
        low = dist.get_rank(ctx.group) * ctx.rows
        return ctx.factor * whole[low : low + ctx.rows], None, None, None


class _Sum(torch.autograd.Function):
    """all_reduce; backwards the identity, since every process goes on with the same sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
