"""A recognition network with a quality head, and how much of it is trained on optimised labels.

"Optimization-Based Improvement of Face Image Quality Assessment Techniques" (Babnik, Damer, Struc,
IWBF 2023), section III-D: Q* = H(M(I)), a pretrained network M and one linear layer H, with an L1
loss on labels in 0..1 (`models.label_optimisation.normalise_labels` and `split_labels`).

The published training: Adam on `QualityRegressor.groups()`, batches of 128 without the last
incomplete one, one epoch, mixed precision, gradient norm at most 5, no augmentation; validation
20 times per epoch, the best weights are kept.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import Tensor, nn
from torch.nn import functional

from ... import ConfigError, RecordError
from .backbone import Backbone

LEARNING_RATE = 1e-3
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class LayerGroup(NamedTuple):
    """`tensors` consecutive parameter tensors of the backbone, trained alike."""

    tensors: int
    rate: float
    """Its learning rate as a share of the head's."""
    decay: float
    """Weight decay, added to the gradient (Adam, not AdamW)."""


HEAD = LayerGroup(2, 1.0, 1e-4)
GROUPS = (LayerGroup(10, 1.0, 1e-5), LayerGroup(40, 0.1, 1e-6), LayerGroup(50, 0.01, 1e-6))
"""The published groups, from the backbone's last tensor backwards. Tensors before them are not
trained. In IResNet-100, which has 463, the groups begin at layer4.2.prelu.weight,
layer3.28.bn2.bias and layer3.22.bn3.bias: the cuts fall inside units."""


class ParameterGroup(TypedDict):
    """What torch.optim takes as one group."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


class QualityRegressor(nn.Module):
    """Faces (B, 3, 112, 112), as the backbone takes them -> quality (B,), higher is better.

    Trained on labels in 0..1; the output is not clamped, as in the published code.
    """

    def __init__(self, backbone: Backbone, *, move_statistics: bool = False) -> None:
        """Put a linear layer (C + 1 parameters) on the backbone and freeze what is not trained.

        Parameters before the last 100 tensors get requires_grad False. The published loop only
        leaves them out of the optimiser; there their gradients are neither scaled back nor reset
        between steps, yet count in the norm that is clipped at 5.
        move_statistics: False also keeps the batch norms before the first trained tensor in eval
        mode, so that the frozen layers stay the recognition network's. True lets the statistics of
        all of them follow the training faces, as the published code does.
        """
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.dimension, 1)
        trained = sum(group.tensors for group in GROUPS)
        for parameter in list(backbone.parameters())[:-trained]:
            parameter.requires_grad_(False)
        self._still = [] if move_statistics else _norms_before_training(backbone)
        self.train(self.training)

    def train(self, mode: bool = True) -> QualityRegressor:
        """Training or eval mode for all but the batch norms that are kept still."""
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, 112, 112) -> quality (B,). Raises RecordError as the backbone does."""
        weight = self.head.weight[0]
        embeddings = self.backbone(images).to(weight.dtype)
        # A linear layer would run in half precision under autocast, which has 1e-3 steps below 1
        # and could not tell images of similar quality apart.
        quality: Tensor = (embeddings * weight).sum(dim=1) + self.head.bias
        return quality

    def groups(self, learning_rate: float = LEARNING_RATE) -> list[ParameterGroup]:
        """The optimiser's parameter groups: head, last 10 tensors, the 40 before, the 50 before.

        Without tensors whose gradient is switched off (IResNet's fixed final scale); a group that
        is left empty, as in a small backbone, is left out. Raises ConfigError unless the rate is
        above 0.
        """
        if not learning_rate > 0:
            raise ConfigError(f"learning_rate must be above 0, got {learning_rate}")
        groups = [_make_group(list(self.head.parameters()), HEAD, learning_rate)]
        tensors = list(self.backbone.parameters())
        for group in GROUPS:
            tensors, last = tensors[: -group.tensors], tensors[-group.tensors :]
            groups.append(_make_group(last, group, learning_rate))
        return [group for group in groups if group["params"]]


def label_loss(quality: Tensor, labels: Tensor) -> Tensor:
    """Mean absolute error in float32, of quality (B,) and labels (B,): the L1 loss of III-D.

    Raises RecordError unless both are (B,), since other shapes would be broadcast.
    """
    if quality.ndim != 1 or quality.shape != labels.shape:
        raise RecordError(
            f"quality and labels must both be (B,), got {tuple(quality.shape)} and "
            f"{tuple(labels.shape)}"
        )
    return functional.l1_loss(quality.float(), labels.float())


def _make_group(
    parameters: list[nn.Parameter], group: LayerGroup, learning_rate: float
) -> ParameterGroup:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return {"params": trained, "lr": learning_rate * group.rate, "weight_decay": group.decay}


def _norms_before_training(backbone: Backbone) -> list[nn.Module]:
    """Batch norms that come before the first module with a trained parameter of its own."""
    norms: list[nn.Module] = []
    for module in backbone.modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            return norms
        if isinstance(module, BATCH_NORMS):
            norms.append(module)
    return norms
