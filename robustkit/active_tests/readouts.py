"""Two-class problems laid upon a model's features, one for each sample.

A readout looks at features along one direction. The original and points around it are
class 0, a witness within epsilon is class 1: an adversarial that is known to exist.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from robustkit.engine.criteria import Criterion, Misclassification
from robustkit.numerics.tensors import (
    Array,
    Mask,
    PerSample,
    Tensor,
    full,
    maximum,
    stack_columns,
    where,
)

__all__ = [
    "CLOSENESS",
    "RANDOM_CLOSENESS",
    "Fit",
    "Head",
    "PastDetector",
    "Seen",
    "fit_directions",
    "fit_logistic",
    "success",
]

CLOSENESS = {"standard": 0.99, "hard": 0.9, "logistic": 0.999}
"""Where the threshold lies between the inner points and the witness, by mode."""

RANDOM_CLOSENESS = 0.5
"""The same where a model is random: its witness must stand out from noise."""

# A witness must stand out by this share of how the inner points vary, or rounding
# decides which side it is on.
_LEAST_GAP = 0.05


@dataclass(frozen=True)
class Head:
    """The logits of each sample's own readout, in the shape and scale of the model's.

    The first two logits are m / 2 and -m / 2, where the margin m is `scale` times what
    the features lack to the threshold. All others are constants, too low to matter,
    so that losses about several classes have as many as they know.

    Attributes:
        direction: (n, features) of length 1.
        threshold: (n,) along it; beyond is class 1.
        scale: (n,) logit units per feature unit.
        others: (n, classes - 2) constant logits.
        detector: 0: the outputs are features alone. 1, -1: a detector's score comes
            behind them, and is shown after the logits, times this.
    """

    direction: Tensor
    threshold: PerSample
    scale: PerSample
    others: Tensor
    detector: int = 0

    def __call__(self, outputs: Tensor) -> Tensor:
        """(n, classes) logits, or (n, classes + 1) with a detector."""
        features = outputs[:, :-1] if self.detector else outputs
        along = (self.direction * features).sum(axis=1)
        half = (self.scale * (self.threshold - along) / 2).expand_dims(1)
        columns = [half, -half, self.others]
        if self.detector:
            columns.append(outputs[:, -1:] * self.detector)
        return stack_columns(columns)

    def pull_back(self, slopes: Tensor) -> Tensor:
        """From slopes with regard to the logits to those with regard to the outputs."""
        along = self.scale * (slopes[:, 1] - slopes[:, 0]) / 2
        back = self.direction * along.expand_dims(1)
        if not self.detector:
            return back
        return stack_columns([back, slopes[:, -1:] * self.detector])


@dataclass(frozen=True, eq=False)
class PastDetector(Criterion):
    """Another criterion, met where the last logit, a detector's, is below zero too.

    Args:
        criterion: About the logits before the last one.
    """

    criterion: Criterion

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = self.criterion.slopes(logits[:, :-1])
        return self._joined(logits, margin, slopes)

    def ways(self, logits: Tensor) -> Tensor:
        return maximum(self.criterion.ways(logits[:, :-1]), logits[:, -1:])

    def slopes_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = self.criterion.slopes_of(logits[:, :-1], way)
        return self._joined(logits, margin, slopes)

    def cross_entropy(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        """That of the classes alone: the detector has no say in it."""
        value, slopes = self.criterion.cross_entropy(logits[:, :-1])
        return value, stack_columns([slopes, logits[:, -1:] * 0])

    def _joined(
        self, logits: Tensor, margin: PerSample, slopes: Tensor
    ) -> tuple[PerSample, Tensor]:
        score = logits[:, -1]
        seen: Mask = score > margin
        zero = logits[:, -1:] * 0
        one = stack_columns([slopes, zero])
        other = stack_columns([slopes * 0, zero + 1])
        return maximum(margin, score), where(seen, other, one)


def success(count: Tensor, detector: int) -> Criterion:
    """The criterion of reaching class 1, for as many samples as `count` (n, ...) has.

    Args:
        count: Any tensor of these samples.
        detector: As in `Head`.
    """
    labels = (full(count, 0.0)).astype(count.argmax(axis=-1).dtype)
    plain = Misclassification(labels)
    return PastDetector(plain) if detector else plain


@dataclass(frozen=True)
class Seen:
    """Points around one sample, and what the model made of them.

    Attributes:
        points: (m, ...) inputs.
        features: (m, features) in double precision.
        detection: (m,) below zero where the detector's condition is met; minus
            infinity without a detector.
    """

    points: Array
    features: Array
    detection: Array

    @property
    def allowed(self) -> Array:
        """(m,) booleans: whether the detector's condition is met."""
        return np.asarray(self.detection < 0)

    def joined(self, other: "Seen") -> "Seen":
        """These points, and then the others."""
        return Seen(
            np.concatenate([self.points, other.points]),
            np.concatenate([self.features, other.features]),
            np.concatenate([self.detection, other.detection]),
        )


