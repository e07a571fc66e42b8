"""CAFace's tokens: what the style and the norm of a face say about it (paper 3.1, supplement B).

Parameters and buffers bear the names of the head's file (models/caface_head.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import RecordError
from ..caface import EPSILON, NORM_CLIP, NORM_STEPS, norm_table
from ..caface_head import Rounding

MOMENTUM = 0.1


class StyleInputMaker(nn.Module):
    """SIM, equation 4: a style (K, 2) to a code of G numbers.

    The published network differs from the equation: it adds the two statistics up instead of
    averaging them and has a PReLU of one slope. mix fills W_s: 0 as published, with which the
    first batch has no style at all and the linear layer no gradient; 0.5, the mean of both
    statistics, starts more sanely.
    """

    def __init__(self, channels: int, width: int, *, mix: float = 0.0) -> None:
        """channels: K. width: G."""
        super().__init__()
        self.mix = nn.Parameter(torch.full((channels, 2), mix))
        self.prelu = nn.Parameter(torch.full((1,), 0.25))
        self.linear = nn.Linear(channels, width)
        self.bn = nn.BatchNorm1d(width, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, styles: Tensor) -> Tensor:
        """(R, K, 2) styles of R faces to (R, G). Training needs R >= 2."""
        mixed = (styles * self.mix).sum(dim=2)
        code: Tensor = self.bn(self.linear(F.prelu(mixed, self.prelu)))
        return code


class NormEmbedding(nn.Module):
    """Supplement B: the norm of an embedding, in deviations from the mean norm, as a sinusoid.

    Equation 1 makes a bin of the norm: clipped to +-3 deviations, ten bins to each. Equation 2 is
    a row of the table `norm_table`, here times a learned scale. The bin is an integer, so no
    gradient flows to the norm. rounding: "floor" (the paper) or "trunc", towards zero (the
    authors' release). The bin is found in float64, in every dtype of the network.
    """

    running_mean: Tensor
    running_var: Tensor
    table: Tensor

    def __init__(self, width: int, *, rounding: Rounding = "floor") -> None:
        """width: N, numbers per code."""
        super().__init__()
        self.rounding = rounding
        self.scale = nn.Parameter(torch.full((1,), 0.1))
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("running_var", torch.ones(1))
        self.register_buffer("table", torch.zeros(0), persistent=False)
        self._width = width
        self._fill_table()

    def forward(self, norms: Tensor) -> Tensor:
        """(R,) norms of R faces to (R, N).

        Training standardises by the statistics of these faces and moves the running ones towards
        them (momentum 0.1), evaluation by the running ones. Raises RecordError in training when
        R < 2: one norm has no deviation.
        """
        wide = norms.detach().double()
        if self.training:
            mean, variance = wide.mean(), _variance(wide)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean), MOMENTUM)
                self.running_var.lerp_(variance.to(self.running_var), MOMENTUM)
            variance = variance * (len(wide) - 1) / len(wide)  # of the batch itself, as BatchNorm
        else:
            mean, variance = self.running_mean.double(), self.running_var.double()
        deviations = (wide - mean) / torch.sqrt(variance + EPSILON)
        steps = deviations.clamp(-NORM_CLIP, NORM_CLIP) * NORM_STEPS
        whole = steps.floor() if self.rounding == "floor" else steps.trunc()
        return self.scale * self.table[whole.long() + NORM_CLIP * NORM_STEPS]

    @torch.no_grad()
    def recalibrate(self, norms: Tensor) -> None:
        """Take mean and variance of the norms (R,) of many faces for the running ones.

        Norms of another backbone or camera fall into other bins than those the network learned;
        this moves them back. Raises RecordError unless R >= 2 and all norms are finite.
        """
        wide = norms.double().flatten()
        if not bool(wide.isfinite().all()):
            raise RecordError("norms must be finite to calibrate on, got some that are not")
        self.running_var.fill_(_variance(wide))
        self.running_mean.fill_(wide.mean())

    def _fill_table(self) -> None:
        self.table = torch.from_numpy(norm_table(self._width)).to(self.scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NormEmbedding:
        # .double() must not widen a table that was rounded to float32: its sines are exact.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._fill_table()
        return self


def _variance(norms: Tensor) -> Tensor:
    """Unbiased, as BatchNorm keeps it."""
    if len(norms) < 2:
        raise RecordError(f"the spread of norms needs at least two faces, got {len(norms)}")
    return norms.var()
