"""How one sample's readout is made, and what random search makes of it."""

from dataclasses import dataclass, replace

import numpy as np

from robustkit.active_tests.climb import climb
from robustkit.active_tests.draws import Ball
from robustkit.active_tests.readouts import Fit, Seen, fit_directions, fit_logistic
from robustkit.models.base import Model
from robustkit.numerics.norms import Norm
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import Array, as_tensor, to_numpy

__all__ = ["Builder", "Built"]

# Random directions tried for each sample, until one sees its witness apart.
_DIRECTIONS = 16

# Of `Rng`; attacks draw from 0, targets from 1.
_STREAM = 2
_INNER, _SURFACE, _DIRECTION, _CLIMB, _CLIMB_AGAIN, _SEARCH = range(6)
_CLIMB_STEPS = 60
_BATCH = 512


@dataclass(frozen=True)
class Built:
    """One sample's readout, and whether random search finds an adversarial of it."""

    fit: Fit
    random: bool


@dataclass(frozen=True)
class Builder:
    """Makes readouts; what the settings mean is said by `active_test`.

    Attributes:
        model: From inputs to features, and a detector's score if there is one.
        detector: As in `Head`.
    """

    model: Model
    norm: Norm
    epsilon: float
    detector: int
    mode: str
    closeness: float
    points: int
    tries: int
    votes: int
    seed: int

    def build(self, x: Array) -> list[Built]:
        """The readouts of inputs (n, ...)."""
        balls = [Ball(one, self.norm, self.epsilon, self.model.bounds) for one in x]
        # Few random points are detected, so one more is sought.
        found = self._detected(balls) if self.detector < 0 else x[:, None][:, :0]
        fits = [
            self._fit(ball, extra) for ball, extra in zip(balls, found, strict=True)
        ]
        if self.mode == "hard":
            fits = self._farther(balls, fits)
        return [
            Built(fit, random=not fit.flaw and self._lucky(ball, fit))
            for ball, fit in zip(balls, fits, strict=True)
        ]

    def _fit(self, ball: Ball, extra: Array) -> Fit:
        """One sample's readout; `extra` (m, ...) are candidates for its witness too."""
        around = ball.inner(self._rng(ball, _INNER), self.points)
        inner = self._see(np.concatenate([ball.x[None], around]))
        drawn = ball.surface(self._rng(ball, _SURFACE), self.points)
        surface = self._see(np.concatenate([extra, drawn]))
        if self.mode == "logistic":
            return fit_logistic(inner, surface, self.closeness)
        directions = self._directions(ball, inner, surface, len(extra))
        return fit_directions(inner, surface, directions, self.closeness)

    def _directions(self, ball: Ball, inner: Seen, surface: Seen, sought: int) -> Array:
        """(tries, features) of length 1: towards what was sought, then at random."""
        features = inner.features.shape[1]
        rng = self._rng(ball, _DIRECTION)
        drawn = to_numpy(rng.normal((_DIRECTIONS, features)))[0].astype(np.float64)
        towards = surface.features[:sought] - inner.features.mean(axis=0)
        towards = towards[surface.allowed[:sought] & (np.abs(towards).max(axis=1) > 0)]
        directions = np.concatenate([towards, drawn])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        # What climbs from a direction needs no other.
        return directions[:1] if self.mode == "hard" else directions

    def _lucky(self, ball: Ball, fit: Fit) -> bool:
        """Whether a random point, inside or on the surface, is adversarial."""
        rng = self._rng(ball, _SEARCH)
        drawn = [ball.inner(rng, self.tries), ball.surface(rng, self.tries)]
        tried = self._see(np.concatenate(drawn))
        beyond = tried.features @ fit.direction > fit.threshold
        return bool((beyond & tried.allowed).any())

    def _detected(self, balls: list[Ball]) -> Array:
        """(n, 1, ...) a point of each ball where the detector's score is high."""
        starts = [ball.surface(self._rng(ball, _CLIMB), 1)[0] for ball in balls]
        outputs = self.model.logits(self.model.to_tensor(starts[0][None])).shape[1]
        weights = np.zeros((len(balls), outputs))
        weights[:, -1] = 1.0
        rngs = [self._rng(ball, _CLIMB) for ball in balls]
        points, _ = climb(
            self.model, balls, weights, np.stack(starts), _CLIMB_STEPS, rngs
        )
        return points[:, None]

    def _farther(self, balls: list[Ball], fits: list[Fit]) -> list[Fit]:
        """The readouts with the best witnesses that two climbs find for each."""
        rows = [row for row, fit in enumerate(fits) if not fit.failure]
        for purpose in (_CLIMB, _CLIMB_AGAIN) if rows else ():
            chosen = [balls[row] for row in rows]
            starts = np.stack(
                [
                    fits[row].witness if purpose == _CLIMB else balls[row].x
                    for row in rows
                ]
            )
            weights = np.stack([fits[row].direction for row in rows])
            if self.detector:
                weights = np.pad(weights, ((0, 0), (0, 1)))
            rngs = [self._rng(ball, purpose) for ball in chosen]
            points, _ = climb(
                self.model, chosen, weights, starts, _CLIMB_STEPS, rngs, self.detector
            )
            seen = self._see(points)
            for place, row in enumerate(rows):
                reached = float(seen.features[place] @ fits[row].direction)
                if seen.allowed[place] and not reached <= fits[row].reached:
                    fits[row] = replace(
                        fits[row], reached=reached, witness=points[place]
                    )
        return fits

    def _see(self, points: Array) -> Seen:
        """Ask about points (m, ...), a batch at a time, and average the votes."""
        parts = []
        for start in range(0, len(points), _BATCH):
            x = self.model.to_tensor(points[start : start + _BATCH])
            asked = [self.model.logits(x) for _ in range(self.votes)]
            parts.append(np.mean([to_numpy(out) for out in asked], axis=0, dtype="f8"))
        outputs = np.concatenate(parts)
        if not self.detector:
            return Seen(points, outputs, np.full(len(points), -np.inf))
        return Seen(points, outputs[:, :-1], outputs[:, -1] * self.detector)

    def _rng(self, ball: Ball, purpose: int) -> Rng:
        one = ball.x[None]
        return Rng(self.seed, sample_keys(one), purpose, as_tensor(one), _STREAM)
