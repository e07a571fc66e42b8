"""FaceQAN: a face has quality when small adversarial noise hardly moves its embedding.

Babnik, Peer, Struc, "FaceQAN: Face Image Quality Assessment Through Adversarial Noise Exploration",
ICPR 2022. Needs a torch network: it takes gradients of the embedding in the pixels.

    q = ((1 + mean S) / 2 * clip(1 - std S, 0, 1) * symmetry)^p

S are the cosines of the face's embedding to those of k noisy copies, at the beginning of each of l
steps that move the copies by epsilon along the sign of the gradient of 1 - cosine. symmetry is the
cosine to the embedding of the mirrored face, which is low for turned heads.

The released code ignores k and p of its command line, and clamps the copies to -1..1 though its
pixels go from 0 to 1; here k, l, p and the range are what is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ... import ConfigError, RecordError
from .backbone import Backbone
from .eval_mode import in_eval_mode


@dataclass(frozen=True)
class FaceQANOptions:
    """The paper's parameters, and the range of pixels that the backbone takes."""

    epsilon: float = 0.001
    """Noise and step, as a share of the pixel range, > 0."""
    copies: int = 10
    """k: noisy copies per face, at least 2."""
    steps: int = 5
    """l: how often the copies are embedded, at least 1; they are moved in between."""
    exponent: float = 5.0
    """p > 0."""
    low: float = -1.0
    high: float = 1.0
    """Pixels of value 0 and 255 in the backbone's scale; copies stay in between."""

    def __post_init__(self) -> None:
        """Raises ConfigError for a number out of its range."""
        if not (self.epsilon > 0 and self.exponent > 0 and self.low < self.high):
            raise ConfigError(
                "FaceQAN needs epsilon > 0, exponent > 0 and low < high, got "
                f"{self.epsilon}, {self.exponent} and {self.low}..{self.high}"
            )
        if self.copies < 2 or self.steps < 1:
            raise ConfigError(
                f"FaceQAN needs 2 or more copies and 1 or more steps, got {self.copies} and "
                f"{self.steps}"
            )


DEFAULTS = FaceQANOptions()


def faceqan(
    backbone: Backbone, images: Tensor, options: FaceQANOptions = DEFAULTS, *, seed: int = 0
) -> Tensor:
    """images (B, 3, 112, 112) in low..high -> quality (B,) float64, at most 1.

    The noise depends on the seed alone, so the score of a face does not depend on its batch. The
    backbone is used in eval mode and left in the mode it was in; its parameters get no gradients.
    Embeds k copies at a time, l times per face.
    Raises RecordError for pixels outside the range, or as the backbone does.
    """
    _check_range(images, options)
    # Also for a caller under no_grad or inference_mode: the steps need gradients.
    with in_eval_mode(backbone), torch.inference_mode(False):
        faces = images.detach().clone()
        noise = _draw_noise(faces, options, seed)
        with torch.no_grad():
            # One by one, as the copies are: batches of another size are rounded differently.
            scores = [_score(backbone, face, noise, options) for face in faces]
    if not scores:
        return faces.new_zeros(0, dtype=torch.float64)
    return torch.stack(scores)


def combine(similarities: Tensor, symmetry: Tensor, exponent: float = DEFAULTS.exponent) -> Tensor:
    """The equation above: all cosines of one face, any shape, and its symmetry -> float64 scalar.

    std divides by the number of cosines. The sign of the symmetry is kept, so that even exponents
    do not turn opposite embeddings into a good score.
    """
    wide = similarities.double()
    steady = (1 - wide.std(correction=0)).clamp(0, 1)
    base = (1 + wide.mean()) / 2 * steady * symmetry.double()
    return base.sign() * base.abs() ** exponent


def _score(backbone: Backbone, face: Tensor, noise: Tensor, options: FaceQANOptions) -> Tensor:
    """Quality of one face (3, 112, 112); gradients are off and go on for the steps alone."""
    own, mirrored = backbone(torch.stack([face, face.flip(2)])).double()
    symmetry = functional.cosine_similarity(own, mirrored, dim=0)
    copies = (face + noise).clamp(options.low, options.high)  # (k, 3, 112, 112)
    similarities = []
    for _ in range(options.steps - 1):
        with torch.enable_grad():
            copies.requires_grad_()
            cosines = _cosines(backbone, copies, own)
            (slope,) = torch.autograd.grad(-cosines.sum(), copies)
        similarities.append(cosines.detach())
        moved = copies.detach() + _step_size(options) * slope.sign()
        copies = moved.clamp(options.low, options.high)
    similarities.append(_cosines(backbone, copies, own))
    return combine(torch.stack(similarities), symmetry, options.exponent)


def _cosines(backbone: Backbone, copies: Tensor, own: Tensor) -> Tensor:
    """Cosines (k,) float64 of copies (k, 3, 112, 112) to the face's own embedding (C,)."""
    return functional.cosine_similarity(backbone(copies).double(), own[None], dim=1)


def _step_size(options: FaceQANOptions) -> float:
    return options.epsilon * (options.high - options.low)


def _draw_noise(faces: Tensor, options: FaceQANOptions, seed: int) -> Tensor:
    """(k, 3, 112, 112), uniform in -epsilon..epsilon of the range; drawn on the CPU."""
    source = torch.Generator().manual_seed(seed)
    drawn = torch.rand(options.copies, *faces.shape[1:], generator=source)
    return ((2 * drawn - 1) * _step_size(options)).to(faces)


def _check_range(images: Tensor, options: FaceQANOptions) -> None:
    if not images.numel():
        return
    lowest, highest = (float(value) for value in images.aminmax())
    slack = 1e-4 * (options.high - options.low)
    # NaN fails the comparison too.
    if not (options.low - slack <= lowest and highest <= options.high + slack):
        raise RecordError(
            f"FaceQAN was told that pixels lie in {options.low}..{options.high}, got {lowest:.4g}"
            f"..{highest:.4g}: give low and high of the backbone's pixel format"
        )