@dataclass(frozen=True)
class Fit:
    """A readout of one sample, or why there is none.

    Attributes:
        direction: (features,) of length 1.
        last: Along it, the place of the last inner point (or of a boundary behind it).
        middle: Likewise, the mean of the inner points.
        spread: Likewise, their standard deviation.
        reached: Likewise, the place of the witness.
        witness: (...) the point that is to be known.
        closeness: Of the threshold to the witness, on the way from the last point.
        failure: Why there is none; empty: there is one.
    """

    direction: Array = field(default_factory=lambda: np.zeros(0))
    last: float = math.nan
    middle: float = math.nan
    spread: float = math.nan
    reached: float = math.nan
    witness: Array = field(default_factory=lambda: np.zeros(0))
    closeness: float = math.nan
    failure: str = ""

    @property
    def threshold(self) -> float:
        """Beyond this place is class 1."""
        return self.last + self.closeness * (self.reached - self.last)

    @property
    def flaw(self) -> str:
        """Why there is no readout; empty: there is one."""
        if self.failure:
            return self.failure
        gap = self.reached - self.last
        if math.isfinite(gap) and gap > max(_LEAST_GAP * self.spread, 1e-12):
            return ""
        return "no point of the surface stands apart from the inner ones"


def fit_directions(
    inner: Seen, surface: Seen, directions: Array, closeness: float
) -> Fit:
    """The first direction along which some point of the surface is beyond all inner.

    The farthest one is the witness. No fit, so nothing to converge: a threshold between
    two order statistics. Of K + q points drawn alike, the farthest is among q of them
    with the probability q / (K + q): so much is the chance of random search.

    Args:
        inner: The original first, and points around it.
        surface: K points at a distance of epsilon.
        directions: (tries, features), of length 1. Where none will do, the last one is
            returned.
        closeness: The threshold's place on the way from the last inner point to the
            witness.
    """
    if failure := _unfit(inner, surface):
        return Fit(failure=failure)
    for direction in directions:
        along = inner.features @ direction
        reach = np.where(surface.allowed, surface.features @ direction, -np.inf)
        best = int(np.argmax(reach))
        fit = Fit(
            direction=direction,
            last=float(along.max()),
            middle=float(along.mean()),
            spread=float(along.std()),
            reached=float(reach[best]),
            witness=surface.points[best],
            closeness=closeness,
        )
        if not fit.flaw:
            break
    return fit


def fit_logistic(inner: Seen, surface: Seen, closeness: float) -> Fit:
    """Logistic regression between the inner points and one point of the surface.

    Zimmermann et al. (see `active_test`), without penalty, by L-BFGS. The threshold is
    then moved towards the witness.

    Args:
        inner: The original first, and points around it.
        surface: Of which the first that the detector's condition allows is taken.
        closeness: As in `fit_directions`.
    """
    if failure := _unfit(inner, surface):
        return Fit(failure=failure)
    place = int(np.argmax(surface.allowed))
    features = np.concatenate([inner.features, surface.features[place : place + 1]])
    labels = np.append(np.full(len(inner.features), -1.0), 1.0)
    mean = features.mean(axis=0)
    spread = float(features.std()) or 1.0
    centred = (features - mean) / spread

    def loss(parameters: Array) -> tuple[float, Array]:
        z = centred @ parameters[:-1] + parameters[-1]
        pull = -labels * expit(-labels * z)
        gradient = np.append(pull @ centred, pull.sum())
        return float(np.logaddexp(0.0, -labels * z).sum()), gradient

    start = np.zeros(features.shape[1] + 1)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 10_000}
    ).x
    length = float(np.linalg.norm(found[:-1]))
    z = centred @ found[:-1] + found[-1]
    if length == 0 or not (z * labels > 0).all():
        return Fit(
            failure="no logistic readout tells the witness from the inner points"
        )
    direction = found[:-1] / length
    along = features @ direction
    return Fit(
        direction=direction,
        last=float(along[-1] - z[-1] * spread / length),
        middle=float(along[:-1].mean()),
        spread=0.0,
        reached=float(along[-1]),
        witness=surface.points[place],
        closeness=closeness,
    )


def _unfit(inner: Seen, surface: Seen) -> str:
    """Why no readout can be made of these, if so."""
    if not np.isfinite(inner.features).all():
        return "features that are not finite"
    if not surface.allowed.any():
        return "no candidate for a witness meets the detector's condition"
    return ""
