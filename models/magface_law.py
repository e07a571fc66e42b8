"""MagFace's loss as a function of one face's magnitude: margin, regulariser, and what they imply.

MagFace (Meng et al., CVPR 2021), section 3.2. Closed forms in float64 and without torch: the
network's margin reads its constants here, and its gradients are tested against the derivatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from .. import ConfigError
from .fusion import Doubles

_HALVINGS = 60  # of an interval of magnitudes: more than float64 can tell apart


@dataclass(frozen=True)
class MagFaceLaw:
    """The constants of one MagFace loss, and the loss of one face as a function of its magnitude.

    l_a, u_a: bounds of the magnitude a = ||f||, 0 < l_a < u_a. l_m, u_m: margin in radians at these
    bounds, 0 <= l_m <= u_m < pi. lambda_g: weight of the regulariser g. scale: s, > 0.
    Below, angle is theta, the angle in radians between a face and its class centre, and log_others
    is log(sum over the other classes of exp(s cos theta_j)); both broadcast against a.
    Derivatives hold for l_a <= a <= u_a and theta + m(a) <= pi.
    """

    l_a: float = 10.0
    u_a: float = 110.0
    l_m: float = 0.45
    u_m: float = 0.8
    lambda_g: float = 35.0
    scale: float = 64.0

    def __post_init__(self) -> None:
        """Raises ConfigError for bounds out of order and for negative weights."""
        if not 0 < self.l_a < self.u_a < math.inf:
            raise ConfigError(
                f"magnitudes need 0 < l_a < u_a, got l_a = {self.l_a}, u_a = {self.u_a}: "
                "choose bounds on both sides of the magnitudes seen"
            )
        if not 0 <= self.l_m <= self.u_m < math.pi:
            raise ConfigError(
                f"margins need 0 <= l_m <= u_m < pi, got l_m = {self.l_m}, u_m = {self.u_m}"
            )
        if not 0 <= self.lambda_g < math.inf or not 0 < self.scale < math.inf:
            raise ConfigError(
                "lambda_g must be >= 0 and scale > 0, "
                f"got lambda_g = {self.lambda_g}, scale = {self.scale}"
            )

    @property
    def slope(self) -> float:
        """K = (u_m - l_m) / (u_a - l_a), the margin gained per unit of magnitude."""
        return (self.u_m - self.l_m) / (self.u_a - self.l_a)

    @property
    def lambda_minimum(self) -> float:
        """Least lambda_g for which the loss never rises at l_a: s K u_a^2 l_a^2 / (u_a^2 - l_a^2).

        Only from there on does the theory promise every face an optimal magnitude in [l_a, u_a].
        The classification term's slope is at most s K for an angular as for a cosine margin, so
        the bound is that of Mag-CosFace too.
        """
        squares = self.u_a**2 * self.l_a**2 / (self.u_a**2 - self.l_a**2)
        return self.scale * self.slope * squares

    @property
    def floor(self) -> float:
        """Least optimal magnitude of any face: that of a hopeless one at theta + m(a) = pi/2.

        (s K / lambda_g + 1 / u_a^2)^(-1/2), and never below l_a. Needs lambda_g > 0.
        """
        return max(self.l_a, 1 / math.sqrt(self.scale * self.slope / self.lambda_g + self.u_a**-2))

    @property
    def convex_angle(self) -> float:
        """Largest theta, pi/2 - u_m, at which the loss is convex on [l_a, u_a] whatever else."""
        return math.pi / 2 - self.u_m

    def margin(self, a: npt.ArrayLike) -> Doubles:
        """m(a) = l_m + K (a - l_a) in radians, a clamped to [l_a, u_a] (section 3.2)."""
        inside = np.clip(np.asarray(a, np.float64), self.l_a, self.u_a)
        return np.asarray(self.l_m + self.slope * (inside - self.l_a))

    def regulariser(self, a: npt.ArrayLike) -> Doubles:
        """g(a) = a / u_a^2 + 1 / a: falling and convex up to u_a, where its slope is 0."""
        wide = np.asarray(a, np.float64)
        return np.asarray(wide / self.u_a**2 + 1 / wide)

    def regulariser_slope(self, a: npt.ArrayLike) -> Doubles:
        """g'(a) = 1 / u_a^2 - 1 / a^2."""
        return np.asarray(1 / self.u_a**2 - np.asarray(a, np.float64) ** -2)

    def loss(self, angle: npt.ArrayLike, a: npt.ArrayLike, log_others: npt.ArrayLike) -> Doubles:
        """L of one face (Eq. 2): softplus(log_others - s cos(theta + m(a))) + lambda_g g(a)."""
        excess = self._excess(angle, a, log_others)
        return np.asarray(np.logaddexp(0, excess) + self.lambda_g * self.regulariser(a))

    def loss_slope(
        self, angle: npt.ArrayLike, a: npt.ArrayLike, log_others: npt.ArrayLike
    ) -> Doubles:
        """dL/da = p s K sin(theta + m(a)) + lambda_g g'(a), p the probability of the others."""
        missed = expit(self._excess(angle, a, log_others))
        push = self.scale * self.slope * np.sin(np.asarray(angle, np.float64) + self.margin(a))
        return np.asarray(missed * push + self.lambda_g * self.regulariser_slope(a))

    def loss_curvature(
        self, angle: npt.ArrayLike, a: npt.ArrayLike, log_others: npt.ArrayLike
    ) -> Doubles:
        """d2L/da2 = p s K^2 cos(theta+m) + p (1-p) (s K sin(theta+m))^2 + 2 lambda_g / a^3."""
        missed = expit(self._excess(angle, a, log_others))
        sum_of_angles = np.asarray(angle, np.float64) + self.margin(a)
        push = self.scale * self.slope * np.sin(sum_of_angles)
        bend = self.scale * self.slope**2 * np.cos(sum_of_angles)
        steepness = 2 * self.lambda_g / np.asarray(a, np.float64) ** 3
        return np.asarray(missed * bend + missed * (1 - missed) * push**2 + steepness)

    def optimum(self, angle: npt.ArrayLike, log_others: npt.ArrayLike) -> Doubles:
        """a*, the magnitude in [l_a, u_a] at which the loss is least, by bisection of dL/da.

        It falls with theta while theta + m(a*) <= pi/2; beyond, sin(theta + m) falls again and a*
        rises a little above `floor`: the property of monotonicity (section 3.2) ends there.
        """
        angle, log_others = np.broadcast_arrays(
            np.asarray(angle, np.float64), np.asarray(log_others, np.float64)
        )
        low = np.full(angle.shape, self.l_a)
        high = np.full(angle.shape, self.u_a)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            rising = self.loss_slope(angle, middle, log_others) > 0
            low, high = np.where(rising, low, middle), np.where(rising, middle, high)
        return np.asarray((low + high) / 2)

    def _excess(self, angle: npt.ArrayLike, a: npt.ArrayLike, log_others: npt.ArrayLike) -> Doubles:
        """x = log_others - s cos(theta + m(a)), whose sigmoid is p."""
        target = np.cos(np.asarray(angle, np.float64) + self.margin(a))
        return np.asarray(np.asarray(log_others, np.float64) - self.scale * target)
