"""MagFace: a margin that grows with the embedding's magnitude, which thereby becomes its quality.

Meng et al., CVPR 2021, section 3.2. The law of one face (models/magface_law.py) has the closed
forms. The quality of a face is the norm of its raw embedding, of the image as it is, not mirrored.
"""

from __future__ import annotations

import warnings

from torch import Tensor

from ..magface_law import MagFaceLaw
from .margins import Margin, add_angle


class _MagnitudeMargin(Margin):
    """What MagFace and Mag-CosFace share: m(a) and the regulariser lambda_g g(a)."""

    def __init__(self, law: MagFaceLaw, clamp_regulariser: bool) -> None:
        super().__init__(law.scale)
        self.law = law
        self.clamp_regulariser = clamp_regulariser
        if law.lambda_g < law.lambda_minimum:
            warnings.warn(
                f"lambda_g should be at least {law.lambda_minimum:.6f} for these bounds, got "
                f"{law.lambda_g}: below it faces can have no optimal magnitude; raise lambda_g or "
                "narrow the margins",
                UserWarning,
                stacklevel=3,
            )

    def margins_of(self, norms: Tensor) -> Tensor:
        """m(a) (B,), of the norms clamped to [l_a, u_a]."""
        law = self.law
        return law.l_m + law.slope * (norms.clamp(law.l_a, law.u_a) - law.l_a)

    def penalty(self, norms: Tensor) -> Tensor:
        """lambda_g times the mean of g over the batch, a scalar.

        g(a) = a / u_a^2 + 1 / a from l_a on, beyond u_a too, where it rises and leads back. Below
        l_a it goes on along its tangent: such norms grow at a bounded pace, zero included. With
        clamp_regulariser, norms outside [l_a, u_a] get no gradient, as in the authors' code.
        """
        law = self.law
        if self.clamp_regulariser:
            inside = norms.clamp(law.l_a, law.u_a)
            return law.lambda_g * (inside / law.u_a**2 + 1 / inside).mean()
        raised = norms.clamp_min(law.l_a)
        short = (norms - law.l_a).clamp_max(0)
        curve = norms / law.u_a**2 + 1 / raised - short / law.l_a**2
        return law.lambda_g * curve.mean()


class MagFace(_MagnitudeMargin):
    """cos(theta + m(a)) and lambda_g g(a) (Eq. 2, whose print has the bracket misplaced).

    easy_margin: no margin where cos(theta) <= 0, as in the authors' code and against the theory:
    there the loss then falls with the magnitude, so the worst faces are led to u_a.
    clamp_regulariser: see `penalty`.
    """

    def __init__(
        self,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_m: float = 0.45,
        u_m: float = 0.8,
        lambda_g: float = 35.0,
        *,
        scale: float = 64.0,
        easy_margin: bool = False,
        clamp_regulariser: bool = False,
    ) -> None:
        """Ranges as in `MagFaceLaw`, which raises ConfigError; the defaults are the paper's.

        Warns (UserWarning) when lambda_g is below the theory's minimum, 22.586667 for the defaults.
        For fine-tuning choose l_a and u_a on both sides of the magnitudes seen.
        """
        law = MagFaceLaw(l_a, u_a, l_m, u_m, lambda_g, scale)
        super().__init__(law, clamp_regulariser)
        self.easy_margin = easy_margin

    def move_targets(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """cos(theta + m(a)) (B,); beyond theta + m(a) = pi as `add_angle`."""
        return add_angle(cosines, self.margins_of(norms), easy_margin=self.easy_margin)


class MagCosFace(_MagnitudeMargin):
    """cos(theta) - m(a) and lambda_g g(a): MagFace on CosFace (the paper's supplement)."""

    def __init__(
        self,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_m: float = 0.35,
        u_m: float = 0.8,
        lambda_g: float = 150.0,
        *,
        scale: float = 64.0,
        clamp_regulariser: bool = False,
    ) -> None:
        """As `MagFace`; margins are cosines. The theory's minimum is 29.04 for the defaults."""
        super().__init__(MagFaceLaw(l_a, u_a, l_m, u_m, lambda_g, scale), clamp_regulariser)

    def move_targets(self, cosines: Tensor, norms: Tensor) -> Tensor:
        """cos(theta) - m(a) (B,)."""
        return cosines - self.margins_of(norms)
