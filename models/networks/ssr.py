"""SSR, support set regression (IDA-L): a small network that predicts the inter-class discrepancy.

Liu et al., "Inter-class Discrepancy Alignment for Face Recognition", section 3.2 and equation 6.
Published training: backbone frozen, 30,000 steps of 512 faces, SGD with momentum .9, weight decay
5e-4 and learning rate 1e-3, divided by 10 after 15,000, 20,000 and 25,000. The width of the hidden
layer is not published; here it is 256, the paper's length of an embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ConfigError, RecordError
from ..ida_learned import LearnedDensity, Target


class SSR(nn.Module):
    """FC(C -> H), ReLU, FC(H -> 1) on the unit embedding.

    target "density" (default) regresses the standardised logarithm, (r - mean) / deviation with
    F = exp(-r) / k: call `fit_scale` before training. "discrepancy" is equation 6 to the letter.
    With k = 10 and tau = 1 the deviation of F over faces is about .0035, the squared error starts
    near 1e-5, and weight decay outweighs it: the prediction collapses towards a constant.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        dimension: int,
        *,
        hidden: int = 256,
        target: Target = "density",
        k: int = 10,
        tau: float = 1.0,
    ) -> None:
        """dimension: C. hidden: H. k, tau: those of the anchors that teach it.

        Raises ConfigError for numbers that are not positive and finite and an unknown target.
        """
        super().__init__()
        if min(dimension, hidden, k) < 1 or not 0.0 < tau < math.inf:
            raise ConfigError(
                "dimension, hidden, k and tau must be positive and finite, "
                f"got {dimension}, {hidden}, {k} and {tau}"
            )
        if target not in ("density", "discrepancy"):
            raise ConfigError(f"target must be density or discrepancy, got {target!r}")
        self.target: Target = target
        self.k = k
        self.tau = tau
        self.fc1 = nn.Linear(dimension, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("deviation", torch.ones((), dtype=torch.float64))

    def fit_scale(self, densities: Tensor) -> None:
        """Take mean and deviation of r (N,) over the training faces; for target "density" only.

        Raises ConfigError for the other target, RecordError when r does not differ between faces or
        is not finite.
        """
        if self.target != "density":
            raise ConfigError("only the target density is standardised: leave fit_scale out")
        values = densities.detach().double()
        if not bool(values.isfinite().all()):
            raise RecordError("densities must be finite, to be standardised: got one that is not")
        if values.numel() < 2 or not bool(values.max() > values.min()):
            raise RecordError("densities must be at least two and differ, to be standardised")
        self.mean.copy_(values.mean())
        self.deviation.copy_(values.std(correction=0))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, C) of any length but 0 to the output (B,), in the unit of the target."""
        units = F.normalize(embeddings, dim=1)
        outputs: Tensor = self.fc2(F.relu(self.fc1(units))).squeeze(1)
        return outputs

    def loss(self, embeddings: Tensor, densities: Tensor) -> Tensor:
        """Mean squared error of the output; densities: r (B,), as anchors measure it.

        For "discrepancy" this is equation 6, for "density" its standardised logarithm.
        Computed in float32 at least. Raises RecordError when shapes differ.
        """
        if embeddings.ndim != 2 or densities.shape != embeddings.shape[:1]:
            raise RecordError(
                "embeddings must be (B, C) and densities (B,), "
                f"got {tuple(embeddings.shape)} and {tuple(densities.shape)}"
            )
        outputs = self(embeddings)
        dtype = torch.promote_types(outputs.dtype, torch.float32)
        if self.target == "density":
            goal = (densities.double() - self.mean) / self.deviation
        else:
            goal = torch.exp(-densities.double()) / self.k
        return F.mse_loss(outputs.to(dtype), goal.to(dtype))

    @torch.no_grad()
    def density(self, embeddings: Tensor) -> Tensor:
        """r (B,) float64 of embeddings (B, C), kept within [-tau, tau]."""
        outputs: Tensor = self(embeddings).double()
        if self.target == "density":
            return (self.mean + self.deviation * outputs).clamp(-self.tau, self.tau)
        shift = torch.log(outputs.clamp(min=torch.finfo(torch.float64).tiny) * self.k)
        return -shift.clamp(-self.tau, self.tau)

    def export(self) -> LearnedDensity:
        """The same network without torch."""
        weights = {
            name: weight.detach().cpu().float().numpy().copy()
            for name, weight in self.named_parameters()
        }
        return LearnedDensity(
            weights, self.target, float(self.mean), float(self.deviation), self.k, self.tau
        )


def ssr_from(model: LearnedDensity) -> SSR:
    """The torch network of an exported one, to train it on."""
    hidden, dimension = model.arrays["fc1.weight"].shape
    network = SSR(dimension, hidden=hidden, target=model.target, k=model.k, tau=model.tau)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.copy_(torch.from_numpy(model.arrays[name].copy()))
    network.mean.fill_(model.mean)
    network.deviation.fill_(model.deviation)
    return network
